r"""Orthogonal Adam: Adam whose directions of weight matrices are orthogonalised.

The polar factor :math:`U V^\top` of a direction :math:`U S V^\top` moves all of its
singular directions equally far, instead of mostly the few that dominate (Carlson et al.,
2015). It is approximated by the Newton-Schulz iteration of Muon (Jordan et al., 2024).

References:
    * Carlson et al., "Preconditioned Spectral Descent for Deep Learning", NeurIPS 2015.
    * Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
    * Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.
    * Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost",
      ICML 2018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .adam import Adam, adam_state, update_moments
from .arithmetic import Number, addcmul, ratio
from .base import Rule, RuleState, fraction

__all__ = [
    "RULES",
    "OrthogonalAdam",
    "as_matrix",
    "nesterov_weights",
    "orthogonal_adam",
    "orthogonalize",
    "orthogonalize_flat",
]

#: Coefficients of the quintic :math:`x \mapsto a x + b x^3 + c x^5` that is applied to
#: singular values (Jordan et al., 2024): steepest at 0, near 1 for all that is not small.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)

#: Newton-Schulz iterations: three do as well as Muon's five here, and cost less.
ITERATIONS = 3

#: Largest number of rows of a matrix that is orthogonalised in one piece. A matrix with
#: more rows and more columns is cut into strips along the longer side, each orthogonalised
#: on its own: time then grows with the number of parameters and not faster.
STRIP_ROWS = 128


@dataclass(frozen=True)
class OrthogonalAdam(Adam):
    r"""Hyperparameters of orthogonal Adam.

    Attributes:
        power: :math:`p` of :func:`~optenv.rules.adam.square_decay`: with a positive power,
            the memory of squared gradients grows with the run.
    """

    power: float = fraction(0.0)


def orthogonal_adam(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: OrthogonalAdam = OrthogonalAdam(),
    shapes: Sequence[Sequence[int]] | None = None,
) -> tuple[Tensor, RuleState]:
    r"""Update along Adam's direction, that of each matrix orthogonalised.

    With the moments :math:`m` and :math:`v` of :func:`~optenv.rules.adam`, the direction
    is that of Adam with Nesterov's momentum (Dozat, 2016, with a constant momentum),

    .. math::
        d = \left(\frac{\beta_1 m}{1-\beta_1^{t+1}} +
        \frac{(1-\beta_1) g}{1-\beta_1^t}\right) /
        (\sqrt{v}/\sqrt{1-\beta_2^t} + \epsilon),

    where the direction of a matrix is replaced by its approximate polar factor of the same
    norm (:func:`orthogonalize`), so that learning rates of Adam suit it. The memory of
    :math:`v` can grow with the run: see ``power``.

    Args:
        params: parameters :math:`\theta`, ``[B, P]``.
        grad: gradients :math:`g`, ``[B, P]``.
        state: mean :math:`m` and mean square :math:`v`, ``[B, P]``, and number of updates
            :math:`t`, ``[B, 1]``.
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
    mean, root, state = update_moments(grad, state, h.beta1, h.beta2, inplace, h.power)
    of_mean, of_grad = nesterov_weights(state[2], h.beta1)
    direction = addcmul(mean * of_mean, grad, of_grad, 1.0, inplace)
    direction = orthogonalize_flat(ratio(direction, root, h.eps, inplace), shapes)
    return addcmul(params, direction, lr, -1.0, inplace), state


def nesterov_weights(step: Number, beta1: float) -> tuple[Number, Number]:
    """Return the weights of mean and gradient in the direction, with bias correction.

    Args:
        step: update, from 1 on; a number or a tensor.
        beta1: decay rate of the mean.
    """
    return beta1 / (1 - beta1 ** (step + 1)), (1 - beta1) / (1 - beta1**step)


def as_matrix(shape: Sequence[int]) -> tuple[int, int] | None:
    """Return rows and columns of a parameter as a matrix ``[out, in * ...]``.

    None for a parameter that is no matrix. One with a single row or column counts as none:
    its polar factor would be its normalised direction.
    """
    if len(shape) < 2 or 0 in shape:
        return None
    rows, columns = shape[0], math.prod(shape[1:])
    return (rows, columns) if min(rows, columns) > 1 else None


def orthogonalize(direction: Tensor) -> Tensor:
    """Return near-orthogonal matrices of the Frobenius norms of the given ones.

    Singular vectors are kept. Singular values come much closer to each other, those far
    below the rest less so. A matrix with both sides longer than :data:`STRIP_ROWS` is
    orthogonalised strip by strip. Zero stays zero.

    Args:
        direction: matrices, ``[n, r, c]``.

    Returns:
        Matrices ``[n, r, c]``.
    """
    if direction.shape[-2] > direction.shape[-1]:
        return orthogonalize(direction.mT).mT
    count, rows, columns = direction.shape
    if rows <= STRIP_ROWS:
        return _orthogonalize_strips(direction)
    strips = math.ceil(rows / STRIP_ROWS)
    height = math.ceil(rows / strips)
    if strips * height > rows:  # rows of zeros, which stay zero
        direction = F.pad(direction, (0, 0, 0, strips * height - rows))
    result = _orthogonalize_strips(direction.reshape(count * strips, height, columns))
    return result.reshape(count, strips * height, columns)[:, :rows]


def _orthogonalize_strips(wide: Tensor) -> Tensor:
    """Orthogonalise matrices ``[n, r, c]`` with ``r <= c``, each in one piece."""
    # 1. Divide by the largest entry, so that no square underflows; a matrix of zeros by 1,
    # so that its derivatives stay finite.
    unit = wide.detach().abs().amax((-2, -1), keepdim=True)
    positive = unit > 0
    unit = torch.where(positive, unit, 1.0)
    wide = wide / unit
    # 2. Scale to norm 1, so that the iteration converges.
    norm_sq = torch.where(positive, wide.square().sum((-2, -1), keepdim=True), 1.0)
    x = wide * norm_sq.rsqrt()
    # 3. Newton-Schulz: x <- a x + (b x x' + c (x x')^2) x.
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    # 4. Restore norm and unit.
    length_sq = torch.where(positive, x.square().sum((-2, -1), keepdim=True), 1.0)
    return x * ((norm_sq / length_sq).sqrt() * unit)


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
            part = orthogonalize(part.unflatten(1, matrix)).flatten(1)
        parts.append(part)
    return torch.cat(parts, dim=1)


RULES = (
    Rule(
        "orthogonal-adam",
        1e-3,
        adam_state,
        orthogonal_adam,
        OrthogonalAdam(),
        ("exp_avg", "exp_avg_sq", "step"),
        shaped=True,
    ),
)
