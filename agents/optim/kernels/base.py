"""Types that all kernels share: a kernel's signature, its options, and precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optenv.rules import Hyperparameters

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

#: Types that have too few digits to compute in.
HALF = (torch.float16, torch.bfloat16, torch.complex32)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Type to compute in: single precision in the place of half."""
    return torch.promote_types(dtype, torch.float32)
