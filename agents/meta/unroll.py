"""The inner loop: gradient, update, and again. All gradient-based learners use this one.

Gradients are those of the environments (:func:`optenv.core.loss_and_grad`), and so are the
rules that are not learned: both walk through the same parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from optenv.core import loss_and_grad
from optenv.tasks.stacked import Stacked

from .families.episodes import Examples
from .inner_rules import InnerRule


def unroll(
    network: Stacked,
    rule: InnerRule,
    params: Tensor,
    batch: Callable[[int], Examples],
    steps: int,
    *,
    differentiable: bool = False,
    first_order: bool = False,
) -> Iterator[Tensor]:
    """Parameters ``[B, P]`` before the first step and after each.

    Args:
        network: what is trained.
        rule: how.
        params: ``[B, P]`` where it begins.
        batch: examples of each step, counted from 0.
        steps: how many.
        differentiable: keep the graph, back to ``params`` and the rule's parameters.
        first_order: of a differentiable loop, take gradients for constants.
    """
    yield params
    state = rule.start(params)
    for step in range(steps):
        second = differentiable and not first_order
        loss, grad = loss_and_grad(network, params, batch(step), second)
        with torch.set_grad_enabled(differentiable):
            params, state = rule(params, grad, loss, state, step)
        yield params
