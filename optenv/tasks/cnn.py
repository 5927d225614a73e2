"""Convolutional classifiers of images, the tasks of the family ``cnn``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import known
from . import layers
from .base import set_sizes
from .examples import Batch
from .images import ImageTask, image_fields

__all__ = ["CNN", "NORMS", "sample_structure"]

#: Values of :attr:`CNN.norm`.
NORMS = ("batch", "group", "none")

#: Weight of a batch in the running statistics, as in :class:`torch.nn.BatchNorm2d`.
MOMENTUM = 0.1

#: Normalisation of the maps of one convolution: ``(maps, scale, shift) -> maps``.
Normalise = Callable[[Tensor, Tensor, Tensor], Tensor]


class Convolution(NamedTuple):
    """A convolution of the network.

    Attributes:
        inputs: channels of its input.
        outputs: channels of its output.
        stride: 1, or 2 where a stage begins.
        side: width and height of its output in pixels.
        residual: whether the input is added to the output.
    """

    inputs: int
    outputs: int
    stride: int
    side: int
    residual: bool


@dataclass(frozen=True)
class CNN(ImageTask):
    r"""Classify images with a small residual network.

    The first convolution has ``width`` channels. ``stages`` stages follow, each of
    ``depth`` convolutions. A stage after the first begins with another convolution, which
    halves the sides and doubles the channels. All have 3 × 3 pixels and are followed by the
    normalisation and the activation. The ``depth`` convolutions of a stage may be residual,

    .. math:: h_{l+1} = a(h_l + \mathrm{norm}(W_l * h_l)),

    as in He et al. (2016). The means over the four quarters of the last maps go to a linear
    layer. The loss is the mean cross-entropy.

    ``norm="batch"`` (Ioffe and Szegedy, 2015) works as :class:`torch.nn.BatchNorm2d`:
    training uses the statistics of the batch, evaluation the running statistics, which are
    part of the run's state. ``norm="group"`` (Wu and He, 2018) needs no such state.

    Attributes:
        width: channels of the first stage.
        stages: number of stages.
        depth: convolutions of each stage.
        residual: whether the ``depth`` convolutions of each stage are residual.
        norm: ``"batch"``, ``"group"`` or ``"none"``.
        norm_groups: number of groups of channels of ``norm="group"``; must divide
            ``width``.

    Example::

        task = optenv.tasks.CNN(source="shapes", side=12, width=8, norm="batch")
        env = gym.make("optenv/LearningRate-v0", tasks=task)
    """

    width: int = 8
    stages: int = 2
    depth: int = 1
    residual: bool = True
    norm: str = "group"
    norm_groups: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        set_sizes(self, "width", "stages", "depth", "norm_groups")
        known("norm", self.norm, NORMS)
        if self.norm == "group" and self.width % self.norm_groups:
            raise ValueError(
                f"width must be a multiple of norm_groups ({self.norm_groups}), "
                f"got {self.width}"
            )
        if self.convolutions[-1].side < 2:
            raise ValueError(
                f"stages must leave at least 2 of {self.side} pixels on a side, "
                f"got {self.stages}"
            )

    @property
    def num_classes(self) -> int:
        return self.classes

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """Convolutions of the network, in order."""
        side, width = self.side, self.width
        found = [Convolution(1, width, 1, side, False)]
        for stage in range(self.stages):
            if stage:
                side = -(-side // 2)
                found.append(Convolution(width, 2 * width, 2, side, False))
                width *= 2
            found += [Convolution(width, width, 1, side, self.residual)] * self.depth
        return tuple(found)

    @property
    def parts(self) -> tuple[layers.Part, ...]:
        parts: list[layers.Part] = []
        plain = self.norm == "none"
        for inputs, outputs, _, side, _ in self.convolutions:
            parts += layers.conv_parts(inputs, outputs, side, bias=plain)
            parts += [] if plain else layers.norm_parts(outputs)
        parts += layers.linear_parts(4 * self.convolutions[-1].outputs, self.classes)
        return tuple(parts)

    @property
    def buffers(self) -> int:
        return sum(self._statistics)

    @property
    def _statistics(self) -> tuple[int, ...]:
        """Number of running statistics of each convolution: means, then variances."""
        if self.norm != "batch":
            return ()
        return tuple(2 * convolution.outputs for convolution in self.convolutions)

    def init_buffers(self, runs: int) -> Tensor:
        parts = [torch.arange(size) >= size // 2 for size in self._statistics]
        start = torch.cat(parts) if parts else torch.empty(0)
        return start.float().repeat(runs, 1)

    def training_loss(
        self, params: tuple[Tensor, ...], batch: Batch, buffers: Tensor
    ) -> tuple[Tensor, Tensor]:
        after: list[Tensor] = []
        parts = iter(buffers.split(self._statistics, dim=1))

        def normalise(maps: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
            mean, variance = (half.flatten().clone() for half in next(parts).chunk(2, 1))
            # It overwrites mean and variance, which are copies.
            maps = F.batch_norm(
                maps, mean, variance, scale.flatten(), shift.flatten(), True, MOMENTUM
            )
            after.extend((mean.view_as(scale), variance.view_as(scale)))
            return maps

        loss = self._loss(params, batch, normalise)
        return loss, torch.cat(after, 1) if after else buffers

    def evaluation_loss(
        self, params: tuple[Tensor, ...], batch: Batch, buffers: Tensor
    ) -> Tensor:
        parts = iter(buffers.split(self._statistics, dim=1))

        def normalise(maps: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
            mean, variance = (half.flatten() for half in next(parts).chunk(2, 1))
            return F.batch_norm(maps, mean, variance, scale.flatten(), shift.flatten())

        return self._loss(params, batch, normalise)

    def _loss(
        self, params: tuple[Tensor, ...], batch: Batch, batch_norm: Normalise
    ) -> Tensor:
        """Compute the mean cross-entropy ``[B]``.

        Args:
            params, batch: see :meth:`training_loss`.
            batch_norm: normalisation of ``norm="batch"``, called once per convolution.
        """
        normalise = batch_norm if self.norm == "batch" else self._group_norm
        logits = self._logits(params, batch.inputs, normalise)
        # Classes before examples, which makes torch's log-softmax several times faster.
        return F.cross_entropy(logits.mT, batch.targets, reduction="none").mean(-1)

    def _group_norm(self, maps: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        groups = len(scale) * self.norm_groups
        return F.group_norm(maps, groups, scale.flatten(), shift.flatten())

    def _logits(
        self, params: tuple[Tensor, ...], images: Tensor, normalise: Normalise
    ) -> Tensor:
        """Compute logits ``[B, n, classes]`` of images ``[B, n, 1, S, S]``."""
        activation = layers.ACTIVATIONS[self.activation]
        remaining = iter(params)
        maps = layers.side_by_side(images)
        for convolution in self.convolutions:
            weight = next(remaining)
            bias = next(remaining) if self.norm == "none" else None
            new = layers.conv(maps, weight, bias, convolution.stride)
            if bias is None:
                new = normalise(new, next(remaining), next(remaining))
            maps = activation(maps + new if convolution.residual else new)
        pooled = layers.flat_maps(F.adaptive_avg_pool2d(maps, 2), len(images))
        return layers.linear(pooled, next(remaining), next(remaining))


def sample_structure(rng: np.random.Generator, split: str) -> CNN:
    """Draw a convolutional classifier; the splits have different widths.

    Structures of ``"ood"`` train on photographs, the others on textures, figures and
    digits.
    """
    widths = {"train": (4, 8, 16), "test": (6, 12), "ood": (10, 14)}[split]
    return CNN(
        **image_fields(rng, split),
        width=int(rng.choice(widths)),
        stages=int(rng.integers(1, 4)),
        depth=int(rng.integers(1, 3)),
        residual=bool(rng.random() < 0.6),
        norm=str(rng.choice(NORMS, p=(0.4, 0.4, 0.2))),
    )
