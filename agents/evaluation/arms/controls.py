"""Controls of a learned policy: what is left of it without what it claims to do.

*Untrained* is the same network with the weights that a training begins with. *Noise* and
*replay* are blind: they move the learning rate without looking at the run. Noise moves it
by random amounts as large as the policy's own; replay as the policy does on average, so
that the two differ from the policy only in what it makes of what it sees. Each control is
a :class:`~agents.policy.Policy`, so that :class:`~agents.LearnedOptimizer` runs it with
the same clock, schedule, bounds and update rule.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from optenv import actions

from ...policy.module import Policy
from ..runs.jobs import Job
from ..stats.results import Row
from ..tasks.problem import HeldoutTask
from .defaults import learned_arm
from .select import Entrant

__all__ = ["CONTROLS", "Blind", "control_jobs", "noise", "replay", "untrained"]

CONTROLS = ("untrained", "noise", "replay")

#: Changes of the log-multiplier, in nats, that the decisions of one run asked for.
Shifts = Sequence[float]


class Blind(Policy):
    """A policy that moves the log-multiplier by given amounts, whatever it observes.

    It counts its decisions, so it serves one run; a
    :class:`~agents.LearnedOptimizer` makes a copy for itself.

    Args:
        policy: whose clock, schedule, bounds and rule to keep.
        shifts: one a decision, in nats; later decisions move nothing.

    Raises:
        ValueError: a shift is larger than from one bound to the other.
    """

    moves: Tensor

    def __init__(self, policy: Policy, shifts: Shifts) -> None:
        action = policy.action
        # Any change within the bounds is one action, whatever those of the policy are.
        free = actions.Continuous(
            action.bound, action.start, action.schedule, step=2.0 * action.bound
        )
        layers = [len(policy.description["features"]), 1]
        blind = {"action": free.to_dict(), "layers": layers, "memory": 0}
        super().__init__({**policy.description, **blind})
        moves = torch.tensor([shift / free.step for shift in shifts])
        if not (moves.abs() <= 1.0).all():
            raise ValueError(f"shifts must lie in ±{free.step:g}, got {[*shifts]}")
        self.register_buffer("moves", moves)  # part of the fingerprint
        self._decisions = 0

    def remember(self, observation: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The next move ``[B, 1]``; of the observations ``[B, F]``, only ``B`` counts."""
        i, self._decisions = self._decisions, self._decisions + 1
        move = self.moves[i].item() if i < len(self.moves) else 0.0
        return observation.new_full((len(observation), 1), move), memory


def untrained(policy: Policy, seed: int) -> Policy:
    """The same network with the weights that Stable-Baselines3 begins a training with.

    Those are, for DQN and QR-DQN, torch's own; for all others, orthogonal with gain √2,
    and 0.01 in the last layer, and biases of 0. A memory begins as torch's do.

    Args:
        policy: ``"algorithm"`` in its description says what trained it.
        seed: of the weights; no global generator is touched.
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
    for cell in fresh.cells:  # as torch does
        bound = 1.0 / math.sqrt(policy.memory)
        for parameter in cell.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return fresh.requires_grad_(False).eval()


def noise(policy: Policy, runs: Sequence[Shifts], seed: int) -> Blind:
    """Random moves as large as the policy's own, decision by decision.

    Each is drawn from a normal distribution with the mean and the standard deviation of
    what the policy asked for at this decision in its ``runs``, and clipped to what its
    action can ask for.

    Args:
        policy: the one that made the runs.
        runs: shifts of each; a decision that a short run did not come to is left out of
            the mean there.
        seed: of the draws.

    Raises:
        ValueError: no run has a decision.
    """
    action = policy.action
    ends = (
        torch.tensor([0, len(action.multipliers) - 1])
        if isinstance(action, actions.Discrete)
        else torch.tensor([-1.0, 1.0])
    )
    low, high = action.shift(ends).tolist()
    columns = _by_decision(runs)
    drawn = np.random.default_rng(seed).normal(
        [np.mean(column) for column in columns], [np.std(column) for column in columns]
    )
    return Blind(policy, np.clip(drawn, low, high).tolist())


def replay(policy: Policy, runs: Sequence[Shifts]) -> Blind:
    """The policy's mean log-multiplier of each decision, over all of its ``runs``.

    The arguments and errors are those of :func:`noise`.
    """
    start = policy.action.start
    columns = _by_decision([log_multipliers(policy, shifts) for shifts in runs])
    means = [start, *(float(np.mean(column)) for column in columns)]
    return Blind(policy, [after - before for before, after in itertools.pairwise(means)])


def log_multipliers(policy: Policy, shifts: Shifts) -> list[float]:
    """Log-multiplier in force after each decision of a run."""
    bound, found = policy.action.bound, [policy.action.start]
    for shift in shifts:
        found.append(min(max(found[-1] + shift, -bound), bound))
    return found[1:]


def _by_decision(runs: Sequence[Shifts]) -> list[list[float]]:
    """Values of the first decision of all runs, of the second, and so on."""
    longest = max((len(run) for run in runs), default=0)
    if longest == 0:
        raise ValueError(f"a control needs the decisions of the policy, got {[*runs]}")
    return [[run[i] for run in runs if i < len(run)] for i in range(longest)]


def control_jobs(
    entrant: Entrant,
    rows: Sequence[Row],
    tasks: Sequence[HeldoutTask],
    seeds: Sequence[int],
) -> Iterator[Job]:
    """Runs of all controls of a policy, at each of its base learning rates.

    What noise and replay are made of are the policy's runs with the same base learning
    rate, on all tasks: they know how high it is, so that they are no straw men. Noise and
    the untrained network are drawn anew for every task and seed.

    Args:
        entrant: the policy.
        rows: with its own runs among them.
        tasks: held-out tasks.
        seeds: of each task.

    Raises:
        ValueError: a run of the policy's is missing.
    """
    policy = entrant.policy
    for lr in entrant.rates:
        runs = [row["shifts"] for row in rows if row["arm"] == entrant.name(lr)]
        same = replay(policy, runs)
        for task, seed in itertools.product(tasks, seeds):
            key = zlib.crc32(task.name.encode()) + seed
            made = (untrained(policy, key), noise(policy, runs, key), same)
            for kind, control in zip(CONTROLS, made, strict=True):
                arm = learned_arm(entrant.name(lr, kind), control, lr=lr)
                yield Job(replace(arm, control=True), task, seed)
