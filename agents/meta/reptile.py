"""Reptile: move the initial parameters towards the result of training on each task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optenv.checks import positive, positive_int
from optenv.rules import RuleSpec

from .families.episodes import Episodes, Examples, Family
from .inner import FixedRule, unroll
from .learner import InnerRuleLearner
from .validation import parameters_of


class Reptile(InnerRuleLearner):
    r"""Reptile (Nichol, Achiam & Schulman, 2018).

    Meta-learns initial parameters without second derivatives and without queries. The inner
    loop trains by an ordinary update rule; an outer step is

    .. math::

        \theta_0 \leftarrow \theta_0
        + \beta\, (1 - t)\, \operatorname{mean}(\theta_K - \theta_0)

    with the mean over ``meta_batch`` tasks, ``meta_lr`` :math:`\beta`, and the position
    :math:`t \in [0, 1)` within the call of :meth:`learn`.

    Args:
        module, family: see :class:`~agents.meta.MetaLearner`.
        inner_lr: inner learning rate.
        inner_steps: number of inner steps while learning.
        inner_batch: examples of an inner step while learning, each epoch in a new order;
            None for the whole support. Adaptation always uses the whole support.
        rule: update rule of the inner loop, see :func:`optenv.rules.get`.
        meta_lr: initial step size :math:`\beta` of the outer loop, a fraction of the
            difference to the trained parameters. It decreases linearly, to 0 at the end of
            a call of :meth:`learn`.
        meta_batch: tasks of an outer step.
        **outer: arguments of :class:`~agents.meta.MetaLearner`.

    Raises:
        ValueError, TypeError: an argument is not valid.

    Example:
        >>> from agents import meta
        >>> from agents.meta.networks import perceptron
        >>> family = meta.Sinusoids(shots=20, variant="reptile")
        >>> learner = Reptile(perceptron(1, 8, 1), family, inner_lr=0.02)
        >>> learner.learn(2).iterations
        2
    """

    def __init__(
        self,
        module: nn.Module,
        family: Family,
        *,
        inner_lr: float = 0.02,
        inner_steps: int = 5,
        inner_batch: int | None = 10,
        rule: RuleSpec = "sgd",
        meta_lr: float = 0.1,
        meta_batch: int = 1,
        **outer: Any,
    ) -> None:
        self.inner_batch = (
            None if inner_batch is None else positive_int("inner_batch", inner_batch)
        )
        self.meta_lr = meta_lr
        self._rule_spec = rule
        super().__init__(
            module, family, inner_lr=inner_lr, inner_steps=inner_steps,
            meta_lr=meta_lr, meta_batch=meta_batch, **outer,
        )  # fmt: skip

    def _make_rule(
        self, module: nn.Module, inner_lr: Any, inner_steps: int, seed: Any
    ) -> FixedRule:
        shapes = [tuple(p.shape) for p in parameters_of(module).values()]
        return FixedRule(positive("inner_lr", inner_lr), self._rule_spec, shapes=shapes)

    def _make_optimizer(self, meta_lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters, lr=meta_lr)

    def _outer_step(self, episodes: Episodes, progress: float) -> float:
        self.optimizer.param_groups[0]["lr"] = self.meta_lr * (1 - progress)
        return super()._outer_step(episodes, progress)

    def _outer_loss(self, episodes: Episodes) -> Tensor:
        """Return half the squared distance, whose gradient is Reptile's direction."""
        *_, trained = self._trained(episodes.support)
        difference = self.initial - trained.mean(0)
        return 0.5 * difference.square().sum()

    def _trained(self, support: Examples) -> Iterator[Tensor]:
        """Yield the parameters ``[B, P]`` of an inner loop on mini-batches."""
        params = self.initial.detach().expand(len(support.inputs), -1)
        batches = self._batches(support)
        return unroll(
            self.network, self.rule, params, batches.__getitem__, self.inner_steps
        )

    def _batches(self, support: Examples) -> list[Examples]:
        """Return the mini-batch of each inner step."""
        count = support.inputs.shape[1]
        size = self.inner_batch or count
        epochs = -(-self.inner_steps * size // count)
        rows = np.concatenate([self.rng.permutation(count) for _ in range(epochs)])
        chosen = [rows[i * size : (i + 1) * size] for i in range(self.inner_steps)]
        return [Examples(*(part[:, row] for part in support)) for row in chosen]
