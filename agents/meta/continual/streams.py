"""Streams for continual learning: tasks in sequence, each example once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from optenv.checks import known, positive_int
from optenv.tasks.stacked import LossFunction


class Stream(NamedTuple):
    """``T`` tasks in the order in which they are learned.

    Targets are class indices ``[T, n]``, or numbers of the shape of the outputs.

    Attributes:
        inputs, targets: ``[T, n, ...]`` examples to learn from, in order.
        test_inputs, test_targets: ``[T, m, ...]`` test examples of each task.
    """

    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor


def check_stream(stream: Stream) -> Stream:
    """Return a stream whose parts are tensors that fit together.

    Raises:
        TypeError: a part is missing, or not a tensor.
        ValueError: parts differ in the number of tasks or examples, or are empty.
    """
    parts: list[Any] = [getattr(stream, name, None) for name in Stream._fields]
    if not all(isinstance(part, Tensor) for part in parts):
        hint = "; draw one by its sample(rng)" if hasattr(stream, "sample") else ""
        raise TypeError(
            "a stream must be a meta.Stream, with tensors "
            f"{', '.join(Stream._fields)}, got {stream!r}{hint}"
        )
    checked = Stream(*parts)
    x, y, *tests = (tuple(part.shape[:2]) for part in checked)
    if x != y or tests[0] != tests[1] or x[:1] != tests[0][:1] or len(x) < 2:
        raise ValueError(
            "inputs and targets of a stream must be [tasks, examples, ...], of as many "
            "tasks and examples, got "
            + ", ".join(f"{name} {list(x.shape)}" for name, x in checked._asdict().items())
        )
    if 0 in (*x, *tests[0]):
        raise ValueError(
            "a stream must have at least one task, example and test, got "
            f"{x[0]}, {x[1]} and {tests[0][1]}"
        )
    return checked


class StreamFamily(Protocol):
    """Distribution of streams: :class:`DigitStream`, :class:`SineStream`, or your own.

    Your own needs the two members below, and no base class. For
    :class:`~agents.meta.OML`, all its streams have the same shapes.
    """

    @property
    def loss(self) -> str | LossFunction:
        """Name of the loss, a key of :data:`optenv.tasks.stacked.LOSSES`, or a function."""

    def sample(self, rng: np.random.Generator) -> Stream:
        """Sample a stream."""


@dataclass(frozen=True)
class DigitStream:
    """scikit-learn's digits, with rotated or permuted pixels in each task.

    Streams have float32 inputs ``[T, n, 64]`` from 0 to 1 and int64 targets ``[T, n]`` from
    0 to 9, and tests ``[T, m, 64]`` and ``[T, m]``. The loss is the cross entropy.

    Attributes:
        kind: ``"rotated"``, by angles from 0 to below 180 degrees in random order, or
            ``"permuted"``, by a random permutation of the pixels for each task.
        tasks: number of tasks ``T``.
        examples: examples of each task to learn from, ``n``.
        tests: test examples of each task, ``m``.
        split: half of the digits, ``"train"`` or ``"test"``; the halves are disjoint.
            Learners that are trained or tuned beforehand, such as OML, use ``"train"`` for
            that, and are tested on ``"test"``. Each half has examples to learn from and
            tests.
        relabelled: whether to permute the labels at random, in the same way in all tasks of
            a stream, so that they have to be learned from the stream.

    Raises:
        ValueError: a value is not valid, or there are not enough digits.

    Example:
        >>> import numpy as np
        >>> stream = DigitStream("permuted", tasks=3, examples=50, tests=20)
        >>> stream.sample(np.random.default_rng(0)).inputs.shape
        torch.Size([3, 50, 64])
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
            known(name, getattr(self, name), valid)
        for name in ("tasks", "examples", "tests"):
            positive_int(name, getattr(self, name))
        available = len(_load_digits(self.split)[0])
        if self.examples + self.tests > available:
            raise ValueError(
                f"examples and tests must be at most {available} together, the digits of a "
                f"split, got {self.examples} and {self.tests}"
            )

    def sample(self, rng: np.random.Generator) -> Stream:
        """Sample a stream."""
        pictures, labels = _load_digits(self.split)
        # 1. The rotations and labels of this stream.
        angles = rng.permutation(np.linspace(0, 180, self.tasks, endpoint=False))
        new_labels = rng.permutation(10) if self.relabelled else np.arange(10)
        # 2. The digits of each task.
        inputs, targets = [], []
        for task in range(self.tasks):
            rows = rng.permutation(len(labels))[: self.examples + self.tests]
            chosen = pictures[rows]
            if self.kind == "rotated":
                chosen = _rotate(chosen, float(angles[task]))
            else:
                chosen = chosen.reshape(-1, 64)[:, rng.permutation(64)]
            inputs.append(torch.from_numpy(chosen.reshape(-1, 64).astype(np.float32)))
            targets.append(torch.from_numpy(new_labels[labels[rows]]))
        return _split(torch.stack(inputs), torch.stack(targets), self.examples)


@dataclass(frozen=True)
class SineStream:
    r"""Sine waves :math:`y = a \sin(x + b)`, with the wave's index as input.

    As in Javed & White (2019). Streams have inputs ``[T, n, 1 + T]``: :math:`x` in [-5, 5]
    and the one-hot index of the wave; targets ``[T, n, 1]``; tests of the same shapes with
    ``m`` for ``n``. Amplitudes are in [0.1, 5], phases in [0, pi]. The loss is the mean
    squared error. There is no split, for each stream has new waves.

    Attributes:
        tasks: number of waves, ``T``.
        examples: examples of each wave to learn from, ``n``.
        tests: test examples of each wave, ``m``.

    Raises:
        ValueError: a number is not positive.

    Example:
        >>> import numpy as np
        >>> SineStream(tasks=4).sample(np.random.default_rng(0)).inputs.shape
        torch.Size([4, 40, 5])
    """

    tasks: int = 10
    examples: int = 40
    tests: int = 50
    loss = "mse"

    def __post_init__(self) -> None:
        for name in ("tasks", "examples", "tests"):
            positive_int(name, getattr(self, name))

    def sample(self, rng: np.random.Generator) -> Stream:
        """Sample a stream."""
        count = self.examples + self.tests
        amplitude = rng.uniform(0.1, 5.0, (self.tasks, 1))
        phase = rng.uniform(0.0, math.pi, (self.tasks, 1))
        positions = rng.uniform(-5.0, 5.0, (self.tasks, count))
        index = np.broadcast_to(
            np.eye(self.tasks)[:, None], (self.tasks, count, self.tasks)
        )
        inputs = np.concatenate([positions[..., None], index], axis=2)
        targets = (amplitude * np.sin(positions + phase))[..., None]
        x, y = (torch.from_numpy(p.astype(np.float32)) for p in (inputs, targets))
        return _split(x, y, self.examples)


def _split(inputs: Tensor, targets: Tensor, examples: int) -> Stream:
    """Return a stream with the first ``examples`` of each task to learn from."""
    return Stream(
        inputs[:, :examples], targets[:, :examples],
        inputs[:, examples:], targets[:, examples:],
    )  # fmt: skip


@cache
def _load_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return every other digit: pictures ``[n, 8, 8]`` and labels ``[n]``."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    rows = slice(0 if split == "train" else 1, None, 2)
    return bunch.images[rows] / 16.0, bunch.target[rows].astype(np.int64)


def _rotate(pictures: np.ndarray, angle: float) -> np.ndarray:
    from scipy.ndimage import rotate

    return rotate(pictures, angle, axes=(1, 2), reshape=False, order=1)
