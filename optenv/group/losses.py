"""Losses of runs on the fixed examples of the reward."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import core
from ..tasks import Data, Task
from .setup import Setup

__all__ = ["reward_losses", "validation_loss"]


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
        stage: stage of the task, if it changes, ``[B]``; by default that of the last
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


def validation_loss(task: Task, data: Data, run: core.RunState, runs: Tensor) -> Tensor:
    """Compute the loss ``[n]`` of some runs on all validation examples.

    If the task changes, they are those of the last update.

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
