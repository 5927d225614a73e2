"""The inner loop: adapt the parameters of each task by an update rule, step by step.

All gradient-based learners share :func:`unroll`. It computes gradients as the environments
do (:func:`optenv.core.loss_and_grad`), and :class:`FixedRule` applies the environments'
update rules: from the same parameters, both make the same updates.

A rule is a module whose parameters, if it has any, are learned in the outer loop. It works
on the flat parameters ``[B, P]`` of ``B`` tasks at once, changes nothing in place, and is
differentiable. Learned rules are in the modules of the learners that use them,
:mod:`~agents.meta.learned_rates`, :mod:`~agents.meta.meta_lstm` and
:mod:`~agents.meta.mlp_rule`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from optenv import rules
from optenv.core import loss_and_grad
from optenv.tasks.stacked import Stacked

from .families.episodes import Examples

#: State of a rule between steps: tensors ``[B, ...]``.
State = tuple[Tensor, ...]


class InnerRule(nn.Module):
    r"""Update rule of the inner loop: :math:`\theta_{k+1} = U(\theta_k, g_k, L_k, s_k, k)`.

    A subclass implements :meth:`forward`, and :meth:`start` if it has a state.

    Attributes:
        max_steps: largest number of steps that the rule supports; None for any number.

    Example:
        >>> import torch
        >>> class Momentum(InnerRule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.log_lr = torch.nn.Parameter(torch.tensor(-3.0))
        ...
        ...     def start(self, params):
        ...         return (torch.zeros_like(params),)
        ...
        ...     def forward(self, params, grad, loss, state, step):
        ...         velocity = 0.9 * state[0] + grad
        ...         return params - self.log_lr.exp() * velocity, (velocity,)
    """

    max_steps: int | None = None

    def start(self, params: Tensor) -> State:
        """Return the state before the first step, for parameters ``[B, P]``."""
        return ()

    def forward(
        self, params: Tensor, grad: Tensor, loss: Tensor, state: State, step: int
    ) -> tuple[Tensor, State]:
        """Make one step.

        Args:
            params: ``[B, P]`` parameters of each task.
            grad: ``[B, P]`` gradient of the loss.
            loss: ``[B]`` loss of each task on its support.
            state: state from :meth:`start` or from the previous step.
            step: index of the step, from 0.

        Returns:
            New parameters ``[B, P]`` and new state.
        """
        raise NotImplementedError


class FixedRule(InnerRule):
    """One of the environments' update rules, with a constant learning rate.

    Args:
        lr: learning rate.
        spec: name, or name and hyperparameters, see :func:`optenv.rules.get`.
        mask: ``[P]``, 1 for parameters that adapt and 0 for fixed ones; by default (None),
            all adapt.
        shapes: shapes of the parameters in their order within ``P``; some rules need them.

    Raises:
        ValueError: the rule needs shapes, and there are none.
    """

    def __init__(
        self,
        lr: float,
        spec: rules.RuleSpec = "sgd",
        mask: Tensor | None = None,
        shapes: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.lr, self.rule = lr, rules.get(spec)
        if shapes is not None:
            self.rule = self.rule.bind(shapes)
        elif self.rule.shaped:
            raise ValueError(f"rule {spec!r} needs the shapes of the parameters")
        self.register_buffer("mask", mask, persistent=False)
        self.mask: Tensor | None

    def start(self, params: Tensor) -> State:
        return self.rule.init(params)

    def forward(
        self, params: Tensor, grad: Tensor, loss: Tensor, state: State, step: int
    ) -> tuple[Tensor, State]:
        lr = params.new_full((1, 1), self.lr)
        updated, state = self.rule.update(params, grad, state, lr, False)
        if self.mask is not None:
            updated = torch.where(self.mask.bool(), updated, params)
        return updated, state


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
    """Run the inner loop.

    Args:
        network: the stacked networks of the tasks.
        rule: update rule.
        params: ``[B, P]`` initial parameters.
        batch: function from the index of a step to its examples.
        steps: number of steps.
        differentiable: whether to keep the graph back to ``params`` and the rule's
            parameters.
        first_order: whether a differentiable loop treats gradients as constants.

    Yields:
        Parameters ``[B, P]`` before the first step and after each step.
    """
    second_order = differentiable and not first_order
    yield params
    state = rule.start(params)
    for step in range(steps):
        loss, grad = loss_and_grad(network, params, batch(step), second_order)
        with torch.set_grad_enabled(differentiable):
            params, state = rule(params, grad, loss, state, step)
        yield params
