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
    as_matrix,
    cut_into_strips,
    nesterov_weights,
    orthogonalize_strips,
    strips_of,
)

from ..distributed import full_tensor, shard_like
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

__all__ = ["KERNELS", "orthogonalized"]

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
    updates = orthogonalized(list(directions), step.params, step.matrices)
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
    h, params, grads = step.h, step.params, step.grads
    means, squares, steps = map(step.slots, ("exp_avg", "exp_avg_sq", "step"))
    # 1. A buffer of zeros for the matrices, which fused Adam turns into their directions.
    matrices = [i for i, p in enumerate(params) if _is_matrix(p, step.matrices, i)]
    sizes = [params[i].numel() for i in matrices]
    moved = list(params)
    if matrices:
        parts = torch.zeros(sum(sizes), dtype=params[0].dtype).split(sizes)
        for i, part in zip(matrices, parts, strict=True):
            moved[i] = part.view(params[i].shape)
    # 2. The decay rate and the factor with which Adam's numerator is Nesterov's.
    of_mean, of_grad = nesterov_weights(count, h.beta1)
    of_last, of_new = of_mean * h.beta1, of_mean * (1 - h.beta1) + of_grad
    decay = of_last / (of_last + of_new)
    beta2 = square_decay(count, h.beta2, h.power)
    root = debiasing(count, beta2) if h.power else 1.0  # a growing memory has no bias
    factor = (of_last + of_new) * (1 - decay**count) * root
    lr = float(step.lr)
    rest = [i for i in range(len(params)) if moved[i] is params[i]]
    for indices, rate in ((matrices, 1.0), (rest, lr)):
        if indices:
            torch._fused_adamw_(
                [moved[i] for i in indices], [grads[i] for i in indices],
                [means[i] for i in indices], [squares[i] for i in indices],
                [], [steps[i] for i in indices],
                lr=rate * factor, beta1=decay, beta2=beta2, weight_decay=0.0,
                eps=h.eps * root, amsgrad=False, maximize=False,
            )  # fmt: skip
    if decay:
        torch._foreach_lerp_(means, grads, 1 - h.beta1 / decay)
    # 3. The matrices along their orthogonalised directions, which have a negative sign.
    if matrices:
        updates = orthogonalized([moved[i] for i in matrices], [moved[i] for i in matrices])
        torch._foreach_add_([params[i] for i in matrices], updates, alpha=lr)


def _is_matrix(param: Tensor, matrices: Sequence[bool] | None, index: int) -> bool:
    """Return whether the direction of a parameter is to be orthogonalised."""
    if matrices is not None and not matrices[index]:
        return False
    return not param.is_complex() and as_matrix(param.shape) is not None


def orthogonalized(
    directions: list[Tensor], params: list[Tensor], matrices: Sequence[bool] | None = None
) -> list[Tensor]:
    """Orthogonalise the directions of real matrices; return all directions.

    Matrices of one shape are stacked, and small ones of several shapes, with zeros around
    them, which changes nothing.

    Args:
        directions: of each parameter, in single or double precision; ``DTensor`` if the
            parameter is one.
        params: the parameters, for their shapes.
        matrices: whether each may be taken for a matrix; by default all may.
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
                [full_tensor(directions[i]) for i in chosen], stack
            )
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


def _orthogonalize_stack(directions: list[Tensor], stack: _Stack) -> list[Tensor]:
    """Orthogonalise matrices ``[r, ...]`` together; return them in their shapes."""
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
        result = orthogonalize_strips(stacked)
    # 3. Back into shape.
    parts = result.split([len(each) for each in strips]) if len(strips) > 1 else (result,)
    shaped = []
    for part, wide, direction, cut in zip(
        parts, wides, directions, stack.cuts, strict=True
    ):
        _, height, width, is_turned = cut
        if part.shape[1:] != (height, width):
            part = part.narrow(1, 0, height).narrow(2, 0, width)
        matrix = part.reshape(-1, width).narrow(0, 0, len(wide))
        matrix = matrix.mT if is_turned else matrix
        shaped.append(matrix.reshape(direction.shape))
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
    )
}
