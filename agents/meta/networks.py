"""Small networks of the few-shot literature."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


class ProcessNetwork(nn.Module):
    """Encoder of examples, their mean, and a decoder that sees it beside each input.

    Args:
        inputs: of an example.
        outputs: of an example.
        width: units of each hidden layer, and numbers that the support is summed up in.
    """

    def __init__(self, inputs: int = 1, outputs: int = 1, width: int = 64) -> None:
        super().__init__()
        self.encoder = _encoder(inputs + outputs, width, width)
        self.decoder = _encoder(inputs + width, width, 2 * outputs)

    def forward(
        self, known: Tensor, values: Tensor, asked: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Means and deviations ``[B, n, outputs]`` at ``asked [B, n, inputs]``.

        Args:
            known, values: inputs and targets ``[B, k, ...]`` of the support.
            asked: inputs of the query.
        """
        summary = self.encoder(torch.cat([known, values], dim=-1)).mean(1, keepdim=True)
        wide = summary.expand(-1, asked.shape[1], -1)
        mean, spread = self.decoder(torch.cat([asked, wide], dim=-1)).chunk(2, dim=-1)
        return mean, 0.01 + F.softplus(spread)


def _encoder(inputs: int, width: int, outputs: int) -> nn.Sequential:
    layers = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))
