"""Splits of pictures into tiles, every fourth of which is for validation.

The splits have similar statistics and share no pixel.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from .problem import Split

#: Pixels on a side of a tile.
TILE = 40

#: Number of pictures, height and width.
Shape = tuple[int, int, int]


def validates(shape: Shape) -> np.ndarray:
    """Return a mask of the pixels for validation, ``[count, height, width]`` bool."""
    picture, row, column = np.ogrid[tuple(map(slice, shape))]
    return (picture + row // TILE + column // TILE) % 4 == 0


@cache
def corners(shape: Shape, split: Split, side: int) -> np.ndarray:
    """Return flat indices of the first pixel of every patch within a tile of ``split``."""
    count, height, width = shape
    picture, row, column = np.ogrid[:count, : height - side + 1, : width - side + 1]
    tile_row, tile_column = row // TILE, column // TILE
    inside = (row + side - 1) // TILE == tile_row
    inside = inside & ((column + side - 1) // TILE == tile_column)
    first = validates(shape)[:, : height - side + 1, : width - side + 1]
    chosen = inside & (first if split == "validation" else ~first)
    return ((picture * height + row) * width + column)[chosen]


def pixels(
    shape: Shape, split: Split, rng: np.random.Generator, n: int, side: int
) -> np.ndarray:
    """Sample square patches; returns flat indices of their pixels ``[n, side, side]``."""
    first = corners(shape, split, side)
    corner = first[rng.integers(len(first), size=(n, 1, 1))]
    span = np.arange(side)
    return corner + span[:, None] * shape[2] + span
