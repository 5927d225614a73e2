"""Layers of networks whose parameters are stacked over runs, and their initial values.

Convolutions take all runs at once as groups of one convolution: the feature maps of a batch
are ``[n, B * C, H, W]``, those of run ``b`` from channel ``b * C``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "ACTIVATIONS",
    "Part",
    "conv",
    "conv_parts",
    "draw",
    "flat_maps",
    "linear",
    "linear_parts",
    "maps_of",
    "multiplications",
    "norm_parts",
    "perceptron",
    "perceptron_parts",
    "side_by_side",
]

#: Activations, by name.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
}


class Part(NamedTuple):
    """A parameter of a network.

    Attributes:
        kind: ``"weight"``, with random initial values; ``"zero"`` (biases, shifts) or
            ``"one"`` (scales), with that initial value.
        shape: shape of one run's parameter.
        places: number of positions of an example at which a weight is used.
        gain: factor of a weight's initial values.
    """

    kind: str
    shape: tuple[int, ...]
    places: int = 1
    gain: float = 1.0


def linear_parts(inputs: int, outputs: int, gain: float = 1.0) -> list[Part]:
    """Return weight and bias of a linear layer, as in :class:`torch.nn.Linear`."""
    return [Part("weight", (outputs, inputs), gain=gain), Part("zero", (outputs,))]


def perceptron_parts(sizes: Sequence[int], gain: float = 1.0) -> list[Part]:
    """Return the parameters of a perceptron.

    Args:
        sizes: units of each layer, inputs and outputs included.
        gain: factor of the initial weights of the last layer.
    """
    parts: list[Part] = []
    for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
        parts += linear_parts(inputs, outputs, gain if layer == len(sizes) - 2 else 1.0)
    return parts


def conv_parts(inputs: int, outputs: int, side: int, bias: bool = True) -> list[Part]:
    """Return the parameters of a 3 × 3 convolution, as in :class:`torch.nn.Conv2d`.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        side: width and height of the output in pixels.
        bias: whether there is a bias.
    """
    weight = Part("weight", (outputs, inputs, 3, 3), side * side)
    return [weight, Part("zero", (outputs,))] if bias else [weight]


def norm_parts(channels: int) -> list[Part]:
    """Return scale and shift of a normalisation."""
    return [Part("one", (channels,)), Part("zero", (channels,))]


def draw(
    parts: Sequence[Part], rng: np.random.Generator, gain: float, activation: str
) -> np.ndarray:
    """Draw the flat initial parameters ``[P]`` of a run, float32.

    Weights are uniform, with the variance of He et al. (2015) for ``"relu"`` and of LeCun
    et al. (1998) otherwise.

    Args:
        parts: the parameters.
        rng: generator.
        gain: factor of all weights.
        activation: key of :data:`ACTIVATIONS`.
    """
    spread = gain * math.sqrt(6.0 if activation == "relu" else 3.0)
    drawn = []
    for part in parts:
        if part.kind == "weight":
            bound = part.gain * spread / math.sqrt(math.prod(part.shape[1:]))
            drawn.append(rng.uniform(-bound, bound, math.prod(part.shape)))
        else:
            drawn.append(np.full(part.shape, 1.0 if part.kind == "one" else 0.0))
    return np.concatenate(drawn).astype(np.float32)


def multiplications(parts: Sequence[Part]) -> int:
    """Count the multiplications by weights in the forward pass of one example."""
    return sum(math.prod(p.shape) * p.places for p in parts if p.kind == "weight")


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply linear layers to ``x [B, n, inputs]``; returns ``[B, n, outputs]``."""
    # In this order gradients get the same memory layout as the weights.
    return torch.baddbmm(bias.unsqueeze(2), weight, x.mT).mT


def perceptron(
    x: Tensor, params: Iterator[Tensor], layers: int, activation: Callable[[Tensor], Tensor]
) -> Tensor:
    """Apply linear layers with an activation between them.

    Args:
        x: ``[B, n, inputs]``.
        params: iterator over weights and biases; a weight and a bias per layer are taken.
        layers: number of linear layers.
        activation: function applied after every layer except the last.
    """
    for layer in range(layers):
        x = linear(x, next(params), next(params))
        if layer < layers - 1:
            x = activation(x)
    return x


def conv(maps: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1) -> Tensor:
    """Apply the 3 × 3 convolution of each run, with zero padding.

    Args:
        maps: feature maps, ``[n, B * inputs, H, W]``.
        weight: ``[B, outputs, inputs, 3, 3]``.
        bias: ``[B, outputs]``, or None.
        stride: step of the kernel in pixels.

    Returns:
        Feature maps ``[n, B * outputs, H / stride, W / stride]``, rounded up.
    """
    return F.conv2d(
        maps,
        weight.flatten(0, 1),
        None if bias is None else bias.flatten(),
        stride=stride,
        padding=1,
        groups=len(weight),
    )


def side_by_side(images: Tensor) -> Tensor:
    """Lay out images ``[B, n, C, H, W]`` of the runs as maps ``[n, B * C, H, W]``."""
    return images.transpose(0, 1).flatten(1, 2)


def flat_maps(maps: Tensor, runs: int) -> Tensor:
    """Return maps ``[n, B * C, H, W]`` as vectors ``[B, n, C * H * W]``."""
    return maps.unflatten(1, (runs, -1)).flatten(2).transpose(0, 1)


def maps_of(vectors: Tensor, side: int) -> Tensor:
    """Return vectors ``[B, n, C * side * side]`` as maps ``[n, B * C, side, side]``."""
    return vectors.transpose(0, 1).unflatten(2, (-1, side, side)).flatten(1, 2)
