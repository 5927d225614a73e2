"""Rewards that say how well an agent does, whatever its task.

How much loss a run can lose, and how much of that depends on the agent, varies far more
between tasks than between policies. What is left when both are taken out is the reward
relative to other runs of the very same task, in units of their spread. The environment's
own reward stays as it is. What it brought is in docs/policy-log.md.
"""

from __future__ import annotations

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
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

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        observation, reward, done, info = self.venv.step_wait()
        blocks = reward.reshape(-1, self.copies)
        others = (blocks.sum(1, keepdims=True) - blocks) / (self.copies - 1)
        return observation, (blocks - others).reshape(-1), done, info


class GroupScaledBuffer(RolloutBuffer):
    """Rollouts whose rewards are in units of the spread of returns in each group.

    A rollout must hold one whole run of each environment (``n_steps`` equal to the
    horizon).

    Args:
        group: neighbouring runs that share their structure.

    Raises:
        ValueError: ``group`` does not divide the number of runs.
    """

    def __init__(self, *args: object, group: int, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        if group < 2 or self.n_envs % group:
            raise ValueError(
                f"group must be at least 2 and divide num_envs ({self.n_envs}), "
                f"got {group!r}"
            )
        self.group = group

    def compute_returns_and_advantage(
        self, last_values: torch.Tensor, dones: np.ndarray
    ) -> None:
        returns = self.rewards.sum(0).reshape(-1, self.group)
        spread = returns.std(1, keepdims=True) + LEAST_SPREAD
        self.rewards /= np.broadcast_to(spread, returns.shape).reshape(1, -1)
        super().compute_returns_and_advantage(last_values, dones)
