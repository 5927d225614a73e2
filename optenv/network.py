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
    r""":math:`\theta \leftarrow \theta - \eta \left(e^{a} \hat m / (\sqrt{\hat v} +
    \epsilon) + b\right)`, with the averages of Adam, and :math:`a` and :math:`b` those
    that :func:`correct` makes of them for each parameter. Without weights, it is Adam.

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
        parts = zip(root.split(sizes, 1), params.split(sizes, 1), strict=True)
        scaled = [relative(*part) for part in parts]
        inputs = [grad / root, *means]
        inputs += [torch.cat(part, 1) for part in zip(*scaled, strict=True)]
        inputs.append((step.log1p() / LIMIT).expand_as(params))
        direction = correct(means[0], torch.stack(inputs, dim=-1), weights)
    moved = params.sub_(lr * direction) if inplace else params - lr * direction
    return moved, (fast, slow, square, step)


def relative(
    root: Tensor,
    params: Tensor,
    sizes: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What the network sees of a tensor's gradients and parameters, in its own units.

    Args:
        root: ``[B, n]`` root of the mean squares of the gradient.
        params: ``[B, n]``.
        sizes: mean squares ``[B, 1]`` of both over the tensor, if those are parts of it.

    Returns:
        ``[B, n]`` each: the parameters, and the logarithms of both, in units of their root
        mean square. Derivatives are not taken through them.
    """
    root, params = root.detach(), params.detach()
    if sizes is None:
        sizes = root.square().mean(1, True), params.square().mean(1, True)
    ours, theirs = (size.sqrt() + 1e-30 for size in sizes)
    root, params = root / ours, params / theirs
    logs = ((part.abs() + 1e-9).log().clamp(-LIMIT, LIMIT) / 2 for part in (root, params))
    size, magnitude = logs
    return params.clamp(-LIMIT, LIMIT), size, magnitude


def correct(direction: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
    """Directions ``[B, n]`` from Adam's and the network's inputs ``[B, n, I]``.

    The network has one hidden layer (tanh) and ``a`` and ``b`` as its outputs; ``weights``
    are those of the first layer, by units, its biases, and the same of the second.
    """
    units = hidden_units(weights.shape[-1])
    rows = weights if weights.dim() == 2 else weights[None].expand(len(inputs), -1)
    sizes = NETWORK_INPUTS * units, units, 2 * units, 2
    first, bias, last, end = rows.split(sizes, dim=1)
    hidden = torch.baddbmm(
        bias[:, None], inputs, first.unflatten(1, (units, -1)).transpose(1, 2)
    ).tanh()
    found = torch.baddbmm(end[:, None], hidden, last.unflatten(1, (2, -1)).transpose(1, 2))
    scale, offset = found.unbind(-1)
    return scale.clamp(-LIMIT, LIMIT).exp() * direction + offset


def hidden_units(count: int) -> int:
    """Hidden units of the network that has so many weights."""
    return (count - 2) // (NETWORK_INPUTS + 3)
