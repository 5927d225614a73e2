"""A group: runs of one structure that step together.

Ties the core to actions, observations and rewards. Everything that changes from step to
step is in one value, :class:`ControlState`; to keep it is to take a snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import actions, core, rewards, rules, tasks, windows
from .telemetry import Losses
from .rules import switching
from .settings import DTYPES, Settings, log_uniform
from .states import ControlState, StepResult, told
from .telemetry import Control, History, observe

#: Examples that the reward's loss is taken on, at most.
REWARD_EXAMPLES = 128


class Group:
    """``size`` runs of one structure, redrawn whenever all of them are reset.

    Attributes:
        task: the structure.
        total_updates: length of each run in updates.
        data: examples of the runs.
        state: where the runs stand.
        steps: ``[B]`` control steps done, kept on the host so that the length of a
            window is known without waiting for the device.
    """

    task: tasks.Task
    total_updates: int
    data: tasks.Data
    state: ControlState
    steps: np.ndarray

    def __init__(self, settings: Settings, size: int) -> None:
        self.settings = settings
        self.size = size
        self.rule = rules.get(settings.rule)
        self.action = actions.make(settings.action)
        self.sampler = tasks.make(settings.tasks)
        self.device = torch.device(settings.device)
        self.dtype = DTYPES[settings.dtype][0]
        self._placed: tasks.Task | None = None  # whose data is

    def reset(
        self,
        index: np.ndarray,
        generators: Sequence[np.random.Generator],
        structure: np.random.Generator,
    ) -> Tensor:
        """Start new runs at ``index [n]``; the others stay as they are.

        Args:
            index: which runs.
            generators: one per reset run; each gives one draw, its run's key.
            structure: draws the structure, if all runs are reset.

        Returns:
            ``[n, F]`` first observations.
        """
        everything = len(index) == self.size
        if everything:
            self.task = self.sampler.draw(structure)
            self.total_updates = self.settings.draw_total_updates(self.task, structure)
            self.boundaries = windows.boundaries(
                self.total_updates, self.settings.horizon, self.settings.spacing
            )
        keys = [np.random.default_rng(int(g.integers(2**62))) for g in generators]
        base_lr = [log_uniform(self.settings.base_lr, key) for key in keys]
        data = self.task.sample(keys)
        if data.shared and self._placed is self.task:  # it is on the device already
            data = data._replace(inputs=self.data.inputs, targets=self.data.targets)
        self._placed = self.task
        data = data.to(self.device, self.dtype)
        params = self.task.init(keys).to(self.device, self.dtype)
        if self.settings.reparametrize > 0:
            scale = self._draw_scale(keys)
            data, params = data._replace(scale=scale), params / scale
        state = self._start(
            data, params, torch.tensor(base_lr, dtype=self.dtype), self._draw_sight(keys)
        )
        observation, state = self._observe(state)
        if everything:
            self.data, self.state = data, state
            self.steps = np.zeros(self.size, np.int64)
        else:
            rows = torch.from_numpy(index).to(self.device)
            self.data = self.data.put(rows, data)
            self.state = core.put(self.state, rows, state)
            self.steps = self.steps.copy()
            self.steps[index] = 0
        return observation

    def restart(
        self, index: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> Tensor:
        """Start runs at ``index [n]`` anew: other parameters and batches, the same task.

        Args:
            index: which runs.
            generators: one per run; each gives one draw, the new run's key.

        Returns:
            ``[n, F]`` first observations.
        """
        rows = torch.from_numpy(index).to(self.device)
        keys = [np.random.default_rng(int(g.integers(2**62))) for g in generators]
        params = self.task.init(keys).to(self.device, self.dtype)
        if self.data.scale is not None:
            params = params / self.data.scale[rows]
        order = tasks.base.order_keys(keys).to(self.device)
        self.data = self.data._replace(order=self.data.order.index_copy(0, rows, order))
        before = self.state
        every = before.run.params.index_copy(0, rows, params)
        state = self._start(self.data, every, before.base_lr, before.sees_loss)
        observation, state = self._observe(state)
        chosen = torch.zeros(self.size, dtype=torch.bool, device=self.device)
        self.state = core.where(chosen.index_fill(0, rows, True), state, before)
        self.steps = self.steps.copy()
        self.steps[index] = 0
        return observation[rows]

    def _draw_scale(self, keys: Sequence[np.random.Generator]) -> Tensor:
        """One factor for each parameter tensor of each run, ``[n, P]``."""
        sizes = [int(np.prod(shape)) for shape in self.task.shapes]
        logs = [
            key.standard_normal(len(sizes)) * self.settings.reparametrize for key in keys
        ]
        scale = np.exp(np.stack([np.repeat(log, sizes) for log in logs]))
        return torch.from_numpy(scale).to(self.device, self.dtype)

    def _draw_sight(self, keys: Sequence[np.random.Generator]) -> Tensor:
        """Which runs show their losses, ``[n]`` bool."""
        share = self.settings.loss_dropout
        # Without dropout nothing is drawn: seeds mean what they meant before it existed.
        return torch.tensor([share == 0 or bool(key.random() >= share) for key in keys])

    def _start(
        self, data: tasks.Data, params: Tensor, base_lr: Tensor, sees_loss: Tensor
    ) -> ControlState:
        run = core.start(self.task, self.rule, data, params)
        like = run.losses.mean
        loss = self._reward_losses(data, params)
        return ControlState(
            run=run,
            history=History.empty(like),
            log_multiplier=torch.full_like(like, self.action.start),
            previous_action=torch.zeros_like(like),
            shown=like.new_zeros(len(like), self.action.observed),
            base_lr=base_lr.to(self.device),
            sees_loss=sees_loss.to(self.device),
            initial_loss=loss,
            loss=loss,
            potential=torch.zeros_like(like),
        )

    def step(
        self,
        action: Tensor,
        active: np.ndarray | None = None,
        *,
        differentiable: bool = False,
    ) -> StepResult:
        """Take one control step.

        Args:
            action: ``[B, ...]`` actions.
            active: ``[B]`` bool, which runs take part; by default all. What is returned
                for the others is to be ignored, and their state stays as it is.
            differentiable: keep the graph from the rewards of this step and of later ones
                back to the action, until :meth:`cut`.
        """
        before = self.state
        action = action.to(self.device)
        moved = self.action.apply(action, before.log_multiplier)
        lr, counts = self._learning_rates(before.base_lr * moved.exp(), active)
        run = before.run
        if isinstance(self.action, actions.RuleChoice):
            chosen = switching.choose(run.rule, self.action.choose(action))
            run = run._replace(rule=chosen)
        run = core.advance(
            self.task, self.rule, self.data, run, lr, counts=counts,
            differentiable=differentiable,
        )  # fmt: skip
        self.steps = self.steps + (1 if active is None else active)
        loss = self._reward_losses(self.data, run.params, differentiable)
        potential = torch.where(
            rewards.is_diverged(before.potential),  # once diverged, for good
            before.potential,
            rewards.potential(loss, before.initial_loss),
        )
        state = before._replace(
            run=run,
            log_multiplier=moved,
            previous_action=self.action.shift(action).to(self.dtype),
            shown=self.action.show(action).to(self.dtype),
            loss=loss,
            potential=potential,
        )
        observation, state = self._observe(state)
        diverged = rewards.is_diverged(potential)
        at_end = torch.from_numpy(self.steps >= self.num_steps).to(self.device)
        terminated = at_end
        if self.settings.on_divergence == "end":
            terminated = at_end | diverged
        if active is not None:
            state = core.where(torch.from_numpy(active).to(self.device), state, before)
        self.state = state
        reward = before.potential - potential
        known = told(before.history, state, at_end)
        return StepResult(observation, reward, terminated, diverged, lr[0], known)

    def cut(self) -> None:
        """Forget the graph of the steps so far."""
        self.state = core.detach(self.state)

    @property
    def num_steps(self) -> int:
        """Control steps of a run: the horizon, or the number of updates if smaller."""
        return len(self.boundaries) - 1

    def _learning_rates(
        self, peak: Tensor, active: np.ndarray | None
    ) -> tuple[Tensor, Tensor | None]:
        """Learning rates ``[U, B]`` of the next window, and its length if runs differ."""
        position = np.minimum(self.steps, self.num_steps - 1)
        first = self.boundaries[position]
        counts = self.boundaries[position + 1] - first
        if active is not None:
            counts = np.where(active, counts, 0)
        updates = first + np.arange(counts.max())[:, None]
        factor = np.vectorize(self.action.factor, otypes=[float])(
            updates / self.total_updates
        )
        lr = torch.from_numpy(factor).to(self.device, self.dtype) * peak
        same = bool((counts == counts[0]).all())
        return lr, None if same else torch.from_numpy(counts).to(self.device)

    def _observe(self, state: ControlState) -> tuple[Tensor, ControlState]:
        progress = state.run.updates.to(self.dtype) / self.total_updates
        losses = state.run.losses
        if self.settings.loss_dropout > 0:
            losses = Losses(*(part * state.sees_loss for part in losses))
        anytime = self.settings.anytime
        control = Control(
            progress=None if anytime else progress,
            length=None if anytime else self.total_updates,
            log_multiplier=state.log_multiplier,
            log_lr=(state.base_lr / self.rule.default_lr).log() + state.log_multiplier,
            previous_action=state.previous_action,
        )
        observation, history = observe(state.run.probe, losses, state.history, control)
        if self.action.observed:
            observation = torch.cat([observation, state.shown], dim=1)
        return observation, state._replace(history=history)

    def _reward_losses(
        self, data: tasks.Data, params: Tensor, differentiable: bool = False
    ) -> Tensor:
        """Losses ``[B, S]`` that the reward is made of, one per source."""
        batches = {
            "train": lambda: data.train(REWARD_EXAMPLES),
            "validation": lambda: data.validation(REWARD_EXAMPLES),
        }
        losses = [
            core.evaluate(
                self.task,
                params,
                batches[source](),
                data.scale,
                differentiable=differentiable,
            )
            for source in rewards.sources(self.settings.reward)
        ]
        return torch.stack(losses, dim=-1)

    def validation_loss(self, index: np.ndarray) -> Tensor:
        """Loss ``[n]`` of the runs ``index [n]`` on all their validation examples."""
        runs = torch.from_numpy(index).to(self.device)
        params = self.state.run.params[runs]
        scale = None if self.data.scale is None else self.data.scale[runs]
        return core.evaluate(self.task, params, self.data.validation(runs=runs), scale)
