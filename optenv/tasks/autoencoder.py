"""Autoencoders and variational autoencoders of images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ..checks import known, positive
from . import layers
from .base import set_sizes
from .examples import Batch
from .images import ImageTask, image_fields

__all__ = ["NETWORKS", "VAE", "Autoencoder", "sample_autoencoder", "sample_vae"]

#: Values of :attr:`Autoencoder.network`.
NETWORKS = ("perceptron", "convolutional")

#: Log variance of the likelihood per unit of its parameter. It changes much during
#: training: without this factor, learning rates that suit the weights would need thousands
#: of updates for it.
VARIANCE_GAIN = 10.0


@dataclass(frozen=True)
class Autoencoder(ImageTask):
    """Reconstruct images from a code of a few numbers (Hinton and Salakhutdinov, 2006).

    The loss is half the mean squared error of a pixel. Encoder and decoder are each other's
    mirror image: perceptrons with ``depth`` hidden layers; or ``depth`` convolutions of
    3 × 3 pixels. Each convolution of the encoder halves the sides and doubles the channels;
    the decoder doubles the sides before each convolution.

    Attributes:
        network: ``"perceptron"`` or ``"convolutional"``.
        width: units of each hidden layer, or channels of the first convolution.
        depth: hidden layers or convolutions of the encoder.
        latent: numbers of a code.

    Example::

        task = optenv.tasks.Autoencoder(source="shapes", side=12, latent=8)
        env = gym.make("optenv/LearningRate-v0", tasks=task)
    """

    network: str = "perceptron"
    width: int = 32
    depth: int = 1
    latent: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        known("network", self.network, NETWORKS)
        set_sizes(self, "width", "depth", "latent")
        if self.network == "convolutional" and self.side % 2**self.depth:
            raise ValueError(
                f"side must be a multiple of {2**self.depth} for {self.depth} "
                f"convolutions, got {self.side}"
            )

    @property
    def _code(self) -> int:
        """Number of outputs of the encoder."""
        return self.latent

    @property
    def _code_gain(self) -> float:
        """Factor of the initial weights of the encoder's last layer."""
        return 1.0

    @property
    def _channels(self) -> tuple[int, ...]:
        """Channels of the maps of the encoder, the image included."""
        return (1, *(self.width * 2**level for level in range(self.depth)))

    @property
    def parts(self) -> tuple[layers.Part, ...]:
        pixels = self.side**2
        parts: list[layers.Part] = []
        if self.network == "perceptron":
            hidden = (self.width,) * self.depth
            parts += layers.perceptron_parts((pixels, *hidden, self._code), self._code_gain)
            parts += layers.perceptron_parts((self.latent, *hidden, pixels))
            return tuple(parts)
        channels = self._channels
        sides = [self.side // 2**level for level in range(self.depth + 1)]
        for level in range(self.depth):
            parts += layers.conv_parts(
                channels[level], channels[level + 1], sides[level + 1]
            )
        flat = channels[-1] * sides[-1] ** 2
        parts += layers.linear_parts(flat, self._code, self._code_gain)
        parts += layers.linear_parts(self.latent, flat)
        for level in reversed(range(self.depth)):
            parts += layers.conv_parts(channels[level + 1], channels[level], sides[level])
        return tuple(parts)

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        remaining = iter(params)
        outputs = self._decode(remaining, self._encode(remaining, inputs))
        return 0.5 * (outputs - inputs.flatten(2)).square().mean((-2, -1))

    def _encode(self, params: Iterator[Tensor], images: Tensor) -> Tensor:
        """Compute codes ``[B, n, code]`` of images ``[B, n, 1, S, S]``."""
        activation = layers.ACTIVATIONS[self.activation]
        if self.network == "perceptron":
            return layers.perceptron(images.flatten(2), params, self.depth + 1, activation)
        maps = layers.side_by_side(images)
        for _ in range(self.depth):
            maps = activation(layers.conv(maps, next(params), next(params), stride=2))
        return layers.linear(
            layers.flat_maps(maps, len(images)), next(params), next(params)
        )

    def _decode(self, params: Iterator[Tensor], codes: Tensor) -> Tensor:
        """Compute images ``[B, n, S * S]`` of codes ``[B, n, latent]``."""
        activation = layers.ACTIVATIONS[self.activation]
        if self.network == "perceptron":
            return layers.perceptron(codes, params, self.depth + 1, activation)
        flat = activation(layers.linear(codes, next(params), next(params)))
        maps = layers.maps_of(flat, self.side // 2**self.depth)
        for level in reversed(range(self.depth)):
            doubled = F.interpolate(maps, scale_factor=2.0, mode="nearest")
            maps = layers.conv(doubled, next(params), next(params))
            if level:
                maps = activation(maps)
        return layers.flat_maps(maps, len(codes))


@dataclass(frozen=True)
class VAE(Autoencoder):
    r"""Fit a variational autoencoder (Kingma and Welling, 2014) to images.

    The loss is the negative evidence lower bound for each of the :math:`d` pixels, in nats,

    .. math::

        \frac1d \left( -\log N(x; f(z), \sigma^2 I)
        + \beta \, \mathrm{KL}(N(m, \operatorname{diag} s^2) \,\|\, N(0, I)) \right),
        \qquad z = m + s \odot \varepsilon,

    with :math:`m` and :math:`\log s^2` from the encoder, one sample :math:`\varepsilon` for
    each example and update, and a variance :math:`\sigma^2` that is trained, too (Rybkin et
    al., 2021). As the likelihood is a density, the loss becomes negative when images are
    reconstructed well. Evaluations use the same :math:`\varepsilon` throughout a run.

    Attributes:
        contrast: 0.3 by default, about that of images with values between 0 and 1.
        beta: weight of the divergence (Higgins et al., 2017).
    """

    contrast: float = 0.3
    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "beta", positive("beta", self.beta))

    @property
    def _code(self) -> int:
        return 2 * self.latent

    @property
    def _code_gain(self) -> float:
        return 0.1  # codes then have about the prior's variance

    @property
    def parts(self) -> tuple[layers.Part, ...]:
        # The last one is log(sigma^2) / VARIANCE_GAIN.
        return (*super().parts, layers.Part("zero", (1,)))

    @property
    def noise(self) -> int:
        return self.latent

    def training_loss(
        self, params: tuple[Tensor, ...], batch: Batch, buffers: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self._negative_bound(params, batch), buffers

    def evaluation_loss(
        self, params: tuple[Tensor, ...], batch: Batch, buffers: Tensor
    ) -> Tensor:
        return self._negative_bound(params, batch)

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError("the loss of a VAE draws random numbers")

    def _negative_bound(self, params: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """Compute the negative evidence lower bound ``[B]`` per pixel."""
        remaining = iter(params)
        mean, log_variance = self._encode(remaining, batch.inputs).chunk(2, dim=-1)
        codes = mean + (0.5 * log_variance).exp() * batch.noise
        outputs = self._decode(remaining, codes)
        log_sigma2 = VARIANCE_GAIN * next(remaining).squeeze(1)
        error = (outputs - batch.inputs.flatten(2)).square().mean((-2, -1))
        likelihood = -0.5 * (
            math.log(2.0 * math.pi) + log_sigma2 + error * (-log_sigma2).exp()
        )
        divergence = log_variance.exp() + mean.square() - 1.0 - log_variance
        per_pixel = 0.5 * divergence.sum(-1).mean(-1) / self.side**2
        return self.beta * per_pixel - likelihood


def _fields(rng: np.random.Generator, split: str) -> dict[str, Any]:
    """Draw the fields that autoencoders of both kinds have."""
    convolutional = bool(rng.random() < 0.5)
    channels = {"train": (4, 8), "test": (6, 10), "ood": (5, 7)}[split]
    units = {"train": (16, 32, 64), "test": (24, 48), "ood": (40, 56)}[split]
    return {
        **image_fields(rng, split),
        "network": NETWORKS[convolutional],
        "width": int(rng.choice(channels if convolutional else units)),
        "depth": int(rng.integers(1, 3)),
        "latent": int(rng.choice((2, 4, 8, 16))),
    }


def sample_autoencoder(rng: np.random.Generator, split: str) -> Autoencoder:
    """Draw an autoencoder; the splits have different widths.

    Structures of ``"ood"`` train on photographs, the others on textures, figures and
    digits.
    """
    return Autoencoder(**_fields(rng, split))


def sample_vae(rng: np.random.Generator, split: str) -> VAE:
    """Draw a variational autoencoder; for the splits see :func:`sample_autoencoder`."""
    return VAE(**_fields(rng, split), beta=float(rng.choice((0.5, 1.0, 2.0))))
