"""Learning rates learned by differentiating through training runs.

The same policy as PPO's or DQN's, on the same environment, from gradients of the rewards
themselves: the environment's core is differentiated from the losses at the end of some
control steps back to the actions that were taken in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from optenv import actions
from optenv.checks import is_number, positive, positive_int
from optenv.group import Group
from optenv.settings import DTYPES, make

from ..policy.files import save_policy
from ..policy.module import Policy
from ..policy.spec import inputs
from ..utils.arguments import refuse_unknown
from ..utils.progress import progress_range

#: Called after the runs of each round with the learner and their mean return. What is
#: false ends the learning, but for None.
Callback = Callable[["UnrolledLR", float], object]

#: Last share of the rounds over whose policies the mean is taken.
AVERAGED = 0.4


class UnrolledLR:
    """A policy of learning rates that ascends the return of training runs.

    Actions are the policy's, with some noise. The gradient of an action is that of the
    rewards of its segment with the later actions held as they were; it is clipped for each
    run and step by itself, since of a few hundred updates it may be of any size (Metz et
    al., 2019). What happens after the segment is not looked at, so that short segments
    teach too small learning rates (Wu et al., 2018).

    Args:
        arguments: of the environment, see :class:`optenv.settings.Settings`; the action
            is continuous.
        groups: structures at a time.
        size: runs of each.
        segment: control steps that are differentiated at once.
        net_arch: units of the policy's hidden layers.
        noise: deviation of the noise on the actions.
        clip: of the gradient of each action, in nats.
        meta_lr: learning rate of Adam.
        seed: of tasks, noise and policy.

    Attributes:
        policy: what is learned.
        num_timesteps: control steps made.

    Raises:
        ValueError, TypeError: an argument is not valid.
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        *,
        groups: int = 8,
        size: int = 16,
        segment: int = 8,
        net_arch: tuple[int, ...] = (64, 64),
        noise: float = 0.1,
        clip: float = 0.3,
        meta_lr: float = 1e-3,
        seed: int = 0,
        **unknown: Any,
    ) -> None:
        refuse_unknown(type(self), unknown)
        own = dict(arguments)
        if isinstance(own.get("action"), Mapping):
            own["action"] = {"kind": "continuous", **own["action"]}
        self.settings = make(own)
        action = actions.make(self.settings.action)
        if not isinstance(action, actions.Continuous):
            raise ValueError(f"the action must be continuous, got {action}")
        self.groups = [
            Group(self.settings, positive_int("size", size))
            for _ in range(positive_int("groups", groups))
        ]
        self.segment = positive_int("segment", segment)
        positive("clip", clip)
        positive("meta_lr", meta_lr)
        if not is_number(noise) or not 0 <= noise < math.inf:
            raise ValueError(f"noise must be a number, at least 0, got {noise!r}")
        if not isinstance(seed, int):
            raise TypeError(f"seed must be an integer, got {seed!r}")
        self.noise, self.clip, self.seed = noise, clip, seed
        self.rng = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.policy = Policy(self._describe(net_arch)).to(DTYPES[self.settings.dtype][0])
        self._initialise()
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=meta_lr)
        self.num_timesteps = 0
        self._earned = 0.0

    def _describe(self, net_arch: tuple[int, ...]) -> dict[str, Any]:
        description = {**self.settings.describe(), "activation": "tanh"}
        ends = len(inputs(description)), 1
        return description | {
            "layers": [ends[0], *net_arch, ends[1]],
            "algorithm": type(self).__name__,
            "seed": self.seed,
        }

    def _initialise(self) -> None:
        """Orthogonal weights; actions near 0 at first, as of an untrained PPO."""
        layers = [m for m in self.policy.members[0] if isinstance(m, nn.Linear)]
        for layer in layers:
            gain = 0.01 if layer is layers[-1] else 2**0.5
            nn.init.orthogonal_(layer.weight, gain, self.generator)

    def learn(
        self,
        total_timesteps: int,
        callback: Callback | None = None,
        progress_bar: bool = False,
    ) -> Self:
        """Make control steps, in whole runs, until there are at least so many more.

        What is learned is then the mean over the last four tenths of them.

        Args:
            total_timesteps: over all runs.
            callback: see :data:`Callback`.
            progress_bar: show one.
        """
        positive_int("total_timesteps", total_timesteps)
        size = sum(group.size for group in self.groups) * self.settings.horizon
        rounds = -(-total_timesteps // size)
        late: list[list[Tensor]] = []
        try:
            for i in progress_range(rounds, progress_bar):
                found = self._train_runs()
                if i >= (1 - AVERAGED) * rounds:
                    late.append([p.detach().clone() for p in self._learned()])
                more = None if callback is None else callback(self, found)
                if more is not None and not more:
                    break
        finally:
            if late:
                for p, *every in zip(self._learned(), *late, strict=True):
                    p.data = torch.stack(every).mean(0)
        return self

    def _learned(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _train_runs(self) -> float:
        """Runs from beginning to end, with a step of Adam for each segment; mean return."""
        self._earned = 0.0
        observations = [self._reset(group) for group in self.groups]
        for _ in range(0, self.settings.horizon, self.segment):
            self.optimizer.zero_grad()
            for i, group in enumerate(self.groups):
                observations[i] = self._learn_segment(group, observations[i])
            nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
            self.optimizer.step()
        return self._earned / sum(group.size for group in self.groups)

    def _reset(self, group: Group) -> Tensor:
        seeds = self.rng.integers(2**62, size=group.size)
        generators = [np.random.default_rng(int(seed)) for seed in seeds]
        structure = np.random.default_rng(int(self.rng.integers(2**62)))
        return group.reset(np.arange(group.size), generators, structure)

    def _learn_segment(self, group: Group, observation: Tensor) -> Tensor:
        """Add a segment's gradient; the observation after it."""
        others = self._begin_segment(group)
        means, taken, total = [], [], torch.zeros(())
        for _ in range(min(self.segment, group.num_steps - int(group.steps[0]))):
            seen = observation[:, self.policy.columns]
            means.append(self.policy.members[0](seen))
            drawn = torch.randn(means[-1].shape, generator=self.generator)
            noise = drawn.to(means[-1].dtype)
            action = (means[-1].detach() + self.noise * noise).clamp(-1, 1)
            taken.append(action.requires_grad_())
            result = group.step(taken[-1], differentiable=True)
            observation, total = result.observation.detach(), total + result.reward.sum()
            self.num_timesteps += group.size
        if taken:
            self._earned += float(total.detach())
            grads = torch.autograd.grad(total, [*taken, *others], allow_unused=True)
            group.detach()
            for mean, grad in zip(means, grads[: len(taken)], strict=True):
                if grad is not None:
                    self._ascend(mean, grad, len(taken))
            self._ascend_others(grads[len(taken) :])
        return observation

    def _begin_segment(self, group: Group) -> list[Tensor]:
        """What else is learned, to be differentiated by."""
        return []

    def _ascend_others(self, grads: Sequence[Tensor | None]) -> None:
        """Add the gradients of a segment's rewards by that."""

    def _ascend(self, mean: Tensor, grad: Tensor, steps: int) -> None:
        grad = grad.nan_to_num(0.0, 0.0, 0.0).clamp(-self.clip, self.clip)
        # Beyond the ends of the range, only what leads back.
        outward = (mean.detach().abs() > 1) & (grad.sign() == mean.detach().sign())
        grad = torch.where(outward, 0.0, grad)
        mean.backward(-grad / (self.clip * mean.numel() * len(self.groups) * steps))

    def save(self, path: str | Path) -> Path:
        """Write the policy file, which :class:`agents.LearnedOptimizer` reads."""
        self.policy.description["timesteps"] = self.num_timesteps
        return save_policy(self.policy, path)
