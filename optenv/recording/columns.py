"""Names of the columns of a recording, and infos of Gymnasium as columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces

from ..actions import Action, make
from ..telemetry import own_features, registered_among
from ..tensor_telemetry import TENSOR_FEATURES

__all__ = [
    "ACTION",
    "OBSERVATION",
    "Columns",
    "action_names",
    "batched",
    "flatten",
    "names_of",
    "observation_names",
]

#: Prefixes of the names of the columns of observations and actions.
OBSERVATION, ACTION = "observation.", "action."

#: Columns by name: values ``[B]``, and a mask ``[B]`` of the valid ones.
Columns: TypeAlias = dict[str, tuple[np.ndarray, np.ndarray]]


def action_names(action: Action, size: int) -> list[str]:
    """Name the components of an action.

    Args:
        action: the action.
        size: number of components.
    """
    if action.is_index:
        return ["index"]
    if action.per_tensor:
        return [f"tensor_{i}" for i in range(size)]
    if action.roles:
        return list(action.roles)
    named = getattr(action, "named", None)
    if named is not None and len(named) == size:
        return list(named)
    return ["learning_rate"] if action.sets_one_rate and size == 1 else _numbered(size)


def observation_names(described: Mapping[str, Any], size: int) -> list[str]:
    """Name the entries of an observation.

    Args:
        described: ``describe()`` of the environment.
        size: number of entries; entries without a name are numbered.
    """
    action = make(described["action"])
    registered = registered_among(described["features"])
    observed = own_features(described["features"])
    names = [*observed, *registered, *_observed(action)]
    if "runs" in described:
        numbers = action.slots * action.outputs
        said = action_names(action, numbers) if action.per_tensor else _numbered(numbers)
        names += [f"previous_action.{name}" for name in said]
        names += ["previous_reward", "new_run"]
    return [*names, *(f"entry_{i}" for i in range(len(names), size))][:size]


def _observed(action: Action) -> list[str]:
    """Name the observed part of an action."""
    if action.per_tensor:
        slots = range(action.slots)
        return [f"tensor_{i}.{name}" for i in slots for name in TENSOR_FEATURES]
    known: list[Any] = [getattr(action, "rules", ()), action.roles, action.sets]
    for names in known:
        if len(names) == action.observed:
            return [f"last.{name}" for name in names]
    return [f"last.{name}" for name in _numbered(action.observed)]


def _numbered(size: int) -> list[str]:
    return [str(i) for i in range(size)]


def names_of(
    described: Mapping[str, Any], observed: spaces.Space[Any], acted: spaces.Space[Any]
) -> tuple[list[str], list[str]]:
    """Name the columns of observations and actions of an environment.

    Args:
        described: ``describe()`` of the environment.
        observed: its single observation space.
        acted: its single action space.
    """
    shape, size = observed.shape or (), int(np.prod(acted.shape or ()))
    observations = observation_names(described, int(np.prod(shape)))
    actions = action_names(make(described["action"]), size)
    return [OBSERVATION + name for name in observations], [
        ACTION + name for name in actions
    ]


def flatten(
    info: Mapping[str, Any], valid: np.ndarray | None = None, prefix: str = ""
) -> Columns:
    """Turn an info into columns; entries of dictionaries in it become columns as well.

    Args:
        info: info of a batch: arrays ``[B, ...]``, each with a mask ``[B]`` under its name
            with a leading underscore.
        valid: mask ``[B]`` for arrays without a mask.
        prefix: prefix of the columns' names.
    """
    columns: Columns = {}
    for name, values in info.items():
        if name.startswith("_") and name[1:] in info:
            continue
        mask = info.get("_" + name, valid)
        if isinstance(values, Mapping):
            columns |= flatten(values, mask, f"{prefix}{name}.")
        elif mask is not None:
            columns[prefix + name] = np.asarray(values), np.asarray(mask, np.bool_)
    return columns


def batched(info: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the info of a single environment into the info of a batch of one."""
    columns: dict[str, Any] = {}
    for name, value in info.items():
        if isinstance(value, Mapping):
            columns[name] = batched(value)
        else:
            is_plain = isinstance(value, (bool, int, float, np.generic, np.ndarray))
            array = np.empty(1, object)
            array[0] = value
            columns[name] = np.asarray(value)[None] if is_plain else array
        columns["_" + name] = np.ones(1, np.bool_)
    return columns
