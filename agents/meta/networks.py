"""Small networks of the few-shot literature."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Smallest standard deviation that :class:`ProcessNetwork` predicts.
MIN_DEVIATION = 0.01


def convolutional(ways: int | None, filters: int = 32, side: int = 28) -> nn.Sequential:
    """Make a network of four convolutions of stride 2 with batch norm, and a linear layer.

    It is the network for Omniglot in Finn et al. (2017), with half the filters. Batch norm
    uses the statistics of the batch, in tests too, so that predictions are transductive.

    Args:
        ways: number of classes; None leaves out the linear layer, for an embedding.
        filters: channels of each convolution.
        side: width and height of a picture in pixels.

    Returns:
        Module from pictures ``[n, 1, side, side]`` to logits ``[n, ways]`` or embeddings
        ``[n, d]``.
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
    """Make a multilayer perceptron on flattened inputs.

    Args:
        *sizes: sizes of all layers, from the inputs to the outputs.
        activation: class of the activations between linear layers.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


class ProcessNetwork(nn.Module):
    """Network of a conditional neural process (Garnelo et al., 2018).

    An encoder of each example of the support, the mean of their codes, and a decoder of the
    mean and an input of the query.

    Args:
        inputs: dimension of an input.
        outputs: dimension of a target.
        width: units of each hidden layer, and dimension of a code.

    Example:
        >>> import torch
        >>> network = ProcessNetwork(inputs=1, outputs=1, width=16)
        >>> x, y, query = torch.rand(2, 5, 1), torch.rand(2, 5, 1), torch.rand(2, 9, 1)
        >>> mean, deviation = network(x, y, query)
        >>> mean.shape, deviation.shape
        (torch.Size([2, 9, 1]), torch.Size([2, 9, 1]))
    """

    def __init__(self, inputs: int = 1, outputs: int = 1, width: int = 64) -> None:
        super().__init__()
        self.encoder = _three_layers(inputs + outputs, width, width)
        self.decoder = _three_layers(inputs + width, width, 2 * outputs)

    def forward(
        self, inputs: Tensor, targets: Tensor, query: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict a Gaussian for each input of the query.

        Args:
            inputs: ``[B, k, inputs]`` of the support.
            targets: ``[B, k, outputs]`` of the support.
            query: ``[B, n, inputs]``.

        Returns:
            Means and standard deviations ``[B, n, outputs]``.
        """
        codes = self.encoder(torch.cat([inputs, targets], dim=-1))
        code = codes.mean(1, keepdim=True).expand(-1, query.shape[1], -1)
        mean, spread = self.decoder(torch.cat([query, code], dim=-1)).chunk(2, dim=-1)
        return mean, MIN_DEVIATION + F.softplus(spread)


def _three_layers(inputs: int, width: int, outputs: int) -> nn.Sequential:
    layers = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))
