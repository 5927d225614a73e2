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

    def __init__(
        self, layer: Callable[..., nn.Module], units: int, width: int = 24
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, width)
        self.recurrent = layer(width, units, batch_first=True)
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

    def __init__(
        self, length: int = 32, width: int = 32, heads: int = 2, blocks: int = 1
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, width)
        self.position = nn.Embedding(length, width)
        stack = [Block(width, heads) for _ in range(blocks)]
        self.block = stack[0] if blocks == 1 else nn.Sequential(*stack)
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


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Make a 3 × 3 convolution without bias, which keeps the size at stride 1."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def resnet(
    classes: int, widths: Sequence[int] = (32, 64, 160), blocks: int = 2
) -> nn.Sequential:
    """Make a residual network with BatchNorm, ``[n, 1, side, side]`` to ``[n, classes]``.

    Each width is a stage of ``blocks`` residual blocks of two convolutions; all stages
    except the first begin with a convolution of stride 2.
    """
    layers: list[nn.Module] = [_conv(1, widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    before = widths[0]
    for width in widths:
        if width != before:
            layers += [_conv(before, width, 2), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [
            Residual(
                _conv(width, width), nn.BatchNorm2d(width), nn.ReLU(),
                _conv(width, width), nn.BatchNorm2d(width), nn.ReLU(),
            )
            for _ in range(blocks)
        ]  # fmt: skip
        before = width
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *pooled, nn.Linear(before, classes))


def conv_autoencoder(
    widths: Sequence[int] = (32, 128, 320), code: int = 64, side: int = 16
) -> nn.Sequential:
    """Make a convolutional autoencoder of pictures ``[n, 1, side, side]``, with SiLU.

    Each width halves the sides; the decoder gets a code of ``code`` numbers.
    """
    small = side // 2 ** len(widths)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise((1, *widths)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, padding=1), nn.SiLU()]
    numel = widths[-1] * small**2
    layers += [nn.Flatten(), nn.Linear(numel, code), nn.Linear(code, numel), nn.SiLU()]
    layers.append(nn.Unflatten(1, (widths[-1], small, small)))
    for inputs, outputs in itertools.pairwise((*reversed(widths), 1)):
        layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, padding=1), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


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
