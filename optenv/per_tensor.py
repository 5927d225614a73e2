"""Wrapper that makes a sub-environment of every parameter tensor of a batch of runs."""

from __future__ import annotations

from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from .actions import Action, validate
from .trials import EXTRA, TrialVectorEnv
from .vector import LearningRateVectorEnv

__all__ = ["PerTensor", "policy_observation_space"]


def policy_observation_space(
    space: spaces.Box, action: Action, trials: bool = False
) -> spaces.Box:
    """Make the observation space of a policy.

    It is the environment's observation space or, for actions on single tensors, the part of
    it for one tensor.

    Args:
        space: space of the observations of an environment.
        action: its action.
        trials: whether its episodes are trials.
    """
    of_slot = action.observed + (action.outputs if trials else 0)
    width = space.shape[0] - of_slot * (action.slots - 1)
    low, high = space.low[:width], space.high[:width]
    return spaces.Box(low, high, (width,), space.dtype)  # type: ignore[arg-type]


class PerTensor(VectorWrapper):  # type: ignore[type-arg] # generic since Gymnasium 1.3
    """Batch of runs in which every parameter tensor is a sub-environment.

    This way, an algorithm for a single agent, such as PPO of Stable-Baselines3, can train
    one policy for the tensors of all models. The tensors of a run share its reward, its end
    and its ``info``.

    With ``S`` slots (the ``tensors`` of the action) and ``R`` runs, there are ``S * R``
    sub-environments: tensor by tensor, sub-environment ``t * R + r`` is slot ``t`` of run
    ``r``. If a model has ``T < S`` tensors, slot ``t`` stands for tensor ``t % T``, and the
    action on a tensor is the mean of the actions of its slots. A deterministic policy thus
    acts as if each tensor had one slot. Slots that are not needed take time: choose
    ``tensors`` no larger than the largest model needs.

    ==================  =============================================================
    Action              ``Box(-1, 1, (1,))``: the tensor's log-multiplier of the
                        learning rate moves by ``step`` times the action
    Observation         ``Box(-4, 4, (39,))``: the features of the run (25, and those
                        that ``features`` names), then those of the tensor (14, see
                        :data:`optenv.tensor_telemetry.TENSOR_FEATURES`)
    ==================  =============================================================

    In trials, a sub-environment observes 3 more numbers: the previous action on the tensor,
    the previous reward and the flag of a new run. The previous action is the one that was
    carried out, the mean over the tensor's slots, which an optimizer can reproduce; for a
    deterministic policy it is the slot's own action. A slot, and the memory of a recurrent
    policy with it, stays with its tensor for the whole trial.

    Args:
        env: batch of ``optenv/LayerwiseLearningRate-v0`` or
            ``optenv/LayerwiseLearningRateTrial-v0``, wrapped or not.

    Raises:
        TypeError: ``env`` is not a vector environment of optenv.
        ValueError: its actions are not on single tensors.

    Example:
        >>> import gymnasium as gym
        >>> import optenv
        >>> action = {"kind": "layerwise", "tensors": 6}
        >>> task = optenv.tasks.MLP(depth=2)
        >>> env = gym.make_vec(
        ...     "optenv/LayerwiseLearningRate-v0", 4, action=action, tasks=task
        ... )
        >>> env = optenv.PerTensor(env)
        >>> env.num_envs, env.single_observation_space.shape, env.single_action_space.shape
        (24, (39,), (1,))
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        base = getattr(env, "unwrapped", None)
        if not isinstance(base, LearningRateVectorEnv):
            raise TypeError(
                "PerTensor needs a batch made by gymnasium.make_vec of an environment of "
                f"optenv, got {env!r}"
            )
        if not base.action.per_tensor:
            raise ValueError(
                "PerTensor needs actions on tensors, got action "
                f"{base.action.kind!r}; optenv/LayerwiseLearningRate-v0 and "
                "optenv/LayerwiseLearningRateTrial-v0 have these"
            )
        super().__init__(env)
        self._base, action = base, base.action
        space, trials = base.single_observation_space, isinstance(base, TrialVectorEnv)
        assert isinstance(space, spaces.Box)
        self._runs, self._slots = env.num_envs, action.slots
        #: Widths of the entries of each slot: features, and in trials its last action.
        self._own = (action.observed, action.outputs) if trials else (action.observed, 0)
        after = len(EXTRA) if trials else 0
        self._shared = space.shape[0] - sum(self._own) * self._slots - after
        single = policy_observation_space(space, action, trials)
        acted = action.policy_space(space.dtype.type)  # type: ignore[union-attr]
        self.single_observation_space, self.single_action_space = single, acted
        self.observation_space = batch_space(single, self.num_envs)
        self.action_space = batch_space(acted, self.num_envs)

    @property
    def num_envs(self) -> int:  # type: ignore[override]
        """Number of sub-environments: number of slots times number of runs."""
        return self._slots * self._runs

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new runs.

        Args:
            seed: seed of the first run; run ``r`` gets ``seed + r``. Or a list with a seed
                for each sub-environment, of which only those of the first slot are used.
            options: options of the batch, but a ``"reset_mask"`` has one entry for each
                sub-environment.

        Raises:
            ValueError: the mask resets only some tensors of a run, or the batch refuses
                seeds or options.
        """
        if isinstance(seed, (list, tuple)):
            if len(seed) != self.num_envs:
                raise ValueError(
                    f"seed must have one entry per sub-environment ({self.num_envs}), got "
                    f"{len(seed)}"
                )
            seed = list(seed[: self._runs])
        if isinstance(options, dict) and "reset_mask" in options:
            options = {**options, "reset_mask": self._of_runs(options["reset_mask"])}
        # The annotation of the base class omits lists of seeds.
        observation, info = self.env.reset(seed=cast(Any, seed), options=options)
        return self._split(observation, self._base.num_tensors), self._split_info(info)

    def _of_runs(self, mask: Any) -> Any:
        """Convert a mask of sub-environments to the mask ``[R]`` of runs."""
        if np.shape(mask) != (self.num_envs,):
            raise ValueError(
                f"options['reset_mask'] must have shape ({self.num_envs},), got {mask!r}"
            )
        by_slot = np.reshape(mask, (self._slots, self._runs))
        if (by_slot != by_slot[0]).any():
            raise ValueError(
                "options['reset_mask'] must be the same for all tensors of a run, which "
                f"begin and end together, got {mask!r}"
            )
        return by_slot[0].copy()

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one control step in every run.

        Args:
            actions: ``[S * R, 1]``.

        Returns:
            Observations ``[S * R, F]``; rewards, terminated and truncated ``[S * R]``; and
            ``info``, whose arrays have that length.

        Raises:
            ValueError: actions are out of range, or runs have ended and were not reset.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        # 1. Average the actions of slots to actions on tensors.
        acted = validate(self.action_space, actions)
        if not self._base.started:
            raise gym.error.ResetNeeded("call reset() before step()")
        before = self._base.num_tensors
        by_run = acted.reshape(self._slots, self._runs).T
        tensor_of, runs = self._tensors(before), np.arange(self._runs)[:, None]
        sums, slots = np.zeros((2, *by_run.shape))
        np.add.at(sums, (runs, tensor_of), by_run)
        np.add.at(slots, (runs, tensor_of), 1.0)
        means = (sums / np.maximum(slots, 1.0)).astype(by_run.dtype)
        # 2. Step the runs, and repeat the results for each slot. Runs that were reset may
        # have other numbers of tensors.
        observation, reward, terminated, truncated, info = self.env.step(means)
        final = info.pop("final_obs", None)
        info = self._split_info(info)
        if final is not None:
            split = np.full(self.num_envs, None, dtype=object)
            for run in np.flatnonzero(info["_final_obs"][: self._runs]):
                rows = self._split(final[run][None], before[run : run + 1])
                for slot, row in enumerate(rows):
                    split[slot * self._runs + run] = row
            info["final_obs"] = split
        return (
            self._split(observation, self._base.num_tensors),
            self._repeat(reward),
            self._repeat(terminated),
            self._repeat(truncated),
            info,
        )

    def _tensors(self, counts: np.ndarray) -> np.ndarray:
        """Return each slot's tensor ``[R, S]``, for runs with ``counts [R]`` tensors."""
        return np.arange(self._slots) % counts[:, None]

    def _split(self, observation: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Split the observations of ``R`` runs into those of all slots, slot by slot."""
        # 1. The parts of an observation: features of the run, features of each tensor, and,
        # in trials, the previous action on each tensor and the last entries.
        widths = [self._shared, *(self._slots * width for width in self._own)]
        before, *of_tensors, after = np.split(observation, np.cumsum(widths), axis=1)
        # 2. The part for each slot.
        runs, tensors = len(observation), self._tensors(counts)[..., None]
        shown = (runs, self._slots, -1)
        own = [
            np.take_along_axis(part.reshape(shown), tensors, axis=1) for part in of_tensors
        ]
        shared = [np.repeat(part[:, None], self._slots, 1) for part in (before, after)]
        rows = np.concatenate([shared[0], *own, shared[1]], axis=2)
        return rows.swapaxes(0, 1).reshape(-1, rows.shape[2])

    def _repeat(self, values: np.ndarray) -> np.ndarray:
        return np.tile(values, self._slots)

    def _split_info(self, info: dict[str, Any]) -> dict[str, Any]:
        return {
            key: self._split_info(value) if isinstance(value, dict) else self._repeat(value)
            for key, value in info.items()
        }
