"""Update rules of the inner loop, some of which are learned.

A rule is a module whose parameters, if it has any, are learned in the outer loop. It works
on the flat parameters ``[B, P]`` of ``B`` tasks at once, changes nothing in place, and what
it computes can be differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from optenv import rules

#: What a rule keeps from step to step: ``[B, ...]`` tensors.
State = tuple[Tensor, ...]


class InnerRule(nn.Module):
    """A rule.

    Attributes:
        max_steps: steps that it was learned for, if it is good for no more; None if any
            number is fine.
    """

    max_steps: int | None = None

    def start(self, params: Tensor) -> State:
        """State before the first step, of parameters ``[B, P]``."""
        return ()

    def forward(
        self, params: Tensor, grad: Tensor, loss: Tensor, state: State, step: int
    ) -> tuple[Tensor, State]:
        """New parameters and state.

        Args:
            params: ``[B, P]``.
            grad: ``[B, P]``.
            loss: ``[B]``, that ``grad`` is of.
            state: of :meth:`start`, or of the step before.
            step: from 0 on.
        """
        raise NotImplementedError


class Fixed(InnerRule):
    """One of the environments' rules with a constant learning rate.

    Args:
        lr: learning rate.
        spec: name, or name and hyperparameters, see :func:`optenv.rules.get`.
        mask: ``[P]``, 1 where parameters adapt and 0 where they stay; None adapts all.
        shapes: of the parameters, in their order within ``P``; some rules need them.

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
        new, state = self.rule.update(params, grad, state, lr, False)
        if self.mask is not None:
            new = torch.where(self.mask.bool(), new, params)
        return new, state


class PerParameter(InnerRule):
    """Gradient descent with a learned rate for each parameter (Meta-SGD, Li et al., 2017).

    Rates may become negative, as in the paper.

    Args:
        size: number of parameters ``P``.
        lr: that all begin with; a pair draws each uniformly between the two.
        seed: of these draws.
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


class PerStep(InnerRule):
    """Gradient descent with a learned rate for each step and parameter tensor.

    As in MAML++ (Antoniou et al., 2019), with logarithms, so that rates stay positive.

    Args:
        sizes: number of elements of each tensor.
        steps: that there are rates for.
        lr: that all begin with.
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


class Hypergradient(InnerRule):
    """Gradient descent whose rates follow the agreement of gradients, step by step.

    The rate of a parameter tensor is multiplied by ``exp(b cos(g, h))`` before each step,
    with the gradients ``g`` of this step and ``h`` of the last: hypergradient descent in
    its multiplicative, normalised form (Baydin et al., 2018, sections 3 and 4.2). Rates to
    begin with, and ``b``, are learned for each tensor.

    Args:
        sizes: number of elements of each tensor.
        lr: that all begin with.
        hyper_lr: ``b`` to begin with.
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
        rates, before = state
        if step > 0:
            parts = (part.split(self.sizes.tolist(), dim=1) for part in (grad, before))
            now, then = parts
            cosines = [
                cosine_similarity(a, b, dim=1) for a, b in zip(now, then, strict=True)
            ]
            rates = rates + self.hyper_rates * torch.stack(cosines, dim=1)
        moves = rates.exp().repeat_interleave(self.sizes, dim=1) * grad
        return params - moves, (rates, grad)
