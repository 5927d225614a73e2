"""The MLP rule as inner rule: a small MLP, shared by all parameters, makes the updates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from optenv import rules
from optenv.checks import positive, positive_int
from optenv.rules.mlp import first_weights

from .families.episodes import Family
from .inner import InnerRule, State
from .learner import InnerRuleLearner
from .validation import sizes_of


class MlpRule(InnerRule):
    """The MLP rule with learned weights, and a learned rate for each parameter tensor.

    See :func:`optenv.rules.network`. The initial outputs of the MLP are 0, so that the rule
    equals Adam.

    Args:
        sizes: number of elements of each parameter tensor.
        lr: initial value of all rates.
        hidden: units of the hidden layer.
        seed: seed of the initial weights.
    """

    def __init__(
        self, sizes: Sequence[int], lr: float = 0.01, hidden: int = 16, seed: int = 0
    ) -> None:
        super().__init__()
        self.rule = rules.get("network").bind([(size,) for size in sizes])
        self.log_rates = nn.Parameter(torch.full((len(sizes),), math.log(lr)))
        generator = torch.Generator().manual_seed(seed)
        self.weights = nn.Parameter(first_weights(hidden, generator))
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)
        self.sizes: Tensor

    def start(self, params: Tensor) -> State:
        return self.rule.init(params)

    def forward(
        self, params: Tensor, grad: Tensor, loss: Tensor, state: State, step: int
    ) -> tuple[Tensor, State]:
        rates = self.log_rates.exp().repeat_interleave(self.sizes)
        return self.rule.update(params, grad, state, rates, weights=self.weights)


class LearnedRule(InnerRuleLearner):
    r"""Initial parameters and an MLP rule that updates them.

    Meta-learns initial parameters, the weights of the MLP rule, and a learning rate
    :math:`\eta_j` for each parameter tensor. The inner update corrects Adam's direction
    from its bias-corrected moments :math:`\hat m` and :math:`\hat v`,

    .. math::

        \theta \leftarrow \theta - \eta_j\,
        \frac{e^{a} \hat m + b \sqrt{\hat v}}{\sqrt{\hat v} + \epsilon},

    where :math:`a` and :math:`b` are the outputs of a small MLP for each parameter. Its
    inputs are common in learned optimizers (Metz et al., 2020).

    Args:
        module, family: see :class:`~agents.meta.MetaLearner`.
        inner_lr: initial value of all rates.
        inner_steps: number of inner steps while learning.
        hidden: units of the MLP's hidden layer.
        grad_clip: maximal norm of the outer gradient; None for no clipping.
        **outer: arguments of :class:`~agents.meta.MetaLearner`.

    Raises:
        ValueError, TypeError: an argument is not valid.

    Example:
        >>> from agents import meta
        >>> from agents.meta.networks import perceptron
        >>> learner = LearnedRule(perceptron(1, 8, 1), meta.Sinusoids(), hidden=4)
        >>> learner.rule.weights.shape
        torch.Size([42])
    """

    def __init__(
        self,
        module: nn.Module,
        family: Family,
        *,
        hidden: int = 16,
        grad_clip: float | None = 1.0,
        **outer: Any,
    ) -> None:
        self._hidden = hidden
        super().__init__(module, family, grad_clip=grad_clip, **outer)

    def _make_rule(
        self, module: nn.Module, inner_lr: Any, inner_steps: int, seed: Any
    ) -> MlpRule:
        lr, units = positive("inner_lr", inner_lr), positive_int("hidden", self._hidden)
        return MlpRule(sizes_of(module), lr, units, int(seed))
