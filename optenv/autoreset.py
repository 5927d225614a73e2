"""What Gymnasium's autoreset modes ask of a batch's options and infos."""

from __future__ import annotations

from typing import Any

import numpy as np


def reset_mask(options: dict[str, Any] | None, num_envs: int) -> np.ndarray:
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
    """Info of a SAME_STEP step: what ended runs end with moves under ``final_*``."""
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
