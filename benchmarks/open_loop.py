"""A policy on the environment that it learned in, beside what does not look at the run.

All arms act on the very same runs, of tasks that nothing was trained on. A *schedule* is a
sequence of actions, one for each control step, whatever is observed.
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
from optenv import actions, settings

__all__ = [
    "Runs",
    "blind",
    "check",
    "compare",
    "controls",
    "random_search",
    "schedule_of",
]

#: Observations ``[N, F]`` and the control step, to actions ``[N, ...]``.
Actor = Callable[[np.ndarray, int], np.ndarray]

#: Actions, one for each control step.
Schedule = np.ndarray

#: Constant actions that are tried of a continuous one.
GRID = 21


class Runs(NamedTuple):
    """Runs that are the same for every arm.

    Attributes:
        env_id: one of :data:`optenv.ENVIRONMENTS`.
        arguments: of the environment, its tasks among them.
        groups: structures.
        of_each: runs of each structure.
        seed: of the first run.
    """

    env_id: str
    arguments: Mapping[str, Any]
    groups: int = 64
    of_each: int = 4
    seed: int = 0

    @property
    def action(self) -> actions.Action:
        """What the environment decodes."""
        given = self.arguments.get("action", {})
        kind = {"kind": IDS[self.env_id]["action"]}
        return actions.make({**kind, **given} if isinstance(given, dict) else given)

    def returns(self, act: Actor) -> tuple[np.ndarray, np.ndarray]:
        """Mean return of each structure ``[G]``, and all actions ``[T, N, ...]``."""
        own = {**self.arguments, "action": self.action, "on_divergence": "absorb"}
        env = gym.make_vec(
            self.env_id, self.groups * self.of_each, groups=self.groups,
            vectorization_mode="vector_entry_point",
            autoreset_mode=AutoresetMode.DISABLED, **own,
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
    """The policy itself."""

    @torch.no_grad()
    def act(observation: np.ndarray, step: int) -> np.ndarray:
        seen = torch.from_numpy(observation)
        return policy.act(seen, policy.blank(len(seen)))[0].numpy()

    return act


def check(runs: Runs, policy: Policy) -> None:
    """Refuse a policy that cannot act on these runs.

    Raises:
        ValueError: it has a memory, another action, or is for control steps at other times
            or another rule.
    """
    if policy.memory:
        raise ValueError(
            "the policy has a memory, which single runs have no use for; "
            "benchmarks/memory.py judges it"
        )
    if policy.action != runs.action:
        raise ValueError(
            f"the policy's action is {policy.action}, that of the runs {runs.action}"
        )
    theirs = settings.make({**runs.arguments, "action": runs.action}).describe()
    for name in ("horizon", "spacing", "rule", "anytime"):
        own = policy.description.get(name, False)  # only the last of them may be missing
        if own != theirs[name]:
            raise ValueError(
                f"the policy's {name} is {own!r}, that of the runs {theirs[name]!r}"
            )


def fixed(schedule: Schedule) -> Actor:
    """A schedule, in every run."""
    return lambda observation, step: np.repeat(
        schedule[step : step + 1], len(observation), axis=0
    )


def shuffled(taken: np.ndarray, seed: int) -> Actor:
    """At each step the actions that were taken there, each in another run."""
    rng = np.random.default_rng(seed)
    mixed = [rng.permutation(step) for step in taken]
    return lambda observation, step: mixed[step]


def schedule_of(
    action: actions.Action, levels: Sequence[float], chosen: Sequence[int] | None = None
) -> Schedule:
    """The schedule whose log-multiplier keeps closest to ``levels``.

    Args:
        action: which actions there are.
        levels: log-multipliers to reach, one for each control step, in nats.
        chosen: positions of the update rules, if the action chooses any.
    """
    position = action.start
    found: list[Any] = []
    for i, level in enumerate(levels):
        wanted = min(max(level, -action.bound), action.bound) - position
        if isinstance(action, actions.Discrete):
            shifts = np.log(action.multipliers)
            k = int(np.abs(shifts - wanted).argmin())
            position += shifts[k]
            found.append(k + (chosen[i] * len(shifts) if chosen is not None else 0))
        else:
            assert isinstance(action, actions.Continuous)
            move = min(max(wanted / action.step, -1.0), 1.0)
            position += move * action.step
            found.append([move])
        position = min(max(position, -action.bound), action.bound)
    return np.array(found, action.space().dtype)


def replayed(action: actions.Action, taken: np.ndarray) -> Schedule:
    """The mean log-multiplier of each control step, and the rule taken most often there."""
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
    """Name and actor of each control; ``taken`` are the policy's own actions."""
    yield "untrained", learned(untrained(policy, seed))
    yield "same actions, shuffled over runs", shuffled(taken, seed)
    yield "its mean schedule", fixed(replayed(runs.action, taken))


def constants(action: actions.Action, steps: int) -> Iterator[Schedule]:
    """Every constant action; of a continuous one, a grid."""
    space = action.space()
    if isinstance(space, gym.spaces.Discrete):
        for k in range(int(space.n)):
            yield np.full(steps, k)
    else:
        for value in np.linspace(-1, 1, GRID, dtype=np.float32):
            yield np.full((steps, 1), value)


def random_schedule(
    action: actions.Action, steps: int, rng: np.random.Generator
) -> Schedule:
    """One to three parts, each with a log-multiplier of its own, and a rule of its own."""
    parts = np.sort(rng.integers(0, steps, rng.integers(0, 3)))
    part = np.searchsorted(parts, np.arange(steps), side="right")
    level = rng.uniform(-0.75 * action.bound, 0.75 * action.bound, 3)[part]
    rules = None
    if isinstance(action, actions.RuleChoice):
        rules = rng.integers(len(action.rules), size=3)[part].tolist()
    return schedule_of(action, level.tolist(), rules)


def random_search(
    runs: Runs, steps: int, budget: int, seed: int, ended: Callable[[], object]
) -> Schedule:
    """The best of as many random schedules as ``budget`` control steps are enough for.

    Args:
        runs: to try each of them on; tasks of the training.
        steps: control steps of a run.
        budget: control steps in all.
        seed: of the schedules.
        ended: called after each.

    Raises:
        ValueError: the budget is not enough for one.
    """
    count = budget // (steps * runs.groups * runs.of_each)
    if count < 1:
        raise ValueError(f"budget must be enough for one schedule, got {budget!r}")
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        schedule = random_schedule(runs.action, steps, rng)
        found.append((float(runs.returns(fixed(schedule))[0].mean()), schedule))
        ended()
    return max(found, key=lambda pair: pair[0])[1]


def blind(runs: Runs, steps: int, searched: Schedule) -> dict[str, np.ndarray]:
    """Mean return of each structure ``[G]`` of what does not look at the runs.

    The constant action is the one that is best on these very runs, which favours it.

    Args:
        runs: to act on.
        steps: control steps of a run.
        searched: see :func:`random_search`.
    """
    tried = [runs.returns(fixed(s))[0] for s in constants(runs.action, steps)]
    return {
        "best constant action": max(tried, key=lambda values: float(values.mean())),
        "best of random schedules": runs.returns(fixed(searched))[0],
    }


def compare(
    runs: Runs, policy: Policy, others: Mapping[str, np.ndarray], seed: int = 0
) -> dict[str, np.ndarray]:
    """Mean return of each structure ``[G]`` by arm: the policy, its controls, the others.

    Args:
        runs: to act on.
        policy: of their environment.
        others: arms on the same runs, see :func:`blind`.
        seed: of the controls.

    Raises:
        ValueError: the policy has a memory, or another action than the runs.
    """
    check(runs, policy)
    own, taken = runs.returns(learned(policy))
    found = {"policy": own}
    for name, actor in controls(runs, policy, taken, seed):
        found[name] = runs.returns(actor)[0]
    return {**found, **others}
