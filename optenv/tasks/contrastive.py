"""Contrastive representation learning on images, the family ``contrastive``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import is_number, positive, quoted
from . import layers
from .base import set_sizes
from .examples import Batch
from .images import ImageTask, image_fields

__all__ = ["Contrastive", "sample_structure"]


@dataclass(frozen=True)
class Contrastive(ImageTask):
    r"""Tell which of many views shows the same image (SimCLR, Chen et al., 2020).

    Each image of a batch gives two views, each with random stripes and a blank square at a
    random place. A perceptron maps views to unit vectors :math:`z_i`; the loss is the mean
    over the :math:`2n` views of

    .. math::

        -\log \frac{\exp(z_i \cdot z_{i'} / \tau)}
        {\sum_{j \neq i} \exp(z_i \cdot z_j / \tau)},

    where :math:`i'` is the other view of the same image. So the loss of a vector depends on
    the others in its batch. Evaluations split their examples into batches of
    ``batch_size``, leave out the remainder, and use the same views throughout a run.

    Attributes:
        width: units of each hidden layer.
        depth: number of hidden layers.
        features: size of the vectors.
        temperature: :math:`\tau`.
        stripes: standard deviation of the brightness of the rows and columns of a view.
        blank: side of the blank square, as a fraction of the image's side.

    Example::

        task = optenv.tasks.Contrastive(source="shapes", side=12, temperature=0.1)
        env = gym.make("optenv/LearningRate-v0", tasks=task)
    """

    width: int = 64
    depth: int = 1
    features: int = 16
    temperature: float = 0.2
    stripes: float = 0.3
    blank: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        set_sizes(self, "width", "depth", "features")
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, got {self.batch_size}")
        object.__setattr__(self, "temperature", positive("temperature", self.temperature))
        for name in ("stripes", "blank"):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value <= 1:
                raise ValueError(f"{name} must be a number in [0, 1], got {quoted(value)}")

    @property
    def parts(self) -> tuple[layers.Part, ...]:
        sizes = (self.side**2, *[self.width] * self.depth, self.features)
        return tuple(layers.perceptron_parts(sizes))

    @property
    def noise(self) -> int:
        # Of each view: rows, columns, and the centre of the square.
        return 2 * (2 * self.side + 2)

    @property
    def work(self) -> int:
        return 2 * super().work + (2 * self.batch_size) ** 2 * self.features

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError("a contrastive loss draws random views")

    def training_loss(
        self, params: tuple[Tensor, ...], batch: Batch, buffers: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self._contrast(params, self._views(batch)), buffers

    def evaluation_loss(
        self, params: tuple[Tensor, ...], batch: Batch, buffers: Tensor
    ) -> Tensor:
        views = self._views(batch)
        count = views.shape[2]
        size = min(self.batch_size, count)
        losses = [
            self._contrast(params, views[:, :, begin : begin + size])
            for begin in range(0, count - size + 1, size)
        ]
        return torch.stack(losses).mean(0)

    def _views(self, batch: Batch) -> Tensor:
        """Make two views of each image, ``[B, 2, n, S * S]``."""
        side = self.side
        images = batch.inputs.squeeze(2).unsqueeze(1)
        noise = batch.noise.unflatten(2, (2, -1)).transpose(1, 2)
        rows, columns, centre = noise.split((side, side, 2), dim=3)
        views = images + self.stripes * (rows.unsqueeze(4) + columns.unsqueeze(3))
        # Uniform centres, by the distribution function of the normal numbers.
        centre = torch.special.ndtr(centre).unsqueeze(3)
        line = (torch.arange(side, device=centre.device).to(centre) + 0.5) / side
        inside = (line.unsqueeze(1) - centre).abs() < 0.5 * self.blank
        blank = inside[..., 0].unsqueeze(4) & inside[..., 1].unsqueeze(3)
        return views.masked_fill(blank, 0.0).flatten(3)

    def _contrast(self, params: tuple[Tensor, ...], views: Tensor) -> Tensor:
        """Compute the loss ``[B]`` of views ``[B, 2, n, S * S]`` of one batch."""
        activation = layers.ACTIVATIONS[self.activation]
        count = views.shape[2]
        vectors = layers.perceptron(
            views.flatten(1, 2), iter(params), self.depth + 1, activation
        )
        vectors = F.normalize(vectors, dim=-1)
        similarity = torch.bmm(vectors, vectors.mT) / self.temperature
        itself = torch.eye(2 * count, dtype=torch.bool, device=views.device)
        similarity = similarity.masked_fill(itself, -torch.inf)
        other = torch.arange(2 * count, device=views.device).roll(count)
        log_shares = similarity.log_softmax(-1)
        return -log_shares.gather(2, other.view(1, -1, 1).expand(len(views), -1, 1)).mean(
            (1, 2)
        )


def sample_structure(rng: np.random.Generator, split: str) -> Contrastive:
    """Draw a contrastive learner; the splits have different widths.

    Structures of ``"ood"`` train on photographs, the others on textures, figures and
    digits.
    """
    widths = {"train": (16, 32, 64), "test": (24, 48), "ood": (40, 56)}[split]
    return Contrastive(
        **image_fields(rng, split),
        width=int(rng.choice(widths)),
        depth=int(rng.integers(1, 4)),
        features=int(rng.choice((8, 16, 32))),
        temperature=float(rng.choice((0.1, 0.2, 0.5))),
    )
