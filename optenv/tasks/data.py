"""Examples that tasks train on: generated per run, or real images and tables.

A source is a function ``(task, generator) -> (inputs [N, d] float32, targets [N] int64
or [N, k] float32)`` with ``N = num_train + num_validation``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple, Protocol

import numpy as np

from .bundled import read_digits, read_table


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


class Table(NamedTuple):
    """Sizes of a table of scikit-learn.

    Attributes:
        rows: number of examples.
        inputs: number of columns.
        outputs: number of classes, or of regression targets.
        classified: whether the targets are classes.
    """

    rows: int
    inputs: int
    outputs: int
    classified: bool


#: Sources that are tables of scikit-learn. The benchmark evaluates and selects policies on
#: them, so no structure of a train or test split may use one.
TABLES = {
    "breast-cancer": Table(569, 30, 2, True),
    "wine": Table(178, 13, 3, True),
    "diabetes": Table(442, 10, 1, False),
}

#: Number of scikit-learn's digits (shuffled once, by a fixed seed) in the train split.
DIGITS_TRAIN = 1197


def mixture(task: DataShape, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw Gaussian mixtures with 1 to 3 clusters per class.

    Half of the runs have noisy labels.
    """
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


def table(
    name: str, task: DataShape, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw distinct rows of a table, with permuted classes if its targets are classes."""
    inputs, targets = load_table(name)
    index = rng.permutation(len(inputs))[: task.num_train + task.num_validation]
    targets = targets[index]
    if TABLES[name].classified:
        targets = rng.permutation(TABLES[name].outputs)[targets]
    return _rescale(inputs[index], rng), targets


#: Sources of examples, by name.
SOURCES: dict[
    str, Callable[[DataShape, np.random.Generator], tuple[np.ndarray, np.ndarray]]
] = {
    "mixture": mixture,
    "sine": sine,
    "digits": digits,
    "digits-autoencoder": digits_autoencoder,
    **{name: partial(table, name) for name in TABLES},
}

#: Sources whose targets are classes.
CLASSIFIED = (
    "mixture", "digits", *(name for name, each in TABLES.items() if each.classified),
)  # fmt: skip


def check_sizes(source: str, task: DataShape) -> None:
    """Check that the sizes of a task match its source, if the source is a table.

    Raises:
        ValueError: the task has other inputs or outputs, or more examples than the table.
    """
    if source not in TABLES:
        return
    sizes = TABLES[source]
    what = "classes" if sizes.classified else "regression targets"
    for name, given, valid, means in (
        ("inputs", task.inputs, sizes.inputs, "columns"),
        ("outputs", task.outputs, sizes.outputs, what),
    ):
        if given != valid:
            raise ValueError(
                f"{name} must be {valid} for source={source!r}, the number of its {means}, "
                f"got {given!r}"
            )
    total = task.num_train + task.num_validation
    if total > sizes.rows:
        raise ValueError(
            f"num_train + num_validation must be at most {sizes.rows} for "
            f"source={source!r}, the number of its rows, got {task.num_train} + "
            f"{task.num_validation} = {total}"
        )


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
    """Draw distinct images of the task's split, with their labels."""
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


@cache
def load_table(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Load a table of scikit-learn.

    Args:
        name: key of :data:`TABLES`.

    Returns:
        Inputs ``[n, d]``, whose columns have zero mean and unit variance, and targets:
        classes ``[n]``, or numbers ``[n, 1]`` standardised likewise.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    inputs, targets = read_table(name)
    inputs = _standardised(inputs)
    return inputs, targets if TABLES[name].classified else _standardised(targets[:, None])


def _standardised(values: np.ndarray) -> np.ndarray:
    return ((values - values.mean(0)) / values.std(0)).astype(np.float32)
