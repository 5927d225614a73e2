"""Update rules on lists of parameters, in torch's own implementation where there is one.

:data:`KERNELS` is the table of kernels by name of their rule. A rule that is not in it is
applied by a generic kernel, to one parameter at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from optenv.rules import Rule

from ..distributed import is_sharded
from ..tensors import HALF, wide
from . import lion, mlp, orthogonal_adam, switching, torch_native
from .base import DEFAULT, NUMBERS, Kernel, KernelOptions, Step
from .generic import generic_kernel

__all__ = [
    "CAPTURABLE",
    "FUSED",
    "KERNELS",
    "KernelOptions",
    "allocate",
    "allocate_kept",
    "kernel_of",
    "register",
    "update",
]

#: Kernels by name of their rule. Any other rule has a generic kernel.
KERNELS: dict[str, Kernel] = {
    **torch_native.KERNELS,
    **lion.KERNELS,
    **orthogonal_adam.KERNELS,
    **mlp.KERNELS,
    **switching.KERNELS,
}

#: Rules with a fused implementation.
FUSED = tuple(name for name, kernel in KERNELS.items() if kernel.fused)

#: Rules whose updates can be captured in CUDA graphs.
CAPTURABLE = tuple(name for name, kernel in KERNELS.items() if kernel.capturable)


def register(name: str, kernel: Kernel) -> None:
    """Add a kernel for a rule registered from outside (:func:`optenv.rules.register`).

    Raises:
        TypeError: ``kernel`` is no :class:`~agents.optim.kernels.base.Kernel`.
        ValueError: the rule has a kernel already.
    """
    if not isinstance(kernel, Kernel):
        raise TypeError(
            f"kernel must be an agents.optim.kernels.base.Kernel, got {kernel!r}"
        )
    if name in KERNELS:
        raise ValueError(f"rule {name!r} has a kernel already; taken: {', '.join(KERNELS)}")
    KERNELS[name] = kernel


def kernel_of(rule: Rule) -> Kernel:
    """Return the kernel of a rule: its own, or else a generic one."""
    kernel = KERNELS.get(rule.name)
    return generic_kernel(rule) if kernel is None else kernel


def update(
    rule: Rule,
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    lr: float | Tensor,
    *,
    weight_decay: float,
    options: KernelOptions = DEFAULT,
    matrices: Sequence[bool] | None = None,
) -> None:
    """Update parameters by ``rule``, after decoupled weight decay.

    For parameters in half precision, moments and update are in float32.

    Args:
        rule: the update rule.
        params: parameters, changed in place.
        grads: their gradients.
        states: their states; missing slots are allocated.
        lr: learning rate; a tensor on the device if the step is capturable.
        weight_decay: the parameters are multiplied by ``1 - lr * weight_decay``.
        options: implementation to use.
        matrices: see :class:`~agents.optim.kernels.base.Step`.
    """
    allocate(rule, params, states, options)
    # 1. Split into kinds: sharded or not, half precision or not.
    parts: list[list[int]] = [[]]
    if len({(type(p), p.dtype) for p in params}) > 1:
        kinds = [(is_sharded(p), p.dtype in HALF) for p in params]
        parts = [[i for i, kind in enumerate(kinds) if kind == k] for k in set(kinds)]
    kernel = kernel_of(rule)
    whole = Step(params, grads, states, lr, rule.hyperparameters, options, matrices)
    for part in parts:
        step = whole.select(part) if part else whole
        # 2. Update half precision in float32 copies.
        original = step.params
        is_half = original[0].dtype in HALF
        if is_half:
            copies = [p.to(wide(p.dtype)) for p in step.params]
            wide_grads = [grad.to(wide(grad.dtype)) for grad in step.grads]
            step = replace(step, params=copies, grads=wide_grads)
        if weight_decay:
            torch._foreach_mul_(step.params, 1.0 - lr * weight_decay)
        # 3. Apply the kernel. With foreach=False, kernels of this package update one
        # parameter at a time, which saves memory.
        if kernel.native or options.foreach is not False:
            kernel.update(step)
        else:
            for single in step.one_by_one():
                kernel.update(single)
        if is_half:
            torch._foreach_copy_(original, step.params)


def allocate_kept(
    rule: Rule, params: Sequence[Tensor], states: Sequence[dict[str, Any]]
) -> None:
    """Allocate the entries that the kernel of ``rule`` keeps besides its slots, if any."""
    kernel = kernel_of(rule)
    if not kernel.kept or not kernel.keeps(rule.hyperparameters):
        return
    for name, shape_of in kernel.kept.items():
        for p, state in zip(params, states, strict=True):
            shape = shape_of(p)
            if shape is not None and name not in state:
                state[name] = torch.zeros(shape, dtype=wide(p.dtype), device=p.device)


def allocate(
    rule: Rule,
    params: Sequence[Tensor],
    states: Sequence[dict[str, Any]],
    options: KernelOptions = DEFAULT,
) -> None:
    """Allocate missing slots of ``rule`` in the states of parameters."""
    kernel = kernel_of(rule)
    for param, state in zip(params, states, strict=True):
        if not kernel.slots <= state.keys():
            for name in sorted(kernel.slots - state.keys()):
                state[name] = kernel.init(name, param, options)
        if options.capturable:  # move numbers that a checkpoint has on the CPU
            for name in NUMBERS & kernel.slots:
                if state[name].device != param.device:
                    state[name] = state[name].to(param.device)
