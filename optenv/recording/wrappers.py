"""Wrappers that record every control step of an environment, single or vector."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from ..autoreset import reset_mask
from ..env import LearningRateEnv
from ..vector import LearningRateVectorEnv
from .columns import batched, flatten, names_of
from .parquet import ParquetFile
from .tape import Tape

__all__ = ["Recorder", "VectorRecorder"]

#: Entries of a step's info in SAME_STEP mode that describe episodes that have ended.
FINAL = ("final_info", "final_obs")


class Recorder(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Record every control step of a single environment to a Parquet file.

    The file is written under another name; :meth:`close` moves it to ``path``. A row is a
    control step:

    ===========================  =====================================================
    Column                       Meaning
    ===========================  =====================================================
    ``env``                      index of the environment in a batch; here 0
    ``episode``                  number of the episode in the file, from 0
    ``seed``                     last seed, below ``2**63``, with which the environment
                                 was reset
    ``resets``                   resets since then: 0 in the episode of that seed
    ``run``                      number of the run in its episode, from 0: trials have
                                 several
    ``step``                     number of the control step in its run, from 0
    ``steps``                    control steps of the run, unless it diverges
    ``observation.<feature>``    entry of the observation before the action
    ``action.<component>``       component of the action; ``action.index`` of a
                                 discrete one
    ``reward``                   reward of the step
    ``terminated``               whether the episode ends with this step
    ``truncated``                likewise, by a limit from outside
    ``run_ended``                whether the run ends with this step
    ``family``, ``instance``...  entries of the info of ``reset()``, on each row of the
                                 episode
    ``loss``, ``lr``...          entries of the info of ``step()``, null where it has
                                 none; entries of nested dictionaries have names with
                                 dots
    ``agent_seconds``            time from the end of the last step to the call of this
                                 one, divided by the number of rows of the step
    ``env_seconds``              time in the environment, divided likewise
    ``final_observation``        observation after the last step of an episode, a list
    ===========================  =====================================================

    Args:
        env: environment of the package. Wrappers that change observations or actions must
            be around the recorder.
        path: path of the new file.
        label: name of the policy for reports; by default, the file's name.
        overwrite: whether to replace a file that exists.

    Raises:
        TypeError: ``env`` is no environment of the package.
        ValueError: a wrapper within ``env`` changes the shape of observations or actions.
        FileExistsError: there is a file, and ``overwrite`` is False.
        ImportError: pyarrow is not installed (extra ``record``).

    Example::

        with Recorder(gym.make("optenv/LearningRate-v0"), "steps.parquet") as env:
            observation, info = env.reset(seed=0)
            ended = False
            while not ended:
                action = env.action_space.sample()
                observation, reward, ended, _, info = env.step(action)
        table = optenv.recording.read("steps.parquet")
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        path: str | os.PathLike[str],
        *,
        label: str | None = None,
        overwrite: bool = False,
    ) -> None:
        base = getattr(env, "unwrapped", None)
        if not isinstance(base, LearningRateEnv):
            raise TypeError(
                "Recorder needs an environment of optenv made by gymnasium.make, got "
                f"{env!r}; VectorRecorder records a batch"
            )
        gym.utils.RecordConstructorArgs.__init__(
            self, path=os.fspath(path), label=label, overwrite=overwrite
        )
        super().__init__(env)
        self._base, described = base, base.describe()
        self._runs = described.get("runs", 1)
        self._tape = _tape(env, described, 1, path, label, overwrite)
        self._returned = time.perf_counter()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start a new episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        steps = np.array([self._base.num_steps // self._runs])
        chosen = np.ones(1, np.bool_)
        row = np.asarray(observation)[None]
        self._tape.begin(chosen, row, flatten(batched(info)), steps, [seed])
        self._returned = time.perf_counter()
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take one control step, and record it."""
        called = time.perf_counter()
        result = self.env.step(action)
        done = time.perf_counter()
        observation, reward, terminated, truncated, info = result
        numbers = (
            np.array([each]) for each in (observation, reward, terminated, truncated)
        )
        self._tape.add(
            np.ones(1, np.bool_), np.asarray(action)[None], tuple(numbers),  # type: ignore[arg-type]
            flatten(batched(info)), (called - self._returned, done - called),
        )  # fmt: skip
        self._returned = time.perf_counter()
        return cast(Any, result)

    def close(self) -> None:
        """Finish the file, and close the environment."""
        self._tape.close()
        super().close()


class VectorRecorder(VectorWrapper):  # type: ignore[type-arg] # generic since Gymnasium 1.3
    """Record every control step of a batch of environments to a Parquet file.

    For the columns see :class:`Recorder`. A step that only resets an environment, as in the
    mode ``NEXT_STEP``, has no row.

    Args:
        env: batch made by ``gymnasium.make_vec`` of an environment of the package, in any
            mode of vectorization and of autoreset. :class:`optenv.PerTensor`,
            :class:`optenv.sb3.SB3VecEnv` and wrappers that change observations or actions
            must be around the recorder.
        path: path of the new file.
        label: name of the policy for reports; by default, the file's name.
        overwrite: whether to replace a file that exists.

    Raises:
        TypeError: ``env`` is no batch of environments of the package.
        ValueError: a wrapper within ``env`` changes the shape of observations or actions.
        FileExistsError: there is a file, and ``overwrite`` is False.
        ImportError: pyarrow is not installed (extra ``record``).

    Example::

        batch = gym.make_vec("optenv/LearningRate-v0", 64, tasks="train")
        env = VectorRecorder(batch, "steps.parquet", label="random actions")
        env.reset(seed=0)
        for _ in range(100):
            env.step(env.action_space.sample())
        env.close()
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        path: str | os.PathLike[str],
        *,
        label: str | None = None,
        overwrite: bool = False,
    ) -> None:
        if not isinstance(env, VectorEnv):
            raise TypeError(f"VectorRecorder needs a batch of make_vec, got {env!r}")
        described = _described(env)
        super().__init__(env)
        self._runs = described.get("runs", 1)
        self._mode = AutoresetMode(env.metadata["autoreset_mode"])
        self._tape = _tape(env, described, env.num_envs, path, label, overwrite)
        self._ended = np.zeros(env.num_envs, np.bool_)
        self._returned = time.perf_counter()

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start new episodes."""
        mask = np.ones(self.num_envs, np.bool_)
        if isinstance(options, dict) and options.get("reset_mask") is not None:
            mask = reset_mask(options, self.num_envs).copy()
        # The annotation of the base class omits lists of seeds.
        observation, info = self.env.reset(seed=cast(Any, seed), options=options)
        seeds: Sequence[int | None] | None
        if seed is None or isinstance(seed, (list, tuple)):
            seeds = seed
        else:
            seeds = [seed + i for i in range(self.num_envs)]
        self._begin(mask, observation, info, seeds)
        self._returned = time.perf_counter()
        return observation, info

    def _begin(
        self,
        mask: np.ndarray,
        observation: np.ndarray,
        info: Mapping[str, Any],
        seeds: Sequence[int | None] | None = None,
    ) -> None:
        """Begin the episodes in ``mask``."""
        steps = _num_steps(self.env) // self._runs
        self._tape.begin(mask, observation, flatten(info), steps, seeds)
        self._ended = self._ended & ~mask

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take one control step in every environment, and record it."""
        # 1. The step. In NEXT_STEP mode, it resets environments whose episodes have ended.
        called = time.perf_counter()
        result = self.env.step(actions)
        done = time.perf_counter()
        observation, reward, terminated, truncated, info = result
        is_next = self._mode is AutoresetMode.NEXT_STEP
        resetting = self._ended if is_next else np.zeros(self.num_envs, np.bool_)
        # 2. Observation and info at the end of episodes. In SAME_STEP mode, the result has
        # them in "final_obs" and "final_info"; its others belong to the next episode.
        ended, last = terminated | truncated, observation
        beginning = {
            key: value for key, value in info.items() if key.strip("_") not in FINAL
        }
        columns = flatten(beginning)
        if self._mode is AutoresetMode.SAME_STEP and ended.any():
            last = observation.copy()
            for i in np.flatnonzero(ended):
                last[i] = info["final_obs"][i]
            columns = {
                name: (values, valid & ~ended) for name, (values, valid) in columns.items()
            }
            final = flatten(info["final_info"], info["_final_info"])
            for name, (values, valid) in final.items():
                if name in columns:
                    here = columns[name]
                    mask = valid.reshape(-1, *[1] * (values.ndim - 1))
                    values = np.where(mask, values, here[0])
                    valid = valid | here[1]
                columns[name] = values, valid
            resets = ended
        else:
            resets = resetting
        # 3. The rows, and the start of new episodes.
        self._tape.add(
            ~resetting, np.asarray(actions), (last, reward, terminated, truncated),
            columns, (called - self._returned, done - called),
        )  # fmt: skip
        self._ended = ended & ~resetting
        if resets.any():
            self._begin(resets, observation, beginning)
        self._returned = time.perf_counter()
        return cast(Any, result)

    def close(self, **kwargs: Any) -> None:
        """Finish the file, and close the batch."""
        if hasattr(self, "_tape"):  # Gymnasium also closes it if __init__ has failed
            self._tape.close()
        super().close(**kwargs)


def _described(env: VectorEnv[Any, Any, Any]) -> dict[str, Any]:
    """Return ``describe()`` of the environments of a batch.

    Raises:
        TypeError: they are not environments of the package.
    """
    base: Any = env.unwrapped
    if isinstance(base, LearningRateVectorEnv):
        return base.describe()
    try:
        described = base.call("describe")[0]
    except AttributeError:
        described = None
    if not isinstance(described, dict) or "features" not in described:
        raise TypeError(
            "VectorRecorder needs a batch of environments of optenv, made by "
            f"gymnasium.make_vec, got {env!r}"
        )
    return described


def _num_steps(env: VectorEnv[Any, Any, Any]) -> np.ndarray:
    """Return the number of control steps of each episode, ``[B]``."""
    base: Any = env.unwrapped
    if isinstance(base, LearningRateVectorEnv):
        return base.num_steps
    return np.array(base.call("num_steps"))


def _tape(
    env: Any,
    described: dict[str, Any],
    num_envs: int,
    path: str | os.PathLike[str],
    label: str | None,
    overwrite: bool,
) -> Tape:
    """Open a recorder's file."""
    is_batch = isinstance(env, VectorEnv)
    observed = env.single_observation_space if is_batch else env.observation_space
    acted = env.single_action_space if is_batch else env.action_space
    base = env.unwrapped
    for what in ("observation_space", "action_space"):  # of whole batches
        bare, seen = getattr(base, what).shape, getattr(env, what).shape
        if bare != seen:
            raise ValueError(
                f"the {what} of the environment has shape {bare}, and the recorder sees "
                f"{seen}; put it around the environment, and other wrappers around the "
                "recorder"
            )
    observations, actions = names_of(described, observed, acted)
    metadata_of_file = {
        "optenv": _version(),
        "label": label or Path(path).stem,
        "id": None if env.spec is None else env.spec.id,
        "arguments": _arguments(env.spec),
        "description": described,
        "dtype": str(observed.dtype),
    }
    return Tape(
        ParquetFile(path, metadata_of_file, overwrite), num_envs, observations, actions
    )


def _version() -> str | None:
    """Return the version of the package, None if it is not installed."""
    try:
        return metadata.version("optenv")
    except metadata.PackageNotFoundError:
        return None


def _arguments(spec: Any) -> dict[str, Any] | None:
    """Return the arguments of a single environment, None if they are no JSON values."""
    if spec is None:
        return None
    of_batch = (*LearningRateVectorEnv.own_arguments, "vectorization_mode", "vector_kwargs")
    left_out = (*of_batch, "own_action")  # the id has it
    arguments = {key: value for key, value in spec.kwargs.items() if key not in left_out}
    try:
        read: dict[str, Any] = json.loads(json.dumps(arguments))
    except (TypeError, ValueError):
        return None
    return read
