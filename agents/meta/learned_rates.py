"""Learners of initial parameters together with inner learning rates.

Each of Meta-SGD, LSLR and hypergradient descent follows its inner rule in this file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from optenv.checks import is_number, positive, quoted

from .families.episodes import Family
from .inner import InnerRule, State
from .learner import InnerRuleLearner
from .validation import sizes_of

# A learning rate for each parameter.


class PerParameterRule(InnerRule):
    """Gradient descent with a learned rate for each parameter; rates may become negative.

    Args:
        size: number of parameters ``P``.
        lr: initial value of all rates; for a pair, each is sampled uniformly between the
            two.
        seed: seed of the samples.
    """

    def __init__(self, size: int, lr: float | tuple[float, float], seed: int = 0) -> None:
        super().__init__()
        low, high = lr if isinstance(lr, tuple) else (lr, lr)
        generator = torch.Generator().manual_seed(int(seed))
        rates = torch.empty(size).uniform_(low, high, generator=generator)
        self.rates = nn.Parameter(rates)

    def forward(
        self, params: Tensor, grad: Tensor, loss: Tensor, state: State, step: int
    ) -> tuple[Tensor, State]:
        return params - self.rates * grad, state


class MetaSGD(InnerRuleLearner):
    r"""Meta-SGD (Li et al., 2017).

    Meta-learns initial parameters and a learning rate for each of them. The inner update is
    :math:`\theta_{k+1} = \theta_k - \alpha \circ \nabla L^S(\theta_k)` with learned rates
    :math:`\alpha` ``[P]``, which may become negative, as in the paper.

    Args:
        module, family: see :class:`~agents.meta.MetaLearner`.
        inner_lr: initial value of all rates; for a pair, each is sampled uniformly between
            the two.
        inner_steps: number of inner steps while learning. Adapting with more steps may
            diverge.
        **outer: arguments of :class:`~agents.meta.MetaLearner`.

    Raises:
        ValueError: ``inner_lr`` is neither a number nor two in ascending order.

    Example:
        >>> from agents import meta
        >>> from agents.meta.networks import perceptron
        >>> learner = MetaSGD(perceptron(1, 8, 1), meta.Sinusoids())
        >>> learner.rule.rates.shape == learner.initial.shape
        True
    """

    def __init__(
        self,
        module: nn.Module,
        family: Family,
        *,
        inner_lr: float | tuple[float, float] = (0.005, 0.1),
        inner_steps: int = 1,
        **outer: Any,
    ) -> None:
        super().__init__(
            module, family, inner_lr=inner_lr, inner_steps=inner_steps, **outer
        )

    def _make_rule(
        self, module: nn.Module, inner_lr: Any, inner_steps: int, seed: Any
    ) -> PerParameterRule:
        return PerParameterRule(sum(sizes_of(module)), _rate_range(inner_lr), seed)


def _rate_range(rates: Any) -> tuple[float, float]:
    """Return the lowest and the highest initial learning rate.

    Raises:
        ValueError: ``rates`` is neither a number nor two in ascending order.
    """
    ends = tuple(rates) if isinstance(rates, (tuple, list)) else (rates, rates)
    if len(ends) != 2 or not all(map(is_number, ends)) or not ends[0] <= ends[1]:
        raise ValueError(
            f"inner_lr must be a number or a pair of them, the lower first, "
            f"got {quoted(rates)}"
        )
    return float(ends[0]), float(ends[1])


# A learning rate for each step and parameter tensor.


class PerStepRule(InnerRule):
    """Gradient descent with a learned rate for each step and parameter tensor.

    The logarithms of the rates are learned, so that rates stay positive.

    Args:
        sizes: number of elements of each parameter tensor.
        steps: number of steps with rates.
        lr: initial value of all rates.
    """

    def __init__(self, sizes: Sequence[int], steps: int, lr: float) -> None:
        super().__init__()
        self.max_steps = steps
        self.log_rates = nn.Parameter(torch.full((steps, len(sizes)), math.log(lr)))
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)
        self.sizes: Tensor

    def forward(
        self, params: Tensor, grad: Tensor, loss: Tensor, state: State, step: int
    ) -> tuple[Tensor, State]:
        rates = self.log_rates[step].exp().repeat_interleave(self.sizes)
        return params - rates * grad, state


class LSLR(InnerRuleLearner):
    r"""Learned per-layer per-step learning rates of MAML++ (Antoniou et al., 2019).

    Meta-learns initial parameters, and a positive learning rate for each inner step and
    parameter tensor. The inner update of tensor :math:`j` is :math:`\theta_{k+1,j} =
    \theta_{k,j} - \alpha_{k,j} \nabla_j L^S(\theta_k)`.

    Args:
        module, family: see :class:`~agents.meta.MetaLearner`.
        inner_lr: initial value of all rates.
        inner_steps: number of inner steps; there are no rates for more.
        **outer: arguments of :class:`~agents.meta.MetaLearner`.

    Raises:
        ValueError, TypeError: an argument is not valid.

    Example:
        >>> from agents import meta
        >>> from agents.meta.networks import perceptron
        >>> learner = LSLR(perceptron(1, 8, 1), meta.Sinusoids(), inner_steps=3)
        >>> learner.rule.log_rates.shape  # two weights and two biases
        torch.Size([3, 4])
    """

    def _make_rule(
        self, module: nn.Module, inner_lr: Any, inner_steps: int, seed: Any
    ) -> PerStepRule:
        return PerStepRule(sizes_of(module), inner_steps, positive("inner_lr", inner_lr))


# Learning rates that change within the inner loop.


class HypergradientRule(InnerRule):
    """Gradient descent whose rates follow the alignment of successive gradients.

    See :class:`HypergradientLR`.

    Args:
        sizes: number of elements of each parameter tensor.
        lr: initial value of all rates.
        hyper_lr: initial value of all hypergradient rates ``b``.
    """

    def __init__(self, sizes: Sequence[int], lr: float, hyper_lr: float) -> None:
        super().__init__()
        self.log_rates = nn.Parameter(torch.full((len(sizes),), math.log(lr)))
        self.hyper_rates = nn.Parameter(torch.full((len(sizes),), hyper_lr))
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)
        self.sizes: Tensor

    def start(self, params: Tensor) -> State:
        return self.log_rates.expand(len(params), -1), torch.zeros_like(params)

    def forward(
        self, params: Tensor, grad: Tensor, loss: Tensor, state: State, step: int
    ) -> tuple[Tensor, State]:
        log_rates, last_grad = state
        if step > 0:
            sizes = self.sizes.tolist()
            splits = (g.split(sizes, dim=1) for g in (grad, last_grad))
            pairs = zip(*splits, strict=True)
            cosines = [cosine_similarity(now, last, dim=1) for now, last in pairs]
            log_rates = log_rates + self.hyper_rates * torch.stack(cosines, dim=1)
        moves = log_rates.exp().repeat_interleave(self.sizes, dim=1) * grad
        return params - moves, (log_rates, grad)


class HypergradientLR(InnerRuleLearner):
    r"""Learning rates that hypergradient descent adapts online, in the inner loop.

    Meta-learns initial parameters and, for each parameter tensor :math:`j`, the initial
    learning rate :math:`\alpha_{0,j}` and the hypergradient rate :math:`b_j`. The inner
    update is hypergradient descent in its multiplicative, normalised form (Baydin et al.,
    2018, sections 3 and 4.2):

    .. math::

        \alpha_{k,j} = \alpha_{k-1,j} \exp(b_j \cos(g_{k,j}, g_{k-1,j})), \qquad
        \theta_{k+1,j} = \theta_{k,j} - \alpha_{k,j}\, g_{k,j}

    with gradients :math:`g_k = \nabla L^S(\theta_k)`. With many more steps than while
    learning, the rates may grow until the inner loop diverges.

    Args:
        module, family: see :class:`~agents.meta.MetaLearner`.
        inner_lr: initial value of all rates.
        hyper_lr: initial value of all :math:`b_j`.
        inner_steps: number of inner steps while learning.
        **outer: arguments of :class:`~agents.meta.MetaLearner`.

    Raises:
        ValueError, TypeError: an argument is not valid.

    Example:
        >>> from agents import meta
        >>> from agents.meta.networks import perceptron
        >>> learner = HypergradientLR(perceptron(1, 8, 1), meta.Sinusoids(), hyper_lr=0.2)
        >>> learner.learn(2).iterations
        2
    """

    def __init__(
        self,
        module: nn.Module,
        family: Family,
        *,
        hyper_lr: float = 0.1,
        **outer: Any,
    ) -> None:
        self._hyper_lr = hyper_lr
        super().__init__(module, family, **outer)

    def _make_rule(
        self, module: nn.Module, inner_lr: Any, inner_steps: int, seed: Any
    ) -> HypergradientRule:
        lr = positive("inner_lr", inner_lr)
        return HypergradientRule(sizes_of(module), lr, self._hyper_lr)
