"""Inner products of gradients and updates, from which observations are computed.

At a decision, the gradient and the update of the previous step are needed. An
:class:`UpdateProbe` buffers both in the optimizer's state, where torch saves and restores
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, reduce
from itertools import compress
from typing import Any, cast

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from optenv.telemetry import Probe, first_probe, probe

from .distributed import (
    all_reduce_sum,
    full_tensor,
    is_distributed,
    is_sharded,
    row_shard,
)
from .state_keys import STARTED
from .subsample import is_subsampled, scale, subsample, subsample_numel
from .tensors import GradientBatch, States, in_full_precision, real

__all__ = ["UpdateProbe", "buffer_shape"]

#: Data types of the buffers. Float32 parameters have them in bfloat16, so that gradient and
#: update together take the memory of one copy of the gradients. The rounding hardly affects
#: inner products over many elements.
_BUFFER_DTYPES = {torch.float32: torch.bfloat16}

#: Number of elements that are measured together. Small tensors are slow one by one, and
#: tensors larger than the processor's cache are slow in one piece.
CHUNK_NUMEL = 2**16


class UpdateProbe:
    """Buffers of the previous gradient and update, and their inner products.

    :class:`~agents.optim.controller.Controller` makes three calls for each decision, in
    this order. :meth:`start` buffers gradients and parameters before the last update ahead
    of the decision. :meth:`finish` replaces the buffered parameters by their change, after
    that update. :meth:`measure` returns the inner products at the decision.
    :meth:`invalidate` marks buffers that no longer belong to the previous step. The buffers
    are entries of each parameter's state in the optimizer:

    - ``last_grad`` and ``last_step``: gradient and change of the parameter, both subsampled
      if it is large;
    - ``watched``: 1 if these two belong to the previous step, else 0;
    - ``last_param``: negated parameter, only between :meth:`start` and :meth:`finish`.

    Args:
        partitioned: whether other processes hold further parameters of the model.
    """

    def __init__(self, partitioned: bool = False) -> None:
        self.partitioned = partitioned

    def allocate(self, params: Sequence[Tensor], states: States) -> None:
        """Allocate the buffers of parameters that have none of the right shape.

        They stay allocated, so that the entries of a checkpoint do not depend on when it
        is taken.
        """
        for p in params:
            state = states[p]
            if "last_step" not in state or not _fits(p, state):
                like = real(p if is_sharded(p) else _measured_part(p))
                dtype = _BUFFER_DTYPES.get(like.dtype)
                last_grad, last_step = (
                    torch.zeros_like(like, dtype=dtype, requires_grad=False)
                    for _ in range(2)
                )
                watched = torch.zeros((), dtype=torch.float32, device="cpu")
                # All at once: an interrupt must not leave some of them
                state.update(last_grad=last_grad, last_step=last_step, watched=watched)

    @in_full_precision
    def start(self, batch: GradientBatch) -> None:
        """Buffer gradients and parameters before an update."""
        self.allocate(batch.params, batch.states)
        states = [batch.states[p] for p in batch.params]
        pairs = zip(batch.grads, batch.params, strict=True)
        buffers = [_local_part(state["last_grad"]) for state in states]
        torch._foreach_copy_(buffers, [_local_part(g, like=p) for g, p in pairs])
        # Negated, since that is quicker than a copy, and an addition completes it.
        negated = torch._foreach_neg([_local_part(p) for p in batch.params])
        for state, param in zip(states, negated, strict=True):
            state[STARTED] = param

    @in_full_precision
    def finish(self, states: States) -> None:
        """Buffer the change of the parameters since :meth:`start`."""
        started = [(p, state) for p, state in _of_parameters(states) if STARTED in state]
        if not started:
            return
        steps = [state.pop(STARTED) for _, state in started]
        torch._foreach_add_(steps, [_local_part(p) for p, _ in started])
        torch._foreach_copy_([_local_part(s["last_step"]) for _, s in started], steps)
        flags = [state["watched"] for _, state in started]
        torch._foreach_copy_(flags, [torch.ones_like(flags[0])] * len(flags))

    def invalidate(self, states: States) -> None:
        """Mark all buffers as not belonging to the previous step."""
        flags = []
        for _, state in _of_parameters(states):
            state.pop(STARTED, None)
            if "watched" in state:
                flags.append(state["watched"])
        if flags:
            torch._foreach_zero_(flags)

    @in_full_precision
    def measure(self, batch: GradientBatch, dtype: torch.dtype) -> Probe:
        """Measure the inner products at a decision, as CPU tensors ``[1]`` of ``dtype``.

        Parameters without valid buffers do not count. If no parameter has any, only the
        products that need no previous step are measured, and the others are 0
        (:func:`optenv.telemetry.first_probe`).
        """
        # 1. Take the parameters whose previous step is known; at first there are none.
        pairs = list(zip(batch.params, batch.grads, strict=True))
        known = list(compress(pairs, _are_valid(batch.params, batch.states)))
        pairs = known or pairs
        current = [grad for _, grad in pairs], [p for p, _ in pairs]
        lists: tuple[list[Tensor], ...] = current
        products: Callable[..., Probe] = first_probe
        if known:
            buffers = (
                [batch.states[p][name] for p, _ in pairs]
                for name in ("last_grad", "last_step")
            )
            lists, products = (*current, *buffers), probe
        # 2. Measure chunk by chunk; shards are summed before processes exchange anything.
        sums: list[Tensor] = []
        sharded: list[Probe] = []
        for chunk in _chunks(lists[1]):
            p = lists[1][chunk.start]
            if is_sharded(p):
                tensors = [real(each[chunk.start]) for each in lists]
                sharded.append(_sharded_products(products, tensors, dtype))
                continue
            if is_subsampled(p):  # alone in its chunk, and its buffers are subsampled
                flat = [_measured_part(each[chunk.start]) for each in current]
                flat += [each[chunk.start] for each in lists[2:]]
            else:
                real_lists = [[real(tensor) for tensor in each[chunk]] for each in lists]
                flat = [_flatten_dense_tensors(tensors) for tensors in real_lists]
            of_chunk = products(torch.dot, *(each.to(dtype) for each in flat))
            sums.append((torch.stack(of_chunk) * scale(real(p))).cpu())
        if sharded:
            added = (reduce(torch.add, each) for each in zip(*sharded, strict=True))
            sums.append(torch.stack([full_tensor(each).cpu() for each in added]))
        # 3. Add up chunks, and the parts of other processes.
        total = torch.stack(sums).sum(0)
        if self.partitioned and is_distributed():
            numbers = all_reduce_sum(total.tolist(), batch.params)
            total = torch.tensor(numbers, dtype=dtype, device="cpu")
        return Probe(*total[:, None])

    @in_full_precision
    def measure_each(self, batch: GradientBatch, dtype: torch.dtype) -> tuple[Probe, Probe]:
        """Measure the inner products at a decision, in all and for each parameter.

        Parameters of other processes are not included.

        Returns:
            The probe ``[1]`` over all parameters, see :meth:`measure`; and the probe
            ``[1, N]`` of each parameter of the batch. Of a parameter without valid buffers,
            only the products that need no previous step are measured; the others are 0.
        """
        known = _are_valid(batch.params, batch.states)
        each = zip(batch.params, batch.grads, known, strict=True)
        rows = torch.stack(
            [
                _products(p, grad, batch.states[p] if is_known else None, dtype)
                for p, grad, is_known in each
            ]
        )
        total = rows[torch.tensor(known, device="cpu")] if any(known) else rows
        return Probe(*total.sum(0)[:, None]), Probe(*rows.T[:, None])


def _products(
    p: Tensor, grad: Tensor, state: Mapping[str, Any] | None, dtype: torch.dtype
) -> Tensor:
    """Measure the inner products ``[7]`` of one parameter, on the CPU.

    Args:
        p: the parameter.
        grad: its gradient.
        state: state with the buffers of the previous step; None if there are none.
        dtype: data type of the result.
    """
    buffers = [] if state is None else [state["last_grad"], state["last_step"]]
    products: Callable[..., Probe] = first_probe if state is None else probe
    if is_sharded(p):
        tensors = [real(each) for each in (grad, p, *buffers)]
        sharded = _sharded_products(products, tensors, dtype)
        return torch.stack([full_tensor(each).cpu() for each in sharded])
    current = [real(_measured_part(each)) for each in (grad, p)]
    flat = (each.reshape(-1).to(dtype) for each in (*current, *map(real, buffers)))
    return (torch.stack(products(torch.dot, *flat)) * scale(real(p))).cpu()


def _of_parameters(states: States) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Iterate over the states of parameters, without entries of the user's own."""
    return ((p, state) for p, state in states.items() if isinstance(p, Tensor))


def _are_valid(params: Sequence[Tensor], states: States) -> list[bool]:
    """Return which parameters have buffers of the previous step."""
    unset = torch.zeros((), dtype=torch.float32, device="cpu")
    of_params = [states[p] for p in params]
    flags = torch.stack([s.get("watched", unset).cpu() for s in of_params]).tolist()
    each = zip(params, of_params, flags, strict=True)
    return [bool(flag) and _fits(p, state) for p, state, flag in each]


def buffer_shape(p: Tensor) -> torch.Size:
    """Return the shape of a parameter's buffers."""
    shape = real(p).shape if p.is_complex() else p.shape
    if is_subsampled(p) and not is_sharded(p):
        shape = torch.Size([subsample_numel(shape)])
    return shape


def _fits(p: Tensor, state: Mapping[str, Any]) -> bool:
    """Return whether the buffers have the shape that the parameter has now."""
    return bool(state["last_step"].shape == buffer_shape(p))


def _measured_part(tensor: Tensor) -> Tensor:
    """Return the part of a plain tensor that is measured: all of it, or its subsample."""
    return subsample(real(tensor)) if is_subsampled(tensor) else tensor


def _local_part(tensor: Any, like: Any = None) -> Tensor:
    """Return the part of a tensor that is buffered: the local shard, or the measured part.

    Args:
        tensor: plain tensor, or a ``DTensor``.
        like: parameter according to whose placements a ``DTensor`` is redistributed first.
    """
    if not is_sharded(tensor):
        return real(_measured_part(tensor))
    if like is not None and tensor.placements != like.placements:
        tensor = tensor.redistribute(placements=like.placements)
    return real(tensor.to_local())


def _chunks(tensors: Sequence[Tensor]) -> Iterator[slice]:
    """Split a list into runs of small tensors on one device, for joint measurement."""
    # A sharded or subsampled tensor is alone in its chunk.
    alone = [is_sharded(tensor) or is_subsampled(tensor) for tensor in tensors]
    numels = [CHUNK_NUMEL if a else x.numel() for a, x in zip(alone, tensors, strict=True)]
    for chunk in _neighbours(tuple(numels)):
        begin = chunk.start
        for i in range(chunk.start, chunk.stop):
            if tensors[i].device != tensors[begin].device:
                yield slice(begin, i)
                begin = i
        yield slice(begin, chunk.stop)


@lru_cache(maxsize=64)
def _neighbours(numels: tuple[int, ...]) -> list[slice]:
    """Split tensors of these sizes into chunks of at most ``CHUNK_NUMEL`` elements."""
    chunks, begin, total = [], 0, 0
    for i, numel in enumerate(numels):
        if i > begin and total + numel > CHUNK_NUMEL:
            chunks.append(slice(begin, i))
            begin, total = i, 0
        total += numel
    return [*chunks, slice(begin, len(numels))]


def _sharded_products(
    products: Callable[..., Probe], tensors: Sequence[Tensor], dtype: torch.dtype
) -> Probe:
    """Measure one ``DTensor``; the results are reduced over processes when read."""
    first = tensors[0]
    shard = row_shard(first) if is_subsampled(first) else None
    if shard is None:
        return products(_sharded_dot, *(tensor.to(dtype) for tensor in tensors))
    begin, reduced = shard
    local = (cast(Any, tensor).to_local() for tensor in tensors)
    taken = (subsample(each, first.shape, begin).to(dtype) for each in local)
    sums = products(torch.dot, *taken)
    return Probe(*(reduced(each * scale(first)) for each in sums))


def _sharded_dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()
