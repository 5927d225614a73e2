"""Reptile: towards where ordinary training on each task ends (Nichol et al., 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optenv.checks import positive, positive_int
from optenv.rules import RuleSpec

from .checks import parameters_of
from .families.episodes import Episodes, Examples, Family
from .inner_rules import Fixed
from .learner import MetaLearner
from .unroll import unroll


class Reptile(MetaLearner):
    """Initial parameters that move towards those that tasks are trained to.

    An outer step adds ``meta_lr (1 - progress) mean(adapted - initial)``; nothing is
    differentiated twice, and queries are not looked at.

    Args:
        module, family: see :class:`~agents.meta.learner.MetaLearner`.
        inner_lr: learning rate of the inner loop.
        inner_steps: of the inner loop while learning.
        inner_batch: examples of an inner step while learning: each epoch in an order of its
            own; None takes the whole support. Adapting takes the whole support.
        rule: of the inner loop, see :func:`optenv.rules.get`.
        meta_lr: share of the way that the first outer step goes; it falls along a line, to
            0 at the end of a call of :meth:`learn`.
        meta_batch: tasks of an outer step.
        **outer: of :class:`~agents.meta.learner.MetaLearner`.
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
        shapes = [tuple(p.shape) for p in parameters_of(module).values()]
        fixed = Fixed(positive("inner_lr", inner_lr), rule, shapes=shapes)
        super().__init__(
            module, family, fixed, inner_steps=inner_steps,
            meta_lr=meta_lr, meta_batch=meta_batch, **outer,
        )  # fmt: skip

    def _make_optimizer(self, meta_lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters, lr=meta_lr)

    def _outer_step(self, episodes: Episodes, progress: float) -> float:
        self.optimizer.param_groups[0]["lr"] = self.meta_lr * (1 - progress)
        return super()._outer_step(episodes, progress)

    def _outer_loss(self, episodes: Episodes) -> Tensor:
        """Half the squared distance, whose gradient is the way to go."""
        *_, last = self._trained(episodes.support)
        way = self.initial - last.mean(0)
        return 0.5 * way.square().sum()

    def _trained(self, support: Examples) -> Iterator[Tensor]:
        params = self.initial.detach().expand(len(support.inputs), -1)
        batches = self._batches(support)
        return unroll(
            self.network, self.rule, params, batches.__getitem__, self.inner_steps
        )

    def _batches(self, support: Examples) -> list[Examples]:
        count = support.inputs.shape[1]
        size = self.inner_batch or count
        epochs = -(-self.inner_steps * size // count)
        rows = np.concatenate([self.rng.permutation(count) for _ in range(epochs)])
        chosen = [rows[i * size : (i + 1) * size] for i in range(self.inner_steps)]
        return [Examples(*(part[:, row] for part in support)) for row in chosen]
