"""Classification among N classes of which K examples each are known."""

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
    """Pictures by class.

    Attributes:
        pictures: ``[C, n, side, side]`` float32.
        groups: name of each class's group: its alphabet, or its font.
    """

    pictures: np.ndarray
    groups: tuple[str, ...]

    def within(self, groups: str | Sequence[str]) -> Classes:
        """The classes of these groups, or of the one that a string is.

        Raises:
            ValueError: there is no such group.
        """
        groups = (groups,) if isinstance(groups, str) else tuple(groups)
        for group in groups:
            if group not in self.groups:
                valid = ", ".join(sorted(set(self.groups)))
                raise ValueError(f"unknown group {group!r}; valid groups: {valid}")
        return self._chosen([group in groups for group in self.groups])

    def unlike(self, others: Classes, most: float) -> Classes:
        """The classes whose mean picture is not nearly that of one of the others.

        Args:
            others: with pictures of the same size.
            most: highest cosine of two mean pictures, brightness taken out, to be kept.
        """
        mine, theirs = (_directions(c.pictures) for c in (self, others))
        return self._chosen((mine @ theirs.T).max(1) <= most)

    def turned(self) -> Classes:
        """Four classes of each: upright, and turned by 90, 180 and 270 degrees."""
        turns = [np.rot90(self.pictures, turn, (2, 3)) for turn in range(4)]
        return Classes(np.concatenate(turns), self.groups * 4)

    def _chosen(self, mask: Sequence[bool] | np.ndarray) -> Classes:
        rows = np.flatnonzero(mask)
        return Classes(self.pictures[rows], tuple(self.groups[row] for row in rows))


def _directions(pictures: np.ndarray) -> np.ndarray:
    """Mean picture of each class as a vector of length 1, ``[C, side * side]``."""
    mean = pictures.mean(1).reshape(len(pictures), -1)
    mean = mean - mean.mean(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True).clip(1e-12)


@dataclass(frozen=True, eq=False)
class FewShot(Family):
    """Tasks to tell ``ways`` classes apart, drawn anew and numbered at random.

    Inputs are ``[n, 1, side, side]``, class by class, targets ``[n]`` int64.

    Attributes:
        classes: to draw from, or a function that makes them, called once.
        ways: classes of a task.
        shots: examples of each in the support.
        queries: further examples of each in the query.

    Raises:
        TypeError: ``classes`` are none.
        ValueError: a number is not positive, or there are fewer classes or pictures.
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
        count, each = classes.pictures.shape[:2]
        if self.ways > count:
            raise ValueError(f"ways must be at most {count}, the classes, got {self.ways}")
        if self.shots + self.queries > each:
            raise ValueError(
                f"shots and queries must be at most {each} together, the pictures of a "
                f"class, got {self.shots} and {self.queries}"
            )
        object.__setattr__(self, "_pictures", torch.from_numpy(classes.pictures.copy()))

    def sample(self, count: int, rng: np.random.Generator) -> Episodes:
        total, each = self._pictures.shape[:2]
        chosen = rng.random((count, total)).argpartition(self.ways - 1)[:, : self.ways]
        chosen = rng.permuted(chosen, axis=1)
        wanted = self.shots + self.queries
        order = rng.random((count, self.ways, each)).argsort(2)[..., :wanted]
        rows = torch.from_numpy(chosen[..., None] * each + order)
        pictures = self._pictures.flatten(0, 1)
        parts = rows.split([self.shots, self.queries], dim=2)
        return Episodes(*(self._examples(pictures, part) for part in parts))

    def _examples(self, pictures: Tensor, rows: Tensor) -> Examples:
        taken = pictures[rows.flatten(1)].unsqueeze(2)
        labels = torch.arange(self.ways).repeat_interleave(rows.shape[2])
        return Examples(taken, labels.expand(len(rows), -1).contiguous())
