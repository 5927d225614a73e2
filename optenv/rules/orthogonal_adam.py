r"""Adam whose updates of matrices are orthogonalised, and the orthogonalisation.

The polar factor :math:`U V^\top` of a direction :math:`U S V^\top` moves all of its
singular directions equally far, instead of mostly the few that dominate. It is
approximated by a Newton-Schulz iteration.

References:
    Carlson et al., "Preconditioned spectral descent for deep learning", 2015.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .adam import Adam, adam_state
from .arithmetic import (
    addcmul,
    debiased_root,
    ratio,
    safe_sqrt,
    update_mean,
    update_square,
)
from .base import Rule, RuleState, fraction

__all__ = [
    "RULES",
    "OrthogonalAdam",
    "as_matrix",
    "orthogonal_adam",
    "orthogonalize",
    "orthogonalize_flat",
]

#: Coefficients of the quintic :math:`x \mapsto a x + b x^3 + c x^5` that is iterated on
#: singular values (Jordan et al., 2024): steep at 0, near 1 for all that are not small.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)

#: Iterations: three do as well as Muon's five here, and cost less.
ITERATIONS = 3

#: Matrices with more rows and more columns are cut along the longer side into strips of at
#: most this width, each orthogonalised on its own, so that time grows with the number of
#: parameters and not faster.
STRIP = 128


@dataclass(frozen=True)
class OrthogonalAdam(Adam):
    r"""Hyperparameters of orthogonal Adam.

    Attributes:
        power: :math:`p` in [0, 1). If positive, the mean square decays by
            :math:`\min(\beta_2, 1 - t^{-p})` at update :math:`t`, without bias correction,
            as Adafactor's does (Shazeer & Stern, 2018, with 0.8). It then averages about
            the last :math:`t^p` gradients: few early in the run and many late.
    """

    power: float = fraction(0.0)

    def decay(self, step: Any) -> Any:
        """Return the decay of the mean square at update ``step >= 1``.

        Args:
            step: a number, or a tensor, whose shape the decays then have.
        """
        if self.power == 0:
            return self.beta2
        growing = 1 - step**-self.power
        if isinstance(growing, Tensor):
            return growing.clamp(max=self.beta2)
        return min(growing, self.beta2)


def orthogonal_adam(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: OrthogonalAdam = OrthogonalAdam(),
    shapes: Sequence[Sequence[int]] | None = None,
) -> tuple[Tensor, RuleState]:
    r"""Adam whose directions of matrices are orthogonalised.

    The direction is that of Adam with Nesterov's momentum (Dozat, 2016), with :math:`m`
    and :math:`v` of :func:`~optenv.rules.adam.adam`,

    .. math:: d = \left(\frac{\beta_1 m}{1-\beta_1^{t+1}} +
        \frac{(1-\beta_1) g}{1-\beta_1^t}\right) /
        (\sqrt{v}/\sqrt{1-\beta_2^t} + \epsilon) .

    That of a matrix is replaced by its approximate polar factor of the same Frobenius norm
    (:func:`orthogonalize`), so that learning rates of Adam suit it.

    Args:
        params, grad: ``[B, P]``.
        state: mean, mean square ``[B, P]`` and number of updates ``[B, 1]``.
        lr: ``[B, 1]``.
        inplace: whether parameters and state may be overwritten.
        h: hyperparameters.
        shapes: of the parameters of one run.

    Raises:
        TypeError: there are no shapes.
    """
    if shapes is None:
        raise TypeError("orthogonal-adam needs shapes: bind the rule to them first")
    # 1. Adam's moments, whose memory can grow.
    mean, square, step = state
    step = step + 1
    mean = update_mean(mean, grad, h.beta1, inplace)
    square = update_square(square, grad, h.decay(step), inplace)
    # 2. The direction of Adam with Nesterov's momentum.
    ahead = mean * (h.beta1 / (1 - h.beta1 ** (step + 1)))
    ahead = addcmul(ahead, grad, (1 - h.beta1) / (1 - h.beta1**step), 1.0, inplace)
    if h.power == 0:
        root = debiased_root(square, h.beta2, step, inplace)
    else:
        root = safe_sqrt(square)
    # 3. Its matrices orthogonalised.
    direction = orthogonalize_flat(ratio(ahead, root, h.eps, inplace), shapes)
    return addcmul(params, direction, lr, -1.0, inplace), (mean, square, step)


def as_matrix(shape: Sequence[int]) -> tuple[int, int] | None:
    """Return rows and columns ``[out, in * ...]`` of a parameter that is a matrix.

    Returns:
        None for other parameters. One with a single row or column is no matrix: its polar
        factor would be its mere direction.
    """
    if len(shape) < 2 or 0 in shape:
        return None
    rows, columns = shape[0], math.prod(shape[1:])
    return (rows, columns) if min(rows, columns) > 1 else None


def orthogonalize(direction: Tensor) -> Tensor:
    """Compute near-orthogonal matrices with the Frobenius norms of the given ones.

    Args:
        direction: matrices ``[n, r, c]``.

    Returns:
        Matrices ``[n, r, c]`` with the same singular vectors, whose singular values are
        much closer to each other; those far below the rest less so. Zeros stay zeros. If
        both sides are longer than :data:`STRIP`, this holds for each strip.
    """
    if direction.shape[-2] > direction.shape[-1]:
        return orthogonalize(direction.mT).mT
    count, rows, columns = direction.shape
    if rows <= STRIP:
        return _orthogonalize(direction)
    strips = math.ceil(rows / STRIP)
    height = math.ceil(rows / strips)
    if strips * height > rows:  # rows of zeros stay zeros
        direction = F.pad(direction, (0, 0, 0, strips * height - rows))
    result = _orthogonalize(direction.reshape(count * strips, height, columns))
    return result.reshape(count, strips * height, columns)[:, :rows]


def _orthogonalize(matrices: Tensor) -> Tensor:
    """Orthogonalise matrices that are no taller than wide, in one piece."""
    # 1. Units: the largest entry, so that no square underflows. A matrix of zeros is in
    # units of 1, so that its derivatives stay finite.
    unit = matrices.detach().abs().amax((-2, -1), keepdim=True)
    nonzero = unit > 0
    unit = torch.where(nonzero, unit, 1.0)
    matrices = matrices / unit
    norm_sq = matrices.square().sum((-2, -1), keepdim=True)
    norm_sq = torch.where(nonzero, norm_sq, 1.0)
    # 2. The Newton-Schulz iteration, from norm 1.
    x = matrices * norm_sq.rsqrt()
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    # 3. The norm that was given.
    length_sq = torch.where(nonzero, x.square().sum((-2, -1), keepdim=True), 1.0)
    return x * ((norm_sq / length_sq).sqrt() * unit)


def orthogonalize_flat(direction: Tensor, shapes: Sequence[Sequence[int]]) -> Tensor:
    """Orthogonalise the matrices among the flat directions of a batch of runs.

    Args:
        direction: ``[B, P]``.
        shapes: of the parameters of one run, in order. Parameters that are no matrices
            (:func:`as_matrix`) are left unchanged.
    """
    sizes = [math.prod(shape) for shape in shapes]
    parts = []
    for part, shape in zip(direction.split(sizes, dim=1), shapes, strict=True):
        matrix = as_matrix(shape)
        if matrix is not None:
            part = orthogonalize(part.unflatten(1, matrix)).flatten(1)
        parts.append(part)
    return torch.cat(parts, dim=1)


RULES = (
    Rule(
        "orthogonal-adam", 1e-3, adam_state, orthogonal_adam, OrthogonalAdam(), shaped=True
    ),
)
