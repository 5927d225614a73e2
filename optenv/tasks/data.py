"""Examples that tasks train on: generated per run, or real images.

A source is a function ``(task, generator) -> (inputs [N, d] float32, targets [N] int64
or [N, k] float32)`` with ``N = num_train + num_validation``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Protocol

import numpy as np

from .bundled import read_digits


class DataShape(Protocol):
    """Protocol of the sizes of a data set and of its examples."""

    @property
    def num_train(self) -> int: ...
    @property
    def num_validation(self) -> int: ...
    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @property
    def split(self) -> str: ...


#: Images of scikit-learn's digits (shuffled once, by a fixed seed) in the train split.
DIGITS_TRAIN = 1197


def mixture(task: DataShape, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw Gaussian mixtures: 1 to 3 clusters a class, noisy labels in half of the runs."""
    total = task.num_train + task.num_validation
    clusters = int(rng.integers(1, 4))
    distance = rng.uniform(0.5, 2.5)
    centers = rng.standard_normal((task.outputs, clusters, task.inputs), np.float32)
    classes = rng.integers(task.outputs, size=total)
    inputs = rng.standard_normal((total, task.inputs), np.float32)
    centers *= np.float32(distance)
    cluster = classes * clusters + rng.integers(clusters, size=total)
    inputs += np.take(centers.reshape(-1, task.inputs), cluster, axis=0)
    return _rescale(inputs, rng), noisy_labels(classes, task.outputs, rng)


def sine(task: DataShape, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a regression on a random two-layer sine network, noisy in half of the runs."""
    total, units = task.num_train + task.num_validation, 16
    frequency = np.exp(rng.uniform(-1.0, 1.0)) / np.sqrt(task.inputs)
    inputs = rng.standard_normal((total, task.inputs), np.float32)
    hidden = rng.standard_normal((task.inputs, units), np.float32)
    phase = rng.uniform(0, 2 * np.pi, units)
    mixing = rng.standard_normal((units, task.outputs), np.float32)
    targets = np.sin(2 * frequency * (inputs @ hidden) + phase) @ mixing
    targets = (targets - targets.mean(0)) / targets.std(0)
    noise = rng.uniform(0.0, 0.5) * (rng.random() < 0.5)
    targets += noise * rng.standard_normal(targets.shape)
    targets *= np.exp(rng.uniform(-1.0, 1.0))
    return _rescale(inputs, rng), targets.astype(np.float32)


def digits(task: DataShape, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw digits with permuted classes, and noisy labels in half of the runs."""
    images, labels = _pick_digits(task, rng)
    classes = rng.permutation(10)[labels]
    return _rescale(images, rng), noisy_labels(classes, 10, rng)


def digits_autoencoder(
    task: DataShape, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw digits to be reconstructed with their pixels in a permuted order."""
    images, _ = _pick_digits(task, rng)
    targets = images[:, rng.permutation(images.shape[1])]
    return _rescale(images, rng), targets


#: Sources of examples, by name.
SOURCES: dict[
    str, Callable[[DataShape, np.random.Generator], tuple[np.ndarray, np.ndarray]]
] = {
    "mixture": mixture,
    "sine": sine,
    "digits": digits,
    "digits-autoencoder": digits_autoencoder,
}

#: Sources whose targets are classes.
CLASSIFIED = ("mixture", "digits")


def _rescale(inputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scale inputs as a whole (0.2 to 5) and per column (log-normal), in place."""
    scale = np.exp(rng.uniform(np.log(0.2), np.log(5.0)))
    spread = rng.uniform(0.0, 0.7)
    columns = np.exp(spread * rng.standard_normal(inputs.shape[1]))
    inputs *= (scale * columns).astype(np.float32)
    return inputs


def noisy_labels(classes: np.ndarray, outputs: int, rng: np.random.Generator) -> np.ndarray:
    """Replace up to 40 % of the classes by random ones, in half of the runs."""
    rate = rng.uniform(0.0, 0.4) * (rng.random() < 0.5)
    wrong = rng.random(len(classes)) < rate
    return np.where(wrong, rng.integers(outputs, size=len(classes)), classes)


def _pick_digits(
    task: DataShape, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw different images of the task's split, with their labels."""
    images, labels = load_digits(task.split)
    total = task.num_train + task.num_validation
    if total > len(images):
        raise ValueError(
            f"num_train + num_validation is {total}, but the {task.split} split of "
            f"digits has {len(images)} images"
        )
    index = rng.permutation(len(images))[:total]
    return images[index], labels[index]


@cache
def load_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Load the digits of a split.

    Args:
        split: ``"train"`` or ``"test"``.

    Returns:
        Images ``[n, 64]`` with zero mean and unit variance over both splits, and labels
        ``[n]``.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    images, labels = read_digits()
    order = np.random.default_rng(0).permutation(len(images))
    part = order[:DIGITS_TRAIN] if split == "train" else order[DIGITS_TRAIN:]
    scaled = (images - images.mean()) / images.std()
    return scaled[part].astype(np.float32), labels[part].astype(np.int64)
