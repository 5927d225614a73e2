"""The update rule that is a small network, the same for every parameter.

Adam's direction, corrected for each parameter by what the network makes of its gradients:
the inputs are those that learned optimizers commonly have (Metz et al., 2020), and all of
them stay as they are if the loss, or a tensor, is measured in other units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .hyperparameters import HYPERPARAMETERS, NETWORK_INPUTS, Hyperparameters
from .inplace import mul, root_of

#: Decays of the two averages of the gradient, and of that of its square.
DECAYS, SQUARE_DECAY = (0.9, 0.99), 0.999

#: Bounds of what the network sees.
LIMIT = 4.0


def network(
    params: Tensor,
    grad: Tensor,
    state: tuple[Tensor, ...],
    lr: Tensor,
    inplace: bool = False,
    h: Hyperparameters = HYPERPARAMETERS,
    shapes: Sequence[Sequence[int]] | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    r""":math:`\theta \leftarrow \theta - \eta\, (e^{a} \hat m + b \sqrt{\hat v}) /
    (\sqrt{\hat v} + \epsilon)`, with the averages of Adam, and :math:`a` and :math:`b`
    those that :func:`correct` makes of them for each parameter. Without weights, it is
    Adam. What never had a gradient does not move.

    Args:
        params, grad, lr, inplace: as of every rule.
        state: two averages of the gradient, one of its square, and the number of updates.
        h: with the network's ``weights``.
        shapes: of the parameters.
        weights: ``[W]``, or ``[B, W]`` for each run its own, instead of those of ``h``.
    """
    if shapes is None:
        raise TypeError("network needs shapes: bind the rule to them first")
    if weights is None:
        weights = torch.tensor(h.weights, dtype=params.dtype, device=params.device)
    fast, slow, square, step = state
    step = step + 1
    fast, slow = (
        kept.lerp_(grad, 1 - decay) if inplace else kept.lerp(grad, 1 - decay)
        for kept, decay in zip((fast, slow), DECAYS, strict=True)
    )
    square = mul(square, SQUARE_DECAY, inplace)
    square = square + (1 - SQUARE_DECAY) * grad * grad
    root = root_of(square) * (1 - SQUARE_DECAY**step).rsqrt() + h.eps
    means = [
        kept / ((1 - decay**step) * root)
        for kept, decay in zip((fast, slow), DECAYS, strict=True)
    ]
    direction = means[0]
    if weights.numel():
        sizes = [math.prod(shape) for shape in shapes]
        inputs = [grad / root, *means]
        inputs += relative(root, params, scales(root, sizes), scales(params, sizes))
        inputs.append((step.log1p() / LIMIT).expand_as(params))
        direction = correct(means[0], 1 - h.eps / root, torch.stack(inputs, dim=1), weights)
    moved = params.sub_(lr * direction) if inplace else params - lr * direction
    return moved, (fast, slow, square, step)


def scales(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Root mean square of each tensor of ``values [B, P]``, for each of its numbers."""
    squares = [part.square().mean(1) for part in values.detach().split(list(sizes), 1)]
    counts = torch.tensor(sizes, device=values.device)
    return torch.stack(squares, 1).sqrt().repeat_interleave(counts, dim=1)


def relative(
    root: Tensor, params: Tensor, roots: Tensor, sizes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What the network sees of gradients and parameters in units of their tensor.

    Args:
        root: ``[B, n]`` root of the mean squares of the gradient.
        params: ``[B, n]``.
        roots, sizes: ``[B, n]`` root mean squares of both over the tensor.

    Returns:
        ``[B, n]`` each: the parameters in these units, and the logarithms of ``root`` and
        of them. Derivatives are not taken through any.
    """
    root, params = root.detach() / (roots + 1e-30), params.detach() / (sizes + 1e-30)
    size, magnitude = (
        (part.abs() + 1e-9).log().clamp(-LIMIT, LIMIT) / 2 for part in (root, params)
    )
    return params.clamp(-LIMIT, LIMIT), size, magnitude


def correct(direction: Tensor, gate: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
    """Directions ``[B, n]`` from Adam's and the network's inputs ``[B, I, n]``.

    ``gate [B, n]`` is what ``b`` is multiplied by, 0 where there never was a gradient.

    The network has one hidden layer (tanh) and ``a`` and ``b`` as its outputs; ``weights``
    are those of the first layer, by units, its biases, and the same of the second.
    """
    units = hidden_units(weights.shape[-1])
    rows = weights if weights.dim() == 2 else weights[None].expand(len(inputs), -1)
    sizes = NETWORK_INPUTS * units, units, 2 * units, 2
    first, bias, last, end = rows.split(sizes, dim=1)
    first, last = first.unflatten(1, (units, -1)), last.unflatten(1, (2, -1))
    hidden = torch.baddbmm(bias[..., None], first, inputs).tanh()
    scale, offset = torch.baddbmm(end[..., None], last, hidden).unbind(1)
    return scale.clamp(-LIMIT, LIMIT).exp() * direction + gate * offset


def first_weights(units: int, generator: torch.Generator) -> Tensor:
    """Weights ``[W]`` to begin with: random ones, and zeros in the second layer."""
    first = torch.empty(units, NETWORK_INPUTS)
    torch.nn.init.orthogonal_(first, 1.0, generator)
    return torch.cat([first.flatten(), torch.zeros(3 * units + 2)])


def hidden_units(count: int) -> int:
    """Hidden units of the network that has so many weights."""
    return (count - 2) // (NETWORK_INPUTS + 3)
