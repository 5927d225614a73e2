"""Sampler of pictures as functions from a place to its brightness."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from .problem import Batch, Split

#: Spread of the frequencies, in turns over the height of a picture.
FREQUENCY = 8.0 / (2 * np.pi)


@cache
def _pixels(size: int, split: Split) -> np.ndarray:
    """Return flat indices of the pixels of a split; a random tenth is for validation."""
    order = np.random.default_rng(0).permutation(size)
    cut = size // 10
    return order[:cut] if split == "validation" else order[cut:]


def places(
    split: Split, rng: np.random.Generator, n: int, picture: np.ndarray, waves: int
) -> Batch:
    """Sample Fourier features ``[n, 2 * waves]`` of places, and brightness ``[n, 1]``.

    The random features are from Tancik et al. (2020).

    Args:
        split: training or validation pixels.
        rng: generator of the places.
        n: number of examples.
        picture: brightness ``[height, width]``.
        waves: number of frequencies.
    """
    height, width = picture.shape
    index = rng.choice(_pixels(picture.size, split), n)
    rows, columns = np.divmod(index, width)
    drawn = np.random.default_rng(0).standard_normal((2, waves))
    angles = np.stack([rows, columns], 1) @ drawn * (2 * np.pi * FREQUENCY / height)
    features = np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)
    return torch.from_numpy(features), torch.from_numpy(picture.reshape(-1)[index][:, None])
