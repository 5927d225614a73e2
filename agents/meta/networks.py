"""Small networks of the few-shot literature."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def convolutional(ways: int | None, filters: int = 32, side: int = 28) -> nn.Sequential:
    """Four convolutions of stride 2, normalised by their batch, and a linear layer.

    As for Omniglot in Finn et al. (2017), with half their filters. Statistics are those of
    the batch, in tests too: what is classified together is normalised together
    (transductive).

    Args:
        ways: classes; None leaves the linear layer out, for an embedding.
        filters: of each convolution.
        side: pixels of a picture.
    """
    layers: list[nn.Module] = []
    for i in range(4):
        layers += [
            nn.Conv2d(filters if i else 1, filters, 3, stride=2, padding=1),
            nn.BatchNorm2d(filters, track_running_stats=False),
            nn.ReLU(),
        ]
        side = -(-side // 2)
    head = [] if ways is None else [nn.Linear(filters * side * side, ways)]
    return nn.Sequential(*layers, nn.Flatten(), *head)


def perceptron(*sizes: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these sizes, inputs and outputs included, on flattened inputs."""
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])
