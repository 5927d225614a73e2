"""Recurrent networks that predict the next character, the tasks of the family ``rnn``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..checks import known
from . import sequence_layers as layers
from . import text
from .base import set_sizes
from .characters import PASSAGES, CharacterModel

__all__ = ["CELLS", "RNN", "sample_structure"]

#: Function that computes the state ``[B, n, w]`` at each position. The arguments are the
#: contribution ``[B, n, gates * w]`` of each input, the recurrent weights
#: ``[B, gates * w, w]`` and their bias ``[B, gates * w]``.
Recurrence = Callable[[tuple[Tensor, ...], Tensor, Tensor], list[Tensor]]


def _elman(driven: tuple[Tensor, ...], weight: Tensor, bias: Tensor) -> list[Tensor]:
    return layers.elman(tuple(x + bias.unsqueeze(1) for x in driven), weight)


def _gru(driven: tuple[Tensor, ...], weight: Tensor, bias: Tensor) -> list[Tensor]:
    """Compute the states of gated recurrent units (Cho et al., 2014)."""
    width, bias = weight.shape[-1], bias.unsqueeze(1)
    state = driven[0].new_zeros(*driven[0].shape[:2], width)
    states = []
    for step in driven:
        recurrent = torch.baddbmm(bias, state, weight.mT)
        gates = (step[..., : 2 * width] + recurrent[..., : 2 * width]).sigmoid()
        reset, keep = gates.chunk(2, -1)
        new = (step[..., 2 * width :] + reset * recurrent[..., 2 * width :]).tanh()
        state = new + keep * (state - new)
        states.append(state)
    return states


def _lstm(driven: tuple[Tensor, ...], weight: Tensor, bias: Tensor) -> list[Tensor]:
    """Compute the states of long short-term memory (Hochreiter and Schmidhuber, 1997)."""
    width, bias = weight.shape[-1], bias.unsqueeze(1)
    state = cell = driven[0].new_zeros(*driven[0].shape[:2], width)
    states = []
    for step in driven:
        gates = torch.baddbmm(step + bias, state, weight.mT)
        enter, forget, new, leave = gates.chunk(4, -1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        state = leave.sigmoid() * cell.tanh()
        states.append(state)
    return states


#: Recurrent cells by name, with their number of gates.
CELLS: dict[str, tuple[Recurrence, int]] = {
    "elman": (_elman, 1),
    "gru": (_gru, 3),
    "lstm": (_lstm, 4),
}


@dataclass(frozen=True)
class RNN(CharacterModel):
    r"""Train a recurrent network to predict the next character of a text.

    An embedding, ``depth`` recurrent layers and a linear layer, with the parameters of
    :class:`torch.nn.RNN` (Elman, 1990), :class:`torch.nn.GRU` (Cho et al., 2014) or
    :class:`torch.nn.LSTM` (Hochreiter and Schmidhuber, 1997) and torch's initialisation.
    The state is zero before the first character of a passage. For the data and the loss see
    :class:`~optenv.tasks.characters.CharacterModel`.

    Attributes:
        cell: ``"elman"``, ``"gru"`` or ``"lstm"``.
        embedding: size of a character's embedding.

    Example::

        env = gym.make("optenv/LearningRate-v0", tasks=RNN(cell="gru", width=64))
    """

    cell: str = "gru"
    embedding: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        known("cell", self.cell, CELLS)
        set_sizes(self, "embedding", "width", "depth")

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        width, inputs = self.width, self.embedding
        rows = CELLS[self.cell][1] * width
        shapes: list[tuple[int, ...]] = [(text.CHARACTERS, inputs)]
        for _ in range(self.depth):
            shapes += [(rows, inputs), (rows, width), (rows,), (rows,)]
            inputs = width
        return (*shapes, (text.CHARACTERS, width), (text.CHARACTERS,))

    @property
    def tables(self) -> int:
        return 1

    @property
    def multiplications(self) -> int:
        return 0

    def draw(self, index: int, rng: np.random.Generator) -> np.ndarray:
        shape = self.shapes[index]
        if index < self.tables:
            return rng.standard_normal(shape, np.float32)
        bound = 1.0 / math.sqrt(self.width)
        return rng.uniform(-bound, bound, shape)

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        # Positions before passages: each step of the recurrence then reads one block.
        return super().loss(params, inputs.mT, targets.mT)

    def logits(self, params: tuple[Tensor, ...], tokens: Tensor) -> Tensor:
        """Compute the logits of the next character at each position.

        Args:
            params: one tensor ``[B, *shape]`` per shape.
            tokens: characters ``[B, T, n]``, positions before passages.

        Returns:
            Logits ``[B, T * n, 96]``.
        """
        recurrence, rest = CELLS[self.cell][0], iter(params)
        hidden = layers.embed(next(rest), tokens)
        for _ in range(self.depth):
            from_input, from_state, bias, state_bias = (next(rest) for _ in range(4))
            driven = torch.baddbmm(
                bias.unsqueeze(1), hidden.flatten(1, 2), from_input.mT
            ).unflatten(1, tokens.shape[1:])
            states = recurrence(driven.unbind(1), from_state, state_bias)
            hidden = torch.stack(states, 1)
        return layers.linear(rest, hidden.flatten(1, 2))


def sample_structure(rng: np.random.Generator, split: str) -> RNN:
    """Draw a recurrent network; the splits have different texts, widths and cells."""
    cells = {"train": ("elman", "gru"), "test": ("elman", "gru"), "ood": ("lstm",)}[split]
    widths = {"train": (16, 32, 48, 64), "test": (24, 40, 56), "ood": (20, 36, 52)}[split]
    return RNN(
        cell=str(rng.choice(cells)),
        width=int(rng.choice(widths)),
        depth=int(rng.choice((1, 1, 2))),
        embedding=int(rng.choice((8, 16, 32))),
        length=int(rng.choice((16, 24, 32))),
        batch_size=int(rng.choice((4, 8, 16))),
        num_train=int(rng.choice(PASSAGES)),
        num_validation=128,
        split=split,
    )
