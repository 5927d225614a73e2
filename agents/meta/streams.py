"""Streams of tasks for continual learning: one after the other, each example once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from optenv.checks import positive_int


class Stream(NamedTuple):
    """``T`` tasks in the order in which they come.

    Attributes:
        inputs, targets: ``[T, n, ...]`` what is learned from, in order.
        test_inputs, test_targets: ``[T, m, ...]``.
    """

    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor


@dataclass(frozen=True)
class DigitStream:
    """scikit-learn's digits, in each task turned or with other places of the pixels.

    Inputs ``[n, 64]``, 0 to 1; targets ``[n]``. Streams for learning to learn and for tests
    have different digits.

    Attributes:
        kind: ``"rotated"``, by angles between 0 and 180 degrees in random order, or
            ``"permuted"``.
        tasks: ``T``.
        examples: of each task, ``n``.
        tests: ``m``.
        split: ``"train"`` or ``"test"``, which half of the digits.
        relabelled: whether each stream has other, random labels for the ten digits, the
            same in all its tasks, so that they have to be learned from it.
    """

    kind: str = "rotated"
    tasks: int = 10
    examples: int = 200
    tests: int = 200
    split: str = "test"
    relabelled: bool = False
    loss = "cross_entropy"

    def __post_init__(self) -> None:
        for name, valid in (
            ("kind", ("rotated", "permuted")),
            ("split", ("train", "test")),
        ):
            if getattr(self, name) not in valid:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}; valid: {', '.join(valid)}"
                )
        for name in ("tasks", "examples", "tests"):
            positive_int(name, getattr(self, name))
        most = len(_digits(self.split)[0])
        if self.examples + self.tests > most:
            raise ValueError(
                f"examples and tests must be at most {most} together, the digits of a "
                f"split, got {self.examples} and {self.tests}"
            )

    def sample(self, rng: np.random.Generator) -> Stream:
        """Draw a stream."""
        pictures, labels = _digits(self.split)
        angles = rng.permutation(np.linspace(0, 180, self.tasks, endpoint=False))
        names = rng.permutation(10) if self.relabelled else np.arange(10)
        inputs, targets = [], []
        for task in range(self.tasks):
            rows = rng.permutation(len(labels))[: self.examples + self.tests]
            chosen = pictures[rows]
            if self.kind == "rotated":
                chosen = _turned(chosen, float(angles[task]))
            else:
                chosen = chosen.reshape(-1, 64)[:, rng.permutation(64)]
            inputs.append(torch.from_numpy(chosen.reshape(-1, 64).astype(np.float32)))
            targets.append(torch.from_numpy(names[labels[rows]]))
        return _divided(torch.stack(inputs), torch.stack(targets), self.examples)


@dataclass(frozen=True)
class SineStream:
    """Sine waves, told apart by a number of the input (Javed & White, 2019).

    Inputs ``[n, 1 + T]``: a number in [-5, 5], and which wave it is of, one-hot; targets
    ``[n, 1]``. Amplitudes are in [0.1, 5], phases in [0, pi].

    Attributes:
        tasks: waves, ``T``.
        examples: of each, ``n``.
        tests: ``m``.
    """

    tasks: int = 10
    examples: int = 40
    tests: int = 50
    loss = "mse"

    def __post_init__(self) -> None:
        for name in ("tasks", "examples", "tests"):
            positive_int(name, getattr(self, name))

    def sample(self, rng: np.random.Generator) -> Stream:
        """Draw a stream."""
        count = self.examples + self.tests
        amplitude = rng.uniform(0.1, 5.0, (self.tasks, 1))
        phase = rng.uniform(0.0, math.pi, (self.tasks, 1))
        places = rng.uniform(-5.0, 5.0, (self.tasks, count))
        which = np.broadcast_to(
            np.eye(self.tasks)[:, None], (self.tasks, count, self.tasks)
        )
        inputs = np.concatenate([places[..., None], which], axis=2)
        targets = (amplitude * np.sin(places + phase))[..., None]
        x, y = (torch.from_numpy(p.astype(np.float32)) for p in (inputs, targets))
        return _divided(x, y, self.examples)


def _divided(inputs: Tensor, targets: Tensor, examples: int) -> Stream:
    return Stream(
        inputs[:, :examples], targets[:, :examples],
        inputs[:, examples:], targets[:, examples:],
    )  # fmt: skip


@cache
def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Every other digit: pictures ``[n, 8, 8]``, labels ``[n]``."""
    from sklearn.datasets import load_digits

    found = load_digits()
    rows = slice(0 if split == "train" else 1, None, 2)
    return found.images[rows] / 16.0, found.target[rows].astype(np.int64)


def _turned(pictures: np.ndarray, angle: float) -> np.ndarray:
    from scipy.ndimage import rotate

    return rotate(pictures, angle, axes=(1, 2), reshape=False, order=1)
