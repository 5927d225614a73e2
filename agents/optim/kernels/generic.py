"""Generic kernel: a batched rule, applied to one parameter at a time.

It applies rules that have no kernel of their own, such as those that a user has registered
(:func:`optenv.rules.register`). A kernel on lists of parameters is faster
(:func:`agents.optim.kernels.register`).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from optenv.rules import Rule

from ..distributed import full_tensor, shard_like
from ..state_keys import OWN
from ..tensors import real, wide
from .base import Kernel, KernelOptions, Step

__all__ = ["generic_kernel"]


def generic_kernel(rule: Rule) -> Kernel:
    """Make a kernel that updates each parameter as a batch of one run.

    To the rule, a complex parameter is a vector of real numbers. A ``DTensor`` is gathered
    in each process, since an update may depend on all elements of a parameter.

    Raises:
        ValueError: a slot of the rule has a name that is reserved for the optimizer.
    """
    taken = [name for name in rule.slots if name in OWN]
    if taken:
        raise ValueError(
            f"rule {rule.name!r} cannot have slots {taken}; reserved for the optimizer: "
            f"{', '.join(sorted(OWN))}"
        )
    return Kernel(
        partial(_update, rule), frozenset(rule.slots), init=partial(_initial_slot, rule)
    )


def _update(rule: Rule, step: Step) -> None:
    parts = zip(step.params, step.grads, step.states, strict=True)
    for i, (param, grad, state) in enumerate(parts):
        # 1. Make everything a batch of one run.
        target = real(param)
        flat, flat_grad = _row(target, target), _row(real(grad), target)
        of_rule = tuple(_row(state[name], target) for name in rule.slots)
        lr = torch.full((1, 1), float(step.lr), dtype=flat.dtype, device=flat.device)
        # 2. Update it.
        shape = (target.numel(),) if param.is_complex() else target.shape
        may_be_matrix = step.matrices is None or step.matrices[i]
        bound = rule.bind([shape], ["matrices" if may_be_matrix else "vectors"])
        new, of_rule = bound.update(flat, flat_grad, of_rule, lr)
        # 3. Put it back into the shape of the parameter.
        target.copy_(_shaped(new, target))
        for name, part in zip(rule.slots, of_rule, strict=True):
            state[name] = _shaped(part, target)


def _initial_slot(rule: Rule, name: str, param: Tensor, options: KernelOptions) -> Tensor:
    """Make the initial value of a slot, by the rule on a batch of one run."""
    target = real(param.detach().to(wide(param.dtype)))
    shape = (target.numel(),) if param.is_complex() else target.shape
    # A clone, since the rule may keep the parameters that it gets.
    parts = rule.bind([shape]).init(_row(target, target).clone())
    return _shaped(parts[rule.slots.index(name)], target)


def _row(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a tensor of the shape of ``like`` as ``[1, P]``, and ``[k]`` as ``[1, k]``."""
    whole = full_tensor(tensor)
    return whole.reshape(1, -1) if whole.shape == like.shape else whole[None]


def _shaped(part: Tensor, like: Tensor) -> Tensor:
    """Return ``[1, P]`` in shape and sharding of ``like``, and ``[1, k]`` as ``[k]``."""
    if part.shape[1] == like.numel():
        return shard_like(part.reshape(like.shape), like)
    return part[0]
