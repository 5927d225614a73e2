"""N-way K-shot classification of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from optenv.checks import positive_int

from .episodes import Episodes, Examples, Family


class Classes(NamedTuple):
    """Pictures sorted by class.

    Attributes:
        pictures: ``[C, n, side, side]`` float32: ``n`` pictures of each of ``C`` classes.
        groups: group of each class, such as its alphabet or its font.
    """

    pictures: np.ndarray
    groups: tuple[str, ...]

    def within(self, groups: str | Sequence[str]) -> Classes:
        """Return the classes of some groups.

        Args:
            groups: names of groups, or one name.

        Raises:
            ValueError: a group does not exist.
        """
        groups = (groups,) if isinstance(groups, str) else tuple(groups)
        for group in groups:
            if group not in self.groups:
                valid = ", ".join(sorted(set(self.groups)))
                raise ValueError(f"unknown group {group!r}; valid groups: {valid}")
        return self._select([group in groups for group in self.groups])

    def unlike(self, others: Classes, most: float) -> Classes:
        """Return the classes whose mean pictures differ from those of other classes.

        Args:
            others: classes with pictures of the same size.
            most: largest cosine similarity between a class's centred mean picture and any
                of ``others`` with which the class is kept.
        """
        ours, theirs = (_mean_directions(c.pictures) for c in (self, others))
        return self._select((ours @ theirs.T).max(1) <= most)

    def turned(self) -> Classes:
        """Return each class in four orientations, as four classes."""
        turns = [np.rot90(self.pictures, turn, (2, 3)) for turn in range(4)]
        return Classes(np.concatenate(turns), self.groups * 4)

    def _select(self, mask: Sequence[bool] | np.ndarray) -> Classes:
        rows = np.flatnonzero(mask)
        return Classes(self.pictures[rows], tuple(self.groups[row] for row in rows))


def _mean_directions(pictures: np.ndarray) -> np.ndarray:
    """Return each class's centred mean picture as a unit vector, ``[C, side * side]``."""
    mean = pictures.mean(1).reshape(len(pictures), -1)
    mean = mean - mean.mean(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True).clip(1e-12)


@dataclass(frozen=True, eq=False)
class FewShot(Family):
    """N-way K-shot tasks: tell ``ways`` randomly sampled and numbered classes apart.

    Tasks have inputs ``[B, ways * shots, 1, side, side]`` in the support and ``[B, ways *
    queries, 1, side, side]`` in the query, class by class, and int64 targets ``[B, ways *
    shots]`` and ``[B, ways * queries]``. The loss is the cross entropy. No picture is in
    both support and query.

    Attributes:
        classes: classes to sample from, or a function that returns them, called once.
        ways: classes of a task, N.
        shots: examples of each class in the support, K.
        queries: further examples of each class in the query.

    Raises:
        TypeError: ``classes`` is not of type :class:`Classes`.
        ValueError: a number is not positive, or there are too few classes or pictures.

    Example:
        >>> import numpy as np
        >>> from agents import meta
        >>> family = meta.FewShot(meta.digits(range(6)), ways=4, shots=5)
        >>> family.sample(2, np.random.default_rng(0)).support.inputs.shape
        torch.Size([2, 20, 1, 8, 8])
    """

    classes: Classes | Callable[[], Classes] = field(repr=False)
    ways: int = 5
    shots: int = 1
    queries: int = 15
    loss = "cross_entropy"
    _pictures: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("ways", "shots", "queries"):
            positive_int(name, getattr(self, name))
        classes = self.classes() if callable(self.classes) else self.classes
        if not isinstance(classes, Classes):
            raise TypeError(
                "classes must be Classes, as omniglot(), glyphs() and digits() return, or "
                f"a function that makes them, got {classes!r}"
            )
        if classes.pictures.ndim != 4:
            raise ValueError(
                "pictures must be [classes, n, side, side], got "
                f"{list(classes.pictures.shape)}"
            )
        class_count, per_class = classes.pictures.shape[:2]
        if self.ways > class_count:
            raise ValueError(
                f"ways must be at most {class_count}, the classes, got {self.ways}"
            )
        if self.shots + self.queries > per_class:
            raise ValueError(
                f"shots and queries must be at most {per_class} together, the pictures of "
                f"a class, got {self.shots} and {self.queries}"
            )
        object.__setattr__(self, "_pictures", torch.from_numpy(classes.pictures.copy()))

    def sample(self, count: int, rng: np.random.Generator) -> Episodes:
        # 1. The classes of each task, in random order: [B, ways].
        class_count, per_class = self._pictures.shape[:2]
        chosen = rng.random((count, class_count)).argpartition(self.ways - 1)
        chosen = rng.permuted(chosen[:, : self.ways], axis=1)
        # 2. Pictures of each class without repetition: [B, ways, shots + queries].
        needed = self.shots + self.queries
        order = rng.random((count, self.ways, per_class)).argsort(2)[..., :needed]
        rows = torch.from_numpy(chosen[..., None] * per_class + order)
        # 3. Support and query.
        parts = rows.split([self.shots, self.queries], dim=2)
        return Episodes(*(self._examples(part) for part in parts))

    def _examples(self, rows: Tensor) -> Examples:
        """Return the pictures with row numbers ``[B, ways, n]``, labelled by their way."""
        inputs = self._pictures.flatten(0, 1)[rows.flatten(1)].unsqueeze(2)
        labels = torch.arange(self.ways).repeat_interleave(rows.shape[2])
        return Examples(inputs, labels.expand(len(rows), -1).contiguous())
