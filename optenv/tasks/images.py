"""Tasks on images, and the sources of their images.

A source is a function ``(task, generator) -> (images [N, S, S] float32, labels [N] int64)``
with ``N = num_train + num_validation`` and ``S`` as the task's ``side``. Sources are
generated (textures, shapes), come with scikit-learn (digits, photographs), or are the
user's own files (:mod:`optenv.tasks.image_files`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import is_number, positive, quoted, suggestion
from . import image_files, layers
from .base import set_sizes
from .bundled import read_photographs
from .data import load_digits, noisy_labels
from .generated import Examples, GeneratedTask, data_size
from .image_files import shrink

__all__ = ["IMAGE_SPLITS", "SOURCES", "ImageTask", "Source", "image_fields"]

#: Parts of the sources, one for each split of structures.
IMAGE_SPLITS = ("train", "test", "ood")

#: Side of the tiles of a photograph in pixels; a tile is for training or for validation.
TILE = 32


class Source(NamedTuple):
    """A source of images.

    Attributes:
        draw: function ``(task, generator) -> (images, labels)``.
        splits: splits that have images of their own.
        classes: largest number of classes.
        sides: smallest and largest width and height in pixels.
    """

    draw: Callable[[ImageTask, np.random.Generator], Examples]
    splits: tuple[str, ...] = IMAGE_SPLITS
    classes: int = 1000
    sides: tuple[int, int] = (4, 64)


@dataclass(frozen=True)
class ImageTask(GeneratedTask):
    """Base of tasks on square grey images.

    Subclasses implement :attr:`parts` and a loss. Each run draws its own gain of the
    initial weights and its own contrast of the images, which are log-normal.

    Attributes:
        source: source of the images, a key of :data:`SOURCES`.
        side: width and height of the images in pixels.
        classes: number of classes.
        activation: ``"relu"``, ``"tanh"``, ``"gelu"`` or ``"silu"``.
        init_spread: standard deviation of the log gain of a run's initial weights.
        contrast: median contrast; a run's contrast is its images' standard deviation.
        contrast_spread: standard deviation of the log contrast of a run.
        split: part of the source to draw from, ``"train"``, ``"test"`` or ``"ood"``, which
            are disjoint. Generated images are alike in all splits. Photographs are only in
            ``"ood"``.
        folder: folder of data sets that are read from disk, see
            :mod:`optenv.tasks.image_files`; by default (None), the value of the environment
            variable ``OPTENV_DATA``.
    """

    source: str = "textures"
    side: int = 8
    classes: int = 4
    activation: str = "relu"
    init_spread: float = 0.2
    contrast: float = 1.0
    contrast_spread: float = 0.5
    split: str = "train"
    folder: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        # 1. Names.
        for name, valid in (
            ("source", tuple(SOURCES)),
            ("activation", tuple(layers.ACTIVATIONS)),
            ("split", IMAGE_SPLITS),
        ):
            if getattr(self, name) not in valid:
                hint = suggestion(str(getattr(self, name)), valid)
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; {hint}")
        source = SOURCES[self.source]
        if self.split not in source.splits:
            raise ValueError(
                f"{self.source} have no images of the split {self.split!r}; "
                f"valid: {', '.join(source.splits)}"
            )
        # 2. Numbers.
        set_sizes(self, "side", "classes")
        low, high = source.sides
        if not low <= self.side <= high:
            raise ValueError(
                f"side must be in [{low}, {high}] for {self.source}, got {self.side}"
            )
        if not 2 <= self.classes <= source.classes:
            raise ValueError(
                f"classes must be in [2, {source.classes}] for {self.source}, "
                f"got {self.classes}"
            )
        for name in ("init_spread", "contrast_spread"):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value < math.inf:
                raise ValueError(
                    f"{name} must be a number, at least 0, got {quoted(value)}"
                )
        object.__setattr__(self, "contrast", positive("contrast", self.contrast))
        if self.folder is not None and not isinstance(self.folder, str):
            raise TypeError(f"folder must be a path as a string, got {quoted(self.folder)}")

    @property
    @abstractmethod
    def parts(self) -> tuple[layers.Part, ...]:
        """Parameters of one run."""

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(part.shape for part in self.parts)

    @property
    def num_features(self) -> int:
        return self.side**2

    @property
    def example_numbers(self) -> int:
        return self.side**2 + 2

    @property
    def work(self) -> int:
        return layers.multiplications(self.parts) * self.batch_size

    def examples(self, rng: np.random.Generator) -> Examples:
        images, labels = SOURCES[self.source].draw(self, rng)
        contrast = self.contrast * np.exp(self.contrast_spread * rng.standard_normal())
        return images[:, None] * np.float32(contrast), labels

    def init(self, generators: Sequence[np.random.Generator]) -> Tensor:
        return torch.from_numpy(np.stack([self._init(g) for g in generators]))

    def _init(self, rng: np.random.Generator) -> np.ndarray:
        gain = float(np.exp(self.init_spread * rng.standard_normal()))
        return layers.draw(self.parts, rng, gain, self.activation)


def _total(task: ImageTask) -> int:
    return task.num_train + task.num_validation


def _grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of the pixels ``[S, S]``, between -0.5 and 0.5."""
    line = ((np.arange(side, dtype=np.float32) + 0.5) / side) - 0.5
    return np.meshgrid(line, line, indexing="xy")


def textures(task: ImageTask, rng: np.random.Generator) -> Examples:
    """Draw gratings in noise: each class has its own orientation and frequency.

    Phase and contrast are random in each image, so that no single pixel reveals the class.
    """
    total, classes = _total(task), task.classes
    x, y = _grid(task.side)
    # 1. The classes of this run.
    angle = math.pi * (rng.permutation(classes) + rng.uniform(0.0, 0.5, classes)) / classes
    waves = np.exp(rng.uniform(np.log(1.0), np.log(task.side / 4), classes))
    noise = np.float32(np.exp(rng.uniform(np.log(0.2), np.log(1.5))))
    # 2. Its images.
    labels = rng.integers(classes, size=total)
    turn = angle[labels] + 0.1 * rng.standard_normal(total)
    along = (2.0 * math.pi * waves[labels]).astype(np.float32)
    phase = rng.uniform(0.0, 2.0 * math.pi, (total, 1, 1)).astype(np.float32)
    across = (along * np.cos(turn)).astype(np.float32)[:, None, None]
    down = (along * np.sin(turn)).astype(np.float32)[:, None, None]
    images = np.sin(across * x + down * y + phase)
    images *= np.exp(0.3 * rng.standard_normal((total, 1, 1), np.float32))
    images += noise * rng.standard_normal(images.shape, np.float32)
    images /= np.sqrt(0.6 + noise * noise)
    return images, noisy_labels(labels, classes, rng)


def shapes(task: ImageTask, rng: np.random.Generator) -> Examples:
    """Draw bright figures on a dark ground: each class has its own contour.

    Contours are random Fourier series of the radius. Place and size are random in each
    image, and the orientation varies a little.
    """
    total, classes = _total(task), task.classes
    x, y = _grid(task.side)
    # 1. The contours of this run, at 128 angles.
    angles = np.linspace(0.0, 2.0 * math.pi, 128, endpoint=False)
    order = np.arange(2, 6)
    size = rng.uniform(0.0, 0.5, (classes, 4)) / np.sqrt(order - 1)
    waves = np.cos(order[:, None] * angles + rng.uniform(0.0, 6.3, (classes, 4, 1)))
    contour = (1.0 + (size[:, :, None] * waves).sum(1)).clip(0.2).astype(np.float32)
    noise = np.float32(rng.uniform(0.0, 0.5))
    # 2. Its images: inside of the contour, with soft edges.
    labels = rng.integers(classes, size=total)
    place = rng.uniform(-0.15, 0.15, (2, total, 1, 1)).astype(np.float32)
    radius = rng.uniform(0.2, 0.32, (total, 1, 1)).astype(np.float32)
    turn = (0.2 * rng.standard_normal((total, 1, 1))).astype(np.float32)
    dx, dy = x - place[0], y - place[1]
    angle = ((np.arctan2(dy, dx) + turn) * (128 / (2.0 * math.pi))).astype(np.int64) % 128
    edge = radius * contour[labels[:, None, None], angle] - np.hypot(dx, dy)
    images = 1.0 / (1.0 + np.exp((-2.0 * task.side) * edge))
    images += noise * rng.standard_normal(images.shape, np.float32)
    images -= images.mean()
    images /= images.std()
    return images.astype(np.float32), noisy_labels(labels, classes, rng)


def _pick(
    task: ImageTask, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> Examples:
    """Draw distinct images of some of the classes, which are renumbered from 0.

    Args:
        task: the task.
        images: standardised images ``[n, S, S]``.
        labels: their classes, ``[n]``.
        rng: generator.
    """
    chosen = rng.permutation(np.unique(labels))[: task.classes]
    number = np.full(labels.max() + 1, -1)
    number[chosen] = np.arange(len(chosen))
    rows = np.flatnonzero(number[labels] >= 0)
    if _total(task) > len(rows):
        raise ValueError(
            f"num_train + num_validation is {_total(task)}, but {task.classes} classes of "
            f"the {task.split} split of {task.source} have {len(rows)} images"
        )
    rows = rng.permutation(rows)[: _total(task)]
    return images[rows], noisy_labels(number[labels[rows]], task.classes, rng)


def digits(task: ImageTask, rng: np.random.Generator) -> Examples:
    """Draw scikit-learn's digits of the split, 8 × 8."""
    images, labels = load_digits(task.split)
    return _pick(task, images.reshape(-1, 8, 8), labels, rng)


@cache
def photographs() -> np.ndarray:
    """Load scikit-learn's two photographs, grey, at half size, ``[2, 213, 320]`` float32.

    They have zero mean and unit variance.

    Raises:
        ImportError: scikit-learn or Pillow is not installed.
    """
    grey = np.stack([image.mean(2) for image in read_photographs()])
    height, width = (size // 2 for size in grey.shape[1:])
    grey = grey[:, : 2 * height, : 2 * width]
    grey = grey.reshape(2, height, 2, width, 2).mean((2, 4))
    return ((grey - grey.mean()) / grey.std()).astype(np.float32)


def photos(task: ImageTask, rng: np.random.Generator) -> Examples:
    """Draw crops of two photographs; a class is a photograph in one of four orientations.

    Every fourth tile of the photographs is for validation, the others are for training; a
    crop lies within a tile. With two classes, no crop is rotated. Each crop has zero mean.
    """
    pictures, side = photographs(), task.side
    rows, columns = (size // TILE for size in pictures.shape[1:])
    tiles = np.stack(np.divmod(np.arange(rows * columns), columns), 1)
    held_out = tiles.sum(1) % 4 == 0
    images = []
    labels = rng.integers(task.classes, size=_total(task))
    for begin, end, pool in (
        (0, task.num_train, tiles[~held_out]),
        (task.num_train, _total(task), tiles[held_out]),
    ):
        corner = TILE * pool[rng.integers(len(pool), size=end - begin)]
        corner = corner + rng.integers(TILE - side + 1, size=corner.shape)
        across = np.arange(side)
        down = corner[:, 0, None, None] + across[:, None]
        crops = pictures[
            labels[begin:end, None, None] % 2, down, corner[:, 1, None, None] + across
        ]
        images.append(crops)
    crops = np.concatenate(images)
    crops = crops - crops.mean((1, 2), keepdims=True)
    for quarter in range(1, 4):
        turned = labels // 2 == quarter
        crops[turned] = np.rot90(crops[turned], quarter, (1, 2))
    crops /= crops.std()
    return crops, noisy_labels(labels, task.classes, rng)


@cache
def _stored(source: str, split: str, side: int, folder: str) -> Examples:
    """Read the images of a split from disk, shrunk and standardised, and their classes."""
    images, labels = image_files.LOADERS[source](folder, split)
    small = shrink(images, side)
    return (small - small.mean()) / small.std(), labels


def _stored_source(task: ImageTask, rng: np.random.Generator) -> Examples:
    folder = image_files.data_folder(task.folder)
    images, labels = _stored(task.source, task.split, task.side, str(folder))
    return _pick(task, images, labels, rng)


#: Sources of images, by name.
SOURCES: dict[str, Source] = {
    "textures": Source(textures),
    "shapes": Source(shapes),
    "digits": Source(digits, ("train", "test"), 10, (8, 8)),
    "photos": Source(photos, ("ood",), 8, (4, TILE)),
    "fashion-mnist": Source(_stored_source, ("train", "test"), 10, (4, 28)),
    "omniglot": Source(_stored_source, ("train", "test"), 1000, (4, 64)),
}


def image_fields(rng: np.random.Generator, split: str) -> dict[str, Any]:
    """Draw the fields of a structure that determine its images.

    Args:
        rng: generator.
        split: ``"ood"`` draws photographs, ``"train"`` and ``"test"`` textures, figures and
            digits.

    Returns:
        Arguments of :class:`ImageTask`.
    """
    sources = ("photos",) if split == "ood" else ("textures", "shapes", "digits")
    source = str(rng.choice(sources))
    fields: dict[str, Any] = {
        "source": source,
        "side": int(rng.choice((8, 12, 16))),
        "classes": int(rng.choice((2, 5, 8))),
        "activation": str(rng.choice(tuple(layers.ACTIVATIONS))),
        "batch_size": int(rng.choice((8, 16, 32))),
        "num_validation": 128,
        "split": split,
        **data_size(rng, (128, 512, 1024), 2**13),
    }
    if source == "digits":
        largest = {"train": 1024, "test": 448}[split]
        fields |= {"side": 8, "classes": 10, "data_seed": None}
        fields["num_train"] = min(fields["num_train"], largest)
    return fields
