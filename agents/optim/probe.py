"""What the optimizer measures of parameters and gradients for its policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, reduce
from itertools import compress
from typing import Any, cast

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from optenv.probing import Probe, first_probe, probe

from . import snapshots, subsample
from .distributed import is_sharded, own_rows, several, summed, whole
from .kernels.base import wide
from .snapshots import States, real


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


def measure(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: States,
    dtype: torch.dtype,
    partitioned: bool = False,
) -> Probe:
    """Probe of the last update, from what waited for it, in ``dtype``.

    ``partitioned``: other processes hold further parameters.
    """
    pairs = list(zip(params, grads, strict=True))
    known = list(compress(pairs, snapshots.known(params, states)))
    pairs = known or pairs
    now = [grad for _, grad in pairs], [p for p, _ in pairs]
    lists: tuple[list[Tensor], ...] = now
    measured: Callable[..., Probe] = first_probe
    if known:
        kept = ([states[p][name] for p, _ in pairs] for name in ("last_grad", "last_step"))
        lists, measured = (*now, *kept), probe
    found: list[Tensor] = []
    sharded: list[Probe] = []
    for part in _parts(lists[1]):
        p = lists[1][part.start]
        if is_sharded(p):
            tensors = [real(every[part.start]) for every in lists]
            sharded.append(_sharded_probe(measured, tensors, dtype))
            continue
        if subsample.is_sampled(p):
            flat = [snapshots.taken(every[part.start]) for every in now]
            flat += [every[part.start] for every in lists[2:]]
        else:
            flat = [_flat(every[part]) for every in lists]
        sums = torch.stack(measured(torch.dot, *(every.to(dtype) for every in flat)))
        found.append((sums * subsample.factor(real(p))).cpu())
    if sharded:  # added up before the processes exchange anything
        added = (reduce(torch.add, each) for each in zip(*sharded, strict=True))
        found.append(torch.stack([whole(each).cpu() for each in added]))
    total = torch.stack(found).sum(0)
    if partitioned and several():
        total = torch.tensor(summed(total.tolist(), params), dtype=dtype, device="cpu")
    return Probe(*total[:, None])


def _parts(tensors: Sequence[Tensor]) -> Iterator[slice]:
    """Neighbours that are measured together: on one device, and few numbers in all."""
    # One that is sharded or sampled is measured alone.
    alone = [is_sharded(tensor) or subsample.is_sampled(tensor) for tensor in tensors]
    sizes = [AT_ONCE if own else x.numel() for own, x in zip(alone, tensors, strict=True)]
    for part in _neighbours(tuple(sizes)):
        begin = part.start
        for i in range(part.start, part.stop):
            if tensors[i].device != tensors[begin].device:
                yield slice(begin, i)
                begin = i
        yield slice(begin, part.stop)


@lru_cache(maxsize=64)
def _neighbours(sizes: tuple[int, ...]) -> list[slice]:
    """Neighbours that are few numbers in all."""
    parts, begin, numbers = [], 0, 0
    for i, size in enumerate(sizes):
        if i > begin and numbers + size > AT_ONCE:
            parts.append(slice(begin, i))
            begin, numbers = i, 0
        numbers += size
    return [*parts, slice(begin, len(sizes))]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    if any(x.is_complex() for x in tensors):
        tensors = [real(x) for x in tensors]
    return _flatten_dense_tensors(tensors)


def _sharded_probe(
    measured: Callable[..., Probe], tensors: Sequence[Tensor], dtype: torch.dtype
) -> Probe:
    """Of one that is spread over processes; sums over it that are still to be added up."""
    first = tensors[0]
    part = own_rows(first) if subsample.is_sampled(first) else None
    if part is None:
        return measured(_sharded_dot, *(tensor.to(dtype) for tensor in tensors))
    begin, gather = part
    local = (cast(Any, tensor).to_local() for tensor in tensors)
    taken = (subsample.sample(each, first.shape, begin).to(dtype) for each in local)
    sums = measured(torch.dot, *taken)
    return Probe(*(gather(each * subsample.factor(first)) for each in sums))


def _sharded_dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


def norm(grads: Sequence[Tensor], partitioned: bool = False) -> float:
    """Euclidean norm of all gradients; not finite if one of them is not.

    One pass over them, and one wait a device. ``partitioned``: other processes hold further
    gradients.

    Raises:
        RuntimeError: a gradient is sparse.
    """
    # Mostly they are of one kind, which takes less time to see than to sort them.
    seen = {(type(g), g.dtype, g.layout, g.device) for g in grads}
    if len(seen) == 1:
        alike = [list(grads)]
    else:
        kinds: dict[tuple[Any, ...], list[Tensor]] = {}
        for grad in grads:
            key = (is_sharded(grad), grad.is_sparse, grad.dtype, grad.device)
            kinds.setdefault(key, []).append(grad)
        alike = list(kinds.values())
    found: dict[torch.device, list[Tensor]] = {}
    for part in alike:
        first = part[0]
        if first.is_sparse:
            raise RuntimeError(
                "a learned policy does not support sparse gradients, got one of a "
                f"parameter of shape {list(first.shape)}"
            )
        # Squares of half precision's large numbers are beyond it.
        kind = None if first.dtype == wide(first.dtype) else wide(first.dtype)
        every = torch.stack(torch._foreach_norm(part, 2, kind))
        norms = found.setdefault(first.device, [])
        norms.append(whole(torch.linalg.vector_norm(every)))
    total = math.hypot(*(float(torch.stack(norms).norm()) for norms in found.values()))
    if partitioned and several():
        total = math.sqrt(*summed([total * total], grads))
    return total
