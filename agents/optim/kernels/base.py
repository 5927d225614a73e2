"""Types that the kernels share: a kernel, the step it takes, and moments on lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "DEFAULT",
    "Kernel",
    "KernelOptions",
    "Step",
    "update_means_",
    "update_squares_",
]


class KernelOptions(NamedTuple):
    """Implementation to use, as in torch's optimizers; None lets torch choose."""

    foreach: bool | None = None
    fused: bool | None = None


DEFAULT = KernelOptions()


@dataclass(frozen=True)
class Step:
    """One update of several parameters of one kind: all sharded or none, one precision.

    Attributes:
        params: parameters, to be changed in place; half precision comes in float32.
        grads: their gradients, of the same shapes.
        states: their states, with the slots of the kernel.
        lr: learning rate.
        h: hyperparameters of the rule.
        options: implementation to use.
    """

    params: list[Tensor]
    grads: list[Tensor]
    states: list[dict[str, Any]]
    lr: float
    h: Any
    options: KernelOptions = DEFAULT

    def slots(self, name: str) -> list[Any]:
        """List a slot of all parameters."""
        return [state[name] for state in self.states]

    def count(self) -> list[float]:
        """Count the update in the ``step`` slots, and list the numbers of updates."""
        for state in self.states:
            state["step"] += 1
        return [state["step"].item() for state in self.states]

    def one_by_one(self) -> list[Step]:
        """Split into steps of single parameters, which take less memory."""
        each = zip(self.params, self.grads, self.states, strict=True)
        return [Step([p], [g], [s], self.lr, self.h, self.options) for p, g, s in each]


@dataclass(frozen=True)
class Kernel:
    """An update rule on lists of parameters.

    Attributes:
        update: takes a :class:`Step`, and changes parameters and states in place.
        slots: names of a parameter's state entries: ``step`` and ``mu_product`` are
            numbers, all others tensors of the parameter's shape that begin at zero.
        native: whether ``update`` follows :class:`KernelOptions` itself, as torch's own do.
        fused: whether there is a fused implementation.
    """

    update: Callable[[Step], None]
    slots: frozenset[str] = frozenset()
    native: bool = False
    fused: bool = False


def update_means_(means: list[Tensor], grads: list[Tensor], decay: float) -> None:
    r"""Update moving averages in place: :math:`m \leftarrow \beta m + (1-\beta) g`.

    With :func:`update_squares_` the counterpart, on lists of tensors of any shapes, of the
    functions in :mod:`optenv.rules.arithmetic` on one batch of flat parameters.
    """
    torch._foreach_lerp_(means, grads, 1 - decay)


def update_squares_(
    squares: list[Tensor], grads: list[Tensor], decay: float | Sequence[float]
) -> None:
    r"""Update averages of squares in place: :math:`v \leftarrow \beta v + (1-\beta) g^2`.

    Args:
        squares, grads: of each parameter.
        decay: :math:`\beta` of all, or of each.
    """
    if isinstance(decay, float):
        torch._foreach_mul_(squares, decay)
        torch._foreach_addcmul_(squares, grads, grads, 1 - decay)
    else:
        torch._foreach_mul_(squares, list(decay))
        torch._foreach_addcmul_(squares, grads, grads, [1 - each for each in decay])
