"""Types that all kernels share: a kernel's signature, its options, and precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from optenv.rules import Hyperparameters

from ..tensors import HALF, wide

__all__ = ["DEFAULT", "HALF", "Implementation", "Kernel", "wide"]


class Implementation(NamedTuple):
    """Which of its implementations torch is to use; None lets it choose."""

    foreach: bool | None = None
    fused: bool | None = None


DEFAULT = Implementation()

#: Parameters, gradients, states, learning rate, implementation, hyperparameters.
Kernel = Callable[
    [
        list[Tensor],
        list[Tensor],
        list[dict[str, Any]],
        float,
        Implementation,
        Hyperparameters,
    ],
    None,
]
