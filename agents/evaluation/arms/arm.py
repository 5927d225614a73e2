"""An arm (an optimizer under test with its schedule) and a search, which tunes one.

An :class:`Arm` is an optimizer as a user would set it up. A :class:`Search` is an update
rule with several settings, the :class:`Choice` objects. Tuning runs all of them on tuning
seeds (:func:`grid_arms`), averages the final losses (:func:`mean_losses`), and takes the
best setting of each task (:func:`choose`) or the one that is best for all tasks together
(:func:`choose_shared`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

from torch.optim import Optimizer

from optenv.actions import SCHEDULES

from ..row import Row

__all__ = [
    "TRIED_SCHEDULES",
    "Arm",
    "ArmEntry",
    "Choice",
    "Search",
    "Watcher",
    "choose",
    "choose_shared",
    "grid",
    "grid_arms",
    "mean_losses",
    "tuned_arms",
]

#: Schedules that are tried for each task, unless a search says otherwise.
TRIED_SCHEDULES = ("constant", "cosine", "wsd")

#: Function ``(params, announced length of the run)`` that makes an optimizer.
Factory = Callable[[Any, int], Optimizer]
#: Function that is called with the loss of each update, after the update.
Watcher = Callable[[float], None]


@dataclass(frozen=True)
class Arm:
    """An optimizer under test.

    Attributes:
        name: name of its column in the tables.
        factory: function ``(params, total_updates)`` that makes the optimizer. It must be
            picklable (a function of a module, or a ``functools.partial`` of one), since it
            is sent to other processes.
        schedule: function from the progress in [0, 1) to the factor of every parameter
            group's learning rate; None leaves the learning rate to the optimizer.
        takes_loss: whether to call ``step(loss=loss.detach())`` instead of ``step()``.
        takes_module: whether to pass the module to the factory instead of its parameters,
            for an update rule that differs from layer to layer.
        watch: function ``(optimizer, total_updates)`` that returns a function to call with
            the loss of each update after it, such as the step of a torch scheduler. It must
            be picklable. None for no such call.
        baseline: whether an arm that takes the loss is reported as a baseline: a control of
            a policy, or an optimizer of others that observes the loss.
    """

    name: str
    factory: Factory
    schedule: Callable[[float], float] | None = None
    takes_loss: bool = False
    takes_module: bool = False
    watch: Callable[[Optimizer, int], Watcher] | None = None
    baseline: bool = False


class Choice(NamedTuple):
    """One setting of a search: a learning rate and the name of a schedule."""

    lr: float
    schedule: str


@dataclass(frozen=True)
class Search:
    """Settings of one update rule, among which tuning chooses.

    Attributes:
        rule: name of the rule, with which the names of the arms begin.
        factory: see :class:`Arm`; it also takes the keyword ``lr``.
        choices: settings to try.
        takes_module, watch: see :class:`Arm`.
    """

    rule: str
    factory: Callable[..., Optimizer]
    choices: tuple[Choice, ...]
    takes_module: bool = False
    watch: Callable[[Optimizer, int], Watcher] | None = None

    @cached_property
    def choice_by_arm(self) -> dict[str, Choice]:
        """Settings by the names of their arms."""
        return {f"{self.rule} {c.lr:g}, {c.schedule}": c for c in self.choices}


@dataclass(frozen=True)
class ArmEntry:
    """A line of the table of arms.

    Attributes:
        optimizer: the arm, or the search that tunes it.
        description: one line of plain text.
        package: package that it needs, which the extra ``benchmark`` installs; empty if
            none.
        shared: whether the search takes one setting for all tasks instead of one for each.
    """

    optimizer: Arm | Search
    description: str
    package: str = ""
    shared: bool = False

    @property
    def tuning(self) -> Literal["none", "each task", "all tasks"]:
        """Scope of the tuning: none, each task, or all tasks together."""
        if isinstance(self.optimizer, Arm):
            return "none"
        return "all tasks" if self.shared else "each task"


def grid(
    rates: Iterable[float], schedules: Iterable[str] = TRIED_SCHEDULES
) -> tuple[Choice, ...]:
    """Return every learning rate with every schedule.

    Args:
        rates: learning rates.
        schedules: keys of :data:`optenv.actions.SCHEDULES`.
    """
    rates = tuple(rates)
    return tuple(Choice(lr, schedule) for schedule in schedules for lr in rates)


def tuned_arms(choices: Mapping[str, Choice], search: Search) -> list[Arm]:
    """Return arms with the rule of ``search``, one for each choice, under its name."""

    def arm(name: str, choice: Choice) -> Arm:
        # With None, no constant rate is written into the optimizer at every update.
        decay = None if choice.schedule == "constant" else SCHEDULES[choice.schedule]
        return Arm(
            name,
            partial(search.factory, lr=choice.lr),
            decay,
            takes_module=search.takes_module,
            watch=search.watch,
        )

    return [arm(name, choice) for name, choice in choices.items()]


def grid_arms(search: Search) -> list[Arm]:
    """Return the arms that try all settings of ``search``."""
    return tuned_arms(search.choice_by_arm, search)


def mean_losses(rows: Sequence[Row], search: Search) -> dict[str, dict[str, float]]:
    """Average the final validation losses over seeds.

    Args:
        rows: results of :func:`grid_arms`; rows of other arms are ignored. A non-finite
            loss makes the mean inf.
        search: the search that was run.

    Returns:
        Mean loss by task, then by name of the arm.

    Raises:
        ValueError: results of a task are missing.
    """
    losses: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        losses.setdefault((row["task"], row["arm"]), []).append(row["validation_loss"])
    means: dict[str, dict[str, float]] = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        means[task] = {}
        for name in search.choice_by_arm:
            if (task, name) not in losses:
                raise ValueError(f"no results of {name!r} on task {task!r}")
            mean = sum(losses[task, name]) / len(losses[task, name])
            means[task][name] = mean if math.isfinite(mean) else math.inf
    return means


def choose(means: Mapping[str, Mapping[str, float]], search: Search) -> dict[str, Choice]:
    """Return the best setting of each task, given the :func:`mean_losses`."""
    return {
        task: search.choice_by_arm[min(losses, key=losses.__getitem__)]
        for task, losses in means.items()
    }


def choose_shared(means: Mapping[str, Mapping[str, float]], search: Search) -> Choice:
    """Return the setting that is best for all tasks together.

    It has the lowest geometric mean over tasks of its loss relative to the lowest loss of
    each task.

    Args:
        means: the :func:`mean_losses`.
        search: the search that was run.
    """

    def log_ratio(name: str) -> float:
        ratios = [losses[name] / min(losses.values()) for losses in means.values()]
        return sum(math.log(ratio) for ratio in ratios)

    return search.choice_by_arm[min(search.choice_by_arm, key=log_ratio)]
