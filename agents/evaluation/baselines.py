"""The optimizers that a learned policy is measured against.

An :class:`Arm` is an optimizer as a user would set it up. AdamW is there three times: with
torch's defaults, and with the learning rate tuned per task from :data:`GRID`, constant and
decayed by a cosine. Schedule-Free (Defazio et al., 2024) and Prodigy (Mishchenko & Defazio,
2023) run with their own defaults; they promise to need no tuning, as a learned policy does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

__all__ = [
    "GRID",
    "TUNED",
    "Arm",
    "Choice",
    "choose",
    "default_arms",
    "grid_arms",
    "learned_arm",
    "tuned_arms",
]

#: Learning rates tried per task.
GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
#: The better, by the tuning seeds, of the two tuned arms.
TUNED = "AdamW tuned"
SCHEDULES = ("constant", "cosine")

Factory = Callable[[Iterable[nn.Parameter], int], Optimizer]


@dataclass(frozen=True)
class Arm:
    """An optimizer under test.

    Attributes:
        name: column of the table.
        factory: ``(params, total_updates)`` to optimizer; picklable (a function of a
            module, a ``functools.partial`` of one), since it is sent to other processes.
        schedule: progress in [0, 1) to the factor of every group's learning rate; None
            leaves the learning rate to the optimizer.
        takes_loss: ``step`` wants the loss, as ``step(loss=loss.detach())``.
    """

    name: str
    factory: Factory
    schedule: Callable[[float], float] | None = None
    takes_loss: bool = False


class Choice(NamedTuple):
    """What the tuning seeds chose for one task.

    Attributes:
        constant: best learning rate held constant.
        cosine: best learning rate decayed by a cosine.
        schedule: "constant" or "cosine", whichever was better.
    """

    constant: float
    cosine: float
    schedule: str

    @property
    def lr(self) -> float:
        """Learning rate of the better schedule."""
        return self.cosine if self.schedule == "cosine" else self.constant


def cosine(progress: float) -> float:
    """Cosine decay from 1 to 0 (Loshchilov & Hutter, 2017)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def adamw(params: Iterable[nn.Parameter], total_updates: int, lr: float) -> Optimizer:
    """AdamW with torch's defaults but for ``lr``; fused, which is only faster."""
    return torch.optim.AdamW(params, lr=lr, fused=True)


def schedule_free(params: Iterable[nn.Parameter], total_updates: int) -> Optimizer:
    """Schedule-Free AdamW with its defaults."""
    import schedulefree

    return schedulefree.AdamWScheduleFree(params)


def prodigy(params: Iterable[nn.Parameter], total_updates: int) -> Optimizer:
    """Prodigy with its defaults."""
    import prodigyopt

    return prodigyopt.Prodigy(params, lr=1.0)


def learned(
    params: Iterable[nn.Parameter], total_updates: int, **arguments: Any
) -> Optimizer:
    """A learned policy; ``arguments`` are those of :class:`LearnedOptimizer`."""
    from ..optimizer import LearnedOptimizer

    return LearnedOptimizer(params, total_steps=total_updates, **arguments)


def learned_arm(name: str, policy: str | Path, **arguments: Any) -> Arm:
    """Arm of a policy file; ``arguments`` go to :class:`LearnedOptimizer` (``lr``, ...)."""
    factory = partial(learned, policy=str(policy), **arguments)
    return Arm(name, factory, takes_loss=True)


def default_arms() -> list[Arm]:
    """The baselines that need no tuning."""
    return [
        Arm("AdamW default", partial(adamw, lr=1e-3)),
        Arm("Schedule-Free AdamW", schedule_free),
        Arm("Prodigy", prodigy),
    ]


def _adamw_arm(name: str, lr: float, schedule: str) -> Arm:
    decay = cosine if schedule == "cosine" else None
    return Arm(name, partial(adamw, lr=lr), decay)


def _grid_name(lr: float, schedule: str) -> str:
    return f"AdamW {lr:g}, {schedule}"


def grid_arms() -> list[Arm]:
    """AdamW with every learning rate of :data:`GRID` and every schedule."""
    return [
        _adamw_arm(_grid_name(lr, schedule), lr, schedule)
        for schedule in SCHEDULES
        for lr in GRID
    ]


def choose(rows: Sequence[Mapping[str, Any]]) -> dict[str, Choice]:
    """Best learning rates of each task, by mean validation loss over the rows' seeds.

    Args:
        rows: results of :func:`grid_arms`. A loss that is not finite makes a mean that is
            not, which loses against every finite one.

    Raises:
        ValueError: results of a task are missing.
    """
    losses: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        losses.setdefault((row["task"], row["arm"]), []).append(row["validation_loss"])
    choices = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        means = {}
        for arm in (_grid_name(lr, schedule) for schedule in SCHEDULES for lr in GRID):
            if (task, arm) not in losses:
                raise ValueError(f"no results of {arm!r} on task {task!r}")
            mean = sum(losses[task, arm]) / len(losses[task, arm])
            means[arm] = mean if math.isfinite(mean) else math.inf
        best = {
            schedule: min(GRID, key=lambda lr, s=schedule: means[_grid_name(lr, s)])  # type: ignore[misc]
            for schedule in SCHEDULES
        }
        schedule = min(SCHEDULES, key=lambda s: means[_grid_name(best[s], s)])
        choices[task] = Choice(best["constant"], best["cosine"], schedule)
    return choices


def tuned_arms(choice: Choice) -> list[Arm]:
    """AdamW as tuned for one task: the better schedule under the name :data:`TUNED`."""
    other = "constant" if choice.schedule == "cosine" else "cosine"
    other_lr = choice.constant if other == "constant" else choice.cosine
    return [
        _adamw_arm(TUNED, choice.lr, choice.schedule),
        _adamw_arm(f"{TUNED}, {other}", other_lr, other),
    ]
