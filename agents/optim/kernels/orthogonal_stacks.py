"""Orthogonalisation of lists of matrices, in stacks of several."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from optenv.rules.orthogonal_adam import (
    TINY,
    apply_factors,
    as_matrix,
    cut_into_strips,
    factors_of,
    factors_of_strips,
    orthogonalize_strips,
    strips_of,
)

from ..distributed import full_tensor, is_sharded, shard_like
from ..tensors import in_full_precision

__all__ = [
    "FACTORS",
    "Cut",
    "Stack",
    "factors_shape",
    "is_matrix",
    "orthogonalize_stack",
    "orthogonalized",
    "orthogonalized_by_factors",
    "stacks_of",
]

#: Entry of a matrix's state with the factors ``[k, h, h]`` that are kept if ``refresh`` is
#: above 1. With sharded parameters and capturable steps, it does not exist: they compute
#: factors at every update.
FACTORS = "factors"

#: Largest number of elements in a stack. In larger stacks, memory traffic takes most of the
#: time.
STACK_NUMEL = 2**18

#: Number of multiplications that take about as long as the calls to orthogonalise one
#: stack. Up to this many multiplications of zeros are accepted to join two stacks.
CALLS = 2**20


def is_matrix(param: Tensor, matrices: Sequence[bool] | None, index: int) -> bool:
    """Return whether the direction of a parameter is to be orthogonalised."""
    if matrices is not None and not matrices[index]:
        return False
    return not param.is_complex() and as_matrix(param.shape) is not None


def orthogonalized_by_factors(
    directions: list[Tensor],
    params: list[Tensor],
    states: list[dict[str, Any]],
    due: list[bool],
    refresh: int,
) -> list[Tensor]:
    """Orthogonalise the directions of matrices, by kept factors where there are any.

    Args:
        directions: direction of each matrix.
        params: the matrices.
        states: their states, in which factors are kept.
        due: whether the factors of each matrix must be computed anew at this update.
        refresh: number of updates for which factors are kept.
    """
    if refresh == 1:
        for state in states:
            state.pop(FACTORS, None)  # left over from when they were kept
        return orthogonalized(directions, params)
    # 1. Factors of earlier updates, by device and precision. Sharded matrices keep none.
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
    # 2. New factors.
    if fresh:
        chosen = [params[i] for i in fresh]
        keeping = [{} if is_sharded(params[i]) else states[i] for i in fresh]
        found = orthogonalized([directions[i] for i in fresh], chosen, None, keeping)
        for i, result in zip(fresh, found, strict=True):
            results[i] = result
    return results


@in_full_precision
def _by_factors(directions: list[Tensor], factors: list[Tensor]) -> list[Tensor]:
    """Orthogonalise matrices ``[r, ...]`` by factors ``[k, h, h]`` of earlier updates.

    Each strip keeps its norm, as in :func:`optenv.rules.orthogonal_adam.apply_factors`.
    """
    # 1. Matrices of several strips, and the products of those of one strip.
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
            own = factor[0]  # symmetric
            result = matrix @ own if is_turned else own @ matrix
        results[i] = result.reshape(direction.shape)
    # 2. The norms of matrices of one strip, in few calls.
    if single:
        products = [results[i] for i in single]
        norms = torch._foreach_norm([directions[i] for i in single] + products)
        norm, length = torch.stack(norms).split(len(single))
        ratios = norm / length.clamp(min=TINY)
        # On the CPU, numbers take one call; on another device, reading them would wait.
        on_host = ratios.is_cpu
        torch._foreach_mul_(products, ratios.tolist() if on_host else list(ratios.unbind()))
    return results


def _whole(strips: Tensor, wide: Tensor, is_turned: bool) -> Tensor:
    """Join strips ``[k, h, c]`` to the matrix they were cut from, turned back if needed."""
    matrix = strips.reshape(-1, strips.shape[2]).narrow(0, 0, len(wide))
    return matrix.mT if is_turned else matrix


def factors_shape(p: Tensor) -> tuple[int, int, int] | None:
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

    Matrices of equal shape are stacked, and small ones of different shapes after padding
    with zeros, which does not change the result.

    Args:
        directions: direction of each parameter, in single or double precision; a
            ``DTensor`` if the parameter is one.
        params: the parameters, for their shapes.
        matrices: whether each may be treated as a matrix; by default all may.
        states: a state of each, to keep its factors in; by default they are not kept.
    """
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for i, param in enumerate(params):
        if is_matrix(param, matrices, i):
            kinds.setdefault((param.device, param.dtype), []).append(i)
    for indices in kinds.values():
        shapes = [tuple(params[i].shape) for i in indices]
        for stack in stacks_of(tuple(map(Cut.of, shapes))):
            chosen = [indices[j] for j in stack.members]
            results = orthogonalize_stack(
                [full_tensor(directions[i]) for i in chosen], stack,
                None if states is None else [states[i] for i in chosen],
            )  # fmt: skip
            for i, result in zip(chosen, results, strict=True):
                directions[i] = shard_like(result, directions[i])
    return directions


class Cut(NamedTuple):
    """Strips that a matrix is cut into.

    Attributes:
        strips: number of strips.
        height, width: size of each strip.
        is_turned: whether they are strips of the transpose.
        fills: whether the strips fill the matrix exactly, without padding.
    """

    strips: int
    height: int
    width: int
    is_turned: bool
    fills: bool

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Cut:
        """Return the cut of a parameter of this shape, which must be a matrix."""
        matrix = as_matrix(shape)
        assert matrix is not None
        is_turned = matrix[0] > matrix[1]
        rows, columns = sorted(matrix)
        strips, height = strips_of(rows)
        return cls(strips, height, columns, is_turned, strips * height == rows)


class Stack(NamedTuple):
    """Matrices that are orthogonalised together.

    Attributes:
        members: indices of the matrices.
        cuts: strips of each.
        height, width: largest height and width of a strip.
    """

    members: tuple[int, ...]
    cuts: tuple[Cut, ...]
    height: int
    width: int

    @property
    def work(self) -> int:
        """Number of multiplications to orthogonalise the stack."""
        count = sum(cut.strips for cut in self.cuts)
        return count * self.height**2 * (5 * self.height + 2 * self.width)

    def joined(self, other: Stack) -> Stack:
        """Return one stack with the matrices of both."""
        return Stack(
            self.members + other.members,
            self.cuts + other.cuts,
            max(self.height, other.height),
            max(self.width, other.width),
        )

    @property
    def numel(self) -> int:
        """Number of elements in all strips, including padding."""
        return sum(cut.strips for cut in self.cuts) * self.height * self.width


@lru_cache(maxsize=256)
def stacks_of(cuts: tuple[Cut, ...]) -> list[Stack]:
    """Sort matrices with these cuts into stacks.

    A matrix joins a stack as long as the padding costs less than the calls for another
    stack.
    """
    singles = []
    for i, cut in enumerate(cuts):
        singles.append(Stack((i,), (cut,), cut.height, cut.width))
    stacks: list[Stack] = []
    for single in sorted(singles, key=lambda each: (each.height, each.width)):
        if stacks:
            joined = stacks[-1].joined(single)
            extra = joined.work - stacks[-1].work - single.work
            if extra < CALLS and joined.numel <= STACK_NUMEL:
                stacks[-1] = joined
                continue
        stacks.append(single)
    return stacks


@in_full_precision
def orthogonalize_stack(
    directions: list[Tensor], stack: Stack, states: Sequence[dict[str, Any]] | None
) -> list[Tensor]:
    """Orthogonalise matrices ``[r, ...]`` together; return them in their shapes.

    Args:
        directions: the matrices.
        stack: stack of these matrices.
        states: states in which to keep the factors of each; None keeps none.
    """
    # 1. Their strips, in one tensor [n, height, width].
    wides = [
        matrix.mT if cut.is_turned else matrix
        for matrix, cut in zip(
            (each.reshape(len(each), -1) for each in directions), stack.cuts, strict=True
        )
    ]
    strips = [cut_into_strips(wide.unsqueeze(0)) for wide in wides]
    stacked = strips[0]
    if len(strips) > 1:
        stacked = torch.cat([_filled_up(each, stack) for each in strips])
    # 2. Orthogonalised.
    if states is None:
        result = orthogonalize_strips(stacked)
    else:
        factors = factors_of_strips(stacked)
        result = torch.bmm(factors, stacked)
    # 3. Back into shape.
    counts = [len(each) for each in strips]
    parts = result.split(counts) if len(strips) > 1 else (result,)
    if states is not None:
        for state, own, cut in zip(states, factors.split(counts), stack.cuts, strict=True):
            # A copy, since a view would keep the whole tensor alive, also in files.
            state[FACTORS] = own[:, : cut.height, : cut.height].clone()
    shaped = []
    for part, wide, direction, cut in zip(
        parts, wides, directions, stack.cuts, strict=True
    ):
        if part.shape[1:] != (cut.height, cut.width):
            part = part.narrow(1, 0, cut.height).narrow(2, 0, cut.width)
        shaped.append(_whole(part, wide, cut.is_turned).reshape(direction.shape))
    return shaped


def _filled_up(strips: Tensor, stack: Stack) -> Tensor:
    """Pad strips with zeros to the height and width of a stack."""
    _, height, width = strips.shape
    if (height, width) == (stack.height, stack.width):
        return strips
    return F.pad(strips, (0, stack.width - width, 0, stack.height - height))
