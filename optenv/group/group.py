"""A group of runs: its resets and its control steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from .. import changes, core, rewards, rules, tasks, windows
from ..actions import Decision
from ..baseline import Baseline
from ..instances import Instance
from ..ranges import log_uniform
from ..settings import Settings, Structure
from ..telemetry import record_validation
from . import draws, footprint, stages, window
from .costs import mean_cost
from .identity import examples_seen, identify
from .losses import (
    given_validation_loss,
    judged_losses,
    reward_losses,
    validation_loss,
)
from .observation import estimated_reward, observe
from .setup import Setup
from .start import start
from .state import ControlState, StepResult
from .structure import check_size, draw_task

__all__ = ["Group"]


_P = ParamSpec("_P")
_R = TypeVar("_R")


def _outside_inference_mode(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Allow a method that computes gradients to be called in ``torch.inference_mode()``."""

    @wraps(method)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not torch.is_inference_mode_enabled():
            return method(*args, **kwargs)
        with torch.inference_mode(False):
            return method(*args, **kwargs)

    return call


def _with_rows(array: np.ndarray, index: np.ndarray, values: Any) -> np.ndarray:
    """Return a copy of an array with other values in the rows ``index [n]``."""
    changed = array.copy()
    changed[index] = values
    return changed


class _DrawnRuns(NamedTuple):
    """Drawn data and parameters of ``n`` new runs.

    Attributes:
        data: their examples.
        params: their initial parameters, ``[n, P]``.
        base_lr: their base learning rates, ``[n]``.
        change_steps: control steps before which their tasks change, ``[n, K]``.
        change_counts: numbers of changes, ``[n]``.
    """

    data: tasks.Data
    params: Tensor
    base_lr: Tensor
    change_steps: np.ndarray
    change_counts: np.ndarray


class Group:
    """Runs of one structure, which is redrawn whenever all of them are reset.

    Args:
        settings: arguments of the environment.
        size: number of runs, ``B``.

    Attributes:
        setup: objects made from the settings.
        task: the task that all runs share.
        total_updates: length of each run in updates.
        family: family and split that the task was drawn from, or None.
        instances: instance of each run; None for runs with newly drawn data.
        boundaries: updates before which the control steps begin, see
            :func:`optenv.windows.lazy_boundaries`.
        data: examples of the runs.
        state: state of the runs.
        steps: control steps done, ``[B]`` on the host.
        change_steps: control steps before which the task changes, ``[B, K]`` on the host.
        change_counts: number of changes of each run, ``[B]`` on the host.
        validation_every: control steps from one validation loss to the next, ``[B]`` on the
            host; 0 for runs that observe none.
    """

    task: tasks.Task
    total_updates: int
    family: tuple[str, str] | None
    instances: list[Instance | None]
    boundaries: np.ndarray | windows.Boundaries
    data: tasks.Data
    state: ControlState
    steps: np.ndarray
    change_steps: np.ndarray
    change_counts: np.ndarray
    validation_every: np.ndarray

    def __init__(self, settings: Settings, size: int) -> None:
        self.setup = setup = Setup.of(settings)
        self.settings = settings
        self.size = size
        self.action = setup.action
        self.sources = setup.sources
        self.sampler = setup.sampler
        self.device = setup.device
        self.dtype = setup.dtype
        self._baseline = Baseline(self.sources)
        self.family = None
        self.instances = [None] * size
        self._task_on_device: tasks.Task | None = None
        #: Estimate of the memory of the runs; None before the first reset.
        self.footprint: footprint.Footprint | None = None
        self._checked: tuple[tasks.Task, int, bool] | None = None
        #: Memory of the rest of the environment, bytes by purpose.
        self.beside: Mapping[str, int] = {}
        #: Number of control steps that are differentiated at once, for the estimate.
        self.segment = 0

    @property
    def rule(self) -> rules.Rule:
        """Update rule of the runs. Another one may be set between control steps."""
        return self.setup.rule

    @rule.setter
    def rule(self, rule: rules.Rule) -> None:
        self.setup = replace(self.setup, rule=rule)

    @property
    def num_steps(self) -> int:
        """Control steps of a run: the horizon, or the number of updates if smaller."""
        return len(self.boundaries) - 1

    @property
    def structure(self) -> Structure:
        """Structure that the runs have in common."""
        return Structure(self._origin, self.total_updates, self._scaled)

    @_outside_inference_mode
    def reset(
        self,
        index: np.ndarray,
        generators: Sequence[np.random.Generator],
        structure: np.random.Generator,
        instances: Sequence[Instance | None] | None = None,
    ) -> Tensor:
        """Start new runs at ``index [n]``; the others stay as they are.

        Args:
            index: indices of the runs.
            generators: one generator per reset run, from which the key of the run is drawn.
            structure: generator of the structure, used if all runs are reset without
                instances.
            instances: instance of each reset run, or None to draw its data. They have the
                structure of the group or, if all runs are reset, one common structure.

        Returns:
            First observations ``[n, F]``.

        Raises:
            ValueError: inputs or targets are not finite.
        """
        chosen = [None] * len(index) if instances is None else [*instances]
        everything = len(index) == self.size
        # 1. The structure, which all runs share.
        if everything:
            self._draw_structure(structure, chosen[0])
        # 2. The draws of each run from its own key, and the state before the first update.
        keys = [np.random.default_rng(int(g.integers(2**62))) for g in generators]
        drawn = self._draw_runs([*zip(keys, chosen, strict=True)])
        state = start(
            self.setup,
            self.task,
            drawn.data,
            drawn.params,
            drawn.base_lr,
            draws.draw_sees_loss(self.setup, keys),
        )
        every = draws.draw_validation_every(self.setup, keys)
        state = self._with_baseline(drawn.data, state, range(len(index)), every)
        observation, state = observe(self.setup, self.total_updates, state)
        # 3. The new runs take the places of the old ones.
        if everything:
            self.data, self.state = drawn.data, state
            self.steps = np.zeros(self.size, np.int64)
            self.change_steps, self.change_counts = drawn.change_steps, drawn.change_counts
            self.validation_every = every
        else:
            rows = torch.from_numpy(index).to(self.device)
            self.data = self.data.put(rows, drawn.data)
            self.state = core.put(self.state, rows, state)
            self.steps = _with_rows(self.steps, index, 0)
            self.change_steps = _with_rows(self.change_steps, index, drawn.change_steps)
            self.change_counts = _with_rows(self.change_counts, index, drawn.change_counts)
            self.validation_every = _with_rows(self.validation_every, index, every)
        for i, own in zip(index.tolist(), chosen, strict=True):
            self.instances[i] = own
        return observation

    def _draw_runs(
        self, pairs: Sequence[tuple[np.random.Generator, Instance | None]]
    ) -> _DrawnRuns:
        """Draw the tasks and the initial parameters of new runs.

        The order of the draws must not change, or seeds would give other runs.

        Args:
            pairs: key and instance of each run. The task of an instance is drawn from the
                instance's key instead.

        Raises:
            ValueError: inputs or targets are not finite.
        """
        keys = [key for key, _ in pairs]
        instances = [own for _, own in pairs]
        task_keys = [key if own is None else own.generator() for key, own in pairs]
        base_lr = [log_uniform(self.settings.base_lr, key) for key in task_keys]
        # 1. The examples. Those that all runs share stay on the device.
        data = self.task.sample(task_keys)
        is_on_device = data.shared and self._task_on_device is self.task
        if is_on_device:
            data = data._replace(inputs=self.data.inputs, targets=self.data.targets)
        else:
            kind = type(self.task).__name__
            for name in ("inputs", "targets"):
                label = f"{name} of the {kind} task"
                tasks.base.check_finite(label, getattr(data, name), self.dtype)
        self._task_on_device = self.task
        data = data.to(self.device, self.dtype)
        # 2. The initial parameters, and the values that instances fix.
        params = draws.draw_params(self.setup, self.task, keys)
        if any(own is not None for own in instances):
            data = draws.reorder(data, pairs)
            base_lr = [
                drawn if own is None or own.base_lr is None else own.base_lr
                for drawn, own in zip(base_lr, instances, strict=True)
            ]
        if self._scaled:
            scale = draws.draw_scale(self.setup, self.task, task_keys, instances)
            data, params = data._replace(scale=scale), params / scale
        # 3. The changes of the tasks, and their times.
        wanted, counts = self.settings.changes, np.zeros(len(keys), np.int64)
        if wanted is not None:
            data, counts = draws.draw_changes(
                wanted, self.task, data, task_keys, is_on_device
            )
        change_steps = draws.draw_change_steps(wanted, counts, self.num_steps, keys)
        if wanted is not None:
            data = changes.start_at(data, change_steps, self.boundaries)
        rates = torch.tensor(base_lr, dtype=self.dtype)
        return _DrawnRuns(data, params, rates, change_steps, counts)

    def _draw_structure(
        self, structure: np.random.Generator, instance: Instance | None
    ) -> None:
        """Draw the structure of all runs, or take it from their instances."""
        if instance is None:
            self.family, self.task = draw_task(self.setup, structure)
            self._origin = self.task
            self.total_updates = self.settings.draw_total_updates(self.task, structure)
            self._scaled = self.settings.reparametrize > 0
        else:
            self.family = (instance.family, instance.split)
            task, self.total_updates, self._scaled = self.settings.structure_of(instance)
            if self._task_on_device is None or self._origin != task:
                # A copy, so that examples that a task caches are freed with the run.
                self._origin, self.task = task, copy.copy(task)
        check_size(self.action, self.task)
        structure_now = (self.task, self.total_updates, self._scaled)
        if structure_now != self._checked:
            self.footprint = footprint.check(
                self.setup, self.task, self.size, *structure_now[1:], self.beside,
                segment=self.segment,
            )  # fmt: skip
            self._checked = structure_now
        self.boundaries = windows.lazy_boundaries(
            self.total_updates, self.settings.horizon, self.settings.spacing
        )

    def measured_footprint(self) -> footprint.Footprint | None:
        """Return the footprint, losses and gradients included; None before a reset."""
        if self.footprint is not None:
            self.footprint = footprint.measured(
                self.setup, self.task, self.size, self._scaled, self.footprint
            )
        return self.footprint

    @property
    def examples(self) -> Tensor:
        """Number of training examples in all batches after the first, ``[B]`` int64."""
        return examples_seen(self.task, self.state)

    def identify(self, index: np.ndarray) -> dict[str, list[Any]]:
        """Return task and instance of runs, and the examples and work used so far.

        Args:
            index: indices of the runs, ``[n]``.

        Returns:
            A list of ``n`` values for each key of :data:`IDENTITY`.
        """
        instances = [self.instances[i] for i in index]
        rows = torch.from_numpy(index).to(self.device)
        return identify(
            self.task, self.data, self.state, self.family, instances, rows,
            self.action.sets_batch_size,
        )  # fmt: skip

    def restart(
        self, index: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> Tensor:
        """Restart runs at ``index [n]`` on the same task.

        They get new initial parameters and a new batch order, and keep their data, base
        learning rate and reparametrization. The times of changes of the task are redrawn.

        Args:
            index: indices of the runs.
            generators: one generator per run, from which the key of the new run is drawn.

        Returns:
            First observations ``[n, F]``.
        """
        # 1. New parameters and batch orders.
        rows = torch.from_numpy(index).to(self.device)
        keys = [np.random.default_rng(int(g.integers(2**62))) for g in generators]
        params = draws.draw_params(self.setup, self.task, keys)
        if self.data.scale is not None:
            params = params / self.data.scale[rows]
        order = tasks.examples.order_keys(keys).to(self.device)
        self.data = self.data._replace(order=self.data.order.index_copy(0, rows, order))
        if self.settings.changes is not None:
            steps = draws.draw_change_steps(
                self.settings.changes, self.change_counts[index], self.num_steps, keys
            )
            self.change_steps = _with_rows(self.change_steps, index, steps)
            former = self.data.stages
            self.data = changes.start_at(self.data, self.change_steps, self.boundaries)
            if self.action.sets_batch_size:  # the other runs keep their own starts
                renewed = self.data.stages
                assert former is not None and renewed is not None
                starts = former.starts.index_copy(0, rows, renewed.starts[rows])
                self.data = self.data._replace(stages=renewed._replace(starts=starts))
        # 2. The start of all runs, from which only the restarted ones are taken.
        before = self.state
        all_params = before.run.params.index_copy(0, rows, params)
        state = start(
            self.setup, self.task, self.data, all_params, before.base_lr, before.sees_loss
        )
        every = self.validation_every[index]
        state = self._with_baseline(self.data, state, index.tolist(), every)
        observation, state = observe(self.setup, self.total_updates, state)
        restarted = torch.zeros(self.size, dtype=torch.bool, device=self.device)
        self.state = core.where(restarted.index_fill(0, rows, True), state, before)
        self.steps = _with_rows(self.steps, index, 0)
        return observation[rows]

    def _with_baseline(
        self,
        data: tasks.Data,
        state: ControlState,
        index: Sequence[int],
        validation_every: np.ndarray,
    ) -> ControlState:
        """Return a state with the final potential of the baseline, if the reward needs it.

        Args:
            data: examples of the runs of ``state``.
            state: state of runs; those at ``index`` have made no update.
            index: indices of ``n`` runs.
            validation_every: attribute ``validation_every`` for these runs, ``[n]``.
        """
        reward = self.setup.reward
        if not reward.needs_baseline:
            return state
        losses = self._baseline.final_losses(
            self.task,
            data,
            state.run,
            self.boundaries,
            index,
            lambda own, run: reward_losses(self.setup, self.task, own, run),
        )
        rows = torch.tensor(index, device=self.device)
        judged = judged_losses(
            self.setup, losses, state.initial_loss[rows], validation_every
        )
        potential, _ = reward.evaluate(*judged)
        return state._replace(baseline=state.baseline.index_copy(0, rows, potential))

    @_outside_inference_mode
    def step(
        self,
        action: Tensor,
        active: np.ndarray | None = None,
        *,
        differentiable: bool = False,
    ) -> StepResult:
        """Take one control step.

        Args:
            action: actions ``[B, ...]``.
            active: runs that take part, ``[B]`` bool; all by default. The state of the
                others does not change, and their results are meaningless.
            differentiable: keep the graph from the rewards of this step and of later ones
                back to the action, until :meth:`detach`.
        """
        before, action = self.state, action.to(self.device)
        changed = None
        if self.settings.changes is not None:
            before = stages.enter(
                before, self.change_steps, self.steps, self._losses_in(before)
            )
            changed = stages.changes_so_far(self.change_steps, self.steps)
        # 1. The decision, and the updates of the window.
        decision, updates = self._plan(before, action, active)
        run = window.carry_out(
            self.setup, self.task, self.data, before.run, decision, updates, differentiable
        )
        self.steps = self.steps + (1 if active is None else active)
        # 2. The state after the updates, and its observation.
        state = self._decided(before, action, decision)
        state = self._judged(before, state._replace(run=run), decision, differentiable)
        if changed is not None:
            state = stages.with_losses(state, changed, self._losses_in(state))
        state = self._validated(state, active, differentiable)
        observation, state = observe(self.setup, self.total_updates, state)
        # 3. The end of the run, and the reward.
        at_end = self.steps >= self.num_steps
        terminated = torch.from_numpy(at_end).to(self.device)
        if self.settings.on_divergence == "end":
            terminated = terminated | state.diverged
        reward = self._earn(before, state, terminated, changed)
        estimate = estimated_reward(
            before.history, state, at_end, self.settings.loss_features == "invariant"
        )
        diverged = state.diverged
        if active is not None:
            state = core.where(torch.from_numpy(active).to(self.device), state, before)
        self.state = state
        return StepResult(
            observation=observation,
            reward=reward,
            terminated=terminated,
            diverged=diverged,
            lr=updates.lr[0],
            estimated_reward=estimate,
            decision=decision,
            batch_size=updates.sizes,
        )

    def _plan(
        self, before: ControlState, action: Tensor, active: np.ndarray | None
    ) -> tuple[Decision, window.Window]:
        """Decode an action, and plan the updates of its window.

        Where the action sets the batch size, changes of the tasks are moved to the first
        updates of their control steps.
        """
        decision = self.action.decode(
            action, before.log_multiplier, before.part_multipliers
        )
        updates = window.plan(
            self.setup, self.task, before, decision, self.boundaries, self.steps, active
        )
        decision = window.as_sized(self.task, decision, updates)
        if self.settings.changes is not None and self.action.sets_batch_size:
            self.data = stages.scheduled(
                self.data, before, updates.counts, self.change_steps, self.steps, active
            )
        return decision, updates

    def _decided(
        self, before: ControlState, action: Tensor, decision: Decision
    ) -> ControlState:
        """Return the state with the values of a decision that later steps need."""
        state = before._replace(
            log_multiplier=decision.log_multiplier, previous_action=decision.shift
        )
        if decision.part_multipliers is not None and decision.part_shifts is not None:
            state = state._replace(
                part_multipliers=decision.part_multipliers,
                part_shifts=decision.part_shifts,
            )
        if self.action.observed and not self.action.per_tensor and not self.action.memory:
            shown = self.action.observe(action, decision)
            state = state._replace(observed_action=shown.to(self.dtype))
        return state

    def _judged(
        self,
        before: ControlState,
        state: ControlState,
        decision: Decision,
        differentiable: bool,
    ) -> ControlState:
        """Return the state with the losses, the potential and the cost of the reward.

        Args:
            before: state before the updates. A run that has diverged keeps its potential.
            state: state after the updates.
            decision: decoded actions of the step.
            differentiable: keep the graph of the losses.
        """
        setup = self.setup
        loss = reward_losses(setup, self.task, self.data, state.run, differentiable)
        judged = judged_losses(setup, loss, before.initial_loss, self.validation_every)
        potential, diverges = setup.reward.evaluate(*judged)
        planned = self.boundaries[np.minimum(self.steps, self.num_steps)]
        state = state._replace(
            loss=loss,
            potential=torch.where(before.diverged, before.potential, potential),
            diverged=before.diverged | diverges,
            planned=torch.from_numpy(planned).to(self.device),
        )
        if not setup.reward.needs_cost:
            return state
        return state._replace(cost=mean_cost(setup, self.task, before, state, decision))

    def _validated(
        self, state: ControlState, active: np.ndarray | None, differentiable: bool
    ) -> ControlState:
        """Return the state with the validation losses that runs observe after this step."""
        if not state.validation:
            return state
        every = self.validation_every
        due = (every > 0) & (self.steps % np.maximum(every, 1) == 0)
        if active is not None:
            due = due & active
        given = given_validation_loss(
            self.setup, self.task, self.data, state.run, state.loss, due, differentiable
        )
        return state._replace(validation=record_validation(state.validation, given))

    def _earn(
        self,
        before: ControlState,
        state: ControlState,
        terminated: Tensor,
        changed: np.ndarray | None,
    ) -> Tensor:
        """Compute the rewards ``[B]`` of a control step.

        Args:
            before, state: states before and after the step.
            terminated: whether the run ends with the step, ``[B]`` bool.
            changed: number of changes of each run's task before the step, ``[B]``; None
                where tasks do not change.
        """
        ended = terminated
        if changed is not None:
            ended = stages.task_ended(
                before, state, terminated, self.change_steps, self.steps
            )
        reward = self.setup.reward.earn(
            rewards.Step(
                before=before.potential,
                after=state.potential,
                ended=ended,
                cost_before=before.cost,
                cost_after=state.cost,
                baseline=state.baseline,
            )
        )
        if changed is None:
            return reward
        left = (self.change_steps < self.num_steps).sum(1) - changed
        return reward - stages.later_charge(self.setup, before, state, left)

    def detach(self) -> None:
        """Detach the state from the graph of the steps so far."""
        self.state = core.detach(self.state)

    def _losses_in(self, state: ControlState) -> stages.LossesIn:
        """Return a function from stages ``[B]`` to the losses of the runs in them."""
        return lambda stage: reward_losses(
            self.setup, self.task, self.data, state.run, stage=stage
        )

    def validation_loss(self, index: np.ndarray) -> Tensor:
        """Compute the loss ``[n]`` of runs ``index [n]`` on all validation examples.

        If the task changes, the examples are those of the stage of the last update.
        """
        runs = torch.from_numpy(index).to(self.device)
        return validation_loss(self.task, self.data, self.state.run, runs)
