"""Representations that can be learned on from a stream without interference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from optenv.checks import positive_int

from .checks import refuse
from .episodes import Episodes, Examples, Family
from .maml import MAML
from .online import OnlineSGD
from .streams import DigitStream, SineStream


@dataclass(frozen=True)
class Streams(Family):
    """Whole streams as tasks: the support in the order in which it comes.

    Queries are the tests of all tasks of a stream, so that what is forgotten counts.

    Attributes:
        stream: where streams come from.
    """

    stream: DigitStream | SineStream

    @property
    def loss(self) -> str:  # type: ignore[override]
        return self.stream.loss

    def sample(self, count: int, rng: np.random.Generator) -> Episodes:
        drawn = [self.stream.sample(rng) for _ in range(count)]
        parts = [torch.stack(part).flatten(1, 2) for part in zip(*drawn, strict=True)]
        return Episodes(Examples(*parts[:2]), Examples(*parts[2:]))


class OML(MAML):
    """Online-aware meta-learning (Javed & White, 2019).

    The inner loop learns a stream, a few examples at a time, by gradient descent on some of
    the parameters; the outer loop learns the others, and where these begin, so that what
    was learned of all tasks is still known at the end.

    Args:
        module: the network.
        family: :class:`Streams`.
        adapts: names of the parameters that learn from a stream, or beginnings of them.
        inner_lr: learning rate of the inner loop.
        inner_batch: examples of an inner step.
        meta_lr: learning rate of the outer loop.
        meta_batch: streams of an outer step.
        **outer: of :class:`~agents.meta.maml.MAML`.
    """

    def __init__(
        self,
        module: nn.Module,
        family: Streams,
        *,
        adapts: str | Sequence[str],
        inner_lr: float = 0.03,
        inner_batch: int = 10,
        meta_lr: float = 1e-3,
        meta_batch: int = 1,
        **outer: Any,
    ) -> None:
        self.inner_batch = positive_int("inner_batch", inner_batch)
        stream = family.stream
        steps = -(-stream.tasks * stream.examples // self.inner_batch)
        refuse(self, outer, "inner_steps")
        super().__init__(
            module, family, adapts=adapts, inner_lr=inner_lr, inner_steps=steps,
            meta_lr=meta_lr, meta_batch=meta_batch, **outer,
        )  # fmt: skip
        self.rule.max_steps = steps  # after which nothing of the stream is left

    def _batch(self, support: Examples, step: int) -> Examples:
        rows = slice(step * self.inner_batch, (step + 1) * self.inner_batch)
        return Examples(*(part[:, rows] for part in support))

    def online(self) -> OnlineSGD:
        """What learns a stream from here on."""
        learner = OnlineSGD(
            self.network.template, self.family.loss, lr=self.lr, mask=self.mask
        )
        learner.params = self.initial.detach()[None].clone()
        return learner
