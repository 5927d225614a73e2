"""A policy against open-loop arms in its own environment; library of ``schedules.py``.

An open-loop arm acts without looking at the run: a constant action, or a *schedule*, which
is a sequence of actions, one for each control step. All arms act on the same runs of
held-out tasks. This file only has functions: ``schedules.py`` is the command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from agents.evaluation.arms.controls import untrained
from agents.policy.module import Policy
from agents.rl.factory import IDS
from optenv import actions, rules, settings

__all__ = [
    "Runs",
    "check",
    "compare",
    "controls",
    "open_loop_returns",
    "random_search",
    "schedule_of",
]

#: Maps observations ``[N, F]`` and the control step to actions ``[N, ...]``.
Actor = Callable[[np.ndarray, int], np.ndarray]

#: Actions ``[T, ...]``, one for each control step.
Schedule = np.ndarray

#: Constant actions to try where actions are continuous.
CONSTANT_ACTIONS = 21


class Runs(NamedTuple):
    """Runs that are the same for every arm.

    Attributes:
        env_id: one of :data:`optenv.ENVIRONMENTS`.
        arguments: arguments of the environment, its tasks among them.
        groups: number G of structures (network, batch size, length).
        of_each: runs of each structure; N runs in all.
        seed: seed of the first run.
    """

    env_id: str
    arguments: Mapping[str, Any]
    groups: int = 64
    of_each: int = 4
    seed: int = 0

    @property
    def action(self) -> actions.Action:
        """Action encoding of the environment."""
        default = IDS[self.env_id]
        given = self.arguments.get("action", {})
        if isinstance(given, dict):
            given = {"kind": default["action"], **given}
        rule = {"rule": settings.Settings.rule, **default, **self.arguments}["rule"]
        return actions.make(given).for_rule(rules.get(rule))

    def returns(self, act: Actor) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean returns of structures ``[G]`` and all actions ``[T, N, ...]``."""
        arguments = {**self.arguments, "action": self.action, "on_divergence": "absorb"}
        env = gym.make_vec(
            self.env_id, self.groups * self.of_each, groups=self.groups,
            vectorization_mode="vector_entry_point",
            autoreset_mode=AutoresetMode.DISABLED, **arguments,
        )  # fmt: skip
        observation, _ = env.reset(seed=self.seed)
        total, ended = np.zeros(env.num_envs), np.zeros(1, bool)
        taken: list[np.ndarray] = []
        while not ended.any():
            taken.append(act(observation, len(taken)))
            observation, reward, ended, _, _ = env.step(taken[-1])
            total += reward
        return total.reshape(self.groups, -1).mean(1), np.stack(taken)


def learned(policy: Policy) -> Actor:
    """Return an actor that asks the policy."""

    @torch.no_grad()
    def act(observation: np.ndarray, step: int) -> np.ndarray:
        batch = torch.from_numpy(observation)
        return policy.act(batch, policy.blank(len(batch)))[0].numpy()

    return act


def check(runs: Runs, policy: Policy) -> None:
    """Check that a policy can act on these runs.

    Raises:
        ValueError: it has a memory, another action encoding, control steps at other times,
            another update rule, or other features; or its actions set more than a learning
            rate and a rule.
    """
    if policy.memory:
        raise ValueError(
            "the policy has a memory, which single runs have no use for; "
            "benchmarks/memory.py evaluates it"
        )
    if policy.action != runs.action:
        raise ValueError(
            f"the policy's action is {policy.action}, that of the runs {runs.action}"
        )
    if policy.action.sets or policy.action.roles or policy.action.per_tensor:
        raise ValueError(
            "open-loop arms set one learning rate, and perhaps the rule; the action of the "
            f"policy is {policy.action.kind!r}"
        )
    made = settings.make({**runs.arguments, "action": runs.action})
    if policy.observed != made.observed:
        raise ValueError(
            f"the policy observes {', '.join(policy.observed)}; "
            f"the runs show {', '.join(made.observed)}"
        )
    described = made.describe()
    for name in ("horizon", "spacing", "rule", "anytime"):
        value = policy.description.get(name, False)  # only "anytime" may be missing
        if value != described[name]:
            raise ValueError(
                f"the policy's {name} is {value!r}, that of the runs {described[name]!r}"
            )


def fixed(schedule: Schedule) -> Actor:
    """Return an actor that follows a schedule in every run."""
    return lambda observation, step: np.repeat(
        schedule[step : step + 1], len(observation), axis=0
    )


def shuffled(taken: np.ndarray, seed: int) -> Actor:
    """Return an actor that permutes the actions of each step over runs.

    Args:
        taken: actions ``[T, N, ...]`` of a policy.
        seed: seed of the permutations.
    """
    rng = np.random.default_rng(seed)
    mixed = [rng.permutation(step) for step in taken]
    return lambda observation, step: mixed[step]


def schedule_of(
    action: actions.Action, levels: Sequence[float], chosen: Sequence[int] | None = None
) -> Schedule:
    """Return the schedule whose log-multiplier follows ``levels`` most closely.

    Args:
        action: action encoding.
        levels: log-multipliers to reach, one for each control step, in nats.
        chosen: indices of the update rules, if the action chooses any.
    """
    position = action.start
    schedule: list[Any] = []
    for i, level in enumerate(levels):
        wanted = min(max(level, -action.bound), action.bound) - position
        if isinstance(action, actions.Discrete):
            shifts = np.log(action.multipliers)
            k = int(np.abs(shifts - wanted).argmin())
            position += shifts[k]
            schedule.append(k + (chosen[i] * len(shifts) if chosen is not None else 0))
        else:
            assert isinstance(action, actions.Continuous)
            move = min(max(wanted / action.step, -1.0), 1.0)
            position += move * action.step
            schedule.append([move])
        position = min(max(position, -action.bound), action.bound)
    return np.array(schedule, action.space().dtype)


def replayed(action: actions.Action, taken: np.ndarray) -> Schedule:
    """Return the mean schedule of a policy.

    At each control step it has the mean log-multiplier, and the update rule that was chosen
    most often.

    Args:
        action: action encoding.
        taken: actions ``[T, N, ...]`` of the policy.
    """
    level = np.full(taken.shape[1], action.start)
    levels, rules = [], []
    for step in taken:
        moved = action.shift(torch.from_numpy(step)).numpy()
        level = np.clip(level + moved, -action.bound, action.bound)
        levels.append(float(level.mean()))
        if isinstance(action, actions.RuleChoice):
            rules.append(int(np.bincount(step // len(action.multipliers)).argmax()))
    return schedule_of(action, levels, rules or None)


def controls(
    runs: Runs, policy: Policy, taken: np.ndarray, seed: int
) -> Iterator[tuple[str, Actor]]:
    """Yield name and actor of each control of a policy.

    Args:
        runs: the runs to act on.
        policy: the policy.
        taken: its own actions ``[T, N, ...]`` on these runs.
        seed: seed of the untrained weights and of the permutations.
    """
    yield "untrained", learned(untrained(policy, seed))
    yield "same actions, shuffled over runs", shuffled(taken, seed)
    yield "its mean schedule", fixed(replayed(runs.action, taken))


def constants(action: actions.Action, steps: int) -> Iterator[Schedule]:
    """Yield every constant action, or a grid of continuous ones."""
    space = action.space()
    if isinstance(space, gym.spaces.Discrete):
        for k in range(int(space.n)):
            yield np.full(steps, k)
    else:
        for value in np.linspace(-1, 1, CONSTANT_ACTIONS, dtype=np.float32):
            yield np.full((steps, 1), value)


def random_schedule(
    action: actions.Action, steps: int, rng: np.random.Generator
) -> Schedule:
    """Draw a schedule of one to three parts, each with its log-multiplier and rule."""
    parts = np.sort(rng.integers(0, steps, rng.integers(0, 3)))
    part = np.searchsorted(parts, np.arange(steps), side="right")
    level = rng.uniform(-0.75 * action.bound, 0.75 * action.bound, 3)[part]
    rules = None
    if isinstance(action, actions.RuleChoice):
        rules = rng.integers(len(action.rules), size=3)[part].tolist()
    return schedule_of(action, level.tolist(), rules)


def random_search(
    runs: Runs, steps: int, budget: int, seed: int, on_trial: Callable[[], object]
) -> Schedule:
    """Return the best of as many random schedules as ``budget`` allows.

    Args:
        runs: runs to try each schedule on, with tasks of the training.
        steps: control steps of a run.
        budget: control steps in all.
        seed: seed of the schedules.
        on_trial: called after each schedule.

    Raises:
        ValueError: the budget is not enough for one schedule.
    """
    count = budget // (steps * runs.groups * runs.of_each)
    if count < 1:
        raise ValueError(f"budget must be enough for one schedule, got {budget!r}")
    rng, trials = np.random.default_rng(seed), []
    for _ in range(count):
        schedule = random_schedule(runs.action, steps, rng)
        trials.append((float(runs.returns(fixed(schedule))[0].mean()), schedule))
        on_trial()
    return max(trials, key=lambda trial: trial[0])[1]


def open_loop_returns(runs: Runs, steps: int, searched: Schedule) -> dict[str, np.ndarray]:
    """Return the mean return of each structure ``[G]`` by open-loop arm.

    The constant action is the one that is best on these very runs, which favours it.

    Args:
        runs: runs to act on.
        steps: control steps of a run.
        searched: result of :func:`random_search`.
    """
    tried = [runs.returns(fixed(s))[0] for s in constants(runs.action, steps)]
    return {
        "best constant action": max(tried, key=lambda values: float(values.mean())),
        "best of random schedules": runs.returns(fixed(searched))[0],
    }


def compare(
    runs: Runs, policy: Policy, others: Mapping[str, np.ndarray], seed: int = 0
) -> dict[str, np.ndarray]:
    """Return the mean return of each structure ``[G]`` by arm.

    The arms are the policy, its controls, and the others.

    Args:
        runs: runs to act on.
        policy: policy for their environment.
        others: returns of arms on the same runs, such as :func:`open_loop_returns`.
        seed: seed of the controls.

    Raises:
        ValueError: as :func:`check`.
    """
    check(runs, policy)
    policy_returns, taken = runs.returns(learned(policy))
    by_arm = {"policy": policy_returns}
    for name, actor in controls(runs, policy, taken, seed):
        by_arm[name] = runs.returns(actor)[0]
    return {**by_arm, **others}
