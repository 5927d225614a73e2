"""Networks of the held-out tasks and of the selection tasks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from optenv.tasks.text import CHARACTERS


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy, in nats, of logits ``[..., C]`` and classes."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


class CharRecurrent(nn.Module):
    """Character model: one recurrent layer, ``[n, T]`` to ``[n, T, 96]``."""

    def __init__(self, layer: Callable[..., nn.Module], units: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, 24)
        self.recurrent = layer(24, units, batch_first=True)
        self.readout = nn.Linear(units, CHARACTERS)

    def forward(self, codes: Tensor) -> Tensor:
        states, _ = self.recurrent(self.embedding(codes))
        return self.readout(states)


class Residual(nn.Module):
    """Residual connection ``x + f(x)`` around a sequence of layers."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def small_context_model(length: int, width: int) -> nn.Module:
    """Make a model of the next of ``[n, length]`` characters: one hidden layer, ReLU."""
    return nn.Sequential(
        nn.Embedding(CHARACTERS, 8),
        nn.Flatten(),
        nn.Linear(8 * length, width),
        nn.ReLU(),
        nn.Linear(width, CHARACTERS),
    )


def context_model(length: int, width: int = 64, blocks: int = 2) -> nn.Module:
    """Make a model of the next of ``[n, length]`` characters: a pre-norm residual MLP."""
    return nn.Sequential(
        nn.Embedding(CHARACTERS, 16),
        nn.Flatten(),
        nn.Linear(16 * length, width),
        *(
            Residual(
                nn.LayerNorm(width),
                nn.Linear(width, 2 * width),
                nn.GELU(),
                nn.Linear(2 * width, width),
            )
            for _ in range(blocks)
        ),
        nn.LayerNorm(width),
        nn.Linear(width, CHARACTERS),
    )


def plain_convnet() -> nn.Module:
    """Make two convolutions without normalisation, ``[n, 1, 10, 10]`` to ``[n, 3]``."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 3),
        nn.SiLU(),
        nn.Conv2d(12, 16, 3, stride=2),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(16 * 3 * 3, 3),
    )


class Block(nn.Module):
    """Pre-norm transformer block (causal attention, GELU), ``[n, T, width]``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        projected = self.attention_in(self.attention_norm(x))
        query, key, value = projected.unflatten(-1, (3, self.heads, -1)).permute(
            2, 0, 3, 1, 4
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attention_out(mixed.transpose(1, 2).flatten(2))
        return x + self.feed_forward(x)


class CharTransformer(nn.Module):
    """Character model: causal transformer, ``[n, T]`` to ``[n, T, 96]``."""

    def __init__(self, length: int = 32, width: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, width)
        self.position = nn.Embedding(length, width)
        self.block = Block(width, heads)
        self.readout = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, CHARACTERS))

    def forward(self, codes: Tensor) -> Tensor:
        x = self.embedding(codes) + self.position.weight[: codes.shape[1]]
        return self.readout(self.block(x))


def convnet(side: int = 12, classes: int = 2) -> nn.Sequential:
    """Make two convolutions with BatchNorm, ``[n, 1, side, side]`` to ``[n, classes]``."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * ((side - 3) // 2) ** 2, classes),
    )


def perceptron(
    sizes: Sequence[int], activation: type[nn.Module], norm: bool = False
) -> nn.Module:
    """Make fully connected layers of these sizes, with LayerNorm if ``norm``."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes[:-1]):
        layers.append(nn.Linear(inputs, outputs))
        layers += [nn.LayerNorm(outputs)] * norm
        layers.append(activation())
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))
