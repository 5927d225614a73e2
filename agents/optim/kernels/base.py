"""Types and functions that the kernels share: kernel, step, and moments of lists.

A kernel is an update rule on lists of parameters. It changes them in place, as a torch
optimizer does, and keeps the rule's state in a dict for each parameter. Up to rounding, it
computes the same as the rule of its name in :mod:`optenv.rules` on a batch of one run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optenv.rules.arithmetic import debiasing

from ..tensors import wide

__all__ = [
    "DEFAULT",
    "NUMBERS",
    "Kernel",
    "KernelOptions",
    "Step",
    "debiased_roots",
    "descend_",
    "for_each_count",
    "initial_slot",
    "takes_fused",
    "update_means_",
    "update_squares_",
]


class KernelOptions(NamedTuple):
    """Implementation to use, as in torch's optimizers; None lets torch choose.

    Attributes:
        foreach: whether each operation runs on all parameters at once, which takes less
            time and more memory than one parameter at a time.
        fused: whether the whole update is a single operation.
        capturable: whether the update can be captured in a CUDA graph: no operation waits
            for the device, and numbers that change are on the device.
    """

    foreach: bool | None = None
    fused: bool | None = None
    capturable: bool = False


DEFAULT = KernelOptions()

#: Slots that are single numbers, on the CPU unless an implementation reads them elsewhere.
NUMBERS = frozenset({"step", "mu_product"})


@dataclass(frozen=True)
class Step:
    """One update of several parameters, either all sharded or all plain tensors.

    Attributes:
        params: parameters, to be changed in place; in place of half-precision parameters,
            float32 copies.
        grads: their gradients, of the same shapes.
        states: their states, with the slots of the kernel.
        lr: learning rate; a tensor on the device if the step is capturable.
        h: hyperparameters of the rule, an instance of the rule's own class.
        options: implementation to use.
        matrices: whether rules that depend on shapes may treat each parameter as a matrix;
            None if this holds for all with two or more dimensions.
    """

    params: list[Tensor]
    grads: list[Tensor]
    states: list[dict[str, Any]]
    lr: float | Tensor
    h: Any
    options: KernelOptions = DEFAULT
    matrices: Sequence[bool] | None = None

    def slots(self, name: str) -> list[Any]:
        """Return the slot of this name of all parameters."""
        return [state[name] for state in self.states]

    def count(self) -> list[float] | Tensor:
        """Count the update in the ``step`` slots, and return each parameter's count.

        If the step is capturable, the counts are one tensor ``[n]`` on the device.
        """
        steps = self.slots("step")
        torch._foreach_add_(steps, 1)
        if self.options.capturable:
            return torch.stack(steps)
        return [step.item() for step in steps]

    def select(self, indices: Sequence[int]) -> Step:
        """Return the step of some of the parameters."""
        matrices = self.matrices
        return Step(
            [self.params[i] for i in indices], [self.grads[i] for i in indices],
            [self.states[i] for i in indices], self.lr, self.h, self.options,
            None if matrices is None else [matrices[i] for i in indices],
        )  # fmt: skip

    def one_by_one(self) -> list[Step]:
        """Split into steps of one parameter each, which take less memory."""
        return [self.select([i]) for i in range(len(self.params))]


def initial_slot(name: str, param: Tensor, options: KernelOptions) -> Tensor:
    """Make the initial value of a slot: zeros of the parameter's shape, or a number.

    Args:
        name: name of the slot; ``"step"`` is the number 0, ``"mu_product"`` 1.
        param: the parameter.
        options: implementation to use.
    """
    if name == "step":
        # Always float32: torch's default type may be half precision, which cannot count
        # beyond 256. Fused implementations read it on the device.
        on_device = options.fused or options.capturable
        device = param.device if on_device else torch.device("cpu")
        return torch.zeros((), dtype=torch.float32, device=device)
    dtype = wide(param.dtype)
    if name == "mu_product":  # torch has it in single precision, also for doubles
        device = param.device if options.capturable else torch.device("cpu")
        return torch.ones((), dtype=dtype.to_real(), device=device)
    return torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)


def takes_fused(step: Step) -> bool:
    """Return whether torch's fused Adam can take a step, unless the user chose otherwise.

    On the CPU it is much faster, but torch does not choose it by default.
    """
    options, first = step.options, step.params[0]
    if options.capturable or options.foreach is not None or options.fused is not None:
        return False
    return all(
        p.device.type == "cpu"
        and type(p) in (Tensor, torch.nn.Parameter)
        and p.dtype == state["exp_avg"].dtype == state["exp_avg_sq"].dtype == first.dtype
        and p.shape == grad.shape == state["exp_avg"].shape == state["exp_avg_sq"].shape
        and p.is_floating_point()
        and state["step"].dtype == torch.float32
        and state["step"].device.type == "cpu"
        and p.is_contiguous()
        and grad.is_contiguous()
        and state["exp_avg"].is_contiguous()
        and state["exp_avg_sq"].is_contiguous()
        for p, grad, state in zip(step.params, step.grads, step.states, strict=True)
    )


@dataclass(frozen=True)
class Kernel:
    """An update rule on lists of parameters.

    Attributes:
        update: function of a :class:`Step` that changes parameters and states in place.
        slots: names of the entries in a parameter's state.
        native: whether ``update`` follows :class:`KernelOptions` itself, as torch's own
            implementations do.
        fused: whether there is a fused implementation.
        capturable: whether ``update`` supports :attr:`KernelOptions.capturable`.
        kept: further entries that ``update`` adds to a parameter's state: for each name, a
            function that returns the entry's shape for a parameter, or None if that
            parameter has no such entry.
        keeps: function of the rule's hyperparameters that returns whether it adds them.
        init: function that makes the initial value of a slot, see :func:`initial_slot`: by
            default, ``step`` and ``mu_product`` are numbers, and all others zeros.
    """

    update: Callable[[Step], None]
    slots: frozenset[str] = frozenset()
    native: bool = False
    fused: bool = False
    capturable: bool = False
    kept: Mapping[str, Callable[[Tensor], Sequence[int] | None]] = field(
        default_factory=dict
    )
    keeps: Callable[[Any], bool] = bool
    init: Callable[[str, Tensor, KernelOptions], Tensor] = initial_slot


def update_means_(means: list[Tensor], grads: list[Tensor], decay: float) -> None:
    r"""Update moving averages in place: :math:`m \leftarrow \beta m + (1-\beta) g`.

    Like :func:`update_squares_` and :func:`debiased_roots`, it is the counterpart of a
    function in :mod:`optenv.rules.arithmetic`, for lists of tensors of any shapes instead
    of one batch of flat parameters.

    Args:
        means: average :math:`m` of each parameter.
        grads: gradient :math:`g` of each, real.
        decay: decay rate :math:`\beta`.
    """
    torch._foreach_lerp_(means, grads, 1 - decay)


def update_squares_(
    squares: list[Tensor], grads: list[Tensor], decays: Sequence[Any]
) -> None:
    r"""Update averages of squares in place: :math:`v \leftarrow \beta v + (1-\beta) g^2`.

    Args:
        squares: average :math:`v` of each parameter.
        grads: gradient :math:`g` of each, real.
        decays: decay rate :math:`\beta` of each, a number or a tensor ``[]``.
    """
    torch._foreach_mul_(squares, list(decays))
    weights = [1 - decay for decay in decays]
    if weights and isinstance(weights[0], Tensor):
        torch._foreach_addcmul_(squares, torch._foreach_mul(grads, weights), grads)
    else:
        torch._foreach_addcmul_(squares, grads, grads, weights)


def debiased_roots(
    squares: list[Tensor],
    decay: float | None,
    counts: Sequence[float] | Tensor,
    eps: float,
) -> tuple[Tensor, ...]:
    r"""Compute Adam's denominators :math:`\sqrt{v} / \sqrt{1 - \beta^t} + \epsilon`.

    Args:
        squares: average of squares :math:`v` of each parameter.
        decay: decay rate :math:`\beta` of the averages; None for no bias correction.
        counts: number of gradients :math:`t` in each average.
        eps: :math:`\epsilon`.
    """
    roots = torch._foreach_sqrt(squares)
    if decay is not None:
        torch._foreach_mul_(roots, for_each_count(lambda t: debiasing(t, decay), counts))
    torch._foreach_add_(roots, eps)
    return roots


def for_each_count(
    function: Callable[[Any], Any], counts: Sequence[float] | Tensor
) -> list[Any]:
    """Apply a function to each parameter's number of updates, and list the results.

    Args:
        function: arithmetic function of a number or a tensor.
        counts: numbers of updates. For a tensor ``[n]``, the function is applied once, and
            the results are tensors ``[]``.
    """
    if not isinstance(counts, Tensor):
        return [function(count) for count in counts]
    values = function(counts)
    return list(values.unbind()) if isinstance(values, Tensor) else [values] * len(counts)


def descend_(
    params: Sequence[Tensor], directions: Sequence[Tensor], lr: float | Tensor
) -> None:
    r"""Move parameters against directions in place: :math:`p \leftarrow p - \eta d`.

    Args:
        params: parameters.
        directions: direction :math:`d` of each.
        lr: learning rate :math:`\eta`, a number or a tensor on the device, which is not
            read on the host.
    """
    params, directions = list(params), list(directions)
    if isinstance(lr, Tensor):
        torch._foreach_add_(params, torch._foreach_mul(directions, -lr))
    else:
        torch._foreach_add_(params, directions, alpha=-lr)
