"""Changes of the task during a run, of which no observation tells the time.

The argument ``changes`` of the environments says how many changes a run has, and of which
kinds (:class:`Changes`). The kinds of the package are listed in :data:`KINDS`;
:func:`register` adds one from outside the package.

A run with ``K`` changes has ``K + 1`` *stages*. Changes happen between control steps, and
each kind goes on from where its last change has left it. So a task whose classes were
permuted, and then its inputs, has both permuted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from ..checks import check_new_name, known, positive_int, quoted, suggestion
from ..tasks import Data, GeneratedTask, Task, TaskSampler
from ..tasks.base import check_finite
from ..tasks.stages import NEVER, Stages
from ..windows import Boundaries
from . import kinds
from .kinds import Change
from .losses import StageLosses

__all__ = [
    "KINDS",
    "Change",
    "Changes",
    "StageLosses",
    "check",
    "draw",
    "draw_counts",
    "draw_steps",
    "fitting",
    "make",
    "register",
    "start_at",
]

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

#: Structures of a family that are drawn to see which kinds fit all of them.
_TRIES = 32

#: Changes of a run if only their kinds are given.
DEFAULT_COUNT = 3


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Kinds and number of the changes of a run.

    Attributes:
        kinds: names of kinds, of which one is drawn for each change. All of them must fit
            every task of the environment. None are given to take those that fit a task.
        count: number of changes of a run, less than its control steps; or a pair of the
            least, which can be 0, and the greatest, between which each run draws it.
        left_out: kinds that are not taken of those that fit a task.

    Raises:
        ValueError: a kind is unknown or given twice, two of them exclude each other, or the
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
        # In one order, so that it does not matter in which they are given.
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
        """Return the changes with one more kind left out."""
        return replace(self, left_out=tuple(sorted({*self.left_out, name})))


def _count(given: Any) -> int | tuple[int, int]:
    """Return a number of changes, or a pair of the least and the greatest.

    Raises:
        ValueError: it is neither.
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

    Environments whose ``changes`` name no kinds leave it out.

    Args:
        name: unused so far.
        kind: the kind, see :class:`Change`.

    Returns:
        The kind.

    Raises:
        TypeError: ``name`` is no string, or ``kind`` no :class:`Change`.
        ValueError: the name is taken.
    """
    check_new_name("kind of change", name, [*_known()])
    if not isinstance(kind, Change):
        raise TypeError(f"kind of change {name!r} must be a Change, got {quoted(kind)}")
    _REGISTERED[name] = kind
    return kind


def _known() -> dict[str, Change]:
    return {**KINDS, **_REGISTERED}


def make(spec: Any) -> Changes | None:
    """Read the ``changes`` argument of the environments.

    Args:
        spec: a number of changes (of whatever kinds fit), a kind or a list of kinds, a dict
            of the fields of :class:`Changes`, such an object, or None for no changes.

    Raises:
        ValueError, TypeError: it is none of these, or see :class:`Changes`.
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
    """Return the kinds of change that a task has.

    Raises:
        ValueError: a kind that is asked for does not fit the task, or none fits; the
            message lists those that do.
    """

    def fit_of(names: Iterable[str]) -> list[str]:
        kinds = _known()
        return [name for name in names if kinds[name].fits(task, changes.most)]

    fit = fit_of(changes.kinds or _known())
    if not changes.kinds:
        # Of two that exclude each other, the one that asks for it is left out.
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
        sampler: sampler of structures, of whose families a few are drawn.
        tasks: further tasks.

    Raises:
        ValueError: as of :func:`fitting`.
    """
    rng = np.random.default_rng(0)
    tries = 1 if sampler.fixed else _TRIES * len(sampler.sources)
    for task in [*tasks, *(sampler.draw(rng) for _ in range(0 if tasks else tries))]:
        fitting(changes, task)


def draw(
    changes: Changes,
    task: Task,
    data: Data,
    generators: Sequence[np.random.Generator],
    extended: bool = False,
) -> Data:
    """Draw what the changes of runs are, but not their times.

    Args:
        changes: changes of the runs.
        task: structure of the runs.
        data: examples of the runs, on their device.
        generators: one for each run, of its task.
        extended: whether the examples, which all runs share, are those of all stages
            already.

    Returns:
        The data with stages, none of which has a start.

    Raises:
        ValueError: a kind does not fit the task, or new data are not finite.
    """
    names = fitting(changes, task)
    chosen = [_known()[name] for name in names]
    # 1. The values of each run, from its own generator.
    runs = [_draw_values(changes.most, chosen, task, rng) for rng in generators]
    values = tuple(
        torch.from_numpy(np.stack(of_kind)) for of_kind in zip(*runs, strict=True)
    )
    # 2. Examples of the later stages.
    if "distribution" in names and not extended:
        data = _extend(data, task, generators, changes.most)
    contexts = tuple(kind.prepare(task, data) for kind in chosen)
    count = len(generators)
    stages = Stages(
        kinds=tuple(chosen),
        values=values,
        contexts=contexts,
        starts=torch.full((count, changes.most), NEVER),
        stage=torch.zeros(count, dtype=torch.int64),
    )
    dtype = data.inputs.dtype if data.inputs.is_floating_point() else torch.float32
    return data._replace(stages=stages.to(data.rows.device, dtype))


def _draw_values(
    count: int, chosen: Sequence[Change], task: Task, rng: np.random.Generator
) -> list[np.ndarray]:
    """Draw the values ``[count + 1, ...]`` of each kind for one run."""
    of_change = rng.integers(len(chosen), size=count)
    found = []
    for number, kind in enumerate(chosen):
        value = kind.draw(task, rng, None, count)
        values = [value]
        for kind_of_change in of_change:
            if kind_of_change == number:
                value = kind.draw(task, rng, value, count)
            values.append(value)
        found.append(np.stack(values))
    return found


def _extend(
    data: Data, task: Task, generators: Sequence[np.random.Generator], count: int
) -> Data:
    """Append examples of ``count`` further stages to those of each run."""
    parts = [data]
    for number in range(1, count + 1):
        own = task
        if isinstance(task, GeneratedTask) and task.data_seed is not None:
            key = np.random.default_rng([int(task.data_seed), number])
            own = replace(task, data_seed=int(key.integers(2**31)))
        part = own.sample(generators)
        if part.shared != data.shared or part.rows.shape != data.rows.shape:
            raise ValueError(
                f"changes of kind 'distribution' need tasks that draw as many examples "
                f"each time, got {quoted(task)}"
            )
        for name in ("inputs", "targets"):
            check_finite(f"{name} after a change", getattr(part, name))
        dtype = data.inputs.dtype if data.inputs.is_floating_point() else torch.float32
        parts.append(part.to(data.rows.device, dtype))
    if data.shared:
        if task.__class__.sample is not GeneratedTask.sample:
            raise ValueError(
                "changes of kind 'distribution' do not fit a task whose runs share their "
                f"examples, got {quoted(task)}"
            )
        return data._replace(
            inputs=torch.cat([part.inputs for part in parts]),
            targets=torch.cat([part.targets for part in parts]),
        )
    # The examples of a run, of all of its stages, are one block.
    runs, size = data.rows.shape
    blocks = (runs, size)
    inputs = torch.stack([part.inputs.unflatten(0, blocks) for part in parts], 1)
    targets = torch.stack([part.targets.unflatten(0, blocks) for part in parts], 1)
    first = torch.arange(runs, device=data.rows.device) * (size * len(parts))
    return data._replace(
        inputs=inputs.flatten(0, 2),
        targets=targets.flatten(0, 2),
        rows=first.unsqueeze(1) + torch.arange(size, device=data.rows.device),
    )


def draw_counts(changes: Changes, generators: Sequence[np.random.Generator]) -> np.ndarray:
    """Draw the number of changes of each run, ``[B]`` int64.

    Args:
        changes: changes of the runs.
        generators: one for each run, of its task; each gives a draw if there is a choice.
    """
    if changes.least == changes.most:
        return np.full(len(generators), changes.most)
    low, high = changes.least, changes.most
    return np.array([rng.integers(low, high + 1) for rng in generators])


def draw_steps(
    count: int | np.ndarray,
    num_steps: int,
    generators: Sequence[np.random.Generator],
    most: int | None = None,
) -> np.ndarray:
    """Draw before which control steps the stages of runs begin.

    A stage has at least half of the control steps that it would have if all were equally
    long.

    Args:
        count: number of changes of all runs, or of each, ``[B]``.
        num_steps: control steps of a run. A run that has no more than its changes has
            fewer of them.
        generators: one for each run.
        most: largest number of changes, ``K``, by default that of these runs.

    Returns:
        Control steps ``[B, K]`` int64; :data:`NEVER` for changes that a run does not have.
    """
    counts = np.broadcast_to(count, len(generators))
    width = int(counts.max(initial=0)) if most is None else most
    steps = np.full((len(generators), width), NEVER)
    for row, wanted, rng in zip(steps, counts.tolist(), generators, strict=True):
        had = min(wanted, num_steps - 1)
        least = max(1, num_steps // (2 * (had + 1)))
        slack = num_steps - least * (had + 1)
        delays = np.sort(rng.integers(slack + 1, size=had))
        row[:had] = least * np.arange(1, had + 1) + delays
    return steps


def start_at(data: Data, steps: np.ndarray, boundaries: np.ndarray | Boundaries) -> Data:
    """Return the data with stages that begin before control steps.

    Args:
        data: data with stages.
        steps: control steps of :func:`draw_steps`, ``[B, K]``.
        boundaries: updates before which the control steps begin, and the length of the
            runs.
    """
    assert data.stages is not None
    within = np.minimum(steps, len(boundaries) - 1)
    starts = np.where(steps == NEVER, NEVER, boundaries[within])
    moved = torch.from_numpy(starts).to(data.rows.device)
    return data._replace(stages=data.stages._replace(starts=moved))
