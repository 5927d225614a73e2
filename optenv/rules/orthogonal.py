r"""Orthogonalised directions: what rules for matrices do to the direction of an update.

The polar factor :math:`U V^\top` of a direction :math:`U S V^\top` moves all of its
singular directions equally far, instead of mostly the few that dominate (Carlson et al.,
"Preconditioned Spectral Descent for Deep Learning", 2015). It is approximated by the
Newton-Schulz iteration of Jordan et al., "Muon: An optimizer for hidden layers in neural
networks", 2024.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

#: Of the quintic :math:`x \mapsto a x + b x^3 + c x^5` that is applied to singular values
#: (Jordan et al., 2024): steepest at 0, near 1 for all that is not small.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)

#: Iterations: three do as well as Muon's five here, and cost less.
ITERATIONS = 3

#: Matrices with more rows and more columns are cut into strips, along the longer side and
#: at most as wide as this, each orthogonalised on its own: time then grows with the number
#: of parameters and not faster.
STRIP = 128


def as_matrix(shape: Sequence[int]) -> tuple[int, int] | None:
    """Rows and columns of a parameter, ``[out, in * ...]``; None if it is no matrix.

    What has a single row or column is none: its polar factor would be its mere direction.
    """
    if len(shape) < 2 or 0 in shape:
        return None
    rows, columns = shape[0], math.prod(shape[1:])
    return (rows, columns) if min(rows, columns) > 1 else None


def orthogonalize(direction: Tensor) -> Tensor:
    """Near-orthogonal matrices of the Frobenius norm of the given ones.

    Args:
        direction: ``[n, r, c]``.

    Returns:
        ``[n, r, c]``: the same singular vectors; singular values of a matrix much closer
        to each other, those far below the rest less so. Zero where ``direction`` is. Of a
        matrix with both sides longer than :data:`STRIP`, that holds for each strip.
    """
    if direction.shape[-2] > direction.shape[-1]:
        return orthogonalize(direction.mT).mT
    count, rows, columns = direction.shape
    if rows <= STRIP:
        return _orthogonalize(direction)
    strips = math.ceil(rows / STRIP)
    height = math.ceil(rows / strips)
    if strips * height > rows:  # rows of zeros stay what they are
        direction = F.pad(direction, (0, 0, 0, strips * height - rows))
    found = _orthogonalize(direction.reshape(count * strips, height, columns))
    return found.reshape(count, strips * height, columns)[:, :rows]


def _orthogonalize(wide: Tensor) -> Tensor:
    """The same of matrices that are no taller than wide, without cutting them."""
    # In units of the largest entry, so that no square underflows; a matrix of zeros in
    # those of 1, so that its derivatives stay finite.
    unit = wide.detach().abs().amax((-2, -1), keepdim=True)
    positive = unit > 0
    unit = torch.where(positive, unit, 1.0)
    wide = wide / unit
    norm_sq = torch.where(positive, wide.square().sum((-2, -1), keepdim=True), 1.0)
    x = wide * norm_sq.rsqrt()
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    length_sq = torch.where(positive, x.square().sum((-2, -1), keepdim=True), 1.0)
    return x * ((norm_sq / length_sq).sqrt() * unit)


def orthogonalize_flat(direction: Tensor, shapes: Sequence[Sequence[int]]) -> Tensor:
    """Orthogonalise the matrices among flat directions ``[B, P]`` of runs.

    Args:
        direction: ``[B, P]``.
        shapes: of the parameters of one run, in order; what is no matrix
            (:func:`as_matrix`) stays as it is.
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
