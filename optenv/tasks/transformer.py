"""Transformers that predict the next character, the tasks of the family ``transformer``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import sequence_layers as layers
from . import text
from .base import set_sizes
from .characters import PASSAGES, CharacterModel

__all__ = ["Transformer", "sample_structure"]

#: Standard deviation of initial embeddings.
EMBEDDING_SPREAD = 0.1


@dataclass(frozen=True)
class Transformer(CharacterModel):
    r"""Train a causal transformer to predict the next character of a text.

    Embeddings of characters and positions are added. Each of ``depth`` pre-norm blocks adds
    causal attention (Vaswani et al., 2017) and a perceptron with one hidden layer and GELU
    to the residual stream :math:`x`,

    .. math::
        x \leftarrow x + W_o \operatorname{softmax}\left(\frac{QK^\top}{\sqrt{d}} + M
        \right) V, \qquad x \leftarrow x + W_2 \operatorname{GELU}(W_1 \bar x + b_1) + b_2,

    with :math:`Q, K, V` linear in the normalised stream :math:`\bar x`, :math:`M` the
    causal mask and :math:`d` the width of a head. A layer norm and a linear layer, not tied
    to the embeddings, give the logits. Weights are initialised as in
    :class:`torch.nn.Linear`, biases with 0. For the data and the loss see
    :class:`~optenv.tasks.characters.CharacterModel`.

    Attributes:
        heads: number of attention heads; must divide ``width``.
        expansion: hidden units of a block's perceptron, as a multiple of the width.

    Example::

        env = gym.make("optenv/LearningRate-v0", tasks=Transformer(width=48, depth=2))
    """

    heads: int = 2
    expansion: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        set_sizes(self, "heads", "expansion")
        if self.width % self.heads:
            raise ValueError(f"heads must divide width ({self.width}), got {self.heads!r}")

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        w, inner = self.width, self.expansion * self.width
        norm = ((w,), (w,))
        attention = ((3 * w, w), (3 * w,), (w, w), (w,))
        perceptron = ((inner, w), (inner,), (w, inner), (w,))
        block = (*norm, *attention, *norm, *perceptron)
        first, last = ((text.CHARACTERS, w), (self.length, w)), (text.CHARACTERS, w)
        return (*first, *block * self.depth, *norm, last, last[:1])

    @property
    def tables(self) -> int:
        return 2

    @property
    def multiplications(self) -> int:
        # Scores of all pairs of positions, and the sums of values weighted by them.
        return 2 * self.depth * self.length**2 * self.width

    def draw(self, index: int, rng: np.random.Generator) -> np.ndarray:
        shape = self.shapes[index]
        if index < self.tables:
            return EMBEDDING_SPREAD * rng.standard_normal(shape, np.float32)
        if len(shape) == 2:
            bound = 1.0 / math.sqrt(shape[1])
            return rng.uniform(-bound, bound, shape)
        return np.full(shape, 1.0 if self._is_scale(index) else 0.0)

    def _is_scale(self, index: int) -> bool:
        """Return True for the scale of a layer norm."""
        if index == len(self.shapes) - 4:
            return True
        return (index - self.tables) % 12 in (0, 6) and index < len(self.shapes) - 4

    def logits(self, params: tuple[Tensor, ...], tokens: Tensor) -> Tensor:
        rest = iter(params)
        embedded = layers.embed(next(rest), tokens) + next(rest).unsqueeze(1)
        hidden = embedded.flatten(1, 2)
        above = torch.ones(self.length, self.length, dtype=torch.bool, device=hidden.device)
        mask = torch.zeros_like(above, dtype=hidden.dtype)
        mask = mask.masked_fill(above.triu(1), -math.inf)
        for _ in range(self.depth):
            hidden = hidden + self._attention(rest, layers.norm(rest, hidden), mask)
            inner = F.gelu(layers.linear(rest, layers.norm(rest, hidden)))
            hidden = hidden + layers.linear(rest, inner)
        return layers.linear(rest, layers.norm(rest, hidden))

    def _attention(self, rest: Iterator[Tensor], hidden: Tensor, mask: Tensor) -> Tensor:
        """Apply causal attention within passages.

        Plain operations have derivatives of every order, torch's fused attention only the
        first.

        Args:
            rest: weights and biases of queries, keys and values, then of the output.
            hidden: ``[B, n * T, w]``.
            mask: added to the scores, ``[T, T]``.
        """
        runs, rows, width = hidden.shape
        size = (runs, rows // self.length, self.length, 3, self.heads, width // self.heads)
        # [3, B, n, heads, T, width of a head], then one batch of matrices for all.
        parts = layers.linear(rest, hidden).view(size).permute(3, 0, 1, 4, 2, 5)
        query, key, value = parts.flatten(1, 3).unbind(0)
        scores = torch.baddbmm(mask, query, key.mT, alpha=size[-1] ** -0.5)
        mixed = torch.bmm(scores.softmax(-1), value)
        mixed = mixed.view(runs, -1, self.heads, self.length, size[-1]).transpose(2, 3)
        return layers.linear(rest, mixed.reshape(runs, rows, width))


def sample_structure(rng: np.random.Generator, split: str) -> Transformer:
    """Draw a transformer; the splits have different texts, widths and, for OOD, depths."""
    widths = {"train": (16, 32, 48, 64), "test": (24, 40, 56), "ood": (20, 36, 80)}[split]
    return Transformer(
        width=int(rng.choice(widths)),
        heads=int(rng.choice((1, 2, 4))),
        depth=int(rng.choice((3, 4) if split == "ood" else (1, 2))),
        length=int(rng.choice((40, 48) if split == "ood" else (16, 24, 32))),
        batch_size=int(rng.choice((4, 8, 16))),
        num_train=int(rng.choice(PASSAGES)),
        num_validation=128,
        split=split,
    )
