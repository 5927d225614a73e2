"""Registration of the environments with Gymnasium."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from . import tasks
from .settings import check_names
from .trials import TrialVectorEnv
from .vector import BATCH_ARGUMENTS, LearningRateVectorEnv

__all__ = [
    "ALL",
    "CONTROLS",
    "ENVIRONMENTS",
    "FAMILIES",
    "FAMILY_ENVIRONMENTS",
    "TRIALS",
    "is_trial",
    "register",
    "register_all",
]

#: Default arguments of each kind of control, by its name in the ids.
CONTROLS: dict[str, dict[str, object]] = {
    "LearningRate": {"action": "continuous"},
    "DiscreteLearningRate": {"action": "discrete"},
    "UpdateRule": {"action": "rule", "rule": "switching"},
    "Hyperparameters": {"action": "hyperparameters"},
    "RoleLearningRate": {"action": "roles"},
    "LayerwiseLearningRate": {"action": "layerwise"},
    "Update": {
        "action": "update", "rule": "sgd", "tasks": "functions", "base_lr": 0.25,
        "updates_per_step": 1,
    },
    "BatchSize": {"action": "batch-size"},
}  # fmt: skip

#: Families of tasks of controls that are not for all tasks: ``Update`` sets the updates of
#: a few parameters only.
FAMILIES_OF: dict[str, tuple[str, ...]] = {"Update": ("functions",)}

#: Arguments that gym.make or gym.make_vec pass on their own, or that only batches have.
_OF_CALLER = (*BATCH_ARGUMENTS, "render_mode")

#: Parts of the names of families that are written in capitals in ids.
ABBREVIATIONS = ("cnn", "mlp", "rnn", "vae")


def family_name(family: str) -> str:
    """Return the name of a family of tasks in ids: ``"MLPRegression"`` and the like."""
    parts = family.split("-")
    return "".join(p.upper() if p in ABBREVIATIONS else p.capitalize() for p in parts)


#: Families of tasks, by their names in the ids.
FAMILIES: dict[str, str] = {
    family_name(family): family for family in (*tasks.FAMILIES, *tasks.MORE_FAMILIES)
}

#: Default arguments by id of environments whose episodes are runs, one id per control.
ENVIRONMENTS: dict[str, dict[str, object]] = {
    f"optenv/{control}-v0": arguments for control, arguments in CONTROLS.items()
}

#: Default arguments by id of environments whose episodes are trials of several runs, one id
#: per control.
TRIALS: dict[str, dict[str, object]] = {
    f"optenv/{control}Trial-v0": arguments for control, arguments in CONTROLS.items()
}

#: Default arguments by id of environments with one family of tasks: for each control and
#: family an id for runs and an id for trials.
FAMILY_ENVIRONMENTS: dict[str, dict[str, object]] = {
    f"optenv/{control}{trial}-{name}-v0": {**arguments, "tasks": family}
    for control, arguments in CONTROLS.items()
    for name, family in FAMILIES.items()
    for trial in ("", "Trial")
    if family in FAMILIES_OF.get(control, (family,))
}

#: Default arguments by id of all environments of the package.
ALL: dict[str, dict[str, object]] = {**ENVIRONMENTS, **TRIALS, **FAMILY_ENVIRONMENTS}


def is_trial(env_id: str) -> bool:
    """Return whether the episodes of one of the ids of :data:`ALL` are trials."""
    return env_id.split("/")[1].split("-")[0].endswith("Trial")


def register(env_id: str, *, trials: bool = False, **arguments: Any) -> None:
    """Register an environment of optenv with other default arguments.

    Args:
        env_id: new id, such as ``"mine/SmallLanguage-v0"``.
        trials: whether episodes are trials of several runs.
        **arguments: default arguments, see :class:`optenv.settings.Settings`, and
            :class:`optenv.TrialVectorEnv` for trials. Names are checked here, values when
            an environment is made.

    Raises:
        TypeError: the id is not a string, ``trials`` is neither True nor False, or an
            argument is unknown (the message names the closest valid one) or can only be
            given where an environment is made, such as ``num_envs``.
        ValueError: the id is taken.
    """
    if not isinstance(env_id, str):
        raise TypeError(f"env_id must be a string, got {env_id!r}")
    if env_id in gym.registry:
        taken = ", ".join([*ENVIRONMENTS, *TRIALS])
        raise ValueError(
            f"there is an environment {env_id!r} already; the ids of optenv: {taken}, and "
            f"those of a family, such as {next(iter(FAMILY_ENVIRONMENTS))}"
        )
    if not isinstance(trials, bool):
        raise TypeError(f"trials must be True or False, got {trials!r}")
    for name in _OF_CALLER:
        if name in arguments:
            raise TypeError(
                f"{name} is chosen where an environment is made, by gym.make or "
                f"gym.make_vec, not where it is registered, got {arguments[name]!r}"
            )
    check_names(
        arguments, (TrialVectorEnv if trials else LearningRateVectorEnv).own_arguments
    )
    _register(env_id, arguments, trials)


def register_all() -> None:
    """Register every environment of :data:`ALL`."""
    for env_id, arguments in ALL.items():
        _register(env_id, arguments, is_trial(env_id))


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
        kwargs={**arguments, "own_action": arguments.get("action", "continuous")},
    )
