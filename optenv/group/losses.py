"""Losses of runs on the fixed examples of the reward."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .. import core
from ..tasks import Data, Task
from .setup import Setup

__all__ = ["given_validation_loss", "judged_losses", "reward_losses", "validation_loss"]


def reward_losses(
    setup: Setup,
    task: Task,
    data: Data,
    run: core.RunState,
    differentiable: bool = False,
    stage: Tensor | None = None,
) -> Tensor:
    """Compute the losses ``[B, S]`` of the reward, one per source.

    Args:
        setup: setup of the group.
        task: structure of the runs.
        data: examples of the runs.
        run: state of the runs.
        differentiable: keep the graph.
        stage: stage of each run, if tasks change, ``[B]``; by default the stage of the last
            update.
    """
    if data.stages is not None:
        data = data.at(run.updates - 1) if stage is None else data.in_stage(stage)
    limit = task.reward_examples
    losses = [
        core.evaluate(
            task,
            run.evaluated,
            data.train(limit) if source == "train" else data.validation(limit),
            data,
            run.buffers,
            source=source,
            differentiable=differentiable,
        )
        for source in setup.sources
    ]
    return torch.stack(losses, dim=-1)


def judged_losses(
    setup: Setup, loss: Tensor, initial_loss: Tensor, validation_every: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Return the losses ``[B, S]`` that the reward uses, now and at the beginning.

    With the objective ``"observed"``, only the validation losses count for runs that
    observe them.

    Args:
        setup: setup of the group.
        loss, initial_loss: losses of the reward, ``[B, S]``.
        validation_every: control steps from one validation loss to the next, ``[B]`` on the
            host; 0 for runs that observe none.
    """
    if setup.settings.objective != "observed" or len(setup.sources) < 2:
        return loss, initial_loss
    alone = torch.from_numpy(validation_every[:, None] > 0).to(loss.device)
    column = setup.sources.index("validation")
    now, first = (
        torch.where(alone, each[:, column : column + 1], each)
        for each in (loss, initial_loss)
    )
    return now, first


def given_validation_loss(
    setup: Setup,
    task: Task,
    data: Data,
    run: core.RunState,
    loss: Tensor,
    due: np.ndarray,
    differentiable: bool = False,
) -> Tensor:
    """Return the validation losses ``[B]`` that runs observe; NaN where none is due.

    They are losses of the current parameters, even where their average is evaluated, since
    users have only the current parameters. They are taken on as many examples as rewards.

    Args:
        setup: setup of the group.
        task: structure of the runs.
        data: examples of the runs.
        run: state of the runs.
        loss: losses of the reward, ``[B, S]``.
        due: which runs are given one, ``[B]`` bool on the host.
        differentiable: keep the graph.
    """
    nothing = torch.full_like(loss[:, 0], torch.nan)
    if not due.any():
        return nothing
    averaged = "average" in setup.action.sets
    if "validation" in setup.sources and not averaged:
        measured = loss[:, setup.sources.index("validation")]
        return torch.where(torch.from_numpy(due).to(setup.device), measured, nothing)
    data, params, buffers = data.at(run.updates - 1), run.params, run.buffers
    runs = None if due.all() else torch.from_numpy(np.flatnonzero(due)).to(setup.device)
    examples = data.validation(task.reward_examples, runs)
    if runs is not None:
        data, params, buffers = data.of_runs(runs), params[runs], buffers[runs]
    measured = core.evaluate(
        task, params, examples, data, buffers,
        source="validation", differentiable=differentiable,
    )  # fmt: skip
    return measured if runs is None else nothing.index_copy(0, runs, measured)


def validation_loss(task: Task, data: Data, run: core.RunState, runs: Tensor) -> Tensor:
    """Compute the loss ``[n]`` of some runs on all validation examples.

    If the task changes, the examples are those of the stage of the last update.

    Args:
        task: structure of the runs.
        data: examples of all runs of the group.
        run: state of all runs.
        runs: indices of the runs, ``[n]``.
    """
    examples = data.at(run.updates - 1).validation(runs=runs)
    return core.evaluate(
        task,
        run.evaluated[runs],
        examples,
        data.of_runs(runs),
        run.buffers[runs],
        source="validation",
    )
