"""What the optimizer measures of parameters and gradients for its policy."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from optenv.probing import Probe, first_probe, probe

from .kernels import wide
from .sharding import is_sharded, several, summed, whole

#: State of each parameter, as a torch optimizer has it.
States = Mapping[Tensor, dict[str, Any]]


def mean_log_lr(groups: Sequence[Mapping[str, Any]], partitioned: bool = False) -> float:
    """Log of the learning rate of parameter groups, the mean over all that moves.

    Parameters without a gradient, and groups whose learning rate is 0, do not count;
    ``-inf`` if nothing does. ``partitioned``: other processes hold further parameters.
    """
    total, moving = 0.0, 0.0
    for group in groups:
        size = sum(p.numel() for p in group["params"] if p.grad is not None)
        if group["lr"] > 0 and size > 0:
            total += size * math.log(group["lr"])
            moving += size
    if partitioned and several():
        total, moving = summed([total, moving], [p for g in groups for p in g["params"]])
    return total / moving if moving else -math.inf


#: Numbers that are measured together: tensors one by one are slow if they are small, and
#: in whole if they are larger than a processor's cache.
AT_ONCE = 2**16

#: From one step to the next, gradient and change of single-precision parameters wait in
#: half the width: together they take the memory of one copy of the gradients. Inner
#: products of many numbers do not feel the rounding.
_WAITING = {torch.float32: torch.bfloat16}


def measure(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: States,
    dtype: torch.dtype,
    partitioned: bool = False,
) -> Probe:
    """Probe of the last update, from what :func:`settle` kept, in ``dtype``.

    ``partitioned``: other processes hold further parameters.
    """
    pairs = list(zip(params, grads, strict=True))
    known = [(p, grad) for p, grad in pairs if _is_known(p, states[p])]
    pairs = known or pairs
    now = [grad for _, grad in pairs], [p for p, _ in pairs]
    lists: tuple[list[Tensor], ...] = now
    measured: Callable[..., Probe] = first_probe
    if known:
        kept = ([states[p][name] for p, _ in pairs] for name in ("last_grad", "last_step"))
        lists, measured = (*now, *kept), probe
    found: list[Tensor] = []
    sharded: list[Probe] = []
    for part in _parts(lists[0]):
        if is_sharded(lists[0][part.start]):
            tensors = (every[part.start].to(dtype) for every in lists)
            sharded.append(measured(_sharded_dot, *tensors))
        else:
            flat = (_flat(every[part]).split(AT_ONCE) for every in lists)
            for pieces in zip(*flat, strict=True):
                sums = measured(_dot, *(piece.to(dtype) for piece in pieces))
                found.append(torch.stack(sums).cpu())
    if sharded:  # added up before the processes exchange anything
        added = (functools.reduce(torch.add, each) for each in zip(*sharded, strict=True))
        found.append(torch.stack([whole(each).cpu() for each in added]))
    total = torch.stack(found).sum(0)
    if partitioned and several():
        exchanged = summed(total.flatten().tolist(), params)
        total = torch.tensor(exchanged, dtype=dtype, device="cpu")[:, None]
    return Probe(*total)


def _is_known(p: Tensor, own: Mapping[str, Any]) -> bool:
    """Whether its last step is."""
    return bool(own.get("watched")) and _fits(p, own)


def _parts(tensors: Sequence[Tensor]) -> Iterator[slice]:
    """Neighbours that are measured together: on one device, and few numbers in all."""
    begin, numbers = 0, 0
    for i, tensor in enumerate(tensors):
        first = tensors[begin]
        alone = is_sharded(tensor) or is_sharded(first) or tensor.device != first.device
        if i > begin and (alone or numbers + tensor.numel() > AT_ONCE):
            yield slice(begin, i)
            begin, numbers = i, 0
        numbers += tensor.numel()
    yield slice(begin, len(tensors))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    if any(x.is_complex() for x in tensors):
        tensors = [_real(x) for x in tensors]
    return _flatten_dense_tensors(tensors)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a, b).reshape(1)


def _sharded_dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum().reshape(1)


def prepare(params: Sequence[Tensor], states: States) -> None:
    """Make room for what :func:`remember` and :func:`settle` keep.

    It stays, so that what a checkpoint holds does not depend on when it is taken.
    """
    for p in params:
        own = states[p]
        if "last_step" not in own or not _fits(p, own):
            for name in ("last_grad", "last_step"):
                own[name] = torch.zeros_like(
                    _real(p), dtype=_WAITING.get(_real(p).dtype), requires_grad=False
                )
            own["watched"] = torch.zeros((), dtype=torch.float32, device="cpu")


def remember(params: Sequence[Tensor], grads: Sequence[Tensor], states: States) -> None:
    """Keep gradient and parameters before an update, for :func:`settle` after it."""
    prepare(params, states)
    for p, grad in zip(params, grads, strict=True):
        own = states[p]
        own["last_grad"].copy_(_real(grad))
        own["last_param"] = _real(p).clone()


def settle(states: States) -> None:
    """Keep, in the place of the parameters before the update, what it changed of them."""
    for p, own in states.items():
        if "last_param" in own:
            before = own.pop("last_param")
            own["last_step"].copy_(torch.sub(_real(p), before, out=before))
            own["watched"].fill_(1.0)


def forget(states: States) -> None:
    """No longer take what was kept for that of the last step."""
    for own in states.values():
        own.pop("last_param", None)
        if "watched" in own:
            own["watched"].zero_()


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _fits(p: Tensor, own: Mapping[str, Any]) -> bool:
    """Whether what is kept has the shape that the parameter has now."""
    return own["last_step"].shape == _real(p).shape


def norm(grads: Sequence[Tensor], partitioned: bool = False) -> float:
    """Euclidean norm of all gradients; not finite if one of them is not.

    One pass over them, and one wait a device. ``partitioned``: other processes hold further
    gradients.

    Raises:
        RuntimeError: a gradient is sparse.
    """
    alike: dict[tuple[torch.device, torch.dtype, bool], list[Tensor]] = {}
    for grad in grads:
        if grad.is_sparse:
            raise RuntimeError(
                "a learned policy does not support sparse gradients, got one of a "
                f"parameter of shape {list(grad.shape)}"
            )
        alike.setdefault((grad.device, grad.dtype, is_sharded(grad)), []).append(grad)
    norms: dict[torch.device, list[Tensor]] = {}
    for (device, dtype, _), part in alike.items():
        # Squares of half precision's large numbers are beyond it.
        kind = None if dtype == wide(dtype) else wide(dtype)
        every = torch.stack(torch._foreach_norm(part, 2, kind))
        norms.setdefault(device, []).append(whole(torch.linalg.vector_norm(every)))
    found = math.hypot(*(float(torch.stack(part).norm()) for part in norms.values()))
    if partitioned and several():
        found = math.sqrt(*summed([found * found], grads))
    return found
