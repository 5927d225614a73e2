"""Base of models that predict the next character of a text."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..checks import known
from . import sequence_layers as layers
from . import text
from .base import Task, set_sizes
from .examples import Data, order_keys

__all__ = ["PASSAGES", "CharacterModel"]

#: Numbers of training passages to choose from: from few, which a run memorises, to more
#: than most runs see.
PASSAGES = (128, 512, 2048, 16384)


@dataclass(frozen=True)
class CharacterModel(Task):
    r"""Base of models that predict each character of a text from those before it.

    An example is a passage of ``length + 1`` characters. The loss is the mean cross-entropy
    in nats over its positions, :math:`-\frac1T \sum_t \log p(c_{t+1} \mid c_1 \dots c_t)`.
    Each run draws its own passages, those for validation from the last tenth of each file.

    Subclasses implement :attr:`shapes`, :attr:`multiplications`, :meth:`logits` and
    :meth:`draw`; the first parameters are :attr:`tables`.

    Attributes:
        split: files of the standard library to draw from, a key of
            :data:`optenv.tasks.text.FILES`.
        path: text file to draw from instead; bytes that are neither printable ASCII nor a
            newline are read as blanks.
        length: number of characters that the model reads of a passage, :math:`T`.
        width: units of the hidden layers.
        depth: number of layers.
        init_spread: standard deviation of the log gain of a run's initial weights.
    """

    split: str = "train"
    path: str | None = None
    length: int = 32
    width: int = 32
    depth: int = 1
    init_spread: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        set_sizes(self, "length", "width", "depth")
        known("split", self.split, text.FILES)
        if self.path is None:
            return
        if self.split != "train":
            raise ValueError(
                f"split={self.split!r} chooses files of the standard library: leave it out "
                f"with path={self.path!r}"
            )
        object.__setattr__(self, "path", str(self.path))
        codes, border = self._text
        if min(border, len(codes) - border) <= self.length:
            raise ValueError(
                f"text file {self.path!r} is too short: its first {border} characters are "
                f"for training and the other {len(codes) - border} for validation, and "
                f"both must be more than length ({self.length})"
            )

    @property
    @abstractmethod
    def tables(self) -> int:
        """Number of parameters that are embeddings, the first ones of :attr:`shapes`."""

    @property
    @abstractmethod
    def multiplications(self) -> int:
        """Number of multiplications for each passage, in addition to those by weights."""

    @abstractmethod
    def logits(self, params: tuple[Tensor, ...], tokens: Tensor) -> Tensor:
        """Compute the logits of the next character at each position.

        Args:
            params: one tensor ``[B, *shape]`` per shape.
            tokens: characters ``[B, n, T]``, or in an order that the subclass's
                :meth:`loss` chooses.

        Returns:
            Logits ``[B, n * T, 96]``, in the order of the tokens.
        """

    @abstractmethod
    def draw(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """Draw initial values of a parameter, in its shape.

        Args:
            index: index of the parameter in :attr:`shapes`.
            rng: generator of the run.
        """

    @property
    def _text(self) -> tuple[Tensor, int]:
        if self.path is None:
            return text.of_split(self.split)
        return text.of_file(self.path)

    @property
    def places(self) -> tuple[int, int]:
        """Number of passages for training and for validation; passages overlap."""
        codes, border = self._text
        return border - self.length, len(codes) - border - self.length

    @property
    def roles(self) -> tuple[str, ...]:
        return (*["embeddings"] * self.tables, *super().roles[self.tables :])

    @property
    def example_numbers(self) -> int:
        return 4 * self.length  # a character is an int64

    @property
    def shares_examples(self) -> bool:
        return True

    @property
    def work(self) -> int:
        used = (shape for shape in self.shapes[self.tables :] if len(shape) > 1)
        weights = sum(map(math.prod, used))
        return self.batch_size * (weights * self.length + self.multiplications)

    @property
    def reward_examples(self) -> int:
        # Each passage has a loss at each of its positions.
        return 32

    def sample(self, generators: Sequence[np.random.Generator]) -> Data:
        codes, border = self._text
        # An example is a place in the text. Passages are views of it, which overlap.
        inputs = codes[:-1].unfold(0, self.length, 1)
        targets = codes[1:].unfold(0, self.length, 1)
        places = [
            np.concatenate(
                [
                    g.integers(border - self.length, size=self.num_train),
                    g.integers(border, len(inputs), size=self.num_validation),
                ]
            )
            for g in generators
        ]
        return Data(
            inputs,
            targets,
            torch.from_numpy(np.stack(places)),
            order_keys(generators),
            self.num_train,
            shared=True,
        )

    def init(self, generators: Sequence[np.random.Generator]) -> Tensor:
        return torch.from_numpy(np.stack([self._init(g) for g in generators]))

    def _init(self, rng: np.random.Generator) -> np.ndarray:
        gain = math.exp(self.init_spread * rng.standard_normal())
        parts = []
        for index, shape in enumerate(self.shapes):
            weight = index >= self.tables and len(shape) == 2
            part = self.draw(index, rng).astype(np.float32)
            parts.append(part.ravel() * np.float32(gain if weight else 1.0))
        return np.concatenate(parts)

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        return layers.cross_entropy(self.logits(params, inputs), targets.flatten(1))
