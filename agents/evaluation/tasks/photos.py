"""Samplers of patches and pixels of scikit-learn's two photographs.

Samplers map ``(split, generator, n)`` to ``n`` examples: inputs and targets.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from . import tiles
from .places import places
from .problem import Batch, Split


@cache
def photographs() -> np.ndarray:
    """Return both photographs, grey, at half size, standardised: ``[2, H, W]`` float32."""
    from sklearn.datasets import load_sample_images

    grey = np.stack([image.mean(2) for image in load_sample_images().images])
    height, width = (size // 2 * 2 for size in grey.shape[1:])
    grey = grey[:, :height, :width].reshape(2, height // 2, 2, width // 2, 2).mean((2, 4))
    return ((grey - grey.mean()) / grey.std()).astype(np.float32)


def patch_pixels(split: Split, rng: np.random.Generator, n: int, side: int) -> np.ndarray:
    """Sample square patches; returns flat indices of their pixels ``[n, side, side]``."""
    return tiles.pixels(photographs().shape, split, rng, n, side)


def photo_patches(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Sample centred patches ``[n, 1, 12, 12]``, and their photograph ``[n]``."""
    pixels = patch_pixels(split, rng, n, 12)
    inputs = photographs().reshape(-1)[pixels]
    inputs -= inputs.mean((1, 2), keepdims=True)
    labels = pixels[:, 0, 0] // photographs()[0].size
    return torch.from_numpy(inputs[:, None]), torch.from_numpy(labels)


def flat_patches(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Sample patches ``[n, 64]``, as inputs and as targets."""
    inputs = square_patches(split, rng, n, 8)[0].flatten(1)
    return inputs, inputs


def square_patches(split: Split, rng: np.random.Generator, n: int, side: int = 16) -> Batch:
    """Sample patches ``[n, 1, side, side]``, as inputs and as targets."""
    flat = photographs().reshape(-1)[patch_pixels(split, rng, n, side)]
    inputs = torch.from_numpy(flat[:, None])
    return inputs, inputs


def photo_places(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Sample Fourier features ``[n, 64]`` of places, and their brightness ``[n, 1]``."""
    return places(split, rng, n, photographs()[0], waves=32)
