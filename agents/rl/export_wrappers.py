"""Search for wrappers between environment and model that change observations or actions.

An optimizer has the observations and actions of the bare environment. A wrapper is
*neutral* if it does not change them, which is known for the classes in :data:`NEUTRAL`. A
policy that was trained with any other wrapper may depend on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium import vector, wrappers
from gymnasium.wrappers import vector as vector_wrappers
from stable_baselines3.common import vec_env
from stable_baselines3.common.monitor import Monitor

from optenv.env import LearningRateEnv
from optenv.per_tensor import PerTensor
from optenv.recording import Recorder, VectorRecorder
from optenv.sb3 import SB3VecEnv
from optenv.trials import TrialEnv, TrialVectorEnv
from optenv.vector import LearningRateVectorEnv

from .group_advantage import LeaveOneOutReward
from .journal import Journal

__all__ = ["NEUTRAL", "Wrapping", "wrapping"]

#: Environments of the package.
ENVIRONMENTS = (LearningRateEnv, LearningRateVectorEnv)

#: Classes whose own methods do not change observations and actions.
NEUTRAL: frozenset[type[Any]] = frozenset(
    {
        # 1. Environments, and batches of them
        LearningRateEnv, LearningRateVectorEnv, TrialEnv, TrialVectorEnv,
        PerTensor, SB3VecEnv, vec_env.VecEnv, vec_env.DummyVecEnv, vec_env.SubprocVecEnv,
        gym.Env, vector.VectorEnv, vector.SyncVectorEnv, vector.AsyncVectorEnv,
        # 2. Wrappers of single environments
        gym.Wrapper, gym.RewardWrapper, Monitor, Recorder, wrappers.Autoreset,
        wrappers.HumanRendering, wrappers.NormalizeReward, wrappers.OrderEnforcing,
        wrappers.PassiveEnvChecker, wrappers.RecordEpisodeStatistics,
        wrappers.RecordVideo, wrappers.RenderCollection, wrappers.TimeLimit,
        # 3. Wrappers of batches
        vector.VectorWrapper, vector.VectorRewardWrapper, VectorRecorder, Journal,
        vector_wrappers.DictInfoToList, vector_wrappers.HumanRendering,
        vector_wrappers.NormalizeReward, vector_wrappers.RecordEpisodeStatistics,
        vec_env.VecEnvWrapper, vec_env.VecCheckNan, vec_env.VecMonitor,
        vec_env.VecVideoRecorder, LeaveOneOutReward,
        # Only in Gymnasium 1.3 and later
        *(getattr(vector_wrappers, name) for name in ["RecordVideo"]
          if hasattr(vector_wrappers, name)),
    }
)  # fmt: skip

#: Methods that observations and actions pass through.
METHODS = ("reset", "step", "step_async", "step_wait", "_reset", "_step", "_extend")


class Wrapping(NamedTuple):
    """Wrappers between an environment and a model.

    Attributes:
        changing: names of the wrappers that are not known to be neutral.
        strangers: innermost environments that are not from this package.
        normalising: ``VecNormalize`` wrappers that normalise observations.
    """

    changing: list[str]
    strangers: list[Any]
    normalising: list[vec_env.VecNormalize]


def wrapping(env: Any) -> Wrapping:
    """Find the wrappers between a model's environment and the package's environments.

    Of wrappers in other processes, only the names are known.

    Args:
        env: ``get_env()`` of a model of Stable-Baselines3.
    """
    changing: list[str] = []
    strangers: list[Any] = []
    normalising: list[vec_env.VecNormalize] = []
    for layer in _layers(env):
        if isinstance(layer, str):
            found, base = _named(layer)
            known = {cls.__name__ for cls in NEUTRAL}
            changing += [name for name in found if name not in known]
            strangers += [] if base else [layer]
        elif not _below(layer) and not isinstance(layer, ENVIRONMENTS):
            strangers.append(layer)
        elif not _is_neutral(layer):
            changing.append(type(layer).__name__)
        if isinstance(layer, vec_env.VecNormalize) and layer.norm_obs:
            normalising.append(layer)
    return Wrapping(list(dict.fromkeys(changing)), strangers, normalising)


def _layers(env: Any) -> Iterator[Any]:
    """Yield an environment and all within it; as text if it is in another process."""
    yield env
    for below in _below(env):
        if isinstance(below, str):
            yield below
        else:
            yield from _layers(below)


def _below(env: Any) -> list[Any]:
    """Return the environments directly within an environment; none if it is innermost."""
    if isinstance(env, vec_env.VecEnvWrapper):
        return [env.venv]
    if isinstance(env, (SB3VecEnv, gym.Wrapper, vector.VectorWrapper)):
        return [env.env]
    if isinstance(env, (vec_env.DummyVecEnv, vector.SyncVectorEnv)):
        return list(env.envs)
    if isinstance(env, vec_env.SubprocVecEnv):
        return list(env.env_method("__str__"))
    if isinstance(env, vector.AsyncVectorEnv):
        return list(env.call("__str__"))
    return []


def _named(text: str) -> tuple[list[str], bool]:
    """Parse the wrappers' names from ``<Outer<Inner<LearningRateEnv<id>>>>``.

    Returns:
        The names, and True if the innermost environment is from this package.
    """
    names = re.findall(r"<(\w+)", text)
    for i, name in enumerate(names):
        if name in (LearningRateEnv.__name__, TrialEnv.__name__):
            return names[:i], True
    return [], False


def _is_neutral(layer: Any) -> bool:
    """Return True if all methods of a layer are those of neutral classes.

    ``VecNormalize`` counts as neutral: a policy holds its statistics.
    """
    for method in METHODS:
        owners = [cls for cls in type(layer).__mro__ if method in vars(cls)]
        if method in vars(layer):  # replaced on the object
            return False
        if owners and owners[0] is vec_env.VecNormalize:
            continue  # its statistics are exported
        if owners and owners[0] not in NEUTRAL:
            return False
    return True
