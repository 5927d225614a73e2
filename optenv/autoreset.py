"""Gymnasium's conventions for the autoreset of a batch: reset masks and final infos."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["reset_mask", "split_final"]


def reset_mask(options: dict[str, Any] | None, num_envs: int) -> np.ndarray:
    """Read the mask ``[num_envs]`` of the runs to reset; all of them by default.

    Args:
        options: of ``reset()``, with an entry ``"reset_mask"`` or not.
        num_envs: number of runs.

    Raises:
        TypeError: the mask is no bool array.
        ValueError: its shape is wrong, or it is False everywhere.
    """
    mask = (options or {}).get("reset_mask")
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
