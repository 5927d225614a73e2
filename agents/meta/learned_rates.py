"""Initial parameters together with learning rates for them."""

from __future__ import annotations

from typing import Any

from torch import nn

from optenv.checks import is_number, positive, positive_int

from .checks import refuse, sizes_of
from .families.episodes import Family
from .inner_rules import Hypergradient, PerParameter, PerStep
from .learner import MetaLearner


class MetaSGD(MetaLearner):
    """A learning rate for each parameter (Li et al., 2017).

    Args:
        module, family: see :class:`~agents.meta.learner.MetaLearner`.
        inner_lr: that all rates begin with; of a pair, each between the two at random.
        inner_steps: of the inner loop while learning. With more steps than that, rates
            learned for one step may diverge.
        **outer: of :class:`~agents.meta.learner.MetaLearner`.
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
        refuse(self, outer, "rule")
        rule = PerParameter(sum(sizes_of(module)), _range(inner_lr), outer.get("seed", 0))
        super().__init__(module, family, rule, inner_steps=inner_steps, **outer)


class LSLR(MetaLearner):
    """A learning rate for each step and parameter tensor (MAML++: Antoniou et al., 2019).

    Args:
        module, family: see :class:`~agents.meta.learner.MetaLearner`.
        inner_lr: that all rates begin with.
        inner_steps: of the inner loop; there are no rates for more.
        **outer: of :class:`~agents.meta.learner.MetaLearner`.
    """

    def __init__(
        self,
        module: nn.Module,
        family: Family,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 5,
        **outer: Any,
    ) -> None:
        refuse(self, outer, "rule")
        steps, lr = positive_int("inner_steps", inner_steps), positive("inner_lr", inner_lr)
        rule = PerStep(sizes_of(module), steps, lr)
        super().__init__(module, family, rule, inner_steps=inner_steps, **outer)


class HypergradientLR(MetaLearner):
    """Learning rates that are learned online, in the inner loop, by hypergradients.

    Of each parameter tensor, see :class:`~agents.meta.inner_rules.Hypergradient`; where
    they
    begin and how fast they move is learned in the outer loop. Far beyond the steps of the
    learning, rates may go on to grow until it diverges.

    Args:
        module, family: see :class:`~agents.meta.learner.MetaLearner`.
        inner_lr: that all rates begin with.
        hyper_lr: factor ``exp(hyper_lr)`` on a rate where gradients agree, to begin with.
        inner_steps: of the inner loop while learning.
        **outer: of :class:`~agents.meta.learner.MetaLearner`.
    """

    def __init__(
        self,
        module: nn.Module,
        family: Family,
        *,
        inner_lr: float = 0.01,
        hyper_lr: float = 0.1,
        inner_steps: int = 5,
        **outer: Any,
    ) -> None:
        refuse(self, outer, "rule")
        rule = Hypergradient(sizes_of(module), positive("inner_lr", inner_lr), hyper_lr)
        super().__init__(module, family, rule, inner_steps=inner_steps, **outer)


def _range(rates: Any) -> tuple[float, float]:
    """Lowest and highest of the rates that learning begins with.

    Raises:
        ValueError: they are neither a number nor two in order.
    """
    ends = tuple(rates) if isinstance(rates, (tuple, list)) else (rates, rates)
    if len(ends) != 2 or not all(map(is_number, ends)) or not ends[0] <= ends[1]:
        raise ValueError(
            f"inner_lr must be a number or a pair of them, the lower first, got {rates!r}"
        )
    return float(ends[0]), float(ends[1])
