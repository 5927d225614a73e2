"""Patches and pixels of scikit-learn's two photographs.

Photographs are cut into tiles, some of which are for validation, so that both splits look
alike and share no pixel. Every sampler is ``(split, generator, n)`` to ``n`` examples.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from .problem import Batch, Split

#: Pixels on a side of the tiles that photographs are split by: every fourth one validates.
TILE = 40


@cache
def photographs() -> np.ndarray:
    """Both photographs in grey at half size, standardised: ``[2, H, W]`` float32."""
    from sklearn.datasets import load_sample_images

    grey = np.stack([image.mean(2) for image in load_sample_images().images])
    height, width = (size // 2 * 2 for size in grey.shape[1:])
    grey = grey[:, :height, :width].reshape(2, height // 2, 2, width // 2, 2).mean((2, 4))
    return ((grey - grey.mean()) / grey.std()).astype(np.float32)


@cache
def patch_corners(split: Split, side: int) -> np.ndarray:
    """Flat indices of the first pixel of every patch within a tile of ``split``."""
    count, height, width = photographs().shape
    photo, row, column = np.ogrid[:count, : height - side + 1, : width - side + 1]
    tile_row, tile_column = row // TILE, column // TILE
    inside = (row + side - 1) // TILE == tile_row
    inside = inside & ((column + side - 1) // TILE == tile_column)
    validates = (photo + tile_row + tile_column) % 4 == 0
    chosen = inside & (validates if split == "validation" else ~validates)
    return ((photo * height + row) * width + column)[chosen]


def patch_pixels(split: Split, rng: np.random.Generator, n: int, side: int) -> np.ndarray:
    """Flat indices of the pixels of random square patches, ``[n, side, side]``."""
    corners = patch_corners(split, side)
    corner = corners[rng.integers(len(corners), size=(n, 1, 1))]
    span = np.arange(side)
    return corner + span[:, None] * photographs().shape[2] + span


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
