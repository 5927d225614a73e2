"""Rule ``network``: Adam's direction corrected by a small MLP, the same for each parameter.

The inputs of the MLP are common ones of learned optimizers (Metz et al., 2020). All are
invariant to the units of the loss and of each parameter tensor.

References:
    Metz et al., "Tasks, stability, architecture, and compute: Training more effective
    learned optimizers, and using them to train themselves", 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import is_number
from .adam import adam_state
from .arithmetic import debiased_root, update_mean, update_square
from .base import Hyperparameters, Rule, RuleState, positive

__all__ = [
    "MLP",
    "RULES",
    "correct",
    "first_weights",
    "hidden_units",
    "network",
    "relative",
]

#: Decays of the two means of the gradient, and of the mean square.
DECAYS, SQUARE_DECAY = (0.9, 0.99), 0.999

#: Bound of the inputs and of the log-scale that the MLP outputs.
LIMIT = 4.0

#: Number of inputs of the MLP.
INPUTS = 7


def _checked(weights: Any) -> tuple[float, ...]:
    """Check the weights of an MLP, and return them as floats."""
    per_unit = INPUTS + 3
    if not isinstance(weights, Sequence) or not all(map(is_number, weights)):
        raise TypeError(f"weights must be a list of numbers, got {weights!r}")
    if (len(weights) and (len(weights) - 2) % per_unit) or 0 < len(weights) < per_unit:
        raise ValueError(
            f"there must be {per_unit} n + 2 weights of n hidden units, or none, "
            f"got {len(weights)}"
        )
    if not all(map(math.isfinite, weights)):
        raise ValueError(f"weights must be finite, got {list(weights)}")
    return tuple(map(float, weights))


@dataclass(frozen=True)
class MLP(Hyperparameters):
    r"""Hyperparameters of the MLP rule.

    Attributes:
        eps: :math:`\epsilon`, positive.
        weights: of the MLP in the order of :func:`correct`, ``10 n + 2`` for ``n`` hidden
            units; none for Adam.
    """

    eps: float = positive(1e-8)
    weights: Sequence[float] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", _checked(self.weights))
        super().__post_init__()


def network(
    params: Tensor,
    grad: Tensor,
    state: RuleState,
    lr: Tensor,
    inplace: bool = False,
    h: MLP = MLP(),
    shapes: Sequence[Sequence[int]] | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, RuleState]:
    r"""Adam's direction, scaled and shifted by an MLP.

    :math:`\theta \leftarrow \theta - \eta\, (e^{a} \hat m + b \sqrt{\hat v}) /
    (\sqrt{\hat v} + \epsilon)`, with Adam's bias-corrected moments :math:`\hat m` and
    :math:`\hat v`, and for each parameter the outputs :math:`a` and :math:`b` of the MLP
    (:func:`correct`). Without weights it is Adam. A parameter that never had a gradient
    does not move.

    Args:
        params, grad: ``[B, P]``.
        state: two means of the gradient and one mean square ``[B, P]``, and the number of
            updates ``[B, 1]``.
        lr: ``[B, 1]``.
        inplace: whether parameters and state may be overwritten.
        h: hyperparameters.
        shapes: of the parameters of one run.
        weights: of the MLP, ``[W]``, or ``[B, W]`` for each run its own, in place of those
            of ``h``.

    Raises:
        TypeError: there are no shapes.
    """
    if shapes is None:
        raise TypeError("network needs shapes: bind the rule to them first")
    if weights is None:
        weights = torch.tensor(h.weights, dtype=params.dtype, device=params.device)
    # 1. The moments.
    fast, slow, square, step = state
    step = step + 1
    fast, slow = (
        update_mean(mean, grad, decay, inplace)
        for mean, decay in zip((fast, slow), DECAYS, strict=True)
    )
    square = update_square(square, grad, SQUARE_DECAY, inplace)
    root = debiased_root(square, SQUARE_DECAY, step, inplace) + h.eps
    means = [
        mean / ((1 - decay**step) * root)
        for mean, decay in zip((fast, slow), DECAYS, strict=True)
    ]
    # 2. The direction.
    direction = means[0]
    if weights.numel():
        sizes = [math.prod(shape) for shape in shapes]
        inputs = [grad / root, *means]
        inputs += relative(root, params, _rms(root, sizes), _rms(params, sizes))
        inputs.append((step.log1p() / LIMIT).expand_as(params))
        direction = correct(means[0], 1 - h.eps / root, torch.stack(inputs, dim=1), weights)
    moved = params.sub_(lr * direction) if inplace else params - lr * direction
    return moved, (fast, slow, square, step)


def _rms(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Compute the root mean square over each tensor, for each number of ``[B, P]``."""
    squares = [part.square().mean(1) for part in values.detach().split(list(sizes), 1)]
    counts = torch.tensor(sizes, device=values.device)
    return torch.stack(squares, 1).sqrt().repeat_interleave(counts, dim=1)


def relative(
    root: Tensor, params: Tensor, root_rms: Tensor, params_rms: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute inputs of the MLP in units of their tensor.

    Args:
        root: root mean squares of the gradient, ``[B, n]``.
        params: parameters, ``[B, n]``.
        root_rms, params_rms: root mean squares of both over their tensor, ``[B, n]``.

    Returns:
        The parameters in these units, and the logarithms of ``root`` and of the
        parameters, ``[B, n]`` each, without derivatives.
    """
    root = root.detach() / (root_rms + 1e-30)
    params = params.detach() / (params_rms + 1e-30)
    log_root, log_params = (
        (part.abs() + 1e-9).log().clamp(-LIMIT, LIMIT) / 2 for part in (root, params)
    )
    return params.clamp(-LIMIT, LIMIT), log_root, log_params


def correct(direction: Tensor, gate: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
    r"""Compute directions :math:`e^a d + \text{gate} \cdot b` by the MLP.

    The MLP has one hidden layer with tanh, and the outputs :math:`a` and :math:`b`.

    Args:
        direction: Adam's direction :math:`d`, ``[B, n]``.
        gate: factor of :math:`b`, ``[B, n]``; 0 where there never was a gradient.
        inputs: of the MLP, ``[B, 7, n]``.
        weights: ``[W]`` or ``[B, W]``: of the first layer, by hidden units, its biases, and
            the same of the second layer.

    Returns:
        Directions ``[B, n]``.
    """
    units = hidden_units(weights.shape[-1])
    rows = weights if weights.dim() == 2 else weights[None].expand(len(inputs), -1)
    first, bias, last, end = rows.split((INPUTS * units, units, 2 * units, 2), dim=1)
    first, last = first.unflatten(1, (units, -1)), last.unflatten(1, (2, -1))
    hidden = torch.baddbmm(bias[..., None], first, inputs).tanh()
    scale, offset = torch.baddbmm(end[..., None], last, hidden).unbind(1)
    return scale.clamp(-LIMIT, LIMIT).exp() * direction + gate * offset


def first_weights(units: int, generator: torch.Generator) -> Tensor:
    """Draw initial weights ``[W]``: orthogonal, and zeros in the second layer."""
    first = torch.empty(units, INPUTS)
    torch.nn.init.orthogonal_(first, 1.0, generator)
    return torch.cat([first.flatten(), torch.zeros(3 * units + 2)])


def hidden_units(count: int) -> int:
    """Return the number of hidden units of an MLP with ``count`` weights."""
    return (count - 2) // (INPUTS + 3)


def _network_state(params: Tensor) -> RuleState:
    return torch.zeros_like(params), *adam_state(params)


RULES = (Rule("network", 1e-3, _network_state, network, MLP(), shaped=True),)
