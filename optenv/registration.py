"""Ids under which Gymnasium finds the environments."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from .settings import check_names
from .trials import TrialVectorEnv
from .vector import LearningRateVectorEnv

__all__ = ["ALL", "ENVIRONMENTS", "TRIALS", "register", "register_all"]

#: Default arguments by id, of environments whose episodes are runs.
ENVIRONMENTS: dict[str, dict[str, object]] = {
    "optenv/LearningRate-v0": {"action": "continuous"},
    "optenv/DiscreteLearningRate-v0": {"action": "discrete"},
    "optenv/UpdateRule-v0": {"action": "rule", "rule": "switching"},
    "optenv/Hyperparameters-v0": {"action": "hyperparameters"},
    "optenv/RoleLearningRate-v0": {"action": "roles"},
    "optenv/LayerwiseLearningRate-v0": {"action": "layerwise"},
}

#: Default arguments by id, of environments whose episodes are trials of several runs.
TRIALS: dict[str, dict[str, object]] = {
    "optenv/LearningRateTrial-v0": {"action": "continuous"},
    "optenv/DiscreteLearningRateTrial-v0": {"action": "discrete"},
    "optenv/UpdateRuleTrial-v0": {"action": "rule", "rule": "switching"},
    "optenv/HyperparametersTrial-v0": {"action": "hyperparameters"},
    "optenv/RoleLearningRateTrial-v0": {"action": "roles"},
}

#: Default arguments by id, of all environments of the package.
ALL: dict[str, dict[str, object]] = {**ENVIRONMENTS, **TRIALS}


def register(env_id: str, *, trials: bool = False, **arguments: Any) -> None:
    """Register an environment of the package with other default arguments.

    Args:
        env_id: new id, such as ``"mine/SmallLanguage-v0"``.
        trials: whether episodes are trials of several runs.
        **arguments: default arguments, see :class:`optenv.settings.Settings`, and
            :class:`optenv.TrialVectorEnv` for trials. Their names are checked here, their
            values when an environment is made.

    Raises:
        TypeError: the id is no string, ``trials`` is neither True nor False, or an argument
            is unknown; the message names the closest valid one.
        ValueError: the id is taken.
    """
    if not isinstance(env_id, str):
        raise TypeError(f"env_id must be a string, got {env_id!r}")
    if env_id in gym.registry:
        taken = ", ".join(name for name in gym.registry if name.startswith("optenv/"))
        raise ValueError(
            f"there is an environment {env_id!r} already; the ids of optenv: {taken}"
        )
    if not isinstance(trials, bool):
        raise TypeError(f"trials must be True or False, got {trials!r}")
    check_names(
        arguments, (TrialVectorEnv if trials else LearningRateVectorEnv).own_arguments
    )
    _register(env_id, arguments, trials)


def register_all() -> None:
    """Register every environment of :data:`ALL`."""
    for env_id, arguments in ALL.items():
        _register(env_id, arguments, env_id in TRIALS)


def _register(env_id: str, arguments: dict[str, Any], trials: bool) -> None:
    """Register the single and the vector environment under one id."""
    if trials:
        entry_points = ("optenv.trials:TrialEnv", "optenv.trials:TrialVectorEnv")
    else:
        entry_points = ("optenv.env:LearningRateEnv", "optenv.vector:LearningRateVectorEnv")
    gym.register(
        env_id,
        entry_point=entry_points[0],
        vector_entry_point=entry_points[1],
        kwargs=dict(arguments),
    )
