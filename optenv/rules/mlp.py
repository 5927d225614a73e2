r"""The rule ``network``: Adam corrected by a small network, the same for every parameter.

The network's inputs are those that learned optimizers commonly have: gradient and means of
gradients in units of their root mean square, parameter and root mean square relative to
their tensor, and the age of the run. None of them depends on the units of the loss or of a
tensor.

References:
    * Metz et al., "Tasks, stability, architecture, and compute: Training more effective
      learned optimizers, and using them to train themselves", 2020.
    * Andrychowicz et al., "Learning to learn by gradient descent by gradient descent",
      NeurIPS 2016.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import is_number, quoted
from .adam import adam_state
from .arithmetic import Number, debiased_root, mul, update_mean
from .base import Hyperparameters, Rule, RuleState, hyperparameter, positive

__all__ = [
    "INPUT_BOUND",
    "MEAN_DECAYS",
    "MLP",
    "RULES",
    "SQUARE_DECAY",
    "correct",
    "corrected_direction",
    "first_weights",
    "hidden_units",
    "network",
    "relative_inputs",
    "tensor_rms",
    "unbiased_means",
]

#: Decay rates of the two means of the gradient.
MEAN_DECAYS = (0.9, 0.99)

#: Decay rate of the mean square of the gradient.
SQUARE_DECAY = 0.999

#: Bound of the inputs that are clipped, and of the logarithm of the scale.
INPUT_BOUND = 4.0

#: Number of inputs of the network.
INPUTS = 7

#: Number of weights of each hidden unit: for its inputs, its bias and the two outputs.
WEIGHTS_PER_UNIT = INPUTS + 3


def _network_weights(name: str, weights: Any) -> tuple[float, ...]:
    """Return the weights of a network as floats, after checks of type and number."""
    if not isinstance(weights, Sequence) or not all(map(is_number, weights)):
        raise TypeError(f"{name} must be a list of numbers, got {quoted(weights)}")
    count, per_unit = len(weights), WEIGHTS_PER_UNIT
    if (count and (count - 2) % per_unit) or 0 < count < per_unit:
        raise ValueError(
            f"there must be {per_unit} n + 2 {name} of n hidden units, or none, got {count}"
        )
    if not all(map(math.isfinite, weights)):
        raise ValueError(f"{name} must be finite, got {list(weights)}")
    return tuple(map(float, weights))


@dataclass(frozen=True)
class MLP(Hyperparameters):
    r"""Hyperparameters of the rule ``network``.

    Attributes:
        eps: :math:`\epsilon`, added to the root of the mean square.
        weights: weights of the network in the order of :func:`correct`: ``10 n + 2`` for
            ``n`` hidden units, or none, which makes the rule Adam.
    """

    eps: float = positive(1e-8)
    weights: Sequence[float] = hyperparameter((), _network_weights)


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
    r"""Update along Adam's direction, corrected for each parameter by a network.

    .. math::
        \theta \leftarrow \theta - \eta\, \frac{e^{a} \hat m + b \sqrt{\hat v}}
        {\sqrt{\hat v} + \epsilon}

    with Adam's averages :math:`\hat m` and :math:`\hat v`, and the outputs :math:`a` and
    :math:`b` of the network (:func:`correct`). Without weights, it is Adam. A parameter
    that never had a gradient does not move.

    Args:
        params: parameters :math:`\theta`, ``[B, P]``.
        grad: gradients, ``[B, P]``.
        state: fast and slow mean of the gradient and its mean square, ``[B, P]``, and
            number of updates, ``[B, 1]``.
        lr: learning rates :math:`\eta`, ``[B, 1]``.
        inplace: whether to overwrite ``params`` and ``state``.
        h: hyperparameters, with the network's weights.
        shapes: shapes of the parameters of one run.
        weights: weights ``[W]``, or ``[B, W]`` for a network for each run, in place of
            those of ``h``. Gradients flow to them.

    Returns:
        New parameters ``[B, P]``, and the state.

    Raises:
        TypeError: there are no shapes.
    """
    if shapes is None:
        raise TypeError("network needs shapes: bind the rule to them first")
    if weights is None:
        weights = torch.tensor(h.weights, dtype=params.dtype, device=params.device)
    # 1. Averages of the gradient.
    fast, slow, square, step = state
    step = step + 1
    fast, slow = (
        update_mean(mean, grad, decay, inplace)
        for mean, decay in zip((fast, slow), MEAN_DECAYS, strict=True)
    )
    # Not update_square, whose fused multiply-add rounds differently: with it, rules that
    # have been learned could not be reproduced bit for bit.
    square = mul(square, SQUARE_DECAY, inplace)
    square = square + (1 - SQUARE_DECAY) * grad * grad
    root = debiased_root(square, SQUARE_DECAY, step, inplace) + h.eps
    # 2. Adam's direction, and its correction.
    means = unbiased_means(fast, slow, root, step)
    direction = means[0]
    if weights.numel():
        sizes = [math.prod(shape) for shape in shapes]
        rms = tensor_rms(root, sizes), tensor_rms(params, sizes)
        age = (step.log1p() / INPUT_BOUND).expand_as(params)
        direction = corrected_direction(grad, means, root, params, rms, age, h.eps, weights)
    # 3. The step.
    moved = params.sub_(lr * direction) if inplace else params - lr * direction
    return moved, (fast, slow, square, step)


def unbiased_means(
    fast: Tensor, slow: Tensor, root: Tensor, step: Number
) -> tuple[Tensor, Tensor]:
    """Return the two means in units of the root mean square, without bias.

    The first one is Adam's direction.

    Args:
        fast: mean of the gradient, ``[B, n]``.
        slow: mean of the gradient with the longer memory, ``[B, n]``.
        root: unbiased root mean square of the gradient, plus ``eps``, ``[B, n]``.
        step: number of updates, a number or ``[B, 1]``.
    """
    decays = MEAN_DECAYS
    return (
        fast / ((1 - decays[0] ** step) * root),
        slow / ((1 - decays[1] ** step) * root),
    )


def corrected_direction(
    grad: Tensor,
    means: tuple[Tensor, Tensor],
    root: Tensor,
    params: Tensor,
    rms: tuple[Tensor, Tensor],
    age: Tensor,
    eps: float,
    weights: Tensor,
) -> Tensor:
    """Return Adam's directions as corrected by the network, ``[B, n]``.

    Args:
        grad: gradients, ``[B, n]``.
        means: see :func:`unbiased_means`.
        root: unbiased root mean square of the gradient, plus ``eps``, ``[B, n]``.
        params: parameters, ``[B, n]``.
        rms: root mean squares of ``root`` and of ``params`` over each tensor, ``[B, n]``.
        age: logarithm of the number of updates, an input of the network, ``[B, n]``.
        eps: constant that is part of ``root``.
        weights: weights of the network, see :func:`correct`.
    """
    inputs = [grad / root, *means, *relative_inputs(root, params, *rms), age]
    # The gate is 0 where there has been no gradient: root is eps there.
    return correct(means[0], 1 - eps / root, torch.stack(inputs, dim=1), weights)


def tensor_rms(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the root mean square of each tensor, repeated for each of its elements.

    Args:
        values: elements of all tensors, ``[B, P]``. No gradient flows through them.
        sizes: number of elements of each tensor.

    Returns:
        Root mean squares, ``[B, P]``.
    """
    squares = [part.square().mean(1) for part in values.detach().split(list(sizes), 1)]
    counts = torch.tensor(sizes, device=values.device)
    return torch.stack(squares, 1).sqrt().repeat_interleave(counts, dim=1)


def relative_inputs(
    root: Tensor, params: Tensor, root_rms: Tensor, params_rms: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the network's inputs that are relative to a tensor.

    No gradient flows through any of them.

    Args:
        root: root mean square of the gradient, ``[B, n]``.
        params: parameters, ``[B, n]``.
        root_rms: root mean square of ``root`` over each tensor, ``[B, n]``.
        params_rms: root mean square of ``params`` over each tensor, ``[B, n]``.

    Returns:
        The parameters in units of their tensor, and the logarithms of the size of ``root``
        and of ``params`` in these units, ``[B, n]`` each.
    """
    root = root.detach() / (root_rms + 1e-30)
    params = params.detach() / (params_rms + 1e-30)
    log_root, log_params = (
        (part.abs() + 1e-9).log().clamp(-INPUT_BOUND, INPUT_BOUND) / 2
        for part in (root, params)
    )
    return params.clamp(-INPUT_BOUND, INPUT_BOUND), log_root, log_params


def correct(direction: Tensor, gate: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
    r"""Return :math:`e^a d + b\, \text{gate}` with the outputs of the network.

    The network has one hidden layer of tanh units, and the outputs :math:`a` and
    :math:`b`.

    Args:
        direction: Adam's directions :math:`d`, ``[B, n]``.
        gate: factor of :math:`b`, 0 where there has been no gradient, ``[B, n]``.
        inputs: inputs of the network, ``[B, 7, n]``.
        weights: ``[W]``, or ``[B, W]`` for a network for each run: weights of the first
            layer, unit by unit, its biases, and weights and biases of the second layer.

    Returns:
        Directions, ``[B, n]``.
    """
    units = hidden_units(weights.shape[-1])
    rows = weights if weights.dim() == 2 else weights[None].expand(len(inputs), -1)
    sizes = INPUTS * units, units, 2 * units, 2
    first, first_bias, second, second_bias = rows.split(sizes, dim=1)
    first, second = first.unflatten(1, (units, -1)), second.unflatten(1, (2, -1))
    hidden = torch.baddbmm(first_bias[..., None], first, inputs).tanh()
    outputs = torch.baddbmm(second_bias[..., None], second, hidden)
    log_scale, offset = outputs.unbind(1)
    scale = log_scale.clamp(-INPUT_BOUND, INPUT_BOUND).exp()
    return scale * direction + gate * offset


def first_weights(units: int, generator: torch.Generator) -> Tensor:
    """Draw initial weights ``[W]``: a random first layer, and a second layer of zeros.

    With them, the rule is Adam.

    Args:
        units: number of hidden units.
        generator: source of the random weights.
    """
    first = torch.empty(units, INPUTS)
    torch.nn.init.orthogonal_(first, 1.0, generator)
    return torch.cat([first.flatten(), torch.zeros(3 * units + 2)])


def hidden_units(count: int) -> int:
    """Return the number of hidden units of a network with ``count`` weights."""
    return (count - 2) // WEIGHTS_PER_UNIT


def _init_averages(params: Tensor) -> RuleState:
    """Return two means, a mean square and the number of updates: zeros."""
    return torch.zeros_like(params), *adam_state(params)


RULES = (
    Rule(
        "network",
        1e-3,
        _init_averages,
        network,
        MLP(),
        ("exp_avg", "slow_exp_avg", "exp_avg_sq", "step"),
        shaped=True,
    ),
)
