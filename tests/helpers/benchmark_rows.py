"""Short tasks, an arm, made-up rows, and the command, for tests of the evaluation."""

from __future__ import annotations

import dataclasses
import importlib
from functools import partial

from click.testing import CliRunner

from agents.evaluation.arms.arm import Arm
from agents.evaluation.arms.factories import adamw
from agents.evaluation.tasks.heldout import task_named

ADAMW_ARM = Arm("AdamW", partial(adamw, lr=1e-2))


def short(name, updates=8):
    """Return a held-out task with few updates."""
    return dataclasses.replace(task_named(name), updates=updates, validation_size=64)


def row(task, arm, seed, loss, learned=False, trace=True):
    """Return a row that falls from 2 to ``loss`` in 10 updates."""
    return {
        "task": task,
        "arm": arm,
        "seed": seed,
        "updates": 10,
        "learned": learned,
        "train_loss": loss,
        "validation_loss": loss,
        "initial_validation_loss": 2.0,
        "lr": 1e-3,
        "cpu_seconds": 0.1,
        "adamw_seconds": 0.1,
        "curve": [(0, 2.0), (5, 1.5 * loss), (10, loss)],
        "lr_trace": [(5, 1e-3), (10, 1e-4)] if trace else [],
        "shifts": [],
    }


def runs_of(task, arm, losses, **changed):
    """Return rows of an arm on a task, a seed for every loss."""
    return [{**row(task, arm, s, loss), **changed} for s, loss in enumerate(losses)]


def benchmark(*arguments):
    """Run ``python -m agents.evaluation`` in this process, and return click's result."""
    main = importlib.import_module("agents.evaluation.__main__").main
    return CliRunner().invoke(main, [str(a) for a in arguments])
