"""A small network as update rule, the same for every parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from optenv import rules
from optenv.checks import positive, positive_int
from optenv.rules.mlp import first_weights

from .checks import refuse, sizes_of
from .families.episodes import Family
from .inner_rules import InnerRule, State
from .learner import MetaLearner


class NetworkRule(InnerRule):
    """The rule ``network`` with learned weights, and a learned rate for each tensor.

    See :func:`optenv.rules.network`. The network's outputs are 0 at first: the rule begins
    as Adam.

    Args:
        sizes: number of elements of each parameter tensor.
        lr: that all rates begin with.
        hidden: units of the network's hidden layer.
        seed: of its weights.
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


class LearnedRule(MetaLearner):
    """Initial parameters and a network that updates them.

    Args:
        module, family: see :class:`~agents.meta.learner.MetaLearner`.
        inner_lr: that the rule begins with.
        inner_steps: of the inner loop while learning.
        hidden: units of the network.
        grad_clip: norm that the outer gradient is clipped to.
        **outer: of :class:`~agents.meta.learner.MetaLearner`.
    """

    def __init__(
        self,
        module: nn.Module,
        family: Family,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 5,
        hidden: int = 16,
        grad_clip: float | None = 1.0,
        **outer: Any,
    ) -> None:
        refuse(self, outer, "rule")
        lr, units = positive("inner_lr", inner_lr), positive_int("hidden", hidden)
        rule = NetworkRule(sizes_of(module), lr, units, int(outer.get("seed", 0)))
        super().__init__(
            module, family, rule, inner_steps=inner_steps, grad_clip=grad_clip, **outer
        )
