"""Controls of a learned policy: the same optimizer, but untrained or without observations.

*Untrained* is the same network with a training's initial weights. *Noise* and *replay* are
open-loop: they move the learning rate without looking at the run. Noise moves it at random
by as much as the policy does; replay repeats the policy's mean schedule. The two differ
from the policy only in that they ignore observations. Each control is a
:class:`~agents.policy.Policy`, so that :class:`~agents.LearnedOptimizer` runs it with the
same clock, schedule, bounds and update rule.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from optenv import actions

from ...policy.module import Policy

__all__ = ["CONTROLS", "OpenLoopPolicy", "log_multipliers", "noise", "replay", "untrained"]

CONTROLS = ("untrained", "noise", "replay")

#: Changes of the log-multiplier, in nats, chosen at each decision of one run.
Shifts = Sequence[float]


class OpenLoopPolicy(Policy):
    """A policy that moves the log-multiplier by given amounts, ignoring observations.

    It counts its decisions, so that an instance serves only one run; a
    :class:`~agents.LearnedOptimizer` makes its own copy.

    Args:
        policy: policy whose clock, schedule, bounds and update rule to keep.
        shifts: change at each decision, in nats; later decisions change nothing.

    Raises:
        ValueError: the policy sets more than one learning rate; or a shift exceeds the
            distance between the bounds.
    """

    moves: Tensor

    def __init__(self, policy: Policy, shifts: Shifts) -> None:
        action = policy.action
        _check_action(action)
        # A continuous action can make any change within the bounds, even if the actions of
        # the policy cannot.
        free = actions.Continuous(
            action.bound, action.start, action.schedule, step=2.0 * action.bound
        )
        layers = [len(policy.description["features"]), 1]
        changes = {"action": free.to_dict(), "layers": layers, "memory": 0}
        super().__init__({**policy.description, **changes})
        moves = torch.tensor([shift / free.step for shift in shifts])
        if not (moves.abs() <= 1.0).all():
            raise ValueError(f"shifts must lie in ±{free.step:g}, got {[*shifts]}")
        # A buffer, since buffers are part of the fingerprint.
        self.register_buffer("moves", moves)
        self._decisions = 0

    def remember(self, observation: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next action ``[B, 1]``.

        Args:
            observation: ``[B, F]``; only its ``B`` is used.
            memory: memory, returned unchanged.
        """
        i, self._decisions = self._decisions, self._decisions + 1
        move = self.moves[i].item() if i < len(self.moves) else 0.0
        return observation.new_full((len(observation), 1), move), memory


def untrained(policy: Policy, seed: int) -> Policy:
    """Return the same network with initial weights of a training.

    As in Stable-Baselines3, these are torch's defaults for DQN and QR-DQN. For all others
    they are orthogonal with gain √2, and 0.01 in the last layer, with biases of 0. An LSTM
    gets torch's defaults.

    Args:
        policy: policy whose description names the ``"algorithm"`` that trained it.
        seed: seed of the weights, used without torch's global generator.
    """
    fresh = Policy(policy.description)
    generator = torch.Generator("cpu").manual_seed(seed)
    layers = [layer for layer in fresh.modules() if isinstance(layer, nn.Linear)]
    last = [network[-1] for network in fresh.members]
    for layer in layers:
        if policy.description.get("algorithm") in ("DQN", "QRDQN"):
            bound = 1.0 / math.sqrt(layer.in_features)
            for parameter in (layer.weight, layer.bias):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
        else:
            gain = 0.01 if layer in last else math.sqrt(2.0)
            nn.init.orthogonal_(layer.weight, gain, generator=generator)
    for cell in fresh.cells:
        bound = 1.0 / math.sqrt(policy.memory)
        for parameter in cell.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return fresh.requires_grad_(False).eval()


def noise(policy: Policy, runs: Sequence[Shifts], seed: int) -> OpenLoopPolicy:
    """Return a policy whose random shifts are as large as the given policy's.

    The shift at each decision is drawn from a normal distribution with the mean and the
    standard deviation of the policy's shifts at this decision, and clipped to the range of
    its action.

    Args:
        policy: the policy that made the runs.
        runs: shifts of each run. The statistics of a decision are over all runs that are
            long enough to have it.
        seed: seed of the draws.

    Raises:
        ValueError: no run has a decision, or the policy sets more than one learning rate.
    """
    action = policy.action
    _check_action(action)
    ends = (
        torch.tensor([0, len(action.multipliers) - 1])
        if isinstance(action, actions.Discrete)
        else torch.tensor([-1.0, 1.0])
    )
    low, high = action.shift(ends).tolist()  # the largest changes of one decision
    columns = _by_decision(runs)
    drawn = np.random.default_rng(seed).normal(
        [np.mean(column) for column in columns], [np.std(column) for column in columns]
    )
    return OpenLoopPolicy(policy, np.clip(drawn, low, high).tolist())


def replay(policy: Policy, runs: Sequence[Shifts]) -> OpenLoopPolicy:
    """Return a policy that repeats the mean log-multiplier after each decision.

    For arguments and errors see :func:`noise`.
    """
    start = policy.action.start
    columns = _by_decision([log_multipliers(policy, shifts) for shifts in runs])
    means = [start, *(float(np.mean(column)) for column in columns)]
    return OpenLoopPolicy(
        policy, [after - before for before, after in itertools.pairwise(means)]
    )


def log_multipliers(policy: Policy, shifts: Shifts) -> list[float]:
    """Return the log-multiplier in force after each decision of a run."""
    bound, values = policy.action.bound, [policy.action.start]
    for shift in shifts:
        values.append(min(max(values[-1] + shift, -bound), bound))
    return values[1:]


def _check_action(action: actions.Action) -> None:
    """Refuse actions that open-loop policies cannot repeat.

    Raises:
        ValueError: the action sets more than one learning rate.
    """
    if not action.sets_one_rate:
        raise ValueError(
            "open-loop controls are for policies that set one learning rate, got one "
            f"whose action is {action.kind!r}"
        )


def _by_decision(runs: Sequence[Shifts]) -> list[list[float]]:
    """Transpose runs of different lengths: the values of each decision, over runs."""
    longest = max((len(run) for run in runs), default=0)
    if longest == 0:
        raise ValueError(f"a control needs the decisions of the policy, got {[*runs]}")
    return [[run[i] for run in runs if i < len(run)] for i in range(longest)]
