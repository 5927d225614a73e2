"""Windows: planning and making the updates between two control steps."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import core, rules
from ..actions import Decision
from ..modifiers import MODIFIERS, UNMODIFIED, Modifiers
from ..rules import switching
from ..tasks import Data, Task
from ..windows import Boundaries
from .setup import Setup
from .state import ControlState

__all__ = ["Window", "as_sized", "carry_out", "modifiers", "plan"]


class Window(NamedTuple):
    """Updates of a control step.

    Attributes:
        lr: learning rates ``[U, B]``.
        counts: number of updates of each run, ``[B]`` on the host.
        sizes: batch size of each run, ``[B]`` on the host.
    """

    lr: Tensor
    counts: np.ndarray
    sizes: np.ndarray


def plan(
    setup: Setup,
    task: Task,
    state: ControlState,
    decision: Decision,
    boundaries: np.ndarray | Boundaries,
    steps: np.ndarray,
    active: np.ndarray | None,
) -> Window:
    """Compute the updates of the next window.

    Args:
        setup: setup of the group.
        task: structure of the runs.
        state: state before the control step.
        decision: decoded actions.
        boundaries: updates before which the control steps begin, and the length of the
            runs.
        steps: control steps done, ``[B]``.
        active: runs that take part, ``[B]`` bool; None for all.
    """
    own, total, runs = task.batch_size, int(boundaries[-1]), len(steps)
    peak = state.base_lr * decision.log_multiplier.exp()
    # 0. Runs in phase share number of updates and schedule.
    if decision.batch_factor is None and (runs == 1 or steps.min() == steps.max()):
        position = min(int(steps[0]), len(boundaries) - 2)
        begin, end = int(boundaries[position]), int(boundaries[position + 1])
        shared: list[float] = []
        if not setup.action.is_constant:
            shared = [setup.action.factor(min(at / total, 1.0)) for at in range(begin, end)]
        if all(factor == 1.0 for factor in shared):
            lr = peak.expand(end - begin, runs)
        else:
            factors = torch.tensor(shared, device=setup.device, dtype=setup.dtype)
            lr = factors.unsqueeze(1) * peak
        counts = np.full(runs, end - begin)
        if active is not None:
            counts = np.where(active, counts, 0)
        return Window(lr, counts, np.full(runs, own))
    # 1. The numbers of updates, with batches of the task's own size.
    position = np.minimum(steps, len(boundaries) - 2)
    first, last = boundaries[position], boundaries[position + 1]
    counts, sizes = last - first, np.full(runs, own)
    passed: Any = 1.0
    if decision.batch_factor is not None:
        # 2. With batches of another size, as many updates as there are examples for.
        drawn = state.run.drawn.cpu().numpy() - own
        left = np.maximum(last * own - drawn, 1)
        wanted = np.floor(own * decision.batch_factor.cpu().numpy() + 0.5)
        sizes = np.minimum(np.maximum(wanted.astype(np.int64), min(own, 2)), left)
        passed = counts / (left // sizes)  # task-sized updates per update
        counts = left // sizes
    if active is not None:
        counts = np.where(active, counts, 0)
    # 3. Their learning rates.
    if setup.action.is_constant:
        return Window(peak.expand(int(counts.max()), runs), counts, sizes)
    updates = first + passed * np.arange(counts.max())[:, None]
    progress = np.minimum(updates / total, 1.0)
    factor = [[setup.action.factor(each) for each in row] for row in progress.tolist()]
    lr = torch.tensor(factor, device=setup.device, dtype=setup.dtype) * peak
    return Window(lr, counts, sizes)


def as_sized(task: Task, decision: Decision, window: Window) -> Decision:
    """Return the decision with the batch sizes that the window really has."""
    if decision.batch_factor is None:
        return decision
    factors = torch.from_numpy(window.sizes / task.batch_size)
    return decision._replace(batch_factor=factors.to(decision.batch_factor.device))


def carry_out(
    setup: Setup,
    task: Task,
    data: Data,
    run: core.RunState,
    decision: Decision,
    window: Window,
    differentiable: bool,
) -> core.RunState:
    """Make the updates of a window, together for runs with the same batch size.

    Args:
        setup: setup of the group.
        task: structure of the runs.
        data: examples of the runs.
        run: state of the runs.
        decision: decoded actions.
        window: planned updates.
        differentiable: keep the graph.
    """
    if decision.rule is not None:
        run = run._replace(rule=switching.choose(run.rule, decision.rule))
    rule = _with_values(setup.rule, decision.hyperparameters)
    changed = modifiers(setup, task, decision)

    def advance(
        data: Data, run: core.RunState, lr: Tensor, own: Modifiers, counts: np.ndarray,
        size: int,
    ) -> core.RunState:  # fmt: skip
        same = bool((counts == counts[0]).all())
        return core.advance(
            task, rule, data, run, lr, own,
            counts=None if same else torch.from_numpy(counts).to(setup.device),
            batch_size=size, by_tensor=setup.action.per_tensor,
            differentiable=differentiable,
        )  # fmt: skip

    sizes = set(window.sizes[window.counts > 0].tolist())
    if len(sizes) == 1:  # runs without updates may have another size
        return advance(data, run, window.lr, changed, window.counts, sizes.pop())
    for size in sorted(sizes):
        rows = np.flatnonzero((window.sizes == size) & (window.counts > 0))
        index = torch.from_numpy(rows).to(setup.device)
        counts = window.counts[rows]
        own = Modifiers(*(None if m is None else m[index] for m in changed))
        lr, examples = window.lr[: counts.max(), index], data.of_runs(index)
        part = advance(examples, core.take(run, index), lr, own, counts, size)
        run = core.put(run, index, part)
    return run


def modifiers(setup: Setup, task: Task, decision: Decision) -> Modifiers:
    """Return the modifiers of the updates that a decision asks for."""
    if setup.action.sets_one_rate:
        return UNMODIFIED
    values = {
        name: value.to(setup.dtype)
        for name, value in decision.hyperparameters.items()
        if name in MODIFIERS
    }
    factors = None
    if decision.part_multipliers is not None:
        names = setup.action.roles
        sizes = [int(np.prod(shape)) for shape in task.shapes]
        parts = (
            range(len(sizes))
            if setup.action.per_tensor
            else [names.index(role) for role in task.roles]
        )
        columns = np.repeat(parts, sizes)
        relative = decision.part_multipliers - decision.log_multiplier.unsqueeze(1)
        factors = relative.exp()[:, torch.from_numpy(columns).to(setup.device)]
    update = decision.update
    if update is not None:
        update = update[:, : task.num_params]
    return Modifiers(lr_factors=factors, update=update, **values)


def _with_values(rule: rules.Rule, values: Mapping[str, Tensor]) -> rules.Rule:
    """Return a rule in which each run has its own values of some hyperparameters.

    Args:
        rule: the rule.
        values: values ``[B]`` by name of the hyperparameter. They are not checked, as the
            check would wait for the device.
    """
    values = {name: value for name, value in values.items() if name in rule.fields}
    if not values:
        return rule
    h = copy.copy(rule.hyperparameters)
    for name, value in values.items():
        object.__setattr__(h, name, value.unsqueeze(1))  # bypasses the check of its range
    return replace(rule, update=partial(rule.update, h=h))
