"""The learned update rule on lists of parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optenv.network import DECAYS, LIMIT, SQUARE_DECAY, correct, relative
from optenv.rules import Hyperparameters

from .sharding import is_sharded, whole
from .waiting import real

if TYPE_CHECKING:
    from .kernels import Implementation

__all__ = ["network"]

#: Numbers that the network is applied to together: what it makes of more fits no cache.
AT_ONCE = 2**14


def network(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Any]],
    lr: float,
    how: Implementation,
    h: Hyperparameters,
) -> None:
    """Move parameters by one update of :func:`optenv.rules.network`, each by itself."""
    if not params:
        return
    first = real(params[0])
    weights = torch.tensor(h.weights, dtype=first.dtype, device=first.device)
    for param, grad, state in zip(params, grads, states, strict=True):
        state["step"] += 1
        names = "exp_avg", "slow_exp_avg", "exp_avg_sq"
        fast, slow, square = (real(state[name]) for name in names)
        grad = real(grad)
        fast.lerp_(grad, 1 - DECAYS[0])
        slow.lerp_(grad, 1 - DECAYS[1])
        square.mul_(SQUARE_DECAY).addcmul_(grad, grad, value=1 - SQUARE_DECAY)
        _move(real(param), grad, (fast, slow, square), state["step"].item(), lr, h, weights)


def _move(
    param: Tensor,
    grad: Tensor,
    kept: tuple[Tensor, Tensor, Tensor],
    step: float,
    lr: float,
    h: Hyperparameters,
    weights: Tensor,
) -> None:
    """Move one parameter, in pieces; a ``DTensor`` in the part that is here."""
    unbias = (1 - SQUARE_DECAY**step) ** -0.5
    root = kept[2].sqrt().mul_(unbias).add_(h.eps)
    ours, theirs = (whole(part.square().mean()).view(1, 1) for part in (root, param))
    rows = (_local(part).reshape(1, -1) for part in (param, grad, *kept[:2], root))
    ends = []
    for own, steepest, fast, slow, size in zip(
        *(row.split(AT_ONCE, 1) for row in rows), strict=True
    ):
        means = [
            mean / ((1 - decay**step) * size)
            for mean, decay in zip((fast, slow), DECAYS, strict=True)
        ]
        direction = means[0]
        if weights.numel():
            seen = [steepest / size, *means, *relative(size, own, (ours, theirs))]
            seen.append(torch.full_like(own, torch.tensor(step).log1p().item() / LIMIT))
            # Half precision, as of a caller's autocast, is too coarse for it.
            with torch.autocast(own.device.type, enabled=False):
                direction = correct(direction, torch.stack(seen, dim=-1), weights)
        ends.append(own - lr * direction)
    target = _local(param)
    target.copy_(torch.cat(ends, 1).view(target.shape))


def _local(tensor: Any) -> Tensor:
    return tensor.to_local() if is_sharded(tensor) else tensor
