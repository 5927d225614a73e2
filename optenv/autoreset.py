"""Gymnasium's conventions for the autoreset of a batch: reset masks and final infos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .checks import suggestion

__all__ = ["check_options", "join_infos", "reset_mask", "split_final"]


def check_options(options: Any, valid: Sequence[str] = ()) -> dict[str, Any]:
    """Return the options of ``reset()`` as a dict, empty for None.

    Args:
        options: argument ``options`` of ``reset()``.
        valid: names of the known options.

    Raises:
        TypeError: the options are neither a dict nor None.
        ValueError: an option is unknown.
    """
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise TypeError(f"options of reset() must be a dict or None, got {options!r}")
    for name in options:
        if name not in valid:
            hint = suggestion(str(name), valid) if valid else "valid: none"
            raise ValueError(
                f"unknown option {name!r} of reset(); {hint} (arguments of the "
                "environment are given when it is made)"
            )
    return options


def reset_mask(options: dict[str, Any], num_envs: int) -> np.ndarray:
    """Read the mask ``[num_envs]`` of the runs to reset; all of them by default.

    Args:
        options: options of ``reset()``, with or without an entry ``"reset_mask"``.
        num_envs: number of runs.

    Raises:
        TypeError: the mask is not a bool array.
        ValueError: its shape is wrong, or it is False everywhere.
    """
    mask = options.get("reset_mask")
    if mask is None:
        return np.ones(num_envs, np.bool_)
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError(f"options['reset_mask'] must be a bool array, got {mask!r}")
    if mask.shape != (num_envs,) or not mask.any():
        raise ValueError(
            f"options['reset_mask'] must have shape ({num_envs},) and a True in it, "
            f"got {mask!r}"
        )
    return mask


def split_final(
    observation: np.ndarray, info: dict[str, Any], ended: np.ndarray
) -> dict[str, Any]:
    """Make the info of a step in SAME_STEP mode: ended runs' entries go under ``final_*``.

    Args:
        observation: observations ``[B, F]`` at the end of the step, before the reset.
        info: info of the step.
        ended: which runs have ended, ``[B]`` bool.
    """
    final_obs = np.full(len(ended), None, dtype=object)
    for i in np.flatnonzero(ended):
        final_obs[i] = observation[i].copy()
    final_info: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, value in info.items():
        if key.startswith("_"):
            final_info[key], rest[key] = value & ended, value & ~ended
        else:
            final_info[key] = rest[key] = value
    rest = {k: v for k, v in rest.items() if rest["_" + k.removeprefix("_")].any()}
    return {
        **rest,
        "final_obs": final_obs, "_final_obs": ended.copy(),
        "final_info": final_info, "_final_info": ended.copy(),
    }  # fmt: skip


def join_infos(info: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Join two infos of a batch; where both are valid, ``other`` takes precedence.

    Args:
        info: arrays ``[B]``, each with a mask under its name with a leading underscore.
        other: info of the same form.
    """
    joined = {**info, **other}
    for name in other:
        if name in info and not name.startswith("_"):
            valid = other["_" + name]
            joined[name] = np.where(valid, other[name], info[name])
            joined["_" + name] = valid | info["_" + name]
    return joined
