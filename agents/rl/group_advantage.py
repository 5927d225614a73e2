"""Rewards that say how well an agent does, whatever its task.

How much loss a run can lose, and how much of that depends on the agent, varies far more
between tasks than between policies. What is left when both are taken out is the reward
relative to other runs of the very same task, in units of their spread. The environment's
own reward stays as it is. What it brought is in docs/notes/policy-log.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import NStepReplayBuffer, RolloutBuffer
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

#: Spread of returns, in nats, that is added to every group's own.
LEAST_SPREAD = 0.02


class RelativeReward(VecEnvWrapper):
    """Run every task several times at once, and reward what is better than the others.

    Blocks of ``copies`` neighbouring runs get one seed, hence one task, one set of initial
    parameters and the same batches. A run's reward is its own less the mean of the others
    in its block: a baseline that does not depend on the run's own actions (leave-one-out,
    Kool et al., 2019), step by step.

    Args:
        venv: environments that :class:`~optenv.sb3.SB3VecEnv` is at the bottom of; all
            runs are of one length (``on_divergence="absorb"``).
        copies: runs in a block, at least 2.

    Raises:
        ValueError: ``copies`` is less than 2 or does not divide the number of runs.
    """

    def __init__(self, venv: VecEnv, copies: int) -> None:
        if copies < 2 or venv.num_envs % copies:
            raise ValueError(
                f"copies must be at least 2 and divide num_envs ({venv.num_envs}), "
                f"got {copies!r}"
            )
        super().__init__(venv)
        self.copies = copies

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Seed block ``i`` with ``seed + i``; ``None`` draws a seed."""
        first = int(np.random.default_rng().integers(2**31)) if seed is None else seed
        seeds: list[int | None] = [first + i // self.copies for i in range(self.num_envs)]
        # SB3 has no way to give every environment a seed of its own.
        self.unwrapped._seeds = list(seeds)
        return seeds

    @property
    def episode_length(self) -> int:
        """Control steps of an episode, which is a run, or a trial of several."""
        (horizon,) = {settings.horizon for settings in self.get_attr("settings")}
        trials = "runs" in self.env_method("describe")[0]
        return horizon * (self.get_attr("runs")[0] if trials else 1)

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        observation, reward, done, info = self.venv.step_wait()
        blocks = reward.reshape(-1, self.copies)
        others = (blocks.sum(1, keepdims=True) - blocks) / (self.copies - 1)
        return observation, (blocks - others).reshape(-1), done, info


class GroupScaledBuffer(RolloutBuffer):
    """Rollouts whose rewards are in units of the spread of returns in each group.

    A rollout must hold one whole episode of each environment.

    Args:
        *args: of the buffer that this is mixed into.
        group: neighbouring episodes that share their structure.
        **kwargs: of that buffer.

    Raises:
        ValueError: ``group`` does not divide the number of episodes.
    """

    def __init__(self, *args: Any, group: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = _checked(group, self.n_envs)

    def compute_returns_and_advantage(
        self, last_values: torch.Tensor, dones: np.ndarray
    ) -> None:
        self.rewards /= _spread(self.rewards, self.group)
        super().compute_returns_and_advantage(last_values, dones)


class GroupScaledReplay(NStepReplayBuffer):
    """The same of a replay buffer: rewards get that unit when their runs end.

    All runs must end together. Until they do, their rewards are in the environment's unit.

    Args:
        group: neighbouring runs that share their structure.

    Raises:
        ValueError: ``group`` does not divide the number of runs, or the buffer is too
            small for the runs.
    """

    def __init__(self, *args: object, group: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.group = _checked(group, self.n_envs)
        self._begun = 0  # control steps of the runs that have not ended

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any,
            infos: Any) -> None:  # fmt: skip
        super().add(obs, next_obs, action, reward, done, infos)
        self._begun += 1
        if self._begun > self.buffer_size:
            raise ValueError(
                f"buffer_size must hold whole runs, got {self.buffer_size} control steps "
                "of each of them"
            )
        if np.all(done):
            rows = np.arange(self.pos - self._begun, self.pos) % self.buffer_size
            self.rewards[rows] /= _spread(self.rewards[rows], self.group)
            self._begun = 0


def _checked(group: int, runs: int) -> int:
    if group < 2 or runs % group:
        raise ValueError(
            f"group must be at least 2 and divide num_envs ({runs}), got {group!r}"
        )
    return group


def _spread(rewards: np.ndarray, group: int) -> np.ndarray:
    """Spread of returns in the group of each run, of rewards ``[steps, runs]``."""
    returns = rewards.sum(0).reshape(-1, group)
    return (returns.std(1, keepdims=True) + LEAST_SPREAD).repeat(group, 1).reshape(-1)


def scaling_buffer(
    env: RelativeReward, arguments: Mapping[str, Any], kind: str
) -> dict[str, Any]:
    """Arguments that give an algorithm a buffer which scales by group.

    Args:
        env: what the algorithm learns on.
        arguments: of the algorithm, with ``n_steps``, and ``gamma`` for a replay buffer.
        kind: of its buffer: ``"rollout"``, ``"recurrent"`` or ``"replay"``.

    Raises:
        ValueError: groups differ in size or are not of whole blocks of copies, or
            rollouts are not of whole episodes.
    """
    length = env.episode_length
    if kind != "replay" and arguments["n_steps"] != length:
        raise ValueError(
            "relative rewards need rollouts of whole episodes: n_steps must be "
            f"{length}, the control steps of a run or of all runs of a trial, "
            f"got {arguments['n_steps']!r}"
        )
    sizes = {group.size for _, group in env.get_attr("groups")[0]}
    if len(sizes) > 1 or min(sizes) % env.copies:
        raise ValueError(
            f"copies ({env.copies}) must divide groups of one size, "
            f"got sizes {sorted(sizes)}"
        )
    group = {"group": min(sizes)}
    if kind == "recurrent":
        return group
    if kind == "rollout":
        return {"rollout_buffer_class": GroupScaledBuffer, "rollout_buffer_kwargs": group}
    steps = {name: arguments[name] for name in ("n_steps", "gamma")}
    return {
        "replay_buffer_class": GroupScaledReplay,
        "replay_buffer_kwargs": {**group, **steps},
        "n_steps": 1,  # those that a buffer of the algorithm's own would get
    }


def scales_by_group(saved: Mapping[str, Any]) -> bool:
    """Whether the attributes of a model name one of the buffers above."""
    found = (saved.get(f"{kind}_buffer_class") for kind in ("rollout", "replay"))
    own = any(kind in (GroupScaledBuffer, GroupScaledReplay) for kind in found)
    return own or saved.get("group") is not None
