r"""Orthogonal Adam: Adam with orthogonalised directions of weight matrices.

The polar factor :math:`U V^\top` of a direction :math:`U S V^\top` moves all of its
singular directions equally far, instead of mostly the few that dominate (Carlson et al.,
2015). It is approximated by a Newton-Schulz iteration, as in Muon (Jordan et al., 2024),
here with the two quintic polynomials that are best in the minimax sense (Amsel et al.,
2025), computed on the small Gram matrix of a direction instead of on the direction: their
product is a *factor* from the left. If factors are reused for several updates, an update
costs less (Gupta et al., 2018, and Vyas et al., 2025, also reuse theirs).

References:
    * Carlson et al., "Preconditioned Spectral Descent for Deep Learning", NeurIPS 2015.
    * Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
    * Amsel et al., "The Polar Express: Optimal Matrix Sign Methods and Their Application to
      the Muon Algorithm", 2025.
    * Gupta et al., "Shampoo: Preconditioned Stochastic Tensor Optimization", ICML 2018.
    * Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", ICLR 2025.
    * Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.
    * Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost",
      ICML 2018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .adam import Adam, adam_state, update_moments
from .arithmetic import Number, addcmul, mul, ratio
from .base import Rule, RuleState, fraction, whole

__all__ = [
    "RULES",
    "OrthogonalAdam",
    "apply_factors",
    "as_matrix",
    "cut_into_strips",
    "factors_of",
    "factors_of_strips",
    "is_due",
    "nesterov_weights",
    "norm_ratio",
    "orthogonal_adam",
    "orthogonalize",
    "orthogonalize_flat",
    "orthogonalize_moderate",
    "orthogonalize_strips",
    "strips_of",
]

#: Coefficients of the odd quintics :math:`x \mapsto a x + b x^3 + c x^5` that are applied
#: to the singular values, one after the other. The first is the best approximation of 1 on
#: [0.05, 1], with errors up to 0.665; the second is the best one on the values that the
#: first takes there, with errors up to 0.218. Smaller singular values grow up to 17 times.
COEFFICIENTS = (
    (6.7523753, -18.3509692, 13.2632648),
    (2.5378645, -1.8746770, 0.4412804),
)

#: Largest number of rows of a matrix that is orthogonalised in one piece. A matrix with
#: more rows and more columns is cut into strips along the longer side, which are
#: orthogonalised separately: time then grows no faster than the number of parameters.
STRIP_ROWS = 64

#: Number of updates at the beginning of a run that all compute new factors, since
#: directions change quickly there.
EARLY_UPDATES = 10

#: Replaces zero as a divisor: even its square has a finite inverse in single precision.
TINY = 1e-18


@dataclass(frozen=True)
class OrthogonalAdam(Adam):
    r"""Hyperparameters of orthogonal Adam.

    Attributes:
        power: :math:`p` of :func:`~optenv.rules.adam.square_decay`: with a positive power,
            the memory of squared gradients grows with the run.
        refresh: interval :math:`k`: the factors that orthogonalise directions are computed
            at every :math:`k`-th update (and at each of the first ten), and reused in
            between. A larger interval makes updates cheaper and less orthogonal.
    """

    power: float = fraction(0.0)
    refresh: int = whole(1)


def orthogonal_adam(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: OrthogonalAdam = OrthogonalAdam(),
    shapes: Sequence[Sequence[int]] | None = None,
) -> tuple[Tensor, RuleState]:
    r"""Update along Adam's direction, orthogonalised for each weight matrix.

    With the moments :math:`m` and :math:`v` of :func:`~optenv.rules.adam`, the direction
    is that of Adam with Nesterov's momentum (Dozat, 2016, with a constant momentum),

    .. math::
        d = \left(\frac{\beta_1 m}{1-\beta_1^{t+1}} +
        \frac{(1-\beta_1) g}{1-\beta_1^t}\right) /
        (\sqrt{v}/\sqrt{1-\beta_2^t} + \epsilon),

    where the direction of a matrix is replaced by its approximate polar factor, scaled to
    the same norm (:func:`orthogonalize`), so that Adam's learning rates suit it. The memory
    of :math:`v` can grow with the run: see ``power``. If roles are known
    (:meth:`~optenv.rules.Rule.bind`), embeddings and output layers are not orthogonalised.

    Args:
        params: parameters :math:`\theta`, ``[B, P]``.
        grad: gradients :math:`g`, ``[B, P]``.
        state: mean :math:`m` and mean square :math:`v`, ``[B, P]``, number of updates
            :math:`t`, ``[B, 1]``; and, if ``refresh`` is above 1, the flattened factors,
            ``[B, K]``.
        lr: learning rates :math:`\eta`, ``[B, 1]``.
        inplace: whether to overwrite ``params`` and ``state``.
        h: hyperparameters.
        shapes: shapes of the parameters of one run.

    Returns:
        New parameters ``[B, P]``, and the state.

    Raises:
        TypeError: there are no shapes.
    """
    if shapes is None:
        raise TypeError("orthogonal-adam needs shapes: bind the rule to them first")
    moments, factors = state[:3], state[3:]
    mean, root, moments = update_moments(grad, moments, h.beta1, h.beta2, inplace, h.power)
    of_mean, of_grad = nesterov_weights(moments[2], h.beta1)
    direction = addcmul(mean * of_mean, grad, of_grad, 1.0, inplace)
    direction = ratio(direction, root, h.eps, inplace)
    if factors:
        due = is_due(moments[2], h.refresh)
        direction, kept = _orthogonalize_by_factors(direction, shapes, factors[0], due)
        factors = (kept,)
    else:
        direction = orthogonalize_flat(direction, shapes)
    return addcmul(params, direction, lr, -1.0, inplace), (*moments, *factors)


def _init(
    params: Tensor,
    h: OrthogonalAdam = OrthogonalAdam(),
    shapes: Sequence[Sequence[int]] | None = None,
) -> RuleState:
    """Return the state of Adam and, if factors are reused, zeros for them, ``[B, K]``.

    Raises:
        TypeError: factors are reused, but there are no shapes.
    """
    state = adam_state(params)
    if h.refresh == 1:
        return state
    if shapes is None:
        raise TypeError("orthogonal-adam needs shapes: bind the rule to them first")
    numel = sum(count * height**2 for count, height in map(factors_of, shapes))
    return (*state, params.new_zeros(len(params), numel))


def is_due(step: Number, refresh: int) -> Any:
    """Return whether an update computes new factors.

    Args:
        step: number of the update, from 1 on; a number or a tensor.
        refresh: see :class:`OrthogonalAdam`.
    """
    return (step <= EARLY_UPDATES) | (step % refresh == 0)


def factors_of(shape: Sequence[int]) -> tuple[int, int]:
    """Return number and height of a parameter's factors; ``(0, 0)`` if it is no matrix."""
    matrix = as_matrix(shape)
    return (0, 0) if matrix is None else strips_of(min(matrix))


def _orthogonalize_by_factors(
    direction: Tensor, shapes: Sequence[Sequence[int]], factors: Tensor, due: Tensor
) -> tuple[Tensor, Tensor]:
    """Orthogonalise the matrices among flat directions by new or earlier factors.

    Args:
        direction: directions, ``[B, P]``.
        shapes: shapes of the parameters of one run, in order.
        factors: factors of earlier updates, ``[B, K]``.
        due: runs that compute new factors, ``[B, 1]`` bool.

    Returns:
        Directions ``[B, P]``, and the factors ``[B, K]``.
    """
    # On other devices than the CPU the check would have to wait; both are computed there.
    known = due.device.type == "cpu"
    all_due, none_due = known and bool(due.all()), known and not bool(due.any())
    cuts = [factors_of(shape) for shape in shapes]
    parts = direction.split([math.prod(shape) for shape in shapes], dim=1)
    olds = factors.split([count * height**2 for count, height in cuts], dim=1)
    directions, kept = [], []
    for part, old, shape, (count, height) in zip(parts, olds, shapes, cuts, strict=True):
        matrix = as_matrix(shape)
        if matrix is not None:
            turned = matrix[0] > matrix[1]
            wide = part.unflatten(1, matrix)
            wide = wide.mT if turned else wide
            strips, own = cut_into_strips(wide), old.reshape(-1, height, height)
            if none_due:
                result = apply_factors(own, strips)
            else:
                fresh = factors_of_strips(strips)
                result = torch.bmm(fresh, strips)
                fresh = fresh.reshape(old.shape)
                if not all_due:
                    stale = apply_factors(own, strips)
                    of_strips = due.repeat_interleave(count, 0).unsqueeze(2)
                    result = torch.where(of_strips, result, stale)
                    fresh = torch.where(due, fresh, old)
                old = fresh
            wide = result.reshape(len(part), -1, wide.shape[2])[:, : wide.shape[1]]
            part = (wide.mT if turned else wide).flatten(1)
        directions.append(part)
        kept.append(old)
    return torch.cat(directions, dim=1), factors if none_due else torch.cat(kept, dim=1)


def nesterov_weights(step: Number, beta1: float) -> tuple[Number, Number]:
    """Return the weights of mean and gradient in the direction, with bias correction.

    Args:
        step: update, from 1 on; a number or a tensor.
        beta1: decay rate of the mean.
    """
    return beta1 / (1 - beta1 ** (step + 1)), (1 - beta1) / (1 - beta1**step)


def as_matrix(shape: Sequence[int]) -> tuple[int, int] | None:
    """Return rows and columns of a parameter as a matrix ``[out, in * ...]``.

    The result is None for a parameter that is no matrix, or has a single row or column: its
    polar factor would be its normalised direction.
    """
    if len(shape) < 2 or 0 in shape:
        return None
    rows, columns = shape[0], math.prod(shape[1:])
    return (rows, columns) if min(rows, columns) > 1 else None


def orthogonalize(direction: Tensor) -> Tensor:
    """Return nearly orthogonal matrices with the Frobenius norms of the given ones.

    Singular vectors do not change. Singular values get much closer to each other, except
    for those far below the rest. A matrix with both sides longer than :data:`STRIP_ROWS` is
    orthogonalised strip by strip. Zero stays zero.

    Args:
        direction: matrices, ``[n, r, c]``, of any magnitude.

    Returns:
        Matrices ``[n, r, c]``.
    """
    # Divided by the largest entry, so that its fourth power does not underflow.
    unit = direction.detach().abs().amax((-2, -1), keepdim=True)
    unit = torch.where(unit > 0, unit, 1.0)
    return orthogonalize_moderate(direction / unit) * unit


def orthogonalize_moderate(direction: Tensor) -> Tensor:
    """Orthogonalise matrices ``[n, r, c]`` with norms from 1e-9 to 1e9, such as Adam's.

    It is :func:`orthogonalize` without its guard against under- and overflow. Matrices with
    smaller norms keep their direction.
    """
    if direction.shape[-2] > direction.shape[-1]:
        return orthogonalize_moderate(direction.mT).mT
    count, rows, columns = direction.shape
    if rows <= STRIP_ROWS:
        return orthogonalize_strips(direction)
    result = orthogonalize_strips(cut_into_strips(direction))
    return result.reshape(count, -1, columns)[:, :rows]


def cut_into_strips(wide: Tensor) -> Tensor:
    """Cut matrices ``[n, r, c]`` into ``k`` strips of equal height, ``[n * k, h, c]``.

    The last strip of a matrix may be filled up by rows of zeros, which stay zero.
    """
    count, rows, columns = wide.shape
    strips, height = strips_of(rows)
    if strips * height > rows:
        wide = F.pad(wide, (0, 0, 0, strips * height - rows))
    return wide.reshape(count * strips, height, columns)


@lru_cache(maxsize=1024)
def strips_of(rows: int) -> tuple[int, int]:
    """Return the number of strips that rows are cut into, and the height of each.

    If one strip is not enough, heights are multiples of eight, for which products of
    matrices are faster. The height is one for which no rows of zeros are needed, if there
    is one with less than twice the smallest number of strips.

    Example:
        >>> from optenv.rules.orthogonal_adam import strips_of
        >>> strips_of(50), strips_of(130), strips_of(784)
        ((1, 50), (3, 48), (14, 56))
    """
    fewest = math.ceil(rows / STRIP_ROWS)
    if fewest <= 1:
        return fewest, rows
    for strips in range(fewest, 2 * fewest):
        if rows % (8 * strips) == 0:
            return strips, rows // strips
    return fewest, 8 * math.ceil(rows / (8 * fewest))


def orthogonalize_strips(x: Tensor) -> Tensor:
    """Orthogonalise matrices ``[n, r, c]`` with ``r <= c``, each in one piece.

    Norms must be in the range of :func:`orthogonalize_moderate`.
    """
    return torch.bmm(factors_of_strips(x), x)


def factors_of_strips(x: Tensor) -> Tensor:
    """Compute the factors that orthogonalise matrices ``[n, r, c]`` from the left.

    They are polynomials of the Gram matrices, computed with few operations: for small
    matrices, the overhead of an operation exceeds its arithmetic. For large ones, only the
    Gram matrix itself is computed from all elements; norms are traces.

    Returns:
        Symmetric factors ``[n, r, r]``. Their products with the given matrices are nearly
        orthogonal and have the norms of these, up to the precision of products of matrices
        (which ``torch.set_float32_matmul_precision`` can lower).
    """
    (a, b, c), (d, e, f) = COEFFICIENTS
    inplace = not x.requires_grad
    # 1. The Gram matrix divided by its norm, and then by a bound of its largest eigenvalue
    # that is tight where one dominates: the root of the norm of its square.
    gram = torch.bmm(x, x.mT)
    size = torch.linalg.vector_norm(gram, dim=(1, 2), keepdim=True).clamp(min=TINY)
    gram = mul(gram, size.reciprocal(), inplace)
    square = torch.bmm(gram, gram)
    bound_sq = torch.linalg.vector_norm(square, dim=(1, 2), keepdim=True)
    inverse_sq = bound_sq.clamp(min=TINY).reciprocal()
    gram = mul(gram, inverse_sq.sqrt(), inplace)
    norm_sq = gram.diagonal(dim1=1, dim2=2).sum(1)
    # 2. The factors q of both quintics, which all commute: x <- q_2 q_1 x.
    first = mul(square, c * inverse_sq, inplace).add_(gram, alpha=b)
    first = _add_identity(first, a)
    gram = torch.bmm(torch.bmm(gram, first), first)
    second = _add_identity(torch.baddbmm(gram, gram, gram, beta=e, alpha=f), d)
    # 3. Norms are restored: squared, they are traces, before and after. Zero stays zero.
    products = mul(torch.bmm(second, gram), second, inplace)
    shrink = norm_sq / products.sum((1, 2)).clamp(min=TINY)
    shrink = torch.where(norm_sq > TINY, shrink, 1.0)
    return torch.bmm(first, mul(second, shrink.sqrt().view(-1, 1, 1), inplace))


def apply_factors(factors: Tensor, strips: Tensor) -> Tensor:
    """Multiply matrices ``[n, r, c]`` by factors ``[n, r, r]`` of earlier matrices.

    The results are scaled to the Frobenius norms of the matrices, since earlier factors
    enlarge new directions.
    """
    result = torch.bmm(factors, strips)
    return mul(result, norm_ratio(strips, result), not result.requires_grad)


def norm_ratio(before: Tensor, after: Tensor) -> Tensor:
    """Return the ratios ``[n, 1, 1]`` of norms of matrices ``[n, r, c]``."""
    norm, length = (
        torch.linalg.vector_norm(each, dim=(1, 2), keepdim=True) for each in (before, after)
    )
    return norm / length.clamp(min=TINY)


def _add_identity(matrices: Tensor, value: float) -> Tensor:
    """Add a multiple of the identity to matrices ``[n, r, r]``, in place."""
    matrices.diagonal(dim1=1, dim2=2).add_(value)
    return matrices


def orthogonalize_flat(direction: Tensor, shapes: Sequence[Sequence[int]]) -> Tensor:
    """Orthogonalise the matrices among the flat directions of runs.

    Args:
        direction: directions, ``[B, P]``.
        shapes: shapes of the parameters of one run, in order.

    Returns:
        Directions ``[B, P]``; those of parameters that are no matrix
        (:func:`as_matrix`) are unchanged.
    """
    parts = []
    for part, shape in zip(
        direction.split([math.prod(shape) for shape in shapes], dim=1), shapes, strict=True
    ):
        matrix = as_matrix(shape)
        if matrix is not None:
            part = orthogonalize_moderate(part.unflatten(1, matrix)).flatten(1)
        parts.append(part)
    return torch.cat(parts, dim=1)


RULES = (
    Rule(
        "orthogonal-adam",
        1e-3,
        _init,
        orthogonal_adam,
        OrthogonalAdam(),
        ("exp_avg", "exp_avg_sq", "step"),
        shaped=True,
        shaped_state=True,
    ),
)
