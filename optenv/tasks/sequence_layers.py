"""Layers of networks on sequences, whose parameters are stacked over runs.

Convolutions and perceptrons are in :mod:`optenv.tasks.layers`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cross_entropy", "elman", "embed", "linear", "norm"]


def embed(table: Tensor, tokens: Tensor) -> Tensor:
    """Embed tokens by one look-up for all runs.

    Args:
        table: embeddings of each run, ``[B, V, e]``.
        tokens: ``[B, n, T]``.

    Returns:
        Embeddings ``[B, n, T, e]``.
    """
    runs = torch.arange(len(table), device=table.device).view(-1, 1, 1)
    return F.embedding(tokens + runs * table.shape[1], table.flatten(0, 1))


def linear(rest: Iterator[Tensor], x: Tensor) -> Tensor:
    """Apply a linear layer to ``[B, n, i]``; weight and bias are next in ``rest``."""
    weight, bias = next(rest), next(rest)
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)


def norm(rest: Iterator[Tensor], x: Tensor) -> Tensor:
    """Apply a layer norm to ``[B, n, i]``; scale and shift are next in ``rest``."""
    scale, shift = next(rest), next(rest)
    return F.layer_norm(x, x.shape[-1:]) * scale.unsqueeze(1) + shift.unsqueeze(1)


def elman(driven: tuple[Tensor, ...], from_state: Tensor) -> list[Tensor]:
    """Compute the states of a tanh recurrence (Elman, 1990) that starts at zero.

    Args:
        driven: for each position the contribution of its input and the biases,
            ``[B, n, w]``.
        from_state: recurrent weights ``[B, w, w]``.

    Returns:
        The state at each position, ``[B, n, w]``.
    """
    state = driven[0].tanh()
    states = [state]
    for step in driven[1:]:
        state = torch.baddbmm(step, state, from_state.mT).tanh()
        states.append(state)
    return states


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Compute the mean cross-entropy ``[B]`` in nats.

    Args:
        logits: ``[B, n, V]``.
        classes: ``[B, n]``.
    """
    # Classes before examples, which makes torch's log-softmax several times faster.
    return F.cross_entropy(logits.mT, classes, reduction="none").mean(-1)
