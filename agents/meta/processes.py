"""Conditional neural processes, which tell a mean and a deviation for each input."""

from __future__ import annotations

import inspect
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .amortized import AmortizedLearner
from .checks import parameters_of
from .families.episodes import Episodes, Examples, Family
from .samples import check_fit


class NeuralProcess(AmortizedLearner):
    """A conditional neural process for regression (Garnelo et al., 2018).

    It learns by the Gaussian likelihood, and is judged by the family's loss of the mean.

    Args:
        module: a :class:`~agents.meta.networks.ProcessNetwork`, or another module that
            takes inputs ``[B, k, ...]`` and targets of the support and inputs
            ``[B, n, ...]`` of the query, and returns means and deviations ``[B, n, ...]``.
        family: the tasks to learn on.
        **outer: of :class:`~agents.meta.outer.Learner`.

    Raises:
        ValueError: the family's tasks are classification; another argument is not valid.
        TypeError: the module is no such module; another argument is not valid.
    """

    _classifies = False

    def __init__(self, module: nn.Module, family: Family, **outer: Any) -> None:
        parameters_of(module)
        try:
            inspect.signature(module.forward).bind(*Examples._fields, "query")
        except TypeError:
            raise _unfit(module, "whose forward takes other arguments") from None
        super().__init__(module, family, **outer)

    def outputs(self, support: Examples, inputs: Tensor) -> Tensor:
        return self._distribution(support, inputs)[0]

    def _distribution(self, support: Examples, inputs: Tensor) -> tuple[Tensor, Tensor]:
        found = self.module(*support, inputs)
        pair = isinstance(found, tuple) and len(found) == 2
        if not pair or not all(isinstance(part, Tensor) for part in found):
            raise _unfit(self.module, f"which returns a {type(found).__name__}")
        return found

    def _outer_loss(self, episodes: Episodes) -> Tensor:
        mean, deviation = self._distribution(episodes.support, episodes.query.inputs)
        check_fit("mse", "query", mean, episodes.query.targets)
        return F.gaussian_nll_loss(mean, episodes.query.targets, deviation.square())


def _unfit(module: nn.Module, why: str) -> TypeError:
    return TypeError(
        "the module must be a ProcessNetwork, or another that takes inputs and targets of "
        "the support and inputs of the query, and returns a pair of means and deviations, "
        f"got {type(module).__name__}, {why}"
    )
