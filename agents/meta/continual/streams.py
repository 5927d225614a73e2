"""Streams of tasks for continual learning: one after the other, each example once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from optenv.checks import positive_int
from optenv.tasks.stacked import LossFunction


class Stream(NamedTuple):
    """``T`` tasks in the order in which they come: one stream, as a family draws it.

    Targets are integers ``[T, n]`` of classes, or numbers of the shape of the outputs.

    Attributes:
        inputs, targets: ``[T, n, ...]`` what is learned from, in order.
        test_inputs, test_targets: ``[T, m, ...]`` what each task is tested on.
    """

    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor


class StreamFamily(Protocol):
    """Where streams come from: :class:`DigitStream`, :class:`SineStream`, or one's own.

    One's own need not be a subclass, but have the two below. For
    :class:`~agents.meta.continual.oml.OML`, all its streams are to be of the same shapes.
    """

    @property
    def loss(self) -> str | LossFunction:
        """Name of the loss, a key of :data:`optenv.tasks.stacked.LOSSES`, or a function."""

    def sample(self, rng: np.random.Generator) -> Stream:
        """Draw a stream."""


@dataclass(frozen=True)
class DigitStream:
    """scikit-learn's digits, in each task turned or with other places of the pixels.

    Inputs ``[T, n, 64]``, 0 to 1; targets ``[T, n]``, integers from 0 to 9; tests ``[T, m,
    64]`` and ``[T, m]``. The loss is ``"cross_entropy"``.

    Attributes:
        kind: ``"rotated"``, by angles between 0 and 180 degrees in random order, or
            ``"permuted"``.
        tasks: ``T``.
        examples: of each task to learn from, ``n``.
        tests: of each task, ``m``.
        split: ``"train"`` or ``"test"``, which half of the digits; the halves share none.
            What learns or is tuned beforehand, as OML, does it on ``"train"``, and is
            tested on ``"test"``. Each half has examples and tests.
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

    Inputs ``[T, n, 1 + T]``: a number in [-5, 5], and which wave it is of, one-hot; targets
    ``[T, n, 1]``; tests alike, with ``m`` for ``n``. Amplitudes are in [0.1, 5], phases in
    [0, pi]. The loss is ``"mse"``. There is no split, for each stream has other waves.

    Attributes:
        tasks: waves, ``T``.
        examples: of each to learn from, ``n``.
        tests: of each, ``m``.
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
