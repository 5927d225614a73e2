"""Journal of a training's environments, from which their state can be reproduced.

The state of a batch of runs is too large for regular checkpoints: parameters, states of the
update rule and examples of hundreds of runs. Initial random states and actions are small,
and reproduce the batch bit for bit, since the runs' generators are the only source of
randomness.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from stable_baselines3.common.vec_env import VecEnv

from optenv.sb3 import SB3VecEnv
from optenv.vector import LearningRateVectorEnv

__all__ = ["Journal", "journal_of", "replay"]


class Journal(VectorWrapper):  # type: ignore[type-arg] # generic since Gymnasium 1.3
    """Wrapper that records the random state at the last joint reset, and actions since.

    With the presets, all runs end and are reset together. If runs end at different times,
    there may be no joint reset until the end of a training; the journal then grows with the
    actions of each control step.

    Args:
        env: batch of optenv, wrapped or not.

    Attributes:
        beginning: state of the generators at the last joint reset, or the seeds that it was
            given; None if there was none, or if it began chosen instances.
        actions: actions ``[N, ...]`` of each control step since that reset.

    Raises:
        TypeError: ``env`` is not a batch of optenv.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        base = getattr(env, "unwrapped", None)
        if not isinstance(base, LearningRateVectorEnv):
            raise TypeError(f"Journal needs a batch of optenv, got {env!r}")
        super().__init__(env)
        self._base = base
        self.beginning: dict[str, Any] | None = None
        self.actions: list[np.ndarray] = []

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new runs, see :meth:`optenv.LearningRateVectorEnv.reset`."""
        mask = (options or {}).get("reset_mask")
        if mask is None or np.all(mask):
            self.actions, self.beginning = [], None
            if seed is not None:
                self.beginning = {"seed": seed}
            elif self._base.started:
                self.beginning = self._base.random_state()
        if (options or {}).get("instance") is not None or (
            mask is not None and seed is not None and not np.all(mask)
        ):
            self.beginning = None
        return super().reset(seed=seed, options=options)  # type: ignore[arg-type]

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one control step in every run."""
        self.actions.append(np.array(actions))
        return super().step(actions)

    def begin(self, beginning: dict[str, Any]) -> None:
        """Restore a recorded random state, from which the next reset starts all runs."""
        self._base.set_random_state(beginning)


def journal_of(env: VecEnv) -> Journal | None:
    """Return the journal in an environment of Stable-Baselines3, if there is one."""
    bottom = env.unwrapped
    below = bottom.env if isinstance(bottom, SB3VecEnv) else None
    return below if isinstance(below, Journal) else None


def replay(
    env: VecEnv, beginning: dict[str, Any], actions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Reproduce the runs of an environment.

    Args:
        env: environment with a journal, made with the same arguments as the recorded one.
        beginning: see :attr:`Journal.beginning`.
        actions: see :attr:`Journal.actions`, ``[T, N, ...]``.

    Returns:
        Observations ``[N, F]``, and whether each is the first one of a run, ``[N]`` bool.

    Raises:
        ValueError: the environment has no journal, or the number of runs differs.
    """
    journal, bottom = journal_of(env), env.unwrapped
    if journal is None:
        raise ValueError(f"{env!r} has no journal")
    bottom._reset_seeds()
    if "seed" in beginning:
        bottom._seeds = list(beginning["seed"])
    else:
        journal.begin(beginning)
    observation: Any = env.reset()
    starts = np.ones(env.num_envs, np.bool_)
    for action in actions:
        observation, _, starts, _ = env.step(action)
    return observation, starts
