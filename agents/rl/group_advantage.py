"""Leave-one-out baselines, and returns normalised per group.

The possible decrease of the loss, and how much of it depends on the agent, vary far more
between tasks than between policies. The rewards that an algorithm learns from are therefore
made relative: a run's reward is compared with other runs of the same task
(:class:`LeaveOneOutReward`), and divided by the standard deviation of the returns in its
group of runs (:class:`GroupNormalisedRolloutBuffer` and
:class:`GroupNormalisedReplayBuffer`). The environment's own reward is not changed. The
effect on training is in docs/notes/policy-log.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import NStepReplayBuffer, RolloutBuffer
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

__all__ = [
    "LEAST_SPREAD",
    "RECURRENT",
    "REPLAY",
    "ROLLOUT",
    "Buffer",
    "GroupNormalisedReplayBuffer",
    "GroupNormalisedRolloutBuffer",
    "LeaveOneOutReward",
    "is_group_normalised",
    "normalising_arguments",
]

#: Number added to the standard deviation of a group's returns, in nats.
LEAST_SPREAD = 0.02


class LeaveOneOutReward(VecEnvWrapper):
    r"""Run every task several times at once, and subtract the mean of the other runs.

    Each block of ``copies`` neighbouring runs gets the same seed, and so the same task,
    initial parameters and batches. With the environment's rewards :math:`r_j` in a block of
    :math:`K` runs, the reward of run :math:`i` is

    .. math:: r_i - \frac{1}{K - 1} \sum_{j \ne i} r_j

    at every control step: a baseline that does not depend on the run's own actions
    (leave-one-out, Kool et al., 2019).

    Args:
        venv: environments with an :class:`~optenv.sb3.SB3VecEnv` at the bottom. All runs
            must have the same number of control steps (``on_divergence="absorb"``).
        copies: number of runs in a block, at least 2.

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
        # SB3 has no public way to give each environment a seed of its own
        self.unwrapped._seeds = list(seeds)
        return seeds

    @property
    def episode_length(self) -> int:
        """Number of control steps in an episode: a run, or all runs of a trial."""
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


class GroupNormalisedRolloutBuffer(RolloutBuffer):
    """Rollout buffer that divides rewards by the standard deviation of a group's returns.

    A rollout must hold one whole episode of each environment.

    Args:
        *args: arguments of the buffer that this class is mixed into.
        group: number of neighbouring episodes that share their structure.
        **kwargs: keyword arguments of that buffer.

    Raises:
        ValueError: ``group`` does not divide the number of episodes.
    """

    def __init__(self, *args: Any, group: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = _check_group(group, self.n_envs)

    def compute_returns_and_advantage(
        self, last_values: torch.Tensor, dones: np.ndarray
    ) -> None:
        self.rewards /= _group_spread(self.rewards, self.group)
        super().compute_returns_and_advantage(last_values, dones)


class GroupNormalisedReplayBuffer(NStepReplayBuffer):
    """Replay buffer that divides rewards by the standard deviation of a group's returns.

    All runs must end together. Rewards are divided when their runs end; until then they are
    in the environment's unit.

    Args:
        *args: arguments of ``NStepReplayBuffer``.
        group: number of neighbouring runs that share their structure.
        **kwargs: keyword arguments of ``NStepReplayBuffer``.

    Raises:
        ValueError: ``group`` does not divide the number of runs, or the buffer is too
            small for whole runs.
    """

    def __init__(self, *args: object, group: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.group = _check_group(group, self.n_envs)
        self._num_open = 0  # control steps of the runs that have not ended

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any,
            infos: Any) -> None:  # fmt: skip
        super().add(obs, next_obs, action, reward, done, infos)
        self._num_open += 1
        if self._num_open > self.buffer_size:
            raise ValueError(
                f"buffer_size must hold whole runs, got {self.buffer_size} control steps "
                "of each of them"
            )
        if np.all(done):
            rows = np.arange(self.pos - self._num_open, self.pos) % self.buffer_size
            self.rewards[rows] /= _group_spread(self.rewards[rows], self.group)
            self._num_open = 0


def _check_group(group: int, num_envs: int) -> int:
    if group < 2 or num_envs % group:
        raise ValueError(
            f"group must be at least 2 and divide num_envs ({num_envs}), got {group!r}"
        )
    return group


def _group_spread(rewards: np.ndarray, group: int) -> np.ndarray:
    """Return the standard deviation of the returns in the group of each run.

    Args:
        rewards: rewards ``[T, N]`` of ``T`` control steps of ``N`` runs.
        group: number of neighbouring runs that form a group.

    Returns:
        Standard deviations ``[N]``, with :data:`LEAST_SPREAD` added.
    """
    returns = rewards.sum(0).reshape(-1, group)
    return (returns.std(1, keepdims=True) + LEAST_SPREAD).repeat(group, 1).reshape(-1)


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """Kind of experience buffer of an algorithm, and its group-normalised counterpart.

    Attributes:
        name: name for messages.
        normalised: function of the group size and the algorithm's other arguments (with
            ``n_steps``; a replay buffer also needs ``gamma``) that returns the arguments by
            which the algorithm gets a group-normalised buffer.
        whole_episodes: True if the buffer holds rollouts, which must consist of whole
            episodes; False for a replay buffer.
        resumed: names of these arguments that a resumed model must be given again.
        reset: arguments for a model that is resumed without normalisation.
    """

    name: str
    normalised: Callable[[int, Mapping[str, Any]], dict[str, Any]]
    whole_episodes: bool = True
    resumed: tuple[str, ...] = ()
    reset: Mapping[str, Any] = field(default_factory=dict)


def _rollout_arguments(group: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "rollout_buffer_class": GroupNormalisedRolloutBuffer,
        "rollout_buffer_kwargs": {"group": group},
    }


def _replay_arguments(group: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    n_step = {name: arguments[name] for name in ("n_steps", "gamma")}
    return {
        "replay_buffer_class": GroupNormalisedReplayBuffer,
        "replay_buffer_kwargs": {"group": group, **n_step},
        "n_steps": 1,  # else the algorithm would make an n-step buffer of its own
    }


def _recurrent_arguments(group: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"group": group}


#: Buffer of on-policy algorithms, such as PPO and A2C.
ROLLOUT = Buffer(
    name="rollout",
    normalised=_rollout_arguments,
    resumed=("n_steps", "rollout_buffer_kwargs"),
)

#: Buffer of off-policy algorithms with n-step returns, such as DQN.
REPLAY = Buffer(
    name="replay",
    normalised=_replay_arguments,
    whole_episodes=False,
    resumed=("n_steps", "replay_buffer_kwargs"),
    # In a saved model, the n-step buffer that it made looks like an argument of the user
    reset={"replay_buffer_class": None, "replay_buffer_kwargs": {}},
)

#: Buffer of :class:`agents.rl.rl2.RL2`, which it makes itself.
RECURRENT = Buffer(
    name="recurrent", normalised=_recurrent_arguments, resumed=("n_steps", "group")
)


def normalising_arguments(
    env: LeaveOneOutReward, arguments: Mapping[str, Any], buffer: Buffer
) -> dict[str, Any]:
    """Return the arguments that give an algorithm a group-normalised buffer.

    Args:
        env: environment that the algorithm learns on.
        arguments: the algorithm's other arguments, with ``n_steps``.
        buffer: kind of the algorithm's buffer.

    Raises:
        ValueError: groups differ in size, groups do not consist of whole blocks of copies,
            or rollouts do not consist of whole episodes.
    """
    length = env.episode_length
    if buffer.whole_episodes and arguments["n_steps"] != length:
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
    return buffer.normalised(min(sizes), arguments)


def is_group_normalised(saved: Mapping[str, Any]) -> bool:
    """Return whether a saved model learned from a group-normalised buffer.

    Args:
        saved: attributes of the model.
    """
    classes = (saved.get(f"{kind}_buffer_class") for kind in ("rollout", "replay"))
    normalised = (GroupNormalisedRolloutBuffer, GroupNormalisedReplayBuffer)
    return any(cls in normalised for cls in classes) or saved.get("group") is not None
