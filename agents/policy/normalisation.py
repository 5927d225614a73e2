"""Normalisation of a policy's observations by statistics of its training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from optenv.checks import is_number, quoted

__all__ = ["Normalisation"]

#: Range of the standard deviations.
MIN_STD, MAX_STD = 1e-12, 1e6

#: Largest absolute mean, and largest bound of normalised values.
MAX_MEAN, MAX_CLIP = 1e6, 1e6


@dataclass(frozen=True, eq=False)
class Normalisation:
    """Normalisation of observations to zero mean and unit variance, with clipping.

    It computes the same as Stable-Baselines3's ``VecNormalize`` and Gymnasium's
    ``NormalizeObservation``, with fixed statistics.

    Args:
        mean: mean of each entry of an observation, ``[F]``.
        variance: variance of each entry, ``[F]``.
        epsilon: number added to the variances.
        clip: largest absolute value after normalisation; None for no bound.

    Attributes:
        mean: means ``[F]``, float64.
        std: standard deviations ``sqrt(variance + epsilon)``, ``[F]``, float64.
        clip: as given.

    Raises:
        ValueError: a value is no number or out of its range, or the two lengths differ.

    Example:
        >>> import numpy as np
        >>> from agents import Normalisation
        >>> seen = np.random.default_rng(0).normal(2.0, 3.0, (1000, 24))
        >>> normalisation = Normalisation(seen.mean(0), seen.var(0), clip=10.0)
        >>> normalisation.apply(torch.full((1, 24), 100.0)).max()
        tensor(10.)
    """

    mean: np.ndarray
    std: np.ndarray
    clip: float | None

    def __init__(
        self,
        mean: Sequence[float] | np.ndarray | Tensor,
        variance: Sequence[float] | np.ndarray | Tensor,
        epsilon: float = 1e-8,
        clip: float | None = None,
    ) -> None:
        if not is_number(epsilon) or not 0 <= epsilon < math.inf:
            raise ValueError(f"epsilon must be finite, at least 0, got {quoted(epsilon)}")
        spread = _vector("variance", variance)
        if not (spread >= 0).all():
            raise ValueError(f"variance must be at least 0, got {spread.min()}")
        self._set(_vector("mean", mean), np.sqrt(spread + epsilon), clip)

    def _set(self, mean: np.ndarray, std: np.ndarray, clip: Any) -> None:
        """Check and set the three fields."""
        if len(mean) != len(std):
            raise ValueError(
                "normalisation needs as many means as standard deviations, got "
                f"{len(mean)} and {len(std)}"
            )
        if not (np.abs(mean) <= MAX_MEAN).all():
            raise ValueError(
                f"normalisation: mean must be finite, within ±{MAX_MEAN:g}, got "
                f"{quoted(mean.tolist())}"
            )
        if not ((std >= MIN_STD) & (std <= MAX_STD)).all():
            raise ValueError(
                f"normalisation: std must lie in [{MIN_STD:g}, {MAX_STD:g}], got "
                f"{quoted(std.tolist())}"
            )
        if clip is not None and (not is_number(clip) or not 0 < clip <= MAX_CLIP):
            raise ValueError(
                f"normalisation: clip must be in (0, {MAX_CLIP:g}] or None, got "
                f"{quoted(clip)}"
            )
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)
        object.__setattr__(self, "clip", None if clip is None else float(clip))

    @classmethod
    def from_json(cls, described: Any) -> Self:
        """Read the entry of a policy file, see :meth:`to_json`.

        Raises:
            ValueError: the entry has other keys, or a number out of its range.
        """
        keys = ["mean", "std", "clip"]
        if not isinstance(described, Mapping) or sorted(described) != sorted(keys):
            raise ValueError(
                f"normalisation must have the keys {', '.join(keys)}, got "
                f"{quoted(described)}"
            )
        made = cls.__new__(cls)
        mean, std = (_vector(key, described[key]) for key in ("mean", "std"))
        made._set(mean, std, described["clip"])
        return made

    def to_json(self) -> dict[str, Any]:
        """Return the entry of a policy file."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), "clip": self.clip}

    def select(self, columns: Sequence[int]) -> Self:
        """Return the normalisation of some entries of an observation."""
        made = type(self).__new__(type(self))
        made._set(self.mean[list(columns)], self.std[list(columns)], self.clip)
        return made

    def apply(self, observation: Tensor) -> Tensor:
        """Normalise observations ``[B, F]``.

        The computation is in float64: if an entry hardly changes, its standard deviation is
        far below the precision of its mean in float32.
        """
        mean, std = (
            torch.from_numpy(part).to(observation.device) for part in (self.mean, self.std)
        )
        normal = (observation.double() - mean) / std
        if self.clip is not None:
            normal = normal.clamp(-self.clip, self.clip)
        return normal.to(observation.dtype)


def _vector(name: str, values: Any) -> np.ndarray:
    """Return a copy of numbers as a vector of float64.

    Raises:
        ValueError: a value is no number, or the array is not a non-empty vector.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    if not isinstance(values, np.ndarray) and (
        not isinstance(values, (list, tuple)) or not all(map(is_number, values))
    ):
        raise ValueError(f"normalisation: {name} must be numbers, got {quoted(values)}")
    try:
        array = np.array(values, dtype=np.float64)
    except OverflowError:  # an integer of hundreds of digits
        array = np.full(len(values), np.inf)
    if array.ndim != 1 or not len(array):
        raise ValueError(
            f"normalisation: {name} must be of one dimension, got {array.shape}"
        )
    return array
