"""Tasks whose losses break in the middle of a run: not finite, raising, or killing."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from agents.evaluation.tasks.problem import HeldoutTask
from optenv import tasks
from tests.helpers.benchmark_rows import short

RUNS = 8
#: What a batch does that has a rare example in it.
KINDS = ("nan", "inf", "-inf", "gradient nan", "gradient inf")


@dataclass(frozen=True)
class Broken(tasks.MLP):
    """A task whose loss or gradient is not finite on batches with a rare example.

    Attributes:
        kind: one of :data:`KINDS`.
        above: inputs above this are rare.
        hit: whether each run has had such a batch, since the last call of a test.
    """

    kind: str = "nan"
    above: float = 2.5
    hit: ClassVar[Tensor] = torch.zeros(RUNS, dtype=torch.bool)

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        loss = super().loss(params, inputs, targets)
        bad = (inputs[..., 0] > self.above).any(1)
        if len(bad) == RUNS:
            Broken.hit |= bad
        if not self.kind.startswith("gradient"):
            return torch.where(bad, float(self.kind), loss)
        weight = params[0].flatten(1)[:, 0]
        nothing = torch.where(bad, weight - weight.detach(), 0.0)
        steep = nothing * 1e30 * 1e30  # 0, with an infinite derivative
        return loss + (
            steep if self.kind == "gradient inf" else steep - nothing * 1e30 * 1e30
        )


def broken(kind: str, above: float = Broken.above) -> Broken:
    return Broken(
        batch_size=8, num_train=60, num_validation=24, inputs=4, outputs=3, width=6,
        depth=1, activation="tanh", kind=kind, above=above,
    )  # fmt: skip


class Exploded(Exception):
    """The error of a task, which cannot be pickled and read again."""

    def __init__(self, reason: str, number: int) -> None:
        super().__init__(f"{reason} {number}")


def strike(kind: str, marker: Path) -> None:
    """Raise an error, or kill the process, unless a marker says that this was done."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise Exploded("the loss has exploded at", 7)


def faulty_loss(kind: str, marker: Path, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error, with a fault on training batches of a rare kind."""
    loss = F.mse_loss(outputs, targets)
    if not outputs.requires_grad or targets[0, 0] < 0.5:
        return loss
    if kind in ("raise", "kill"):
        strike(kind, marker)
        return loss
    return loss * float(kind)


def faulty_task(kind: str, marker: Path) -> HeldoutTask:
    """Return a short held-out task with a fault in the middle of a run.

    Args:
        kind: "raise" or "kill", which happens once; or a factor of the loss, "nan".
        marker: file that says that it has happened.
    """
    return replace(short("friedman", 12), objective=partial(faulty_loss, kind, marker))
