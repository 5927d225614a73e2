"""Patches and pixels of scikit-learn's two photographs.

Every sampler is ``(split, generator, n)`` to ``n`` examples.
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
    """Both photographs in grey at half size, standardised: ``[2, H, W]`` float32."""
    from sklearn.datasets import load_sample_images

    grey = np.stack([image.mean(2) for image in load_sample_images().images])
    height, width = (size // 2 * 2 for size in grey.shape[1:])
    grey = grey[:, :height, :width].reshape(2, height // 2, 2, width // 2, 2).mean((2, 4))
    return ((grey - grey.mean()) / grey.std()).astype(np.float32)


def patch_pixels(split: Split, rng: np.random.Generator, n: int, side: int) -> np.ndarray:
    """Flat indices of the pixels of random square patches, ``[n, side, side]``."""
    return tiles.pixels(photographs().shape, split, rng, n, side)


def photo_patches(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Patches ``[n, 1, 12, 12]``, brightness removed, and which photograph's ``[n]``."""
    pixels = patch_pixels(split, rng, n, 12)
    inputs = photographs().reshape(-1)[pixels]
    inputs -= inputs.mean((1, 2), keepdims=True)
    labels = pixels[:, 0, 0] // photographs()[0].size
    return torch.from_numpy(inputs[:, None]), torch.from_numpy(labels)


def flat_patches(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Patches ``[n, 64]``, as inputs and as targets."""
    flat = photographs().reshape(-1)[patch_pixels(split, rng, n, 8).reshape(n, -1)]
    inputs = torch.from_numpy(flat)
    return inputs, inputs


def photo_places(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Fourier features ``[n, 64]`` of places of a photograph, and brightness ``[n, 1]``."""
    return places(split, rng, n, photographs()[0], waves=32)
