"""Samplers of Matplotlib's sample pictures, for the selection of policies.

Samplers map ``(split, generator, n)`` to ``n`` examples: inputs and targets.
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

import numpy as np
import torch

from . import tiles
from .places import places
from .problem import Batch, Split


def _sample(name: str) -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path(), "sample_data", name)


def _standardised(picture: np.ndarray) -> np.ndarray:
    grey = picture.astype(np.float64)
    return ((grey - grey.mean()) / grey.std()).astype(np.float32)


@cache
def elevation() -> np.ndarray:
    """Return the heights of a mountain side, ``[1, 344, 403]`` float32."""
    with np.load(_sample("jacksboro_fault_dem.npz")) as archive:
        return _standardised(archive["elevation"][None])


@cache
def scan() -> np.ndarray:
    """Return a magnetic-resonance image of a head, ``[1, 256, 256]`` float32."""
    raw = gzip.decompress(_sample("s1045.ima.gz").read_bytes())
    return _standardised(np.frombuffer(raw, ">u2").reshape(1, 256, 256))


@cache
def portrait() -> np.ndarray:
    """Return a portrait of Grace Hopper, grey, at half size, ``[1, 300, 256]`` float32."""
    from PIL import Image

    grey = np.asarray(Image.open(_sample("grace_hopper.jpg")).convert("L"), np.float64)
    return _standardised(grey.reshape(1, 300, 2, 256, 2).mean((2, 4)))


def next_height(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Sample the heights around a place ``[n, 80]``, and its own height ``[n, 1]``.

    Both are relative to the mean of the former, and scaled to about unit variance.
    """
    heights = elevation()
    patches = heights.reshape(-1)[tiles.pixels(heights.shape, split, rng, n, 9)]
    flat = patches.reshape(n, 81)
    around = np.delete(flat, 40, axis=1)
    mean = around.mean(1, keepdims=True)
    # In a typical patch heights deviate by a twentieth from their mean.
    return torch.from_numpy(20 * (around - mean)), torch.from_numpy(
        20 * (flat[:, 40:41] - mean)
    )


def scan_patches(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Sample patches ``[n, 64]`` of the scan, as inputs and as targets."""
    image = scan()
    pixels = tiles.pixels(image.shape, split, rng, n, 8).reshape(n, -1)
    inputs = torch.from_numpy(image.reshape(-1)[pixels])
    return inputs, inputs


def portrait_places(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Sample Fourier features ``[n, 48]`` of places, and their brightness ``[n, 1]``."""
    return places(split, rng, n, portrait()[0], waves=24)


def texture_patches(split: Split, rng: np.random.Generator, n: int) -> Batch:
    """Sample patches ``[n, 1, 10, 10]`` of unit variance, and their picture ``[n]``."""
    labels = rng.integers(3, size=n)
    inputs = np.empty((n, 10, 10), np.float32)
    for label, image in enumerate((elevation(), scan(), portrait())):
        chosen = labels == label
        pixels = tiles.pixels(image.shape, split, rng, int(chosen.sum()), 10)
        inputs[chosen] = image.reshape(-1)[pixels]
    inputs -= inputs.mean((1, 2), keepdims=True)
    inputs /= inputs.std((1, 2), keepdims=True) + 0.01
    return torch.from_numpy(inputs[:, None]), torch.from_numpy(labels)
