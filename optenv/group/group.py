"""A group of runs: its resets and its control steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from .. import changes, core, rewards, rules, tasks, windows
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
    """Let a method that takes gradients be called under ``torch.inference_mode()``."""

    @wraps(method)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not torch.is_inference_mode_enabled():
            return method(*args, **kwargs)
        with torch.inference_mode(False):
            return method(*args, **kwargs)

    return call


class Group:
    """Runs of one structure, which is redrawn whenever all of them are reset.

    Args:
        settings: arguments of the environment.
        size: number of runs, ``B``.

    Attributes:
        setup: objects that the arguments name.
        task: the task that all runs share.
        total_updates: length of each run in updates.
        family: family and split that the task was drawn from, or None.
        instances: instance of each run; None for data that were drawn anew.
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
        #: Memory of the rest of the environment, bytes by what it is for.
        self.beside: Mapping[str, int] = {}
        #: Control steps that are differentiated at once, for the estimate.
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
            generators: one per reset run; each gives one draw, the key of its run.
            structure: draws the structure, if all runs are reset and have no instances.
            instances: instance of each reset run, or None for data of its own. All have one
                structure: that of the group, unless all runs are reset.

        Returns:
            First observations ``[n, F]``.

        Raises:
            ValueError: inputs or targets are not finite.
        """
        # 1. The structure, which all runs share.
        chosen = [None] * len(index) if instances is None else [*instances]
        everything = len(index) == self.size
        if everything:
            self._draw_structure(structure, chosen[0])
        # 2. What each run draws from its own key. The order of the draws fixes the meaning
        # of a seed. The task of an instance is drawn from the instance's key instead.
        keys = [np.random.default_rng(int(g.integers(2**62))) for g in generators]
        pairs = [*zip(keys, chosen, strict=True)]
        task_keys = [key if own is None else own.generator() for key, own in pairs]
        base_lr = [log_uniform(self.settings.base_lr, key) for key in task_keys]
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
        params = draws.draw_params(self.setup, self.task, keys)
        if any(own is not None for own in chosen):
            data = draws.reorder(data, pairs)
            base_lr = [
                drawn if own is None or own.base_lr is None else own.base_lr
                for drawn, own in zip(base_lr, chosen, strict=True)
            ]
        if self._scaled:
            scale = draws.draw_scale(self.setup, self.task, task_keys, chosen)
            data, params = data._replace(scale=scale), params / scale
        wanted, change_counts = self.settings.changes, np.zeros(len(keys), np.int64)
        if wanted is not None:
            data, change_counts = draws.draw_changes(
                wanted, self.task, data, task_keys, is_on_device
            )
        change_steps = draws.draw_change_steps(wanted, change_counts, self.num_steps, keys)
        if wanted is not None:
            data = changes.start_at(data, change_steps, self.boundaries)
        state = start(
            self.setup,
            self.task,
            data,
            params,
            torch.tensor(base_lr, dtype=self.dtype),
            draws.draw_sees_loss(self.setup, keys),
        )
        validation_every = draws.draw_validation_every(self.setup, keys)
        state = self._with_baseline(data, state, range(len(index)), validation_every)
        observation, state = observe(self.setup, self.total_updates, state)
        # 3. The new runs take the places of the old ones.
        if everything:
            self.data, self.state = data, state
            self.steps = np.zeros(self.size, np.int64)
            self.change_steps, self.change_counts = change_steps, change_counts
            self.validation_every = validation_every
        else:
            rows = torch.from_numpy(index).to(self.device)
            self.data = self.data.put(rows, data)
            self.state = core.put(self.state, rows, state)
            self.steps = self.steps.copy()
            self.steps[index] = 0
            self.change_steps = self.change_steps.copy()
            self.change_steps[index] = change_steps
            self.change_counts = self.change_counts.copy()
            self.change_counts[index] = change_counts
            self.validation_every = self.validation_every.copy()
            self.validation_every[index] = validation_every
        for i, own in zip(index.tolist(), chosen, strict=True):
            self.instances[i] = own
        return observation

    def _draw_structure(
        self, structure: np.random.Generator, instance: Instance | None
    ) -> None:
        """Draw the structure of all runs, or take that of their instances."""
        if instance is None:
            self.family, self.task = draw_task(self.setup, structure)
            self._origin = self.task
            self.total_updates = self.settings.draw_total_updates(self.task, structure)
            self._scaled = self.settings.reparametrize > 0
        else:
            self.family = (instance.family, instance.split)
            task, self.total_updates, self._scaled = self.settings.structure_of(instance)
            if self._task_on_device is None or self._origin != task:
                # A copy: what a task caches of its examples should not outlive the run.
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
        """Return the footprint with losses and gradients; None before the first reset."""
        if self.footprint is not None:
            self.footprint = footprint.measured(
                self.setup, self.task, self.size, self._scaled, self.footprint
            )
        return self.footprint

    @property
    def examples(self) -> Tensor:
        """Training examples of the batches after the first one, ``[B]`` int64."""
        return examples_seen(self.task, self.state)

    def identify(self, index: np.ndarray) -> dict[str, list[Any]]:
        """Say what runs are about, and what they have cost so far.

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
        """Start runs at ``index [n]`` anew on the same task.

        They get other initial parameters and another batch order, and keep their data, base
        learning rate and reparametrization. A task that changes does so at other times.

        Args:
            index: indices of the runs.
            generators: one per run; each gives one draw, the key of the new run.

        Returns:
            First observations ``[n, F]``.
        """
        # 1. New parameters and batch orders.
        rows = torch.from_numpy(index).to(self.device)
        keys = [np.random.default_rng(int(g.integers(2**62))) for g in generators]
        params = draws.draw_params(self.setup, self.task, keys)
        if self.data.scale is not None:
            params = params / self.data.scale[rows]
        order = tasks.base.order_keys(keys).to(self.device)
        self.data = self.data._replace(order=self.data.order.index_copy(0, rows, order))
        if self.settings.changes is not None:
            self.change_steps = self.change_steps.copy()
            self.change_steps[index] = draws.draw_change_steps(
                self.settings.changes, self.change_counts[index], self.num_steps, keys
            )
            former = self.data.stages
            self.data = changes.start_at(self.data, self.change_steps, self.boundaries)
            if self.action.sets_batch_size:  # the other runs have starts of their own
                renewed = self.data.stages
                assert former is not None and renewed is not None
                starts = former.starts.index_copy(0, rows, renewed.starts[rows])
                self.data = self.data._replace(stages=renewed._replace(starts=starts))
        # 2. A start of all runs, of which the restarted ones are kept.
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
        self.steps = self.steps.copy()
        self.steps[index] = 0
        return observation[rows]

    def _with_baseline(
        self,
        data: tasks.Data,
        state: ControlState,
        index: Sequence[int],
        validation_every: np.ndarray,
    ) -> ControlState:
        """Return a state with the potential that the baseline ends at, if it is needed.

        Args:
            data: examples of the runs of ``state``.
            state: runs of which those at ``index`` have made no update.
            index: which runs.
            validation_every: as the attribute, of these runs.
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
                others stays as it is, and their results mean nothing.
            differentiable: keep the graph from the rewards of this step and of later ones
                back to the action, until :meth:`detach`.
        """
        setup, task, continual = self.setup, self.task, self.settings.changes is not None
        before, action = self.state, action.to(self.device)
        if continual:
            before = stages.enter(
                before, self.change_steps, self.steps, self._losses_in(before)
            )
            changed = stages.changes_so_far(self.change_steps, self.steps)
        # 1. Decode the action, and make the updates of the window.
        decision = self.action.decode(
            action, before.log_multiplier, before.part_multipliers
        )
        updates = window.plan(
            setup, task, before, decision, self.boundaries, self.steps, active
        )
        decision = window.as_sized(task, decision, updates)
        if continual and self.action.sets_batch_size:
            self.data = stages.scheduled(
                self.data, before, updates.counts, self.change_steps, self.steps, active
            )
        run = window.carry_out(
            setup, task, self.data, before.run, decision, updates, differentiable
        )
        self.steps = self.steps + (1 if active is None else active)
        planned = self.boundaries[np.minimum(self.steps, self.num_steps)]
        # 2. The potential of the reward. A diverged run stays diverged.
        loss = reward_losses(setup, task, self.data, run, differentiable)
        judged = judged_losses(setup, loss, before.initial_loss, self.validation_every)
        potential, diverges = setup.reward.evaluate(*judged)
        diverged = before.diverged | diverges
        state = before._replace(
            run=run,
            log_multiplier=decision.log_multiplier,
            previous_action=decision.shift,
            loss=loss,
            potential=torch.where(before.diverged, before.potential, potential),
            diverged=diverged,
            planned=torch.from_numpy(planned).to(self.device),
        )
        if setup.reward.needs_cost:
            state = state._replace(cost=mean_cost(setup, task, before, state, decision))
        if decision.part_multipliers is not None and decision.part_shifts is not None:
            state = state._replace(
                part_multipliers=decision.part_multipliers,
                part_shifts=decision.part_shifts,
            )
        if self.action.observed and not self.action.per_tensor and not self.action.memory:
            shown = self.action.observe(action, decision)
            state = state._replace(observed_action=shown.to(self.dtype))
        if continual:
            state = stages.with_losses(state, changed, self._losses_in(state))
        if state.validation:
            due = self._validates() if active is None else self._validates() & active
            given = given_validation_loss(
                setup, task, self.data, run, loss, due, differentiable
            )
            state = state._replace(validation=record_validation(state.validation, given))
        observation, state = observe(setup, self.total_updates, state)
        # 3. The end of the run, and the reward.
        at_end = self.steps >= self.num_steps
        terminated = torch.from_numpy(at_end).to(self.device)
        if self.settings.on_divergence == "end":
            terminated = terminated | diverged
        ended = terminated
        if continual:
            ended = stages.task_ended(
                before, state, terminated, self.change_steps, self.steps
            )
        reward = setup.reward.earn(
            rewards.Step(
                before=before.potential,
                after=state.potential,
                ended=ended,
                cost_before=before.cost,
                cost_after=state.cost,
                baseline=state.baseline,
            )
        )
        if continual:
            left = (self.change_steps < self.num_steps).sum(1) - changed
            reward = reward - stages.later_charge(setup, before, state, left)
        if active is not None:
            state = core.where(torch.from_numpy(active).to(self.device), state, before)
        self.state = state
        return StepResult(
            observation=observation,
            reward=reward,
            terminated=terminated,
            diverged=diverged,
            lr=updates.lr[0],
            estimated_reward=estimated_reward(
                before.history, state, at_end, self.settings.loss_features == "invariant"
            ),
            decision=decision,
            batch_size=updates.sizes,
        )

    def _validates(self) -> np.ndarray:
        """Return which runs observe a validation loss after this step, ``[B]`` bool."""
        every = self.validation_every
        return (every > 0) & (self.steps % np.maximum(every, 1) == 0)

    def detach(self) -> None:
        """Detach the state from the graph of the steps so far."""
        self.state = core.detach(self.state)

    def _losses_in(self, state: ControlState) -> stages.LossesIn:
        """Return the function from stages ``[B]`` to the losses of the runs there."""
        return lambda stage: reward_losses(
            self.setup, self.task, self.data, state.run, stage=stage
        )

    def validation_loss(self, index: np.ndarray) -> Tensor:
        """Compute the loss ``[n]`` of runs ``index [n]`` on all validation examples.

        If the task changes, they are those of the last update.
        """
        runs = torch.from_numpy(index).to(self.device)
        return validation_loss(self.task, self.data, self.state.run, runs)
