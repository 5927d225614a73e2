"""Orthogonal Adam with torch's fused Adam, for parameters on the CPU.

Memory traffic takes most of the time for large matrices, and calls for small ones.
Therefore directions are written to one buffer in the order in which they are stacked, new
factors keep the norms without another pass, and products are added directly to parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optenv.rules.adam import square_decay
from optenv.rules.arithmetic import debiasing
from optenv.rules.orthogonal_adam import (
    factors_of_strips,
    is_due,
    nesterov_weights,
    norm_ratio,
)

from ..tensors import in_full_precision
from .base import Step
from .orthogonal_stacks import (
    FACTORS,
    Cut,
    Stack,
    is_matrix,
    orthogonalize_stack,
    orthogonalized_by_factors,
    stacks_of,
)

__all__ = ["update_fused"]

#: Largest number of elements of matrices that are updated together (except a single larger
#: matrix), which bounds the size of the buffer.
CHUNK_NUMEL = 2**20

#: Number of elements of one matrix's strips that go through several stages together.
CACHED_NUMEL = 2**17

#: Number of matrices of equal shape from which on they are a stack of their own; fewer may
#: share a stack with others, by copies.
FEW = 4


def update_fused(step: Step) -> None:
    """Update by torch's fused Adam; its steps for matrices are written to a buffer first.

    Nesterov's numerator is Adam's with another decay rate of the mean. The mean is
    afterwards corrected to its own decay rate.
    """
    # Parameters with equal numbers of updates take one call.
    counts = step.count()
    for count in dict.fromkeys(counts):
        of_count = [i for i, each in enumerate(counts) if each == count]
        part = step if len(of_count) == len(counts) else step.select(of_count)
        _update_at(part, count)


def _update_at(step: Step, count: float) -> None:
    """Update parameters that have had the same number of gradients."""
    h, lr = step.h, float(step.lr)
    tensors = (step.params, step.grads, step.slots("exp_avg"), step.slots("exp_avg_sq"))
    counters = step.slots("step")
    # 1. The decay rate and the factor by which Adam's numerator becomes Nesterov's.
    of_mean, of_grad = nesterov_weights(count, h.beta1)
    of_last, of_new = of_mean * h.beta1, of_mean * (1 - h.beta1) + of_grad
    decay = of_last / (of_last + of_new)
    beta2 = square_decay(count, h.beta2, h.power)
    root = debiasing(count, beta2) if h.power else 1.0  # a growing memory has no bias
    factor = (of_last + of_new) * (1 - decay**count) * root

    def fused_adam_(
        moved: list[Tensor],
        grads: list[Tensor],
        means: list[Tensor],
        squares: list[Tensor],
        rate: float,
    ) -> None:
        torch._fused_adamw_(  # which reads the counters, all equal
            moved, grads, means, squares, [], counters[: len(moved)],
            lr=rate * factor, beta1=decay, beta2=beta2, weight_decay=0.0,
            eps=h.eps * root, amsgrad=False, maximize=False,
        )  # fmt: skip

    def correct_means_(means: list[Tensor], grads: list[Tensor]) -> None:
        if decay:
            torch._foreach_lerp_(means, grads, 1 - h.beta1 / decay)

    # 2. Vectors, embeddings and the output layer.
    matrices = [i for i, p in enumerate(step.params) if is_matrix(p, step.matrices, i)]
    apart = set(matrices)
    rest = [i for i in range(len(step.params)) if i not in apart]
    if rest:
        params, grads, means, squares = ([each[i] for i in rest] for each in tensors)
        fused_adam_(params, grads, means, squares, lr)
        correct_means_(means, grads)
    # 3. Matrices. A buffer of zeros becomes their directions, with a negative sign.
    due = bool(is_due(count, h.refresh))
    buffer: Tensor | None = None
    for chunk in _chunks(tuple(step.params[i].shape for i in matrices)):
        indices = [matrices[i] for i in chunk.members]
        params, grads, means, squares = ([each[i] for i in indices] for each in tensors)
        if buffer is None:  # the first chunk is the largest
            buffer = params[0].new_zeros(sum(chunk.sizes))
        else:
            buffer.zero_()
        parts = buffer.split([*chunk.sizes, buffer.numel() - sum(chunk.sizes)])
        directions = [part.view(p.shape) for part, p in zip(parts, params, strict=False)]
        fused_adam_(directions, grads, means, squares, 1.0)
        states = [step.states[i] for i in indices]
        _descend(params, directions, buffer, chunk, states, h.refresh, due, lr)
        correct_means_(means, grads)


class _Group(NamedTuple):
    """Matrices that are orthogonalised together.

    Attributes:
        first, last: index in the chunk of the first one, and of the one after the last.
        begin, end: slice of the buffer that holds them.
        cut: strips of each.
        stack: stack into which they are copied; None for matrices of equal shape, whose
            strips are already stacked in the buffer.
    """

    first: int
    last: int
    begin: int
    end: int
    cut: Cut
    stack: Stack | None


class _Chunk(NamedTuple):
    """Matrices that are updated together, in the order of their groups.

    Attributes:
        members: indices of the matrices.
        sizes: number of elements of each.
        groups: groups that are orthogonalised together.
    """

    members: list[int]
    sizes: list[int]
    groups: list[_Group]


@lru_cache(maxsize=256)
def _chunks(shapes: tuple[tuple[int, ...], ...]) -> list[_Chunk]:
    """Split matrices of these shapes into chunks, the largest first."""
    chunks: list[list[int]] = []
    numel = 0
    for i, shape in enumerate(shapes):
        numel += math.prod(shape)
        if not chunks or numel > CHUNK_NUMEL:
            chunks.append([])
            numel = math.prod(shape)
        chunks[-1].append(i)
    found = [_chunk_of(members, shapes) for members in chunks]
    return sorted(found, key=lambda chunk: -sum(chunk.sizes))


def _chunk_of(members: list[int], shapes: Sequence[tuple[int, ...]]) -> _Chunk:
    """Sort matrices into groups."""
    # 1. Many of equal shape, whose strips need no copies, are a group; others are stacked.
    cuts = {i: Cut.of(tuple(shapes[i])) for i in members}
    equals: dict[tuple[int, ...], list[int]] = {}
    for i in members:
        equals.setdefault(tuple(shapes[i]), []).append(i)
    found: list[tuple[list[int], Stack | None]] = []
    mixed: list[int] = []
    for own in equals.values():
        if len(own) >= FEW and cuts[own[0]].fills:
            found.append((own, None))
        else:
            mixed += own
    for stack in stacks_of(tuple(cuts[i] for i in mixed)):
        own = [mixed[i] for i in stack.members]
        is_alone = len(own) == 1 and cuts[own[0]].fills
        found.append((own, None if is_alone else stack))
    # 2. Their places in the buffer.
    ordered = [i for own, _ in found for i in own]
    sizes = [math.prod(shapes[i]) for i in ordered]
    groups, first, begin = [], 0, 0
    for own, stack_or_none in found:
        last = first + len(own)
        end = begin + sum(sizes[first:last])
        groups.append(_Group(first, last, begin, end, cuts[own[0]], stack_or_none))
        first, begin = last, end
    return _Chunk(ordered, sizes, groups)


@in_full_precision
def _descend(
    params: list[Tensor],
    directions: Sequence[Tensor],
    buffer: Tensor,
    chunk: _Chunk,
    states: list[dict[str, Any]],
    refresh: int,
    due: bool,
    lr: float,
) -> None:
    """Add the orthogonalised directions of a chunk, times ``lr``, to its parameters.

    Args:
        params: the matrices, in the order of the chunk.
        directions: direction of each, a view into the buffer.
        buffer: all directions, one after the other.
        chunk: groups of the matrices.
        states: states of the matrices, in which factors are kept.
        refresh: number of updates for which factors are kept.
        due: whether all factors are computed anew at this update.
        lr: learning rate.
    """
    keeps = refresh > 1
    moved: list[Tensor] = []
    updates: list[Tensor] = []
    for first, last, begin, end, cut, stack in chunk.groups:
        own, own_states, count = params[first:last], states[first:last], last - first
        if not keeps:
            for state in own_states:
                state.pop(FACTORS, None)  # left over from when they were kept
        have = [] if due else [state[FACTORS] for state in own_states if FACTORS in state]
        # 1. Matrices that are stacked by copies, or of which only some have factors.
        if stack is not None or (keeps and 0 < len(have) < count):
            some = list(directions[first:last])
            moved += own
            if stack is not None and not keeps:
                updates += orthogonalize_stack(some, stack, None)
            else:
                updates += orthogonalized_by_factors(
                    some, own, own_states, [due] * count, refresh
                )
            continue
        # 2. Others: [strips, height, width] or, of tall matrices, [strips, width, height].
        if cut.is_turned:
            tall = buffer[begin:end].view(count, cut.width, cut.strips, cut.height)
            x = tall.transpose(1, 2).reshape(-1, cut.width, cut.height)
        else:
            x = buffer[begin:end].view(-1, cut.height, cut.width)
        earlier = keeps and len(have) == count
        if earlier:
            factors = have[0] if count == 1 else torch.cat(have)
        else:
            factors = factors_of_strips(x.mT if cut.is_turned else x)
            if keeps:  # copies, since a view would keep the whole tensor alive
                parts = factors.split(cut.strips)
                for state, part in zip(own_states, parts, strict=True):
                    state[FACTORS] = part.clone()
        # 3. Factors apply from the left, or to tall matrices from the right.
        left, right = (x, factors) if cut.is_turned else (factors, x)
        if count == 1 and earlier:
            _descend_by_earlier(_strips_of(own[0], cut), x, left, right, lr)
            continue
        if count == 1:
            _strips_of(own[0], cut).baddbmm_(left, right, alpha=lr)
            continue
        result = torch.bmm(left, right)
        if earlier:
            result.mul_(norm_ratio(x, result))
        if cut.is_turned and cut.strips > 1:
            moved += [_strips_of(p, cut) for p in own]
            updates += result.split(cut.strips)
        else:
            moved += own
            updates += result.view(count, *own[0].shape).unbind()
    if moved:
        torch._foreach_add_(moved, updates, alpha=lr)


def _strips_of(p: Tensor, cut: Cut) -> Tensor:
    """View a matrix as its strips, or as their transposes."""
    if cut.is_turned:
        return p.view(cut.width, cut.strips, cut.height).transpose(0, 1)
    return p.view(cut.strips, cut.height, cut.width)


def _descend_by_earlier(
    target: Tensor, x: Tensor, left: Tensor, right: Tensor, lr: float
) -> None:
    """Add products with earlier factors, scaled to the norms of ``x``, to a target.

    All arguments are stacked strips of one matrix; ``lr`` multiplies the products. Strips
    are processed a few at a time, to stay in the processor's cache.
    """
    count = max(1, CACHED_NUMEL // x[0].numel())
    parts = (each.split(count) for each in (target, x, left, right))
    for moved, before, from_left, from_right in zip(*parts, strict=True):
        result = torch.bmm(from_left, from_right)
        moved.addcmul_(result, norm_ratio(before, result), value=lr)
