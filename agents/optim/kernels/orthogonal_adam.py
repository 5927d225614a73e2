"""Kernel of orthogonal Adam (:mod:`optenv.rules.orthogonal_adam`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from optenv.rules.adam import square_decay
from optenv.rules.arithmetic import debiasing
from optenv.rules.orthogonal_adam import (
    TINY,
    apply_factors,
    as_matrix,
    cut_into_strips,
    factors_of,
    factors_of_strips,
    is_due,
    nesterov_weights,
    orthogonalize_strips,
    strips_of,
)

from ..distributed import full_tensor, is_sharded, shard_like
from ..tensors import real
from .base import (
    Kernel,
    Step,
    debiased_roots,
    descend_,
    for_each_count,
    takes_fused,
    update_means_,
    update_squares_,
)

__all__ = ["FACTORS", "KERNELS", "orthogonalized"]

#: Entry of a matrix's state: the factors that are kept, ``[k, h, h]``, with ``refresh``
#: above 1. Neither sharded parameters have it nor steps that can be captured: they compute
#: factors at every update.
FACTORS = "factors"

#: Numbers in the matrices that are stacked to be orthogonalised together. With more of
#: them, memory traffic takes the time.
STACK_NUMEL = 2**18

#: Multiplications that take about as long as the calls to orthogonalise one stack: so many
#: more, of zeros, are accepted to have one stack in place of two.
CALLS = 2**20


def _orthogonal_adam(step: Step) -> None:
    """Update parameters by :func:`optenv.rules.orthogonal_adam.orthogonal_adam`."""
    if takes_fused(step):
        _update_fused(step)
        return
    h, params = step.h, [real(p) for p in step.params]
    grads = [real(grad) for grad in step.grads]
    means, squares = (
        [real(slot) for slot in step.slots(name)] for name in ("exp_avg", "exp_avg_sq")
    )
    # 1. Adam's moments, whose memory can grow.
    counts = step.count()
    update_means_(means, grads, h.beta1)
    decays = for_each_count(lambda t: square_decay(t, h.beta2, h.power), counts)
    update_squares_(squares, grads, decays)
    roots = debiased_roots(squares, h.beta2 if h.power == 0 else None, counts, h.eps)
    # 2. The direction of Adam with Nesterov's momentum.
    of_mean = for_each_count(lambda t: nesterov_weights(t, h.beta1)[0], counts)
    of_grad = for_each_count(lambda t: nesterov_weights(t, h.beta1)[1], counts)
    directions = torch._foreach_mul(means, of_mean)
    ahead = torch._foreach_mul(grads, of_grad)
    torch._foreach_add_(directions, ahead)
    torch._foreach_div_(directions, roots)
    # 3. Its matrices orthogonalised.
    updates = list(directions)
    refresh = 1 if isinstance(counts, Tensor) else h.refresh
    matrices = [i for i, p in enumerate(step.params) if _is_matrix(p, step.matrices, i)]
    of_matrices = step.select(matrices)
    due = [refresh == 1 or is_due(counts[i], refresh) for i in matrices]
    found = _orthogonalized_matrices(
        [updates[i] for i in matrices], of_matrices.params, of_matrices.states, due, refresh
    )
    for i, update in zip(matrices, found, strict=True):
        updates[i] = update
    descend_(params, updates, step.lr)


def _update_fused(step: Step) -> None:
    """Update by torch's fused Adam, whose steps of matrices go to a buffer first.

    Nesterov's numerator is that of Adam after the same gradient with another decay rate of
    the mean; the mean is then corrected to the rate it should have had.
    """
    # 1. Parameters that have counted as many updates take one call.
    counts = step.count()
    for count in dict.fromkeys(counts):
        of_count = [i for i, each in enumerate(counts) if each == count]
        part = step if len(of_count) == len(counts) else step.select(of_count)
        _update_fused_at(part, count)


def _update_fused_at(step: Step, count: float) -> None:
    """Update parameters that have had the same number of gradients."""
    h, means, steps = step.h, step.slots("exp_avg"), step.slots("step")
    squares = step.slots("exp_avg_sq")
    # 1. The decay rate and the factor with which Adam's numerator is Nesterov's.
    of_mean, of_grad = nesterov_weights(count, h.beta1)
    of_last, of_new = of_mean * h.beta1, of_mean * (1 - h.beta1) + of_grad
    decay = of_last / (of_last + of_new)
    beta2 = square_decay(count, h.beta2, h.power)
    root = debiasing(count, beta2) if h.power else 1.0  # a growing memory has no bias
    factor = (of_last + of_new) * (1 - decay**count) * root
    lr = float(step.lr)

    def fused_adam(moved: list[Tensor], indices: list[int], rate: float) -> None:
        torch._fused_adamw_(
            moved, [step.grads[i] for i in indices], [means[i] for i in indices],
            [squares[i] for i in indices], [], [steps[i] for i in indices],
            lr=rate * factor, beta1=decay, beta2=beta2, weight_decay=0.0,
            eps=h.eps * root, amsgrad=False, maximize=False,
        )  # fmt: skip

    # 2. Vectors, embeddings and the output layer.
    shapes = [p.shape for p in step.params]
    matrices = [i for i, p in enumerate(step.params) if _is_matrix(p, step.matrices, i)]
    apart = set(matrices)
    rest = [i for i in range(len(shapes)) if i not in apart]
    if rest:
        fused_adam([step.params[i] for i in rest], rest, lr)
    # 3. Matrices: a few at a time, whose directions are to stay in the processor's cache. A
    # buffer of zeros becomes their directions, with a negative sign.
    due, buffer = is_due(count, h.refresh), None
    for chunk, sizes in _chunks(tuple(shapes[i].numel() for i in matrices)):
        indices = [matrices[j] for j in chunk]
        chosen = [step.params[i] for i in indices]
        if buffer is None:  # the first chunk is the largest
            buffer = torch.zeros(sum(sizes), dtype=chosen[0].dtype)
        else:
            buffer.zero_()
        parts = buffer.split([*sizes, buffer.numel() - sum(sizes)])
        directions = [part.view(shapes[i]) for part, i in zip(parts, indices, strict=False)]
        fused_adam(directions, indices, 1.0)
        states = [step.states[i] for i in indices]
        each_due = [due] * len(indices)
        updates = _orthogonalized_matrices(directions, chosen, states, each_due, h.refresh)
        torch._foreach_add_(chosen, updates, alpha=lr)
    # 4. The means, to the decay rate that they should have had.
    if decay:
        torch._foreach_lerp_(means, step.grads, 1 - h.beta1 / decay)


@lru_cache(maxsize=256)
def _chunks(sizes: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Split matrices of these numbers of entries into chunks of :data:`STACK_NUMEL`.

    Returns:
        Indices and sizes of the matrices of each chunk, the largest chunk first.
    """
    chunks: list[tuple[list[int], list[int]]] = []
    for i, size in enumerate(sizes):
        if not chunks or sum(chunks[-1][1]) + size > STACK_NUMEL:
            chunks.append(([], []))
        chunks[-1][0].append(i)
        chunks[-1][1].append(size)
    return sorted(chunks, key=lambda chunk: -sum(chunk[1]))


def _is_matrix(param: Tensor, matrices: Sequence[bool] | None, index: int) -> bool:
    """Return whether the direction of a parameter is to be orthogonalised."""
    if matrices is not None and not matrices[index]:
        return False
    return not param.is_complex() and as_matrix(param.shape) is not None


def _orthogonalized_matrices(
    directions: list[Tensor],
    params: list[Tensor],
    states: list[dict[str, Any]],
    due: list[bool],
    refresh: int,
) -> list[Tensor]:
    """Orthogonalise the directions of matrices, by the factors that are kept if there are.

    Args:
        directions: of each matrix.
        params: the matrices.
        states: their states, in which factors are kept.
        due: whether each computes factors at this update in any case.
        refresh: number of updates for which factors are kept.
    """
    if refresh == 1:
        for state in states:
            state.pop(FACTORS, None)  # of a time when they were kept
        return orthogonalized(directions, params)
    # 1. Factors of earlier updates, on each device and of each precision. Sharded matrices
    # keep none.
    results, fresh = list(directions), []
    kept: dict[Any, list[int]] = {}
    for i, (p, state) in enumerate(zip(params, states, strict=True)):
        if due[i] or FACTORS not in state or is_sharded(p):
            fresh.append(i)
        else:
            kept.setdefault((p.device, directions[i].dtype), []).append(i)
    for indices in kept.values():
        factors = [states[i][FACTORS] for i in indices]
        found = _by_factors([directions[i] for i in indices], factors)
        for i, result in zip(indices, found, strict=True):
            results[i] = result
    # 2. New ones.
    if fresh:
        chosen = [params[i] for i in fresh]
        keeping = [{} if is_sharded(params[i]) else states[i] for i in fresh]
        found = orthogonalized([directions[i] for i in fresh], chosen, None, keeping)
        for i, result in zip(fresh, found, strict=True):
            results[i] = result
    return results


def _by_factors(directions: list[Tensor], factors: list[Tensor]) -> list[Tensor]:
    """Orthogonalise matrices ``[r, ...]`` by factors ``[k, h, h]`` of earlier ones.

    Each strip keeps its norm, as by :func:`optenv.rules.orthogonal_adam.apply_factors`.
    """
    device = directions[0].device
    if torch.is_autocast_enabled(device.type):
        with torch.autocast(device.type, enabled=False):
            return _by_factors(directions, factors)
    # 1. Matrices in several strips, and products of those in one piece.
    results, single = list(directions), []
    for i, (direction, factor) in enumerate(zip(directions, factors, strict=True)):
        matrix = direction.reshape(len(direction), -1)
        is_turned = matrix.shape[0] > matrix.shape[1]
        if len(factor) > 1:
            wide = matrix.mT if is_turned else matrix
            strips = apply_factors(factor, cut_into_strips(wide.unsqueeze(0)))
            result = _whole(strips, wide, is_turned)
        else:
            single.append(i)
            own = factor[0]  # which is symmetric
            result = matrix @ own if is_turned else own @ matrix
        results[i] = result.reshape(direction.shape)
    # 2. The norms of the latter, in few calls.
    if single:
        products = [results[i] for i in single]
        norms = torch._foreach_norm([directions[i] for i in single] + products)
        norm, length = torch.stack(norms).split(len(single))
        ratios = norm / length.clamp(min=TINY)
        # Numbers on the host take one call; to read them from a device would wait for it.
        on_host = device.type == "cpu"
        torch._foreach_mul_(products, ratios.tolist() if on_host else list(ratios.unbind()))
    return results


def _whole(strips: Tensor, wide: Tensor, is_turned: bool) -> Tensor:
    """Put the strips ``[k, h, c]`` of a matrix together that was turned before or not."""
    matrix = strips.reshape(-1, strips.shape[2]).narrow(0, 0, len(wide))
    return matrix.mT if is_turned else matrix


def _factors_shape(p: Tensor) -> tuple[int, int, int] | None:
    """Return the shape of the factors of a parameter; None if it has none."""
    if p.is_complex() or is_sharded(p):
        return None
    count, height = factors_of(p.shape)
    return (count, height, height) if count else None


def orthogonalized(
    directions: list[Tensor],
    params: list[Tensor],
    matrices: Sequence[bool] | None = None,
    states: Sequence[dict[str, Any]] | None = None,
) -> list[Tensor]:
    """Orthogonalise the directions of real matrices; return all directions.

    Matrices of one shape are stacked, and small ones of several shapes, with zeros around
    them, which changes nothing.

    Args:
        directions: of each parameter, in single or double precision; ``DTensor`` if the
            parameter is one.
        params: the parameters, for their shapes.
        matrices: whether each may be taken for a matrix; by default all may.
        states: a state of each, to keep its factors in; by default they are not kept.
    """
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for i, param in enumerate(params):
        if _is_matrix(param, matrices, i):
            kinds.setdefault((param.device, param.dtype), []).append(i)
    for indices in kinds.values():
        shapes = tuple(tuple(params[i].shape) for i in indices)
        for stack in _stacks(shapes):
            chosen = [indices[j] for j in stack.members]
            results = _orthogonalize_stack(
                [full_tensor(directions[i]) for i in chosen], stack,
                None if states is None else [states[i] for i in chosen],
            )  # fmt: skip
            for i, result in zip(chosen, results, strict=True):
                directions[i] = shard_like(result, directions[i])
    return directions


class _Stack(NamedTuple):
    """Matrices that are orthogonalised together.

    Attributes:
        members: their indices.
        cuts: for each, the number of its strips, their height and width, and whether they
            are strips of its transpose.
        height, width: of the largest strip.
    """

    members: tuple[int, ...]
    cuts: tuple[tuple[int, int, int, bool], ...]
    height: int
    width: int

    @property
    def work(self) -> int:
        """Multiplications to orthogonalise it."""
        count = sum(strips for strips, *_ in self.cuts)
        return count * self.height**2 * (5 * self.height + 2 * self.width)

    def joined(self, other: _Stack) -> _Stack:
        """Return one stack of both."""
        return _Stack(
            self.members + other.members,
            self.cuts + other.cuts,
            max(self.height, other.height),
            max(self.width, other.width),
        )

    @property
    def numel(self) -> int:
        """Numbers in all strips, with the zeros around them."""
        return sum(strips for strips, *_ in self.cuts) * self.height * self.width


@lru_cache(maxsize=256)
def _stacks(shapes: tuple[tuple[int, ...], ...]) -> list[_Stack]:
    """Sort matrices of these shapes into stacks, each of which takes about the same calls.

    A stack takes in another as long as the zeros to be added cost less than its calls.
    """
    singles = []
    for i, shape in enumerate(shapes):
        matrix = as_matrix(shape)
        assert matrix is not None
        rows, columns = sorted(matrix)
        strips, height = strips_of(rows)
        cut = (strips, height, columns, matrix[0] > matrix[1])
        singles.append(_Stack((i,), (cut,), height, columns))
    stacks: list[_Stack] = []
    for single in sorted(singles, key=lambda each: (each.height, each.width)):
        if stacks:
            joined = stacks[-1].joined(single)
            extra = joined.work - stacks[-1].work - single.work
            if extra < CALLS and joined.numel <= STACK_NUMEL:
                stacks[-1] = joined
                continue
        stacks.append(single)
    return stacks


def _orthogonalize_stack(
    directions: list[Tensor], stack: _Stack, states: Sequence[dict[str, Any]] | None
) -> list[Tensor]:
    """Orthogonalise matrices ``[r, ...]`` together; return them in their shapes.

    Args:
        directions: the matrices.
        stack: how they are stacked.
        states: where to keep the factors of each, unless it is None.
    """
    # 1. Their strips, in one tensor [n, height, width].
    wides = [
        matrix.mT if is_turned else matrix
        for matrix, (*_, is_turned) in zip(
            (each.reshape(len(each), -1) for each in directions), stack.cuts, strict=True
        )
    ]
    strips = [cut_into_strips(wide.unsqueeze(0)) for wide in wides]
    stacked = strips[0]
    if len(strips) > 1:
        stacked = torch.cat([_filled_up(each, stack) for each in strips])
    # 2. Orthogonalised: the half precision of a caller's autocast is too coarse for it.
    with torch.autocast(stacked.device.type, enabled=False):
        if states is None:
            result = orthogonalize_strips(stacked)
        else:
            result, factors = factors_of_strips(stacked)
    # 3. Back into shape.
    counts = [len(each) for each in strips]
    parts = result.split(counts) if len(strips) > 1 else (result,)
    if states is not None:
        for state, own, cut in zip(states, factors.split(counts), stack.cuts, strict=True):
            # A copy, which keeps nothing else in memory and in files.
            state[FACTORS] = own[:, : cut[1], : cut[1]].clone()
    shaped = []
    for part, wide, direction, cut in zip(
        parts, wides, directions, stack.cuts, strict=True
    ):
        _, height, width, is_turned = cut
        if part.shape[1:] != (height, width):
            part = part.narrow(1, 0, height).narrow(2, 0, width)
        shaped.append(_whole(part, wide, is_turned).reshape(direction.shape))
    return shaped


def _filled_up(strips: Tensor, stack: _Stack) -> Tensor:
    """Return strips with zeros up to the height and width of a stack."""
    _, height, width = strips.shape
    if (height, width) == (stack.height, stack.width):
        return strips
    return F.pad(strips, (0, stack.width - width, 0, stack.height - height))


KERNELS: dict[str, Kernel] = {
    "orthogonal-adam": Kernel(
        _orthogonal_adam,
        frozenset({"step", "exp_avg", "exp_avg_sq"}),
        capturable=True,
        kept={FACTORS: _factors_shape},
        keeps=lambda h: h.refresh > 1,
    )
}
