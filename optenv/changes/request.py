"""The changes that an environment asks for: their kinds, and how many a run has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ..checks import check_new_name, known, positive_int, quoted, suggestion
from ..tasks import Task, TaskSampler
from . import kinds
from .kinds import Change

__all__ = ["KINDS", "Changes", "check", "fitting", "kinds_of", "make", "register"]

#: Kinds of change of the package, in the order in which they are applied.
KINDS: dict[str, Change] = {
    "classes": kinds.Classes(),
    "batch_size": kinds.BatchSize(),
    "distribution": kinds.Distribution(),
    "text": kinds.Text(),
    "optimum": kinds.Optimum(),
    "rotation": kinds.Rotation(),
    "inputs": kinds.Inputs(),
    "labels": kinds.Labels(),
    "shift": kinds.Shift(),
    "noise": kinds.Noise(),
}

#: Kinds registered from outside the package.
_REGISTERED: dict[str, Change] = {}

#: Number of tasks that are drawn from a family to check that the kinds fit them.
_TRIES = 32

#: Number of changes of a run if only their kinds are given.
DEFAULT_COUNT = 3


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Kinds and number of the changes of a run.

    Attributes:
        kinds: names of kinds, from which one is drawn for each change. All of them must fit
            every task of the environment. If empty, all kinds that fit a task.
        count: number of changes of a run, less than its control steps; or a pair of the
            least number, which can be 0, and the greatest, between which each run draws.
        left_out: names of kinds that are not used even if they fit a task; for an empty
            ``kinds``.

    Raises:
        ValueError: a kind is unknown or given twice, two kinds exclude each other, or the
            count is not positive.
    """

    kinds: tuple[str, ...] = ()
    count: int | tuple[int, int] = DEFAULT_COUNT
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = (self.kinds,) if isinstance(self.kinds, str) else tuple(self.kinds)
        for name in given:
            known("kind of change", name, _known())
            for other in _known()[name].excludes:
                if other in given:
                    raise ValueError(
                        f"kinds of changes {name!r} and {other!r} exclude each other, got "
                        f"{list(given)}"
                    )
        if len(set(given)) < len(given):
            raise ValueError(f"kinds of changes must be given once each, got {list(given)}")
        # In a fixed order, so that the order in which they are given has no effect.
        ordered = tuple(name for name in _known() if name in given)
        object.__setattr__(self, "kinds", ordered)
        object.__setattr__(self, "count", _count(self.count))
        left_out = (self.left_out,) if isinstance(self.left_out, str) else self.left_out
        for name in left_out:
            known("kind of change", name, _known())
            if name in given:
                raise ValueError(
                    f"kind of change {name!r} is left out, got kinds {list(given)}"
                )
        object.__setattr__(self, "left_out", tuple(left_out))

    @property
    def least(self) -> int:
        """Least number of changes of a run."""
        return self.count[0] if isinstance(self.count, tuple) else self.count

    @property
    def most(self) -> int:
        """Greatest number of changes of a run."""
        return self.count[1] if isinstance(self.count, tuple) else self.count

    def without(self, name: str) -> Changes:
        """Return changes in which one more kind is left out."""
        return replace(self, left_out=tuple(sorted({*self.left_out, name})))


def _count(given: Any) -> int | tuple[int, int]:
    """Return a valid number of changes, or a pair of the least and the greatest.

    Raises:
        ValueError: ``given`` is neither.
    """
    if not isinstance(given, (tuple, list)):
        return positive_int("count of changes", given)
    integers = all(isinstance(x, (int, np.integer)) for x in given)
    if any(isinstance(x, bool) for x in given) or not integers or len(given) != 2:
        raise ValueError(f"count of changes must be one or two integers, got {given!r}")
    least, most = map(int, given)
    if not 0 <= least <= most or most == 0:
        raise ValueError(
            "count of changes must be (least, greatest), the least at least 0 and the "
            f"greatest positive and no less, got {given!r}"
        )
    return least, most


def register(name: str, kind: Change) -> Change:
    """Make a kind of change available to environments by its name.

    Environments use it only if their argument ``changes`` names it.

    Args:
        name: name of the kind, not used by another one.
        kind: the kind, see :class:`Change`.

    Returns:
        The kind.

    Raises:
        TypeError: ``name`` is not a string, or ``kind`` not a :class:`Change`.
        ValueError: the name is taken.
    """
    check_new_name("kind of change", name, [*_known()])
    if not isinstance(kind, Change):
        raise TypeError(f"kind of change {name!r} must be a Change, got {quoted(kind)}")
    _REGISTERED[name] = kind
    return kind


def _known() -> dict[str, Change]:
    return {**KINDS, **_REGISTERED}


def kinds_of(names: Iterable[str]) -> list[Change]:
    """Return the kinds of change of these names."""
    return [_known()[name] for name in names]


def make(spec: Any) -> Changes | None:
    """Read the ``changes`` argument of the environments.

    Args:
        spec: a number of changes (of all kinds that fit), a kind or a list of kinds, a dict
            of the fields of :class:`Changes`, a :class:`Changes`, or None for no changes.

    Raises:
        ValueError, TypeError: ``spec`` is none of these; or see :class:`Changes`.
    """
    if spec is None or isinstance(spec, Changes):
        return spec
    if isinstance(spec, (int, np.integer)) and not isinstance(spec, bool):
        return Changes(count=int(spec))
    if isinstance(spec, str):
        return Changes(kinds=(spec,))
    if isinstance(spec, Mapping):
        valid = [field.name for field in fields(Changes)]
        for name in spec:
            if name not in valid:
                raise ValueError(
                    f"unknown entry {name!r} of changes; {suggestion(str(name), valid)}"
                )
        return Changes(**spec)
    if isinstance(spec, (list, tuple)):
        return Changes(kinds=tuple(spec))
    raise TypeError(
        "changes must be None, a number, a kind, a list of kinds, or a dict of 'kinds' and "
        f"'count', got {quoted(spec)}; kinds: {', '.join(_known())}"
    )


def fitting(changes: Changes, task: Task) -> tuple[str, ...]:
    """Return the names of the kinds of change that are used for a task.

    Raises:
        ValueError: a requested kind does not fit the task, or no kind fits; the message
            lists those that do.
    """

    def fit_of(names: Iterable[str]) -> list[str]:
        kinds = _known()
        return [name for name in names if kinds[name].fits(task, changes.most)]

    fit = fit_of(changes.kinds or _known())
    if not changes.kinds:
        # Of two kinds, the one whose `excludes` names the other is left out.
        chosen = [
            name
            for name in KINDS
            if name in fit
            and name not in changes.left_out
            and not set(KINDS[name].excludes) & set(fit)
        ]
        if not chosen:
            raise ValueError(f"no kind of change fits the task {quoted(task)}")
        return tuple(chosen)
    for name in changes.kinds:
        if name not in fit:
            raise ValueError(
                f"{changes.most} changes of kind {name!r} do not fit the task "
                f"{quoted(task, 300)}; valid: {', '.join(fit_of(_known())) or 'none'}"
            )
    return changes.kinds


def check(changes: Changes, sampler: TaskSampler, tasks: Sequence[Task]) -> None:
    """Refuse kinds of change that do not fit the tasks of an environment.

    Args:
        changes: changes of the runs.
        sampler: sampler of tasks, from which a few are drawn if ``tasks`` is empty.
        tasks: tasks of the instances of the environment.

    Raises:
        ValueError: see :func:`fitting`.
    """
    rng = np.random.default_rng(0)
    tries = 1 if sampler.fixed else _TRIES * len(sampler.sources)
    for task in [*tasks, *(sampler.draw(rng) for _ in range(0 if tasks else tries))]:
        fitting(changes, task)
