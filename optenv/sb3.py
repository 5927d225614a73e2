"""Adapter from a Gymnasium vector environment to the ``VecEnv`` of Stable-Baselines3.

This is the only module of the package that imports Stable-Baselines3, and no other module
imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import (
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
)


class SB3VecEnv(VecEnv):
    """Gymnasium ``VectorEnv`` as a ``VecEnv`` of Stable-Baselines3.

    It behaves, step for step, like a ``DummyVecEnv`` over the single environments.

    Args:
        env: vector environment whose autoreset mode is ``DISABLED``, so that both the last
            observation of an episode and the first of the next are available.

    Raises:
        ValueError: the autoreset mode is not ``DISABLED``.
        TypeError: ``env`` is not a vector environment.

    Example::

        batch = gym.make_vec(
            "optenv/LearningRate-v0", 256, autoreset_mode=AutoresetMode.DISABLED
        )
        model = PPO("MlpPolicy", SB3VecEnv(batch))
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        if not isinstance(env, VectorEnv):
            raise TypeError(f"SB3VecEnv needs a VectorEnv, as make_vec gives, got {env!r}")
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.DISABLED:
            raise ValueError(
                "SB3VecEnv needs a batch that does not reset itself: "
                f"{_line(env)}, got autoreset_mode={mode!r}"
            )
        self.env = env
        self._actions: np.ndarray | None = None
        super().__init__(
            env.num_envs, env.single_observation_space, env.single_action_space
        )

    def reset(self) -> VecEnvObs:
        seed = None if self._seeds[0] is None else list(self._seeds)
        # The annotation of the base class omits lists of seeds.
        observation, info = self.env.reset(
            seed=cast(Any, seed), options=self._options[0] or None
        )
        self.reset_infos = _split(info, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        observation, reward, terminated, truncated, info = self.env.step(self._actions)
        dones = terminated | truncated
        infos = _split(info, self.num_envs)
        if dones.any():
            final = observation
            observation, reset_info = self.env.reset(options={"reset_mask": dones})
            observation = np.where(dones[:, None], observation, final)
            reset_infos = _split(reset_info, self.num_envs)
            for i in np.flatnonzero(dones).tolist():
                infos[i]["terminal_observation"] = final[i]
                self.reset_infos[i] = reset_infos[i]
        for i, entry in enumerate(infos):
            entry["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
        return observation, reward.astype(np.float32), dones, infos

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return a picture of each run, for ``VecVideoRecorder``."""
        frames: Any = self.env.render()
        return [None] * self.num_envs if frames is None else list(frames)

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        values = self._found(attr_name)
        return [values[i] for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        raise NotImplementedError("attributes belong to the whole batch; set them on .env")

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of the batch, and return a list with its result for each run.

        If only the single environments have the method, it is called on each of them.
        """
        base = self.env.unwrapped
        if self._owner(method_name) is None and hasattr(base, "call"):
            results = base.call(method_name, *args, **kwargs)
            return [results[i] for i in self._get_indices(indices)]
        result = getattr(self._owner(method_name) or self.env, method_name)(*args, **kwargs)
        return [result for _ in self._get_indices(indices)]

    def _found(self, name: str) -> Sequence[Any]:
        """Return an attribute of the batch or of its single environments, for each run."""
        base = self.env.unwrapped
        if self._owner(name) is None and hasattr(base, "get_attr"):
            values: Sequence[Any] = base.get_attr(name)
            return values
        return [getattr(self._owner(name) or self.env, name)] * self.num_envs

    def _owner(self, name: str) -> VectorEnv[Any, Any, Any] | None:
        """Return the outermost wrapper (or batch) that has an attribute; None if none."""
        env = self.env
        while not hasattr(env, name):
            if not isinstance(env, VectorWrapper):
                return None
            env = env.env
        return env

    def env_is_wrapped(
        self, wrapper_class: Any, indices: VecEnvIndices = None
    ) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


def _line(env: VectorEnv[Any, Any, Any]) -> str:
    """Return the call that makes a batch like this one without autoreset."""
    spec, mode = env.spec, "gym.vector.AutoresetMode.DISABLED"
    made = "optenv/LearningRate-v0" if spec is None else spec.id
    given = f"autoreset_mode={mode}"
    vectorization = None if spec is None else spec.kwargs.get("vectorization_mode")
    if vectorization in ("sync", "async"):
        given = f"vectorization_mode={vectorization!r}, vector_kwargs="
        given += f"{{'autoreset_mode': {mode}}}"
    return f"gym.make_vec({made!r}, {env.num_envs}, {given})"


def _split(info: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Split Gymnasium's dict of arrays into SB3's list of dicts."""
    infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, value in info.items():
        if key.startswith("_"):
            continue
        mask: Sequence[bool] = info.get("_" + key, np.ones(num_envs, np.bool_))
        values: Any = _split(value, num_envs) if isinstance(value, dict) else value
        for i in np.flatnonzero(mask):
            infos[i][key] = values[i].item() if hasattr(values[i], "item") else values[i]
    return infos
