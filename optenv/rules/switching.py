r"""Rule ``switching``: one of several update rules at a time, all of them kept warm.

The moments of all rules are updated whichever rule moves the parameters. Every rule's
state thus stays warm: after a switch it equals the state of a run that used that rule
throughout.

Rules differ by orders of magnitude in the learning rates that suit them. Here a learning
rate is one of Adam's steps: at each choice, also if the same rule is chosen again, the
rule's own learning rate is set so that its next step is as long as Adam's would be, and
kept until the next choice. Between two choices, each rule is thus the one of its name in
:mod:`optenv.rules`, at a constant learning rate.

The steps of SGD, with and without momentum, are as long as gradients are, and one gradient
can be next to zero. Their learning rates are therefore computed for a length of at least a
tenth of the recent gradients'.

References:
    Agarwal et al., "Disentangling adaptive gradient methods from learning rates", 2020,
    take the length of every step from another rule.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .adam import nadam_momentum
from .arithmetic import (
    addcmul,
    debiased_root,
    safe_sqrt,
    sign,
    update_mean,
    update_square,
)
from .base import NO_HYPERPARAMETERS, Hyperparameters, Rule
from .orthogonal_adam import orthogonalize_flat

__all__ = [
    "DIRECTIONS",
    "LINEAR",
    "MIN_LENGTH",
    "NAMES",
    "ORTHOGONAL",
    "REFERENCE",
    "RULE",
    "Moments",
    "SwitchingState",
    "check",
    "choose",
    "recent_rms",
    "update_moments",
]

#: Decays of the moments: means of momentum and Adam, and of Lion; mean squares of Adam and
#: of RMSprop.
MEAN, SLOW, SQUARE, SHORT = 0.9, 0.99, 0.999, 0.99
EPS = 1e-8
MOMENTUM_DECAY = 4e-3


class Moments(NamedTuple):
    """Moving averages of gradients (``mean``, ``slow``) and squares, all from zero."""

    mean: Tensor
    slow: Tensor
    square: Tensor
    short: Tensor


def update_moments(moments: Moments, grad: Tensor, inplace: bool = False) -> Moments:
    """Update all moments by a gradient; take ``view_as_real`` of complex tensors first."""
    return Moments(
        update_mean(moments.mean, grad, MEAN, inplace),
        update_mean(moments.slow, grad, SLOW, inplace),
        update_square(moments.square, grad, SQUARE, inplace),
        update_square(moments.short, grad, SHORT, inplace),
    )


#: Function of the gradient, the moments after it, and the number of gradients in them (a
#: number, or a tensor that broadcasts) to a direction; the parameters move against it.
Direction = Callable[[Tensor, Moments, Tensor | float], Tensor]


def _sgd(grad: Tensor, moments: Moments, step: Tensor | float) -> Tensor:
    return grad


def _momentum(grad: Tensor, moments: Moments, step: Tensor | float) -> Tensor:
    # The buffer b <- 0.9 b + g is ten times the mean.
    return moments.mean / (1 - MEAN)


def _nesterov(grad: Tensor, moments: Moments, step: Tensor | float) -> Tensor:
    return grad + moments.mean * (MEAN / (1 - MEAN))


def _rmsprop(grad: Tensor, moments: Moments, step: Tensor | float) -> Tensor:
    return grad / (safe_sqrt(moments.short) + EPS)


def _adam(grad: Tensor, moments: Moments, step: Tensor | float) -> Tensor:
    return moments.mean / (1 - MEAN**step) / _adam_root(moments, step)


def _adam_root(moments: Moments, step: Tensor | float) -> Tensor:
    return debiased_root(moments.square, SQUARE, step, inplace=False) + EPS


def _nadam(grad: Tensor, moments: Moments, step: Tensor | float) -> Tensor:
    now, following = (nadam_momentum(t, MEAN, MOMENTUM_DECAY) for t in (step, step + 1))
    product = _nadam_product(step, grad)
    mean = moments.mean * (following / (1 - product * following))
    return (mean + grad * ((1 - now) / (1 - product))) / _adam_root(moments, step)


@functools.cache
def _nadam_products(dtype: torch.dtype) -> Tensor:
    """Compute products of NAdam's momenta; after the last they are practically 0."""
    steps = torch.arange(1.0, 401.0, dtype=torch.float64, device="cpu")
    momenta = nadam_momentum(steps, MEAN, MOMENTUM_DECAY)
    return momenta.cumprod(0).to(dtype)  # type: ignore[union-attr]


def _nadam_product(step: Tensor | float, like: Tensor) -> Tensor | float:
    if not isinstance(step, Tensor):
        products = _nadam_products(torch.float64)
        return float(products[min(int(step), len(products)) - 1])
    products = _nadam_products(like.dtype).to(step.device)
    return products[step.long().clamp(max=len(products)) - 1]


def _lion(grad: Tensor, moments: Moments, step: Tensor | float) -> Tensor:
    before = (moments.slow - (1 - SLOW) * grad) / SLOW  # the mean without this gradient
    return sign(MEAN * before + (1 - MEAN) * grad, inplace=True)


def _orthogonal_adam(grad: Tensor, moments: Moments, step: Tensor | float) -> Tensor:
    # Its matrices are orthogonalised by the caller, who knows their shapes.
    mean = moments.mean * (MEAN / (1 - MEAN ** (step + 1)))
    ahead = mean + grad * ((1 - MEAN) / (1 - MEAN**step))
    return ahead / _adam_root(moments, step)


#: Directions by the names of the rules in :data:`optenv.rules.RULES`.
DIRECTIONS: dict[str, Direction] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": _nesterov,
    "rmsprop": _rmsprop,
    "adam": _adam,
    "nadam": _nadam,
    "lion": _lion,
    "orthogonal-adam": _orthogonal_adam,
}

#: Names of the rules to choose from, in the order of their indices.
NAMES = tuple(DIRECTIONS)

#: Rules whose directions of matrices are orthogonalised.
ORTHOGONAL = ("orthogonal-adam",)

#: Rules whose steps are as long as gradients are, and the least length, as a fraction of
#: the recent gradients', that their learning rates are computed for.
LINEAR, MIN_LENGTH = ("sgd", "momentum", "nesterov"), 0.1

#: Rule whose steps learning rates refer to.
REFERENCE = "adam"


def recent_rms(moments: Moments, step: Tensor | float) -> Tensor:
    """Compute the root mean squares of the recent gradients."""
    return safe_sqrt(moments.short / (1 - SHORT**step))


def check(names: Sequence[str]) -> tuple[str, ...]:
    """Check the names of rules to choose from, and return them as a tuple.

    Raises:
        ValueError: there are none, one twice, or one that is not in :data:`NAMES`.
    """
    checked = tuple(names)
    unknown = [name for name in checked if name not in DIRECTIONS]
    if not checked or unknown or len(set(checked)) < len(checked):
        raise ValueError(
            f"rules must be some of {', '.join(NAMES)}, each once, got {names!r}"
        )
    return checked


class SwitchingState(NamedTuple):
    """State of the rule: moments ``[B, P]``, all others ``[B, 1]``.

    Attributes:
        mean, slow, square, short: see :class:`Moments`.
        step: number of updates.
        chosen: index of the rule in force.
        scale: factor from the learning rate to the rule's own.
        new: 1 right after a choice, when ``scale`` is yet to be computed, else 0.
    """

    mean: Tensor
    slow: Tensor
    square: Tensor
    short: Tensor
    step: Tensor
    chosen: Tensor
    scale: Tensor
    new: Tensor


def init(params: Tensor) -> SwitchingState:
    """Make the state before the first update, with Adam in force."""
    zero = torch.zeros(len(params), 1, dtype=params.dtype, device=params.device)
    chosen = torch.full_like(zero, NAMES.index(REFERENCE))
    mean, slow, square, short = (torch.zeros_like(params) for _ in Moments._fields)
    return SwitchingState(mean, slow, square, short, zero, chosen, zero + 1, zero)


def choose(state: tuple[Tensor, ...], chosen: Tensor) -> SwitchingState:
    """Return the state with other rules in force, by their indices ``[B]``."""
    before = SwitchingState(*state)
    column = chosen.to(before.chosen).unsqueeze(1)
    return before._replace(chosen=column, new=torch.ones_like(before.new))


def update(
    params: Tensor,
    grad: Tensor,
    state: tuple[Tensor, ...],
    lr: Tensor,
    inplace: bool = False,
    h: Hyperparameters = NO_HYPERPARAMETERS,
    shapes: Sequence[Sequence[int]] | None = None,
) -> tuple[Tensor, SwitchingState]:
    r"""Move each run by the rule that is in force for it.

    :math:`\theta \leftarrow \theta - \eta c_k d_k`, with :math:`d_k` the direction of rule
    :math:`k` and :math:`c_k = \|d_\text{Adam}\| / \|d_k\|` at the first update after the
    choice. For the rules in :data:`LINEAR`, the denominator is at least
    :data:`MIN_LENGTH` times the norm of :func:`recent_rms`.

    Args:
        params, grad: ``[B, P]``.
        state: see :class:`SwitchingState`.
        lr: of Adam's steps, ``[B, 1]``.
        inplace: whether parameters and moments may be overwritten.
        h: no hyperparameters.
        shapes: of the parameters of one run.

    Raises:
        TypeError: there are no shapes.
    """
    if shapes is None:
        raise TypeError("switching needs shapes: bind the rule to them first")
    # 1. The moments of all rules, and the direction of the one in force.
    before = SwitchingState(*state)
    moments = update_moments(Moments(*before[:4]), grad, inplace)
    step = before.step + 1
    masks = [before.chosen[:, 0] == i for i in range(len(NAMES))]
    direction = _directions(masks, grad, moments, step, shapes)
    # 2. Right after a choice, the factor to the rule's own learning rate.
    scale = before.scale
    if bool(before.new.any()):
        adam = DIRECTIONS[REFERENCE](grad, moments, step).norm(dim=1, keepdim=True)
        length = direction.norm(dim=1, keepdim=True)
        linear = torch.stack([masks[NAMES.index(name)] for name in LINEAR]).any(0)
        floor = MIN_LENGTH * recent_rms(moments, step).norm(dim=1, keepdim=True)
        length = torch.where(linear[:, None], torch.maximum(length, floor), length)
        ratio = torch.where(length > 0, adam / length.clamp(min=1e-30), 1.0)
        scale = torch.where(before.new > 0, ratio, scale)
    # 3. The step.
    after = before._replace(
        **moments._asdict(), step=step, scale=scale, new=torch.zeros_like(before.new)
    )
    return addcmul(params, direction, lr * scale, -1.0, inplace), after


def _directions(
    masks: Sequence[Tensor],
    grad: Tensor,
    moments: Moments,
    step: Tensor,
    shapes: Sequence[Sequence[int]],
) -> Tensor:
    """Compute the direction of each run, ``[B, P]``.

    Args:
        masks: for each rule, the runs ``[B]`` that it is in force for.
        grad, moments, step, shapes: as in :func:`update`.
    """
    directions = torch.zeros_like(grad)
    for name, mask in zip(NAMES, masks, strict=True):
        index = mask.nonzero()[:, 0]
        if not len(index):
            continue
        part = Moments(*(moment[index] for moment in moments))
        direction = DIRECTIONS[name](grad[index], part, step[index])
        if name in ORTHOGONAL:
            direction = orthogonalize_flat(direction, shapes)
        if len(index) == len(grad):
            return direction
        directions = directions.index_copy(0, index, direction)
    return directions


RULE = Rule("switching", 1e-3, init, update, shaped=True)
