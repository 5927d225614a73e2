r"""The rule ``switching``: one of several update rules is active, and all states are kept.

The states of the rules are moments: exponential moving averages of gradients and of their
squares. All moments are updated, whichever rule is active. After a switch, a rule's state
is thus the same as if the rule had always been active.

The learning rates that suit different rules differ by orders of magnitude. Here, learning
rates are on Adam's scale. At each choice, even of the rule that is already active, the
rule's own learning rate is set such that its next step is as long as Adam's step would be.
The ratio of both learning rates then stays fixed until the next choice (Agarwal et al. take
the length of every step from another rule). Between two choices, each rule thus works like
the rule of its name in :mod:`optenv.rules`.

Steps of SGD, with or without momentum, are proportional to the gradient, and a single
gradient can be close to zero. For their learning rates, the length of a direction is
therefore taken to be at least a tenth of the usual length of gradients.

References:
    * Agarwal et al., "Disentangling Adaptive Gradient Methods from Learning Rates", 2020.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .adam import Adam, NAdam, nadam_momentum, nadam_weights
from .arithmetic import (
    addcmul,
    debiased_root,
    safe_sqrt,
    sign,
    update_mean,
    update_square,
)
from .base import Rule
from .lion import Lion
from .orthogonal_adam import nesterov_weights, orthogonalize_flat
from .rmsprop import RMSprop

__all__ = [
    "DIRECTIONS",
    "LINEAR",
    "MIN_LENGTH",
    "NAMES",
    "ORTHOGONAL",
    "REFERENCE",
    "RULE",
    "Direction",
    "Moments",
    "SwitchingState",
    "check",
    "choose",
    "recent_rms",
    "update_moments",
]

#: Decay rate of the mean of momentum, Adam and Lion's direction.
MEAN_DECAY = Adam().beta1

#: Decay rate of Lion's mean.
SLOW_DECAY = Lion().beta2

#: Decay rate of Adam's mean square.
SQUARE_DECAY = Adam().beta2

#: Decay rate of RMSprop's mean square.
SHORT_DECAY = RMSprop().alpha

#: Speed at which NAdam's momentum warms up.
MOMENTUM_DECAY = NAdam().momentum_decay

#: Added to root mean squares.
EPS = Adam().eps

#: A number of updates, or a value computed from one: a number, or a tensor ``[B, 1]``.
Step = Tensor | float


class Moments(NamedTuple):
    """Exponential moving averages of gradients and squares, ``[B, P]`` each.

    They are zero before the first gradient.

    Attributes:
        mean: mean with decay rate :data:`MEAN_DECAY`.
        slow: mean with :data:`SLOW_DECAY`.
        square: mean square with :data:`SQUARE_DECAY`.
        short: mean square with :data:`SHORT_DECAY`.
    """

    mean: Tensor
    slow: Tensor
    square: Tensor
    short: Tensor


def update_moments(moments: Moments, grad: Tensor, inplace: bool = False) -> Moments:
    """Return the moments with one more gradient.

    Args:
        moments: moments so far, of any shape.
        grad: gradient of that shape, real.
        inplace: whether to overwrite the moments.
    """
    return Moments(
        update_mean(moments.mean, grad, MEAN_DECAY, inplace),
        update_mean(moments.slow, grad, SLOW_DECAY, inplace),
        update_square(moments.square, grad, SQUARE_DECAY, inplace),
        update_square(moments.short, grad, SHORT_DECAY, inplace),
    )


# Directions of the rules. They are not computed by the rules' own modules, since the
# moments are shared: torch's momentum buffer is ten times the mean, Lion's mean does not
# include the present gradient, and Adam's bias correction is part of its learning rate.
# Both agree up to rounding.

#: Function of the gradient, the moments including it, and the number of gradients in them
#: (a number, or a tensor that broadcasts). It returns the direction that is subtracted from
#: the parameters, times the learning rate.
Direction = Callable[[Tensor, Moments, Step], Tensor]


def _sgd(grad: Tensor, moments: Moments, step: Step) -> Tensor:
    return grad


def _momentum(grad: Tensor, moments: Moments, step: Step) -> Tensor:
    """Return torch's buffer ``b <- 0.9 b + g``, which is ten times the mean."""
    return moments.mean / (1 - MEAN_DECAY)


def _nesterov(grad: Tensor, moments: Moments, step: Step) -> Tensor:
    return grad + moments.mean * (MEAN_DECAY / (1 - MEAN_DECAY))


def _rmsprop(grad: Tensor, moments: Moments, step: Step) -> Tensor:
    return grad / (safe_sqrt(moments.short) + EPS)


def _adam_root(moments: Moments, step: Step) -> Tensor:
    """Return Adam's denominator."""
    return debiased_root(moments.square, SQUARE_DECAY, step, inplace=False) + EPS


def _adam(grad: Tensor, moments: Moments, step: Step) -> Tensor:
    return moments.mean / (1 - MEAN_DECAY**step) / _adam_root(moments, step)


def _nadam(grad: Tensor, moments: Moments, step: Step) -> Tensor:
    now, ahead = _nadam_momentum(step), _nadam_momentum(step + 1)
    of_mean, of_grad = nadam_weights(now, ahead, _nadam_product(step, grad))
    return (moments.mean * of_mean + grad * of_grad) / _adam_root(moments, step)


def _nadam_momentum(step: Step) -> Step:
    return nadam_momentum(step, MEAN_DECAY, MOMENTUM_DECAY)


@functools.cache
def _nadam_products(dtype: torch.dtype) -> Tensor:
    """Return the products of the first 1 to 400 momenta; the last is practically zero."""
    steps = torch.arange(1.0, 401.0, dtype=torch.float64, device="cpu")
    return torch.as_tensor(_nadam_momentum(steps)).cumprod(0).to(dtype)


def _nadam_product(step: Step, like: Tensor) -> Step:
    """Return the product of the momenta of the first ``step`` updates."""
    if not isinstance(step, Tensor):
        products = _nadam_products(torch.float64)
        return float(products[min(int(step), len(products)) - 1])
    products = _nadam_products(like.dtype).to(step.device)
    return products[step.long().clamp(max=len(products)) - 1]


def _lion(grad: Tensor, moments: Moments, step: Step) -> Tensor:
    before = (moments.slow - (1 - SLOW_DECAY) * grad) / SLOW_DECAY  # without this gradient
    return sign(MEAN_DECAY * before + (1 - MEAN_DECAY) * grad, inplace=True)


def _orthogonal_adam(grad: Tensor, moments: Moments, step: Step) -> Tensor:
    """Return the direction before its matrices are orthogonalised."""
    of_mean, of_grad = nesterov_weights(step, MEAN_DECAY)
    return (moments.mean * of_mean + grad * of_grad) / _adam_root(moments, step)


#: Directions by the names of the rules (:data:`optenv.rules.RULES`).
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

#: Names of the rules to choose from; a choice is an index into them.
NAMES = tuple(DIRECTIONS)

#: Rules whose directions of matrices are orthogonalised.
ORTHOGONAL = ("orthogonal-adam",)

#: Rules whose steps are proportional to gradients.
LINEAR = ("sgd", "momentum", "nesterov")

#: Smallest length that is assumed for a direction of a linear rule when its learning rate
#: is computed, as a fraction of the usual length of gradients (:func:`recent_rms`).
MIN_LENGTH = 0.1

#: Rule on whose scale learning rates are given.
REFERENCE = "adam"


def recent_rms(moments: Moments, step: Step) -> Tensor:
    """Return the root mean square of recent gradients, of the shape of the moments."""
    return safe_sqrt(moments.short / (1 - SHORT_DECAY**step))


def check(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of rules to choose from as a tuple.

    Raises:
        ValueError: no names are given, a name is given twice, or a name is unknown.
    """
    checked = tuple(names)
    unknown = [name for name in checked if name not in DIRECTIONS]
    if not checked or unknown or len(set(checked)) < len(checked):
        raise ValueError(
            f"rules must be some of {', '.join(NAMES)}, each once, got {names!r}"
        )
    return checked


class SwitchingState(NamedTuple):
    """State of the rule ``switching``.

    Attributes:
        mean, slow, square, short: see :class:`Moments`; ``[B, P]``.
        step: number of updates, ``[B, 1]``.
        chosen: index of the active rule in :data:`NAMES`, ``[B, 1]``.
        scale: ratio of the rule's learning rate to Adam's, ``[B, 1]``.
        new: 1 if the rule has been chosen since the last update, else 0, ``[B, 1]``.
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
    """Return the state before the first update, with Adam active.

    Args:
        params: parameters, ``[B, P]``.
    """
    zero = torch.zeros(len(params), 1, dtype=params.dtype, device=params.device)
    chosen = torch.full_like(zero, NAMES.index(REFERENCE))
    mean, slow, square, short = (torch.zeros_like(params) for _ in Moments._fields)
    return SwitchingState(mean, slow, square, short, zero, chosen, zero + 1, zero)


def choose(state: tuple[Tensor, ...], chosen: Tensor) -> SwitchingState:
    """Return the state with another choice of rules.

    Args:
        state: see :class:`SwitchingState`.
        chosen: indices into :data:`NAMES`, ``[B]``.
    """
    before = SwitchingState(*state)
    column = chosen.to(before.chosen).unsqueeze(1)
    return before._replace(chosen=column, new=torch.ones_like(before.new))


def update(
    params: Tensor,
    grad: Tensor,
    state: tuple[Tensor, ...],
    lr: Tensor,
    inplace: bool = False,
    shapes: Sequence[Sequence[int]] | None = None,
) -> tuple[Tensor, SwitchingState]:
    r"""Update each run by the rule that was chosen for it.

    .. math:: \theta \leftarrow \theta - \eta c_k d_k

    with the direction :math:`d_k` of the active rule :math:`k`, and :math:`c_k =
    \|d_\text{Adam}\| / \|d_k\|` at the first update after the choice. For linear rules,
    the denominator is at least :data:`MIN_LENGTH` of the norm of
    :func:`recent_rms`.

    Args:
        params: parameters :math:`\theta`, ``[B, P]``.
        grad: gradients, ``[B, P]``.
        state: see :class:`SwitchingState`.
        lr: learning rates :math:`\eta` of Adam's steps, ``[B, 1]``.
        inplace: whether to overwrite parameters and moments.
        shapes: shapes of the parameters of one run.

    Returns:
        New parameters ``[B, P]``, and the state.

    Raises:
        TypeError: there are no shapes.
    """
    if shapes is None:
        raise TypeError("switching needs shapes: bind the rule to them first")
    # 1. Moments, and the direction of each run.
    before = SwitchingState(*state)
    moments = update_moments(Moments(*before[:4]), grad, inplace)
    step = before.step + 1
    masks = [before.chosen[:, 0] == i for i in range(len(NAMES))]
    direction = _directions(masks, grad, moments, step, shapes)
    # 2. Scale of the learning rate of runs whose rule has just been chosen.
    scale = before.scale
    if bool(before.new.any()):
        adam = DIRECTIONS[REFERENCE](grad, moments, step).norm(dim=1, keepdim=True)
        length = direction.norm(dim=1, keepdim=True)
        linear = torch.stack([masks[NAMES.index(name)] for name in LINEAR]).any(0)
        usual = recent_rms(moments, step).norm(dim=1, keepdim=True)
        floored = torch.maximum(length, MIN_LENGTH * usual)
        length = torch.where(linear[:, None], floored, length)
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
    """Return the direction of each run, ``[B, P]``.

    Args:
        masks: for each rule, the runs in which it is active, ``[B]`` bool.
        grad: gradients, ``[B, P]``.
        moments: moments including these gradients, ``[B, P]``.
        step: number of gradients in the moments, ``[B, 1]``.
        shapes: shapes of the parameters of one run.
    """
    directions = torch.zeros_like(grad)
    for name, mask in zip(NAMES, masks, strict=True):
        rows = mask.nonzero()[:, 0]
        if not len(rows):
            continue
        part = Moments(*(average[rows] for average in moments))
        direction = DIRECTIONS[name](grad[rows], part, step[rows])
        if name in ORTHOGONAL:
            direction = orthogonalize_flat(direction, shapes)
        if len(rows) == len(grad):
            return direction
        directions = directions.index_copy(0, rows, direction)
    return directions


RULE = Rule("switching", 1e-3, init, update, slots=SwitchingState._fields, shaped=True)
