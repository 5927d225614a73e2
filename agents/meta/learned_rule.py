"""A small network as update rule, the same for every parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from optenv.tasks.stacked import trained_parameters

from .episodes import Family
from .learner import MetaLearner
from .rules import InnerRule, State

#: Decay of the averages of the gradient that the network sees, and of its square.
DECAYS, SQUARE_DECAY = (0.5, 0.9, 0.99), 0.99


class NetworkRule(InnerRule):
    """Adam's direction, corrected by a network for each parameter.

    ``p <- p - exp(r + s) (m / sqrt(v) + d)``: ``m`` and ``v`` are averages of gradient and
    squared gradient without a bias to 0, ``r`` is learned for each parameter tensor, and
    ``s`` and ``d`` are what the network makes of the averages (over several times, in
    units of ``sqrt(v)``), of the size of ``sqrt(v)`` and of the parameter within their
    tensor, and of the number of steps; see Metz et al. (2020) for inputs of this kind. The
    network's outputs are 0 at first: the rule begins as Adam.

    Args:
        sizes: number of elements of each parameter tensor.
        lr: ``exp(r)`` where learning begins.
        hidden: units of the network's hidden layer.
        seed: of its weights.
    """

    def __init__(
        self, sizes: Sequence[int], lr: float = 0.01, hidden: int = 16, seed: int = 0
    ) -> None:
        super().__init__()
        self.log_rates = nn.Parameter(torch.full((len(sizes),), math.log(lr)))
        generator = torch.Generator().manual_seed(seed)
        first, last = nn.Linear(len(DECAYS) + 4, hidden), nn.Linear(hidden, 2)
        self.network = nn.Sequential(first, nn.Tanh(), last)
        nn.init.orthogonal_(first.weight, 1.0, generator)
        for parameter in (first.bias, last.weight, last.bias):
            nn.init.zeros_(parameter)
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)
        self.sizes: Tensor

    def start(self, params: Tensor) -> State:
        return tuple(torch.zeros_like(params) for _ in range(len(DECAYS) + 1))

    def forward(
        self, params: Tensor, grad: Tensor, loss: Tensor, state: State, step: int
    ) -> tuple[Tensor, State]:
        decays = (*DECAYS, SQUARE_DECAY)
        state = tuple(
            decay * kept + (1 - decay) * new
            for decay, kept, new in zip(
                decays, state, (*[grad] * len(DECAYS), grad.square()), strict=True
            )
        )
        *means, square = (
            kept / (1 - decay ** (step + 1))
            for decay, kept in zip(decays, state, strict=True)
        )
        size = (square + 1e-16).sqrt()  # 1e-16 within, for the derivative at 0
        seen = [grad / size, *(mean / size for mean in means)]
        seen += [self._within(size), self._within(params)]
        seen.append(torch.full_like(params, math.log1p(step) / 3))
        scale, correction = self.network(torch.stack(seen, dim=-1)).unbind(-1)
        rates = (self.log_rates.repeat_interleave(self.sizes) + scale).exp()
        return params - rates * (means[1] / size + correction), state

    def _within(self, values: Tensor) -> Tensor:
        """Logarithm of values over the root mean square of their tensor, from -4 to 4."""
        parts = [
            (part.abs() + 1e-8).log() - 0.5 * (part.square().mean(1, True) + 1e-16).log()
            for part in values.detach().split(self.sizes.tolist(), dim=1)
        ]
        return torch.cat(parts, dim=1).clamp(-4, 4) / 2


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
        sizes = [p.numel() for p in trained_parameters(module).values()]
        rule = NetworkRule(sizes, inner_lr, hidden, outer.get("seed", 0))
        super().__init__(
            module, family, rule, inner_steps=inner_steps, grad_clip=grad_clip, **outer
        )
