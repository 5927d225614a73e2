"""Policies trained by reinforcement learning, the tasks of ``policy-gradient``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import known
from .base import Task, set_sizes
from .dynamics import SYSTEMS, System
from .examples import Batch, Data, order_keys
from .mlp import MLP

__all__ = ["GRADIENTS", "PolicyGradient", "sample_structure"]

#: Values of :attr:`PolicyGradient.gradient`.
GRADIENTS = ("reinforce", "pathwise")

#: Initial log of the standard deviation of forces and torques.
LOG_SPREAD = -0.5

#: Factor of the initial weights of the policy's last layer. With small weights there, the
#: first actions hardly depend on the observation (Andrychowicz et al., 2021).
OUTPUT_GAIN = 0.1


class Episodes(NamedTuple):
    """Episodes of ``B`` runs.

    Attributes:
        observations: ``[B, n, T, observation_size]``.
        actions: ``[B, n, T, action_size]``.
        rewards: ``[B, n, T]``.
        lasts: 1 for actions before the end of the episode, 0 for later ones, which have no
            effect; ``[B, n, T]``.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    lasts: Tensor


@dataclass(frozen=True)
class PolicyGradient(Task):
    r"""Train a policy by reinforcement learning: REINFORCE, or the pathwise gradient.

    An example is a new episode of :math:`T` steps at every update. The loss is the
    negative mean reward of a step, :math:`L = -\frac{1}{nT} \sum_{i,t} r_{it}`. It is of
    the order of 1, and below zero for rewards that are positive.

    Its gradient is estimated by REINFORCE (Williams, 1992), with the rewards to come
    :math:`G_{it} = \sum_{s \ge t} r_{is}` and their mean over the other episodes of the
    batch as the baseline, which keeps the estimate unbiased:

    .. math::
        -\frac{1}{nT} \sum_{i,t} \nabla \log \pi(a_{it} \mid o_{it})
        \left(G_{it} - \frac{1}{n-1} \sum_{j \ne i} G_{jt}\right).

    Derivatives of higher order are estimated without bias, too (DiCE, Foerster et al.,
    2018). The pathwise gradient, for systems with continuous actions, holds the noise of
    the actions fixed and differentiates the reward through the dynamics.

    The policy is a tanh perceptron that gives the logit of pushing right, or the means of
    normally distributed forces, whose log standard deviations are parameters. Each run
    draws the physical constants of its system, log-uniformly, and the gain of the initial
    weights. Evaluations use the same random numbers throughout a run, but rewards use
    other numbers than validation.

    Attributes:
        system: system to control, a key of :data:`optenv.tasks.dynamics.SYSTEMS`.
        steps: steps of an episode, :math:`T`.
        gradient: ``"reinforce"`` or ``"pathwise"``.
        width: units of each hidden layer of the policy.
        depth: number of hidden layers.
        init_spread: standard deviation of the log gain of a run's initial weights.
        split: ranges of the physical constants, ``"train"``, ``"test"`` or ``"ood"``, which
            are disjoint.

    Example::

        task = PolicyGradient(system="reaching", gradient="pathwise")
        env = gym.make("optenv/LearningRate-v0", tasks=task)
    """

    batch_size: int = 16
    num_train: int = 64
    num_validation: int = 64
    system: str = "cart-pole"
    steps: int = 40
    gradient: str = "reinforce"
    width: int = 16
    depth: int = 1
    init_spread: float = 0.2
    split: str = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        set_sizes(self, "steps", "width", "depth")
        known("system", self.system, SYSTEMS)
        known("gradient", self.gradient, GRADIENTS)
        known("split", self.split, self._system.ranges)
        if self.gradient == "pathwise" and self._system.discrete:
            smooth = [name for name, system in SYSTEMS.items() if not system.discrete]
            raise ValueError(
                f"gradient='pathwise' needs a system with continuous actions "
                f"({', '.join(smooth)}), got {self.system!r}"
            )
        if self.gradient == "reinforce" and min(self.batch_size, self.num_validation) < 2:
            raise ValueError(
                "the baseline of gradient='reinforce' needs a batch_size and a "
                f"num_validation of at least 2, got {self.batch_size!r} and "
                f"{self.num_validation!r}"
            )

    @property
    def _system(self) -> System:
        return SYSTEMS[self.system]

    @cached_property
    def _network(self) -> MLP:
        """Perceptron of the policy."""
        system = self._system
        return MLP(
            inputs=system.observation_size,
            outputs=system.action_size,
            width=self.width,
            depth=self.depth,
            activation="tanh",
            init_spread=self.init_spread,
        )

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        spread = () if self._system.discrete else ((self._system.action_size,),)
        return (*self._network.shapes, *spread)

    @property
    def noise(self) -> int:
        return self._system.start_size + self.steps * self._system.action_size

    @property
    def example_numbers(self) -> int:
        return len(self._system.ranges[self.split]) + 1

    @property
    def work(self) -> int:
        weights = sum(math.prod(shape) for shape in self.shapes if len(shape) > 1)
        # REINFORCE applies the policy once to act, and once to differentiate.
        times = 2 if self.gradient == "reinforce" else 1
        return times * weights * self.batch_size * self.steps

    def sample(self, generators: Sequence[np.random.Generator]) -> Data:
        runs, total = len(generators), self.num_train + self.num_validation
        low, high = np.log(self._system.ranges[self.split]).T
        constants = torch.from_numpy(
            np.stack([np.exp(g.uniform(low, high)).astype(np.float32) for g in generators])
        )
        # All examples of a run have its constants; they differ only in their noise.
        inputs = constants.repeat_interleave(total, 0)
        rows = torch.arange(runs * total).view(runs, total)
        keys = order_keys(generators)
        return Data(inputs, torch.zeros(len(inputs)), rows, keys, self.num_train)

    def init(self, generators: Sequence[np.random.Generator]) -> Tensor:
        weights = self._network.init(generators)
        last = sum(math.prod(shape) for shape in self._network.shapes[-2:])
        weights[:, -last:] *= OUTPUT_GAIN
        spreads = self.num_params - self._network.num_params
        return torch.cat(
            [weights, weights.new_full((len(weights), spreads), LOG_SPREAD)], 1
        )

    def training_loss(
        self, params: tuple[Tensor, ...], batch: Batch, buffers: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self.evaluation_loss(params, batch, buffers), buffers

    def evaluation_loss(
        self, params: tuple[Tensor, ...], batch: Batch, buffers: Tensor
    ) -> Tensor:
        if self.gradient == "pathwise":
            return -self.rollout(params, batch).rewards.mean((1, 2))
        with torch.no_grad():
            episodes = self.rollout(params, batch)
        if not torch.is_grad_enabled():
            return -episodes.rewards.mean((1, 2))
        return -self._differentiable_returns(params, episodes).mean(1) / self.steps

    def rollout(self, params: tuple[Tensor, ...], batch: Batch) -> Episodes:
        """Draw episodes of the policy.

        Args:
            params: one tensor ``[B, *shape]`` per shape.
            batch: physical constants ``[B, n, K]`` as inputs, and the noise of initial
                states and actions.
        """
        system, size = self._system, self._system.action_size
        start, noise = batch.noise.split([system.start_size, self.steps * size], -1)
        state = system.start(start)
        steps: list[tuple[Tensor, ...]] = []
        if system.discrete:  # logistic noise, to be compared with logits
            noise = torch.special.ndtr(noise).logit()
        for chance in noise.split(size, -1):
            observation = system.observe(state)
            outputs = self._network.forward(params, observation)
            if system.discrete:
                action = (chance < outputs).to(outputs)
            else:
                action = outputs + params[-1].exp().unsqueeze(1) * chance
            lasts = system.lasts(state)
            state, reward = system.step(state, action, batch.inputs)
            steps.append((observation, action, reward, lasts))
        return Episodes(*(torch.stack(part, 2) for part in zip(*steps, strict=True)))

    def log_probabilities(self, params: tuple[Tensor, ...], episodes: Episodes) -> Tensor:
        """Compute the log-probabilities ``[B, n, T]`` of the actions of episodes.

        For continuous actions they are log-densities, up to a constant. They are 0 for
        actions after the end of an episode.

        Args:
            params: one tensor ``[B, *shape]`` per shape.
            episodes: see :meth:`rollout`.
        """
        size = episodes.rewards.shape[1:]
        outputs = self._network.forward(params, episodes.observations.flatten(1, 2))
        actions = episodes.actions.flatten(1, 2)
        if self._system.discrete:
            each = -F.softplus((1.0 - 2.0 * actions) * outputs)
        else:
            log_spread = params[-1].unsqueeze(1)
            deviation = (actions - outputs) * (-log_spread).exp()
            each = -0.5 * deviation.square() - log_spread
        return each.sum(-1).unflatten(1, size) * episodes.lasts

    def _differentiable_returns(
        self, params: tuple[Tensor, ...], episodes: Episodes
    ) -> Tensor:
        """Compute the returns ``[B, n]``, with the derivatives of their expectation."""
        log_p = self.log_probabilities(params, episodes)
        rewards = episodes.rewards
        to_come = rewards.flip(-1).cumsum(-1).flip(-1)
        count = rewards.shape[1]
        baseline = (to_come.sum(1, keepdim=True) - to_come) / (count - 1)
        # ``until`` and ``alone`` equal 1 and only add derivatives: a reward times those of
        # the log-probabilities of the actions so far, and minus each action's baseline
        # times those of its log-probability.
        so_far = log_p.cumsum(-1)
        until = (so_far - so_far.detach()).exp()
        alone = (log_p - log_p.detach()).exp()
        return (until * rewards + (1.0 - alone) * baseline).sum(-1)


def sample_structure(rng: np.random.Generator, split: str) -> PolicyGradient:
    """Draw a policy and its system; the splits have different physics and widths."""
    systems = ("pendulum",) if split == "ood" else ("cart-pole", "reaching")
    widths = {"train": (8, 16, 32, 64), "test": (12, 24, 48), "ood": (20, 40)}[split]
    system = str(rng.choice(systems))
    pathwise = not SYSTEMS[system].discrete and bool(rng.random() < 0.3)
    return PolicyGradient(
        system=system,
        gradient="pathwise" if pathwise else "reinforce",
        steps=int(rng.choice((20, 30, 40, 50))),
        width=int(rng.choice(widths)),
        depth=int(rng.choice((1, 2))),
        batch_size=int(rng.choice((8, 16, 32))),
        split=split,
    )
