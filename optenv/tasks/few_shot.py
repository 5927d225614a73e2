"""Networks that learn from a few examples, the tasks of the family ``few-shot``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import is_number, known, quoted
from . import layers, sinusoids, stroke_fonts
from .base import set_sizes
from .data import load_digits
from .examples import Batch
from .generated import Examples, GeneratedTask

__all__ = ["PROBLEMS", "FewShot", "sample_structure"]

#: Values of :attr:`FewShot.problem`.
PROBLEMS = ("sinusoids", "glyphs", "digits")

#: Width and height of a glyph in pixels; those of a digit are 8.
GLYPH_SIDE = 14

#: Fonts of each split: only some of :data:`.stroke_fonts.TRAINING` and
#: :data:`.stroke_fonts.TEST`, as reading fonts takes time.
FONTS = {
    "train": ("futural", "greek", "cyrillic", "japanese", "scriptc", "gothgbt"),
    "test": ("cyrilc_1", "gothgrt", "greeks", "scripts"),
}

#: Number of drawings of each character.
DRAWINGS = 20


@dataclass(frozen=True)
class FewShot(GeneratedTask):
    r"""Train a perceptron on a few examples of a task that each run draws.

    Every update uses the gradient of the loss on the support, as one batch. Rewards and
    validation use the loss on queries, further examples of the same task: rewards on one
    set of queries, validation on another. So a run is not rewarded for overfitting its
    support.

    Problems, as in the literature on few-shot learning:

    - ``sinusoids``: :math:`y = a \sin(f x + b)` with the mean squared error (Finn et al.,
      2017), see :mod:`optenv.tasks.sinusoids`.
    - ``glyphs``: tell randomly chosen characters of stroke fonts apart, as with Omniglot
      (Lake et al., 2015), with the cross-entropy; needs the packages ``hershey-fonts`` and
      ``pillow``.
    - ``digits``: the same with scikit-learn's handwritten digits.

    Attributes:
        problem: ``"sinusoids"``, ``"glyphs"`` or ``"digits"``.
        shots: examples in the support: points of the wave, or pictures of each class.
        queries: points of the wave, or pictures of each class, in a set of queries; some
            variants of the waves use a grid of points instead.
        ways: number of classes.
        variant: variant of the waves, ``"maml"``, ``"meta-sgd"`` or ``"reptile"``.
        width: units of each hidden layer.
        depth: number of hidden layers.
        activation: ``"relu"``, ``"tanh"``, ``"gelu"`` or ``"silu"``.
        init_spread: standard deviation of the log gain of a run's initial weights.
        split: fonts or digits to draw from, ``"train"`` or ``"test"``, which are disjoint.

    Raises:
        ValueError: a value is not valid, or there are too few classes or pictures.

    Example::

        task = FewShot(problem="glyphs", ways=5, shots=1)
        env = gym.make("optenv/LearningRate-v0", tasks=task)
    """

    batch_size: int = 1
    num_train: int = 1
    num_validation: int = 1
    problem: str = "sinusoids"
    shots: int = 10
    queries: int = 10
    ways: int = 5
    variant: str = "maml"
    width: int = 40
    depth: int = 2
    activation: str = "relu"
    init_spread: float = 0.2
    split: str = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        # 1. Names.
        known("problem", self.problem, PROBLEMS)
        known("variant", self.variant, sinusoids.VARIANTS)
        known("activation", self.activation, layers.ACTIVATIONS)
        known("split", self.split, ("train", "test"))
        # 2. Numbers.
        set_sizes(self, "shots", "queries", "ways", "width", "depth")
        if not is_number(self.init_spread) or not 0 <= self.init_spread < math.inf:
            raise ValueError(
                f"init_spread must be a finite number, at least 0, "
                f"got {quoted(self.init_spread)}"
            )
        # 3. No more examples than there are.
        grid = sinusoids.VARIANTS[self.variant].support_grid
        if self.problem == "sinusoids":
            if grid is not None and self.shots > grid:
                raise ValueError(
                    f"shots must be at most {grid} of variant {self.variant!r}, "
                    f"got {self.shots}"
                )
            return
        needed, most = self.shots + self._sets * self.queries, self._per_class
        if needed > most:
            raise ValueError(
                f"shots and {self._sets} times queries must be at most {most} together, "
                f"the pictures of a class, got {self.shots} and {self.queries}"
            )
        classes = len(_pictures_of(self.problem, self.split))
        if not 2 <= self.ways <= classes:
            raise ValueError(
                f"ways must be in [2, {classes}] for {self.problem}, got {self.ways}"
            )

    @property
    def _sets(self) -> int:
        """Number of sets of queries, one for each example of the base class."""
        return self.num_train + self.num_validation

    @property
    def _per_class(self) -> int:
        """Number of pictures of each class."""
        return DRAWINGS if self.problem == "glyphs" else _digits_per_class(self.split)

    @property
    def support(self) -> int:
        """Number of examples in the support."""
        return self.shots * (1 if self.problem == "sinusoids" else self.ways)

    @property
    def parts(self) -> tuple[layers.Part, ...]:
        """Parameters of one run."""
        if self.problem == "sinusoids":
            ends = 1, 1
        else:
            ends = (GLYPH_SIDE if self.problem == "glyphs" else 8) ** 2, self.ways
        sizes = (ends[0], *[self.width] * self.depth, ends[1])
        return tuple(layers.perceptron_parts(sizes))

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(part.shape for part in self.parts)

    @property
    def example_numbers(self) -> int:
        queries = self.queries * (1 if self.problem == "sinusoids" else self.ways)
        return (self.support + queries) * (self.parts[0].shape[-1] + 2)

    @property
    def work(self) -> int:
        return layers.multiplications(self.parts) * self.support * self.batch_size

    def examples(self, rng: np.random.Generator) -> Examples:
        """Draw a task.

        Returns:
            For each example of the base class, the support and a set of queries: inputs
            ``[N, support + queries, d]``, and targets ``[N, support + queries, 1]`` or
            classes ``[N, support + queries]``.
        """
        if self.problem == "sinusoids":
            return self._waves(rng)
        # 1. Classes, and different pictures of each: [ways, shots + sets * queries].
        pictures = _pictures_of(self.problem, self.split)
        needed = self.shots + self._sets * self.queries
        chosen = rng.permutation(len(pictures))[: self.ways]
        drawn = np.stack(
            [pictures[c][rng.permutation(self._per_class)[:needed]] for c in chosen]
        )
        # 2. The support, then each set of queries, class by class.
        drawn = (drawn - drawn.mean()) / drawn.std()
        support, *queries = np.split(drawn, range(self.shots, needed, self.queries), axis=1)

        def flat(part: np.ndarray) -> np.ndarray:
            return part.reshape(-1, part.shape[-1])

        inputs = np.stack([np.concatenate([flat(support), flat(q)]) for q in queries])
        labels = [np.repeat(np.arange(self.ways), n) for n in (self.shots, self.queries)]
        targets = np.tile(np.concatenate(labels), (self._sets, 1))
        return inputs.astype(np.float32), targets

    def _waves(self, rng: np.random.Generator) -> Examples:
        """Draw points of a wave."""
        (x, y), (query_x, query_y) = sinusoids.sample_waves(
            self.variant, 1, self.shots, self._sets * self.queries, rng
        )
        if sinusoids.VARIANTS[self.variant].query_grid is not None:  # for all sets
            query_x, query_y = (np.tile(q, self._sets) for q in (query_x, query_y))

        def rows(support: np.ndarray, query: np.ndarray) -> np.ndarray:
            support = np.tile(support, (self._sets, 1))
            joined = np.concatenate([support, query.reshape(self._sets, -1)], axis=1)
            return joined.astype(np.float32)[..., None]

        return rows(x, query_x), rows(y, query_y)

    def init(self, generators: Sequence[np.random.Generator]) -> Tensor:
        drawn = [
            layers.draw(
                self.parts,
                rng,
                math.exp(self.init_spread * rng.standard_normal()),
                self.activation,
            )
            for rng in generators
        ]
        return torch.from_numpy(np.stack(drawn))

    def training_loss(
        self, params: tuple[Tensor, ...], batch: Batch, buffers: Tensor
    ) -> tuple[Tensor, Tensor]:
        kept = slice(None, self.support)
        loss = self._loss(params, batch.inputs[:, :, kept], batch.targets[:, :, kept])
        return loss, buffers

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean loss on queries, ``[B]``."""
        kept = slice(self.support, None)
        return self._loss(params, inputs[:, :, kept], targets[:, :, kept])

    def _loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean loss ``[B]`` on examples ``[B, n, m, ...]``."""
        outputs = layers.perceptron(
            inputs.flatten(1, 2),
            iter(params),
            self.depth + 1,
            layers.ACTIVATIONS[self.activation],
        )
        targets = targets.flatten(1, 2)
        if targets.is_floating_point():
            return (outputs - targets).square().mean((-2, -1))
        # Classes before examples, which makes torch's log-softmax several times faster.
        return F.cross_entropy(outputs.mT, targets, reduction="none").mean(-1)


class _Glyphs(Sequence[np.ndarray]):
    """Drawings ``[DRAWINGS, pixels]`` of the characters of a split, made when needed."""

    def __init__(self, split: str) -> None:
        without = () if split == "train" else FONTS["train"]
        self._characters = stroke_fonts.characters(FONTS[split], without)
        self._drawn: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._characters)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        if index not in self._drawn:
            character = self._characters[index]
            pictures = stroke_fonts.drawings(character, GLYPH_SIDE, DRAWINGS)
            self._drawn[index] = pictures.reshape(DRAWINGS, -1)
        return self._drawn[index]


@cache
def _pictures_of(problem: str, split: str) -> Sequence[np.ndarray]:
    """Return the pictures ``[n, pixels]`` of each class of a split."""
    if problem == "glyphs":
        return _Glyphs(split)
    images, labels = load_digits(split)
    return [images[labels == label] for label in range(10)]


@cache
def _digits_per_class(split: str) -> int:
    """Return the number of images of the rarest digit of a split."""
    return min(map(len, _pictures_of("digits", split)))


def sample_structure(rng: np.random.Generator, split: str) -> FewShot:
    """Draw a task on waves or pictures; the splits have different widths.

    Characters of ``"test"`` come from other fonts than those of ``"train"``. ``"ood"`` has
    handwritten digits instead, and its waves also vary in frequency.
    """
    widths = {"train": (16, 32, 64), "test": (24, 48), "ood": (40,)}[split]
    pictures = "digits" if split == "ood" else "glyphs"
    problem = str(rng.choice(("sinusoids", pictures)))
    few, many = ((1, 2, 5), (2, 5)) if problem != "sinusoids" else ((5, 10, 20), (5,))
    return FewShot(
        problem=problem,
        shots=int(rng.choice(few)),
        queries=5 if problem != "sinusoids" else 20,
        ways=int(rng.choice(many)),
        variant="meta-sgd" if split == "ood" else "maml",
        width=int(rng.choice(widths)),
        depth=int(rng.integers(1, 4)),
        activation=str(rng.choice(tuple(layers.ACTIVATIONS))),
        split="train" if split == "train" else "test",
    )
