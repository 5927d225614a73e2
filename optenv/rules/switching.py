"""One of several update rules at a time, all of them kept warm.

What the rules remember are running averages of gradients and of their squares, and those
are kept up to date whichever rule moves the parameters. So a rule that is switched to is
where it would be had it been asked all along.

Rules differ by orders of magnitude in the learning rates that suit them. Here a learning
rate is of Adam's steps: at each choice, also of the rule that is in force, the rule's own
learning rate becomes what makes its next step as long as Adam's would be, and it stays that
until the next choice (Agarwal et al., 2020, take the length of every step from another
rule). Between two choices, each rule is thus that of its name in :mod:`optenv.rules`, at
one learning rate.

Steps of SGD, with momentum or without, are as long as gradients are, and one gradient can
be next to nothing. Their learning rates are therefore found as if it were at least a tenth
of what gradients have been lately.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .inplace import addcmul, mul, root_of, sign
from .orthogonal import orthogonalize_flat

#: Decays of the averages: of momentum and Adam; of Lion; of Adam; of RMSprop.
MEAN, SLOW, SQUARE, SHORT = 0.9, 0.99, 0.999, 0.99
EPS = 1e-8


class Averages(NamedTuple):
    """Running averages of gradients (``mean``, ``slow``) and squares; all from zero."""

    mean: Tensor
    slow: Tensor
    square: Tensor
    short: Tensor


def averaged(averages: Averages, grad: Tensor, inplace: bool = False) -> Averages:
    """The averages with one more gradient; of complex ones, ``view_as_real`` first."""
    means = ((averages.mean, MEAN), (averages.slow, SLOW))
    squares = ((averages.square, SQUARE), (averages.short, SHORT))
    return Averages(
        *(
            (old.lerp_(grad, 1 - decay) if inplace else old.lerp(grad, 1 - decay))
            for old, decay in means
        ),
        *(
            addcmul(mul(old, decay, inplace), grad, grad, 1 - decay, inplace)
            for old, decay in squares
        ),
    )


#: Gradient, the averages with it, and the number of gradients in them (a number, or a
#: tensor that broadcasts), to a direction; the parameters move against it.
Direction = Callable[[Tensor, Averages, Tensor | float], Tensor]


def _sgd(grad: Tensor, averages: Averages, step: Tensor | float) -> Tensor:
    return grad


def _momentum(grad: Tensor, averages: Averages, step: Tensor | float) -> Tensor:
    """Torch's buffer ``b <- 0.9 b + g`` is ten times the mean."""
    return averages.mean / (1 - MEAN)


def _nesterov(grad: Tensor, averages: Averages, step: Tensor | float) -> Tensor:
    return grad + averages.mean * (MEAN / (1 - MEAN))


def _rmsprop(grad: Tensor, averages: Averages, step: Tensor | float) -> Tensor:
    return grad / (root_of(averages.short) + EPS)


def _root(averages: Averages, step: Tensor | float) -> Tensor:
    """Adam's denominator."""
    return root_of(averages.square) * (1 - SQUARE**step) ** -0.5 + EPS


def _adam(grad: Tensor, averages: Averages, step: Tensor | float) -> Tensor:
    return averages.mean / (1 - MEAN**step) / _root(averages, step)


def _nadam(grad: Tensor, averages: Averages, step: Tensor | float) -> Tensor:
    """As in torch, whose momentum grows with the number of updates."""
    now, ahead = _nadam_momentum(step), _nadam_momentum(step + 1)
    product = _nadam_product(step, grad)
    mean = averages.mean * (ahead / (1 - product * ahead))
    return (mean + grad * ((1 - now) / (1 - product))) / _root(averages, step)


def _nadam_momentum(step: Tensor | float) -> Tensor | float:
    return MEAN * (1 - 0.5 * 0.96 ** (step * 4e-3))


@functools.cache
def _nadam_products(dtype: torch.dtype) -> Tensor:
    """Products of the momenta of the first updates; the last is as good as zero."""
    steps = torch.arange(1.0, 401.0, dtype=torch.float64, device="cpu")
    return _nadam_momentum(steps).cumprod(0).to(dtype)  # type: ignore[union-attr]


def _nadam_product(step: Tensor | float, like: Tensor) -> Tensor | float:
    if not isinstance(step, Tensor):
        products = _nadam_products(torch.float64)
        return float(products[min(int(step), len(products)) - 1])
    products = _nadam_products(like.dtype).to(step.device)
    return products[step.long().clamp(max=len(products)) - 1]


def _lion(grad: Tensor, averages: Averages, step: Tensor | float) -> Tensor:
    """The sign of 0.9 of the mean without this gradient, and 0.1 of it."""
    before = (averages.slow - (1 - SLOW) * grad) / SLOW
    return sign(MEAN * before + (1 - MEAN) * grad, inplace=True)


def _orthogonal_adam(grad: Tensor, averages: Averages, step: Tensor | float) -> Tensor:
    """Adam with Nesterov's momentum; its matrices are yet to be orthogonalised."""
    mean = averages.mean * (MEAN / (1 - MEAN ** (step + 1)))
    ahead = mean + grad * ((1 - MEAN) / (1 - MEAN**step))
    return ahead / _root(averages, step)


#: By the names of the rules (:data:`optenv.rules.RULES`).
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

#: Those whose directions of matrices are orthogonalised.
ORTHOGONAL = ("orthogonal-adam",)

#: Those whose steps are as long as gradients are ...
LINEAR = ("sgd", "momentum", "nesterov")

#: ... and the least share of the usual length that their learning rates are found with.
LEAST = 0.1

#: Whose steps learning rates are of.
REFERENCE = "adam"

NAMES = tuple(DIRECTIONS)


def usual(averages: Averages, step: Tensor | float) -> Tensor:
    """Root mean squares of the latest gradients, in the shape of the averages."""
    return root_of(averages.short / (1 - SHORT**step))


def check(names: Sequence[str]) -> tuple[str, ...]:
    """Names of rules to choose from.

    Raises:
        ValueError: there are none, one twice, or one that cannot be switched to.
    """
    found = tuple(names)
    unknown = [name for name in found if name not in DIRECTIONS]
    if not found or unknown or len(set(found)) < len(found):
        raise ValueError(
            f"rules must be some of {', '.join(NAMES)}, each once, got {names!r}"
        )
    return found


class SwitchingState(NamedTuple):
    """State of the rule ``"switching"``: averages ``[B, P]``, the rest ``[B, 1]``."""

    mean: Tensor
    slow: Tensor
    square: Tensor
    short: Tensor
    step: Tensor
    chosen: Tensor
    scale: Tensor
    new: Tensor


def init(params: Tensor) -> SwitchingState:
    """State before the first update; nobody has chosen, which makes it Adam."""
    zero = torch.zeros(len(params), 1, dtype=params.dtype, device=params.device)
    chosen = torch.full_like(zero, NAMES.index(REFERENCE))
    mean, slow, square, short = (torch.zeros_like(params) for _ in Averages._fields)
    return SwitchingState(mean, slow, square, short, zero, chosen, zero + 1, zero)


def choose(state: tuple[Tensor, ...], chosen: Tensor) -> SwitchingState:
    """The state with another choice, ``[B]`` indices in ``range(len(NAMES))``."""
    own = SwitchingState(*state)
    column = chosen.to(own.chosen).unsqueeze(1)
    return own._replace(chosen=column, new=torch.ones_like(own.new))


def update(
    params: Tensor,
    grad: Tensor,
    state: tuple[Tensor, ...],
    lr: Tensor,
    inplace: bool = False,
    h: object = None,
    shapes: Sequence[Sequence[int]] | None = None,
) -> tuple[Tensor, SwitchingState]:
    r"""Move each run by the rule that was chosen for it.

    :math:`\theta \leftarrow \theta - \eta c_k d_k`, with :math:`d_k` the direction of the
    rule :math:`k` and :math:`c_k = \|d_\text{Adam}\| / \|d_k\|` at the first update after
    the choice, where the denominator of SGD's kind of rules is at least :data:`LEAST` of
    the norm of :func:`usual`.

    Args:
        params, grad: ``[B, P]``.
        state: see :class:`SwitchingState`.
        lr: ``[B, 1]``, of Adam's steps.
        inplace: overwrite parameters and averages.
        h: none are needed.
        shapes: of the parameters of one run.

    Raises:
        TypeError: there are no shapes.
    """
    if shapes is None:
        raise TypeError("switching needs shapes: bind the rule to them first")
    own = SwitchingState(*state)
    averages = averaged(Averages(*own[:4]), grad, inplace)
    step = own.step + 1
    rows = [own.chosen[:, 0] == i for i in range(len(NAMES))]
    direction = _directions(rows, grad, averages, step, shapes)
    scale = own.scale
    if bool(own.new.any()):
        adam = DIRECTIONS[REFERENCE](grad, averages, step).norm(dim=1, keepdim=True)
        length = direction.norm(dim=1, keepdim=True)
        linear = torch.stack([rows[NAMES.index(name)] for name in LINEAR]).any(0)
        floor = LEAST * usual(averages, step).norm(dim=1, keepdim=True)
        length = torch.where(linear[:, None], torch.maximum(length, floor), length)
        ratio = torch.where(length > 0, adam / length.clamp(min=1e-30), 1.0)
        scale = torch.where(own.new > 0, ratio, scale)
    after = own._replace(
        **averages._asdict(), step=step, scale=scale, new=torch.zeros_like(own.new)
    )
    return addcmul(params, direction, lr * scale, -1.0, inplace), after


def _directions(
    rows: Sequence[Tensor],
    grad: Tensor,
    averages: Averages,
    step: Tensor,
    shapes: Sequence[Sequence[int]],
) -> Tensor:
    """Direction of each run ``[B, P]``; ``rows`` tells which runs each rule moves."""
    found = torch.zeros_like(grad)
    for name, mask in zip(NAMES, rows, strict=True):
        index = mask.nonzero()[:, 0]
        if not len(index):
            continue
        part = Averages(*(average[index] for average in averages))
        direction = DIRECTIONS[name](grad[index], part, step[index])
        if name in ORTHOGONAL:
            direction = orthogonalize_flat(direction, shapes)
        if len(index) == len(grad):
            return direction
        found = found.index_copy(0, index, direction)
    return found
