"""Helpers for lists of tensors: working precision, real views, gradients, their norm.

torch's private functions on lists of tensors are used only here, in
:mod:`agents.optim.probe` and in the kernels.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from .distributed import all_reduce_sum, full_tensor, is_distributed, is_sharded

__all__ = [
    "HALF",
    "DeviceRates",
    "GradientBatch",
    "States",
    "grad_norm",
    "in_full_precision",
    "parameters_of",
    "real",
    "wide",
]

#: State of each parameter, as a torch optimizer keeps it.
States = Mapping[Tensor, dict[str, Any]]

#: Types of devices that have autocast.
AUTOCASTS = ("cpu", "cuda", "mps", "xpu")

P = ParamSpec("P")
T = TypeVar("T")

#: Data types whose precision is too low for computations.
HALF = (torch.float16, torch.bfloat16, torch.complex32)


def in_full_precision(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function to run without the caller's autocast."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        for device in AUTOCASTS:
            if torch.is_autocast_enabled(device):
                with torch.autocast(device, enabled=False):
                    return call(*args, **kwargs)
        return function(*args, **kwargs)

    return call


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the data type to compute in: float32 instead of half precision."""
    return torch.promote_types(dtype, torch.float32)


def real(tensor: Tensor) -> Tensor:
    """Return ``view_as_real`` of a complex tensor, and any other tensor unchanged."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def parameters_of(groups: Sequence[Mapping[str, Any]]) -> list[Tensor]:
    """List the parameters of all groups, in order."""
    return [p for group in groups for p in group["params"]]


@dataclass(frozen=True)
class GradientBatch:
    """Parameters that have a gradient at one step, and their gradients.

    Attributes:
        groups: all parameter groups of the optimizer.
        counts: number of parameters with a gradient in each group.
        params: parameters with a gradient, group by group.
        grads: their gradients, negated in groups with ``maximize``.
        states: state of each parameter of the optimizer.
        matrices: whether some rules may treat each of ``params`` as a matrix; None if this
            holds for all with two or more dimensions.
    """

    groups: Sequence[dict[str, Any]]
    counts: Sequence[int]
    params: list[Tensor]
    grads: list[Tensor]
    states: States
    matrices: Sequence[bool] | None = None

    @classmethod
    def collect(cls, groups: Sequence[dict[str, Any]], states: States) -> GradientBatch:
        """Collect the gradients of parameter groups, negated where they are maximised."""
        # Lists, since hashing parameters for a dict would take longer.
        params: list[Tensor] = []
        grads: list[Tensor] = []
        counts = []
        for group in groups:
            before = len(params)
            params += [p for p in group["params"] if p.grad is not None]
            group_grads = [p.grad for p in params[before:] if p.grad is not None]
            if group.get("maximize"):
                group_grads = [-grad for grad in group_grads]
            grads += group_grads
            counts.append(len(params) - before)
        return cls(groups, counts, params, grads, states)

    @property
    def moves(self) -> bool:
        """True if any parameter in the batch has a base learning rate above 0."""
        groups = zip(self.groups, self.counts, strict=True)
        return any(group["lr"] for group, count in groups if count)

    def by_group(self) -> Iterator[tuple[dict[str, Any], list[Tensor], list[Tensor]]]:
        """Iterate over the groups, with their parameters and gradients."""
        begin = 0
        for group, count in zip(self.groups, self.counts, strict=True):
            part = slice(begin, begin + count)
            yield group, self.params[part], self.grads[part]
            begin += count

    def matrices_by_group(self) -> list[Sequence[bool] | None]:
        """List :attr:`matrices` by group."""
        if self.matrices is None:
            return [None] * len(self.groups)
        ends = list(itertools.accumulate(self.counts))
        spans = zip(ends, self.counts, strict=True)
        return [self.matrices[end - count : end] for end, count in spans]

    def with_groups(self, groups: Sequence[dict[str, Any]]) -> GradientBatch:
        """Return a batch with the same groups in other settings."""
        return replace(self, groups=groups)

    def with_grads(self, grads: list[Tensor]) -> GradientBatch:
        """Return a batch with other gradients; ``p.grad`` of parameters is unchanged."""
        return replace(self, grads=grads)


class DeviceRates:
    """Learning rates of parameter groups, in device tensors whose addresses stay fixed."""

    def __init__(self) -> None:
        self._tensors: dict[int, Tensor] = {}

    def write(self, index: int, lr: float, like: Tensor | None = None) -> Tensor:
        """Write the learning rate of a group, and return the tensor.

        Args:
            index: index of the group.
            lr: learning rate.
            like: parameter on whose device the tensor is made if there is none yet.
        """
        tensor = self._tensors.get(index)
        if like is not None and (tensor is None or tensor.device != like.device):
            dtype = wide(like.dtype).to_real()
            tensor = torch.zeros((), dtype=dtype, device=like.device)
            self._tensors[index] = tensor
        assert tensor is not None
        return tensor.fill_(lr)

    def read(self, index: int) -> Tensor:
        """Return the tensor of a group, which has been written before."""
        return self._tensors[index]


def grad_norm(grads: Sequence[Tensor], partitioned: bool = False) -> float:
    """Return the Euclidean norm over all gradients; non-finite if one of them is.

    It takes one pass over the gradients and waits once for each device.

    Args:
        grads: gradients of any shape, data type and device.
        partitioned: whether other processes hold further gradients.

    Raises:
        RuntimeError: a gradient is sparse.
    """
    # 1. Sort the gradients by kind. Mostly there is only one, which is quick to test.
    kinds = {(type(g), g.dtype, g.layout, g.device) for g in grads}
    if len(kinds) == 1:
        alike = [list(grads)]
    else:
        sorted_grads: dict[tuple[Any, ...], list[Tensor]] = {}
        for grad in grads:
            key = (is_sharded(grad), grad.is_sparse, grad.dtype, grad.device)
            sorted_grads.setdefault(key, []).append(grad)
        alike = list(sorted_grads.values())
    # 2. Norms of each kind, on its device.
    norms: dict[torch.device, list[Tensor]] = {}
    for part in alike:
        first = part[0]
        if first.is_sparse:
            raise RuntimeError(
                "a learned policy does not support sparse gradients, got one of a "
                f"parameter of shape {list(first.shape)}"
            )
        # Squares of large numbers overflow in half precision.
        dtype = None if first.dtype == wide(first.dtype) else wide(first.dtype)
        each = torch.stack(torch._foreach_norm(part, 2, dtype))
        of_device = norms.setdefault(first.device, [])
        of_device.append(full_tensor(torch.linalg.vector_norm(each)))
    # 3. One norm over all devices and processes.
    totals = (
        part[0] if len(part) == 1 else torch.stack(part).norm() for part in norms.values()
    )
    total = math.hypot(*map(float, totals))
    if partitioned and is_distributed():
        total = math.sqrt(*all_reduce_sum([total * total], grads))
    return total
