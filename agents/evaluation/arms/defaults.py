"""The optimizers that a learned policy is measured against.

An :class:`Arm` is an optimizer as a user would set it up. AdamW is there with torch's
defaults; *tuned*, with the learning rate and schedule that are best for the task; and
*shared*, with the one setting that is best for all tasks together. Schedule-Free (Defazio
et al., 2024) and Prodigy (Mishchenko & Defazio, 2023) run with their own defaults; they
promise to need no tuning, as a learned policy does. What is tuned, and how, is a
:class:`Search`; :mod:`.arms` has more of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from optenv.actions import SCHEDULES

from ...policy.files import load_policy
from ...policy.module import Policy

__all__ = [
    "ADAMW",
    "CANDIDATES",
    "DEFAULT",
    "GRID",
    "SHARED",
    "TUNED",
    "Arm",
    "Choice",
    "Search",
    "choose",
    "choose_shared",
    "default_arms",
    "grid",
    "grid_arms",
    "learned_arm",
    "mean_losses",
    "tuned_arms",
]

#: Learning rates tried per task.
GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
DEFAULT = "AdamW default"
TUNED = "AdamW tuned"
SHARED = "AdamW shared"

Factory = Callable[[Any, int], Optimizer]
#: Called with the loss of each update, after it.
Watcher = Callable[[float], None]


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
        takes_module: the factory wants the module instead of its parameters, as the rule
            is not the same for all layers.
        watch: ``(optimizer, total_updates)`` to a function that is called with the loss
            of each update after it, such as the step of a torch scheduler; picklable.
            None for nothing.
        control: it is a control of one of ours, so that it takes the loss but counts as
            a baseline.
    """

    name: str
    factory: Factory
    schedule: Callable[[float], float] | None = None
    takes_loss: bool = False
    takes_module: bool = False
    watch: Callable[[Optimizer, int], Watcher] | None = None
    control: bool = False


class Choice(NamedTuple):
    """What the tuning seeds chose: a learning rate and the name of a schedule."""

    lr: float
    schedule: str


def adamw(params: Iterable[nn.Parameter], total_updates: int, lr: float) -> Optimizer:
    """AdamW with torch's defaults but for ``lr``; fused, which is only faster."""
    return torch.optim.AdamW(params, lr=lr, fused=True)


def schedule_free(
    params: Iterable[nn.Parameter], total_updates: int, lr: float = 2.5e-3
) -> Optimizer:
    """Schedule-Free AdamW with its defaults but for ``lr``."""
    import schedulefree

    return schedulefree.AdamWScheduleFree(params, lr=lr)


def prodigy(params: Iterable[nn.Parameter], total_updates: int) -> Optimizer:
    """Prodigy with its defaults; its authors advise a cosine, or no schedule."""
    import prodigyopt

    return prodigyopt.Prodigy(params, lr=1.0)


def learned(
    params: Iterable[nn.Parameter], total_updates: int, **arguments: Any
) -> Optimizer:
    """A learned policy; ``arguments`` are those of :class:`LearnedOptimizer`."""
    from ...optim.optimizer import LearnedOptimizer

    return LearnedOptimizer(params, total_steps=total_updates, **arguments)


def learned_arm(name: str, policy: str | Path | Policy, **arguments: Any) -> Arm:
    """Arm of a policy; ``arguments`` go to :class:`LearnedOptimizer` (``lr``, ...)."""
    # Loaded now: a path may be another file's by the time that a process reads it.
    own = policy if isinstance(policy, Policy) else load_policy(policy)
    factory = partial(learned, policy=own, **arguments)
    return Arm(name, factory, takes_loss=True)


def default_arms() -> list[Arm]:
    """The baselines that need no tuning."""
    return [
        Arm(DEFAULT, partial(adamw, lr=1e-3)),
        Arm("Schedule-Free AdamW", schedule_free),
        Arm("Prodigy", prodigy, SCHEDULES["cosine"]),
    ]


@dataclass(frozen=True)
class Search:
    """Settings of one update rule, of which the tuning seeds choose.

    Attributes:
        rule: its name, which those of the arms begin with.
        factory: like an arm's, with the keyword ``lr``; picklable.
        choices: what is tried.
    """

    rule: str
    factory: Callable[..., Optimizer]
    choices: tuple[Choice, ...]

    @cached_property
    def candidates(self) -> dict[str, Choice]:
        """The choices by the names of their arms."""
        return {f"{self.rule} {c.lr:g}, {c.schedule}": c for c in self.choices}


def grid(
    rates: Iterable[float], schedules: Iterable[str] = tuple(SCHEDULES)
) -> tuple[Choice, ...]:
    """Every learning rate with every schedule, of :data:`optenv.actions.SCHEDULES`."""
    rates = tuple(rates)
    return tuple(Choice(lr, schedule) for schedule in schedules for lr in rates)


#: Every learning rate of :data:`GRID` with every schedule.
ADAMW = Search("AdamW", adamw, grid(GRID))
CANDIDATES = ADAMW.candidates


def grid_arms(search: Search = ADAMW) -> list[Arm]:
    """The rule with all that is tried."""
    return tuned_arms(search.candidates, search)


def mean_losses(
    rows: Sequence[Mapping[str, Any]], search: Search = ADAMW
) -> dict[str, dict[str, float]]:
    """Mean validation loss of the rows' seeds, by task and by candidate of ``search``.

    Args:
        rows: results of :func:`grid_arms`; other arms' are passed over. A loss that is
            not finite makes a mean of inf.
        search: what was tried.

    Raises:
        ValueError: results of a task are missing.
    """
    losses: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        losses.setdefault((row["task"], row["arm"]), []).append(row["validation_loss"])
    means: dict[str, dict[str, float]] = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        means[task] = {}
        for name in search.candidates:
            if (task, name) not in losses:
                raise ValueError(f"no results of {name!r} on task {task!r}")
            mean = sum(losses[task, name]) / len(losses[task, name])
            means[task][name] = mean if math.isfinite(mean) else math.inf
    return means


def choose(
    means: Mapping[str, Mapping[str, float]], search: Search = ADAMW
) -> dict[str, Choice]:
    """Best candidate of each task, given the :func:`mean_losses`."""
    return {
        task: search.candidates[min(losses, key=losses.__getitem__)]
        for task, losses in means.items()
    }


def choose_shared(
    means: Mapping[str, Mapping[str, float]], search: Search = ADAMW
) -> Choice:
    """Candidate whose loss is, in geometric mean, closest to the best of each task."""

    def behind(name: str) -> float:
        ratios = [losses[name] / min(losses.values()) for losses in means.values()]
        return sum(math.log(ratio) for ratio in ratios)

    return search.candidates[min(search.candidates, key=behind)]


def tuned_arms(choices: Mapping[str, Choice], search: Search = ADAMW) -> list[Arm]:
    """The rule of ``search`` with ``choices``, under their names."""

    def arm(name: str, choice: Choice) -> Arm:
        # None, so that a constant rate is not written into the optimizer at every update.
        decay = None if choice.schedule == "constant" else SCHEDULES[choice.schedule]
        return Arm(name, partial(search.factory, lr=choice.lr), decay)

    return [arm(name, choice) for name, choice in choices.items()]
