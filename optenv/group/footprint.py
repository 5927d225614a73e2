"""Estimate of the memory that a group of runs needs, before it is allocated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from .. import core, windows
from ..memory_limit import MemoryLimit, refuse_beyond
from ..settings import Settings
from ..tasks import GeneratedTask, ModuleTask, Task
from .activations import graph_memory, loss_memory
from .setup import Setup

__all__ = [
    "Footprint",
    "check",
    "check_before",
    "check_unrolled",
    "estimate",
    "held",
    "measured",
    "rough_loss_memory",
    "total",
]

#: Names of the parts of a footprint.
PARAMETERS = "parameters and the state of the update rule"
EXAMPLES = "examples"
DRAWING = "drawing the examples of a run"
LOSSES = "losses and their gradients"
UPDATES = "the updates of a control step"
GRAPH = "the graph of the updates that are differentiated at once"
GROUPS = "groups and their generators"

#: Bytes of the tensor of a loss, besides its numbers.
_LOSS = 700

#: Bytes per place in a batch while the row of its example is computed.
_PLACE = 100

#: Bytes of a learning rate as a Python float in a list.
_NUMBER = 40

#: Bytes of a group before its first reset, and of the generator of a run.
_GROUP, _GENERATOR = 8_000, 1_200

#: Memory of a graph and the gradients taken through it, relative to the graph alone.
_WITH_GRADIENTS = 1.3

#: Number of tasks that are drawn from families for the check before the first reset.
_TRIES = 4

#: Number of parameters up to which the state of an update rule is allocated to measure it.
_SMALL = 2**17


class Footprint(NamedTuple):
    """Approximate memory of a group of runs in bytes, by purpose.

    Attributes:
        held: memory that the group holds between its steps.
        working: further memory that a step or a reset needs.
    """

    held: dict[str, int]
    working: dict[str, int]

    @property
    def parts(self) -> dict[str, int]:
        """Sum of held and working memory in bytes, by purpose."""
        names = dict.fromkeys([*self.held, *self.working])
        return {n: self.held.get(n, 0) + self.working.get(n, 0) for n in names}


def estimate(
    setup: Setup, task: Task, size: int, total_updates: int, scaled: bool
) -> Footprint:
    """Estimate the memory of a group, except for the losses and their gradients.

    Args:
        setup: setup of the group.
        task: structure of the runs.
        size: number of runs, ``B``.
        total_updates: length of each run in updates.
        scaled: whether parameter tensors have random factors.
    """
    number = setup.dtype.itemsize
    # 1. Parameters, gradients and rule states; a step or a reset makes new ones of each.
    params = task.num_params
    own = 2 + int("average" in setup.action.sets) + int(scaled)
    state = _state_numbers(setup, task)
    held = size * number * (own * params + state)
    made = size * number * (4 * params + state) + 24 * params
    # 2. Examples, which are drawn run by run, joined and converted.
    total = task.num_train + task.num_validation
    stages = 1 if setup.settings.changes is None else 1 + setup.settings.changes.most
    copies = 1 if task.shares_examples else size
    examples = copies * total * task.example_numbers * number * stages
    is_generated = isinstance(task, GeneratedTask)
    rows = (copies if is_generated else size) * total * 8
    # 3. The updates of a control step.
    window = _longest_window(setup, total_updates)
    batch = size * task.batch_size
    places = batch * min(window, max(1, core.AHEAD // batch))
    losses = min(window, core.LOSSES_KEPT) * (_LOSS + number * size)
    rates = 0 if setup.action.is_constant else window * (_NUMBER + number) * size
    return Footprint(
        held={PARAMETERS: held, EXAMPLES: examples + rows},
        working={
            PARAMETERS: made,
            EXAMPLES: rows + (0 if task.shares_examples else 2 * examples),
            DRAWING: 8 * task.drawing_numbers,
            UPDATES: _PLACE * places + losses + rates,
        },
    )


def check(
    setup: Setup,
    task: Task,
    size: int,
    total_updates: int,
    scaled: bool,
    beside: Mapping[str, int],
    thorough: bool = False,
    segment: int = 0,
) -> Footprint:
    """Estimate the memory of a group, and raise an error if it exceeds the limit.

    The memory of losses and gradients is measured, on tensors without values, only if a
    rough upper bound on it would exceed the limit.

    Args:
        setup, task, size, total_updates, scaled: see :func:`estimate`.
        beside: memory that the environment holds besides the group, bytes by purpose.
        thorough: whether to measure in any case.
        segment: number of control steps that are differentiated at once, whose graph is
            kept; 0 for none.

    Raises:
        ValueError: the estimate exceeds the limit.
    """
    limit = setup.limit
    found = estimate(setup, task, size, total_updates, scaled)
    if segment:
        updates = min(total_updates, segment * _longest_window(setup, total_updates))
        kept = int(_WITH_GRADIENTS * updates * graph_memory(setup, task, size, scaled))
        found = found._replace(working={**found.working, GRAPH: kept})
    everything = {**found.parts}
    for name, more in beside.items():
        everything[name] = everything.get(name, 0) + more
    _refuse(setup, task, size, everything, limit)
    rough = rough_loss_memory(setup, task, size)
    if thorough or sum(everything.values()) + rough > limit.size:
        left = limit.size - sum(everything.values())
        found = measured(setup, task, size, scaled, found, left)
        everything[LOSSES] = found.working[LOSSES]
        _refuse(setup, task, size, everything, limit)
    return found


def measured(
    setup: Setup,
    task: Task,
    size: int,
    scaled: bool,
    found: Footprint,
    enough: float = math.inf,
) -> Footprint:
    """Return a footprint to which the memory of losses and gradients is added.

    Args:
        setup, task, size, scaled: see :func:`estimate`.
        found: footprint of the group.
        enough: number of bytes above which to stop measuring.
    """
    if LOSSES in found.working:
        return found
    known = found.parts[PARAMETERS]  # is part of the measurement
    more = loss_memory(setup, task, size, enough + known, scaled) - known
    return found._replace(working={**found.working, LOSSES: max(0, more)})


def check_before(
    setup: Setup, sizes: Sequence[int], own: Mapping[str, int], segment: int = 0
) -> None:
    """Refuse groups that need more memory than the limit, before the first reset.

    Fixed tasks and instances are checked by :func:`check`. Tasks of families are drawn at
    every reset; only the smallest of a few drawn tasks is checked here.

    Args:
        setup: setup of the groups.
        sizes: number of runs of each group.
        own: memory needed besides the groups, bytes by purpose.
        segment: see :func:`check`.

    Raises:
        ValueError: the groups need more memory.
    """
    settings = setup.settings
    given = [each.task for each in settings.instances or ()]
    sources = () if given else setup.sampler.sources
    given += [each for each in sources if isinstance(each, Task)]
    if not given:
        rng = np.random.default_rng(0)
        drawn = [setup.sampler.draw(rng) for _ in range(_TRIES)]
        given = [min(drawn, key=lambda task: task.num_params)]
    length, scaled = settings.longest_run(), settings.reparametrize > 0
    size, smallest = max(sizes), min(given, key=lambda task: task.num_params)
    least = estimate(setup, smallest, size, length, scaled)
    beside = held(own, [least] * (len(sizes) - 1))
    # Equal tasks once; by their text, since tasks with arrays cannot be hashed
    for task in {repr(task): task for task in given}.values():
        # The rough bound is meant for the losses of the package.
        own_loss = isinstance(task, ModuleTask)
        from_outside = own_loss or not type(task).__module__.startswith("optenv.")
        check(setup, task, size, length, scaled, beside, from_outside, segment)


def check_unrolled(settings: Settings, groups: int, size: int, segment: int) -> None:
    """Refuse groups to differentiate that need more memory than the limit.

    They are checked before any of them is made.

    Args:
        settings: settings of the groups.
        groups: number of groups.
        size: number of runs of each group.
        segment: number of control steps that are differentiated at once.

    Raises:
        ValueError: the groups need more memory; the message says what to lower.
    """
    setup = Setup.of(settings)
    own = {GROUPS: groups * (_GROUP + size * _GENERATOR)}
    many = f"{groups} groups of {size} runs"
    refuse_beyond(setup.limit, many, own, {GROUPS: (f"groups={groups}", f"size={size}")})
    check_before(setup, [size] * groups, own, segment)


def held(own: Mapping[str, int], groups: Iterable[Footprint | None]) -> dict[str, int]:
    """Return the memory that an environment holds besides a group that is reset.

    Args:
        own: memory needed besides the groups, bytes by purpose.
        groups: footprints of the other groups; None for a group that has not been reset.

    Returns:
        Bytes by purpose.
    """
    found = dict(own)
    for group in groups:
        if group is not None:
            for name, more in group.held.items():
                found[name] = found.get(name, 0) + more
    return found


def total(own: Mapping[str, int], groups: Sequence[Footprint | None]) -> dict[str, int]:
    """Return the memory that an environment needs.

    Groups work one after the other, so that only the largest working memory counts.

    Args:
        own: see :func:`held`.
        groups: footprints of all groups; None for a group that has not been reset.

    Returns:
        Bytes by purpose.
    """
    found = held(own, groups)
    working = [group.working for group in groups if group is not None]
    busiest = max(working, key=lambda parts: sum(parts.values()), default={})
    for name, more in busiest.items():
        found[name] = found.get(name, 0) + more
    return found


def _refuse(
    setup: Setup, task: Task, size: int, parts: dict[str, int], limit: MemoryLimit
) -> None:
    settings, sizes = setup.settings, f"the sizes of the task {type(task).__name__}"
    runs = () if size == 1 else ("num_envs",)
    changes = () if settings.changes is None else (f"changes={settings.changes.most}",)
    examples = (f"num_train={task.num_train}", f"num_validation={task.num_validation}")
    updates = f"updates_per_step={settings.updates_per_step[1]:g}"  # type: ignore[index]
    count = "a run" if size == 1 else f"a group of {size} runs"
    refuse_beyond(
        limit,
        f"{count} of {task.num_params} parameters",
        parts,
        {
            PARAMETERS: (*runs, sizes),
            EXAMPLES: (*runs, *changes, *examples, sizes),
            DRAWING: (sizes, *examples),
            LOSSES: (*runs, f"batch_size={task.batch_size}", sizes),
            UPDATES: (updates, *runs),
            GRAPH: ("segment", *runs, updates),
            GROUPS: ("groups", *runs),
        },
    )


def _state_numbers(setup: Setup, task: Task) -> int:
    """Return the number of values in the state of the update rule of a run."""
    if task.num_params > 2**32:  # beyond any memory, and perhaps beyond torch's integers
        return 0
    rule = setup.rule.bind(task.shapes, task.roles)
    # The first tensor without values makes torch import modules, which costs more than a
    # small state.
    device = "cpu" if task.num_params <= _SMALL else "meta"
    with torch.no_grad():
        like = torch.zeros(1, task.num_params, device=device, dtype=setup.dtype)
        return sum(part.numel() for part in rule.init(like))


def _longest_window(setup: Setup, total_updates: int) -> int:
    """Return the number of updates of the longest control step, which is the last."""
    settings = setup.settings
    ends = windows.Boundaries(
        total_updates, min(settings.horizon, total_updates), settings.spacing
    )
    longest = int(ends[-1] - ends[-2])
    if setup.action.sets_batch_size:  # smaller batches make more updates
        longest = math.ceil(longest / min(getattr(setup.action, "factors", (1.0,))))
    return longest


def rough_loss_memory(setup: Setup, task: Task, size: int) -> int:
    """Return an upper bound on the memory of losses in bytes, for nearly all tasks.

    A forward pass keeps fewer numbers than it makes multiplications; examples and random
    numbers are copied several times.
    """
    examples = max(task.batch_size, task.reward_examples, task.num_validation)
    passes = math.ceil(task.work * examples / task.batch_size)
    gathered = 16 * examples * (task.example_numbers + 2 * task.noise)
    return size * setup.dtype.itemsize * (passes + gathered)
