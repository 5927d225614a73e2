"""What waits from one step to the next: gradient and change of the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from . import subsample
from .distributed import is_sharded

__all__ = ["States", "forget", "known", "prepare", "real", "remember", "settle", "taken"]

#: State of each parameter, as a torch optimizer has it.
States = Mapping[Tensor, dict[str, Any]]

#: Single precision waits in half the width: gradient and change together take the memory
#: of one copy of the gradients. Inner products of many numbers do not feel the rounding.
_TYPES = {torch.float32: torch.bfloat16}


def real(tensor: Tensor) -> Tensor:
    """The tensor, or a view of a complex one as numbers that are not."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def taken(tensor: Tensor) -> Tensor:
    """What is measured of a tensor that is no ``DTensor``: all of it, if it is small."""
    return subsample.sample(real(tensor)) if subsample.is_sampled(tensor) else tensor


def prepare(params: Sequence[Tensor], states: States) -> None:
    """Make room for what :func:`remember` and :func:`settle` keep.

    It stays, so that what a checkpoint holds does not depend on when it is taken.
    """
    for p in params:
        own = states[p]
        if "last_step" not in own or not _fits(p, own):
            room = real(p if is_sharded(p) else taken(p))
            for name in ("last_grad", "last_step"):
                own[name] = torch.zeros_like(
                    room, dtype=_TYPES.get(room.dtype), requires_grad=False
                )
            own["watched"] = torch.zeros((), dtype=torch.float32, device="cpu")


def known(params: Sequence[Tensor], states: States) -> list[bool]:
    """Of which of the parameters the last step is known."""
    none = torch.zeros((), dtype=torch.float32, device="cpu")
    kept = [states[p] for p in params]
    flags = torch.stack([own.get("watched", none).cpu() for own in kept]).tolist()
    every = zip(params, kept, flags, strict=True)
    return [bool(flag) and _fits(p, own) for p, own, flag in every]


def remember(params: Sequence[Tensor], grads: Sequence[Tensor], states: States) -> None:
    """Keep gradient and parameters before an update, for :func:`settle` after it."""
    prepare(params, states)
    kept = [states[p] for p in params]
    last = [_part(own["last_grad"]) for own in kept]
    torch._foreach_copy_(last, [_part(g, p) for g, p in zip(grads, params, strict=True)])
    # Their negatives, which are quicker to make than copies.
    negatives = torch._foreach_neg([_part(p) for p in params])
    for own, negative in zip(kept, negatives, strict=True):
        own["last_param"] = negative


def settle(states: States) -> None:
    """Keep, in the place of the parameters before the update, what it changed of them."""
    moved = [(p, own) for p, own in states.items() if "last_param" in own]
    if not moved:
        return
    step = [own.pop("last_param") for _, own in moved]
    torch._foreach_add_(step, [_part(p) for p, _ in moved])
    torch._foreach_copy_([_part(own["last_step"]) for _, own in moved], step)
    watched = [own["watched"] for _, own in moved]
    torch._foreach_copy_(watched, [torch.ones_like(watched[0])] * len(watched))


def forget(states: States) -> None:
    """No longer take what was kept for that of the last step."""
    watched = [own["watched"] for own in states.values() if "watched" in own]
    for own in states.values():
        own.pop("last_param", None)
    if watched:
        torch._foreach_zero_(watched)


def _part(tensor: Any, like: Any = None) -> Tensor:
    """What waits of a tensor: of one that is spread over processes, all that is here."""
    if not is_sharded(tensor):
        return real(taken(tensor))
    if like is not None and tensor.placements != like.placements:
        tensor = tensor.redistribute(placements=like.placements)
    return real(tensor.to_local())


def _fits(p: Tensor, own: Mapping[str, Any]) -> bool:
    """Whether what is kept has the shape that the parameter has now."""
    shape = real(p).shape if p.is_complex() else p.shape
    if subsample.is_sampled(p) and not is_sharded(p):
        shape = torch.Size([subsample.size(shape)])
    return bool(own["last_step"].shape == shape)
