"""Representations that can be learned on from a stream without interference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from optenv.checks import positive_int
from optenv.tasks.stacked import LossFunction

from ..checks import loss_of, refuse
from ..families.episodes import Episodes, Examples, Family
from ..maml import MAML
from .checks import one_stream
from .online import OnlineSGD
from .streams import StreamFamily


@dataclass(frozen=True)
class Streams(Family):
    """Whole streams as tasks: the support in the order in which it comes.

    Queries are the tests of all tasks of a stream, so that what is forgotten counts: of a
    stream of ``T`` tasks with ``n`` examples and ``m`` tests each, the support is ``[T n,
    ...]`` and the query ``[T m, ...]``.

    Attributes:
        stream: source of streams: a
            :class:`~agents.meta.continual.streams.DigitStream` (with ``split="train"``, if
            what is learned will be tested on others), a
            :class:`~agents.meta.continual.streams.SineStream`, or one's own with an
            attribute ``loss`` and a method ``sample(rng)`` that returns a
            :class:`~agents.meta.continual.streams.Stream`.

    Raises:
        TypeError: ``stream`` has no ``loss`` or ``sample``, or what it draws is no stream.
    """

    stream: StreamFamily

    def __post_init__(self) -> None:
        given = self.stream
        fits = hasattr(given, "loss") and callable(getattr(given, "sample", None))
        if not fits or isinstance(given, type):
            raise TypeError(
                "Streams needs where streams come from, such as DigitStream(), or what has "
                "an attribute `loss` and a method `sample(rng)` that returns a Stream, got "
                f"{given!r}"
            )

    @property
    def loss(self) -> str | LossFunction:  # type: ignore[override]
        return self.stream.loss

    def sample(self, count: int, rng: np.random.Generator) -> Episodes:
        drawn = [one_stream(self.stream.sample(rng)) for _ in range(count)]
        parts = [torch.stack(part).flatten(1, 2) for part in zip(*drawn, strict=True)]
        return Episodes(Examples(*parts[:2]), Examples(*parts[2:]))


class OML(MAML):
    """Online-aware meta-learning (Javed & White, 2019).

    The inner loop learns a stream, a few examples at a time, by gradient descent on some of
    the parameters; the outer loop learns the others, and where these begin, so that what
    was learned of all tasks is still known at the end.

    Args:
        module: the network.
        family: :class:`Streams`, all of one length.
        adapts: names of the parameters that learn from a stream, or of modules that hold
            them, such as ``"2"`` or ``"head"``.
        inner_lr: learning rate of the inner loop.
        inner_batch: examples of an inner step.
        meta_lr: learning rate of the outer loop.
        meta_batch: streams of an outer step.
        **outer: of :class:`~agents.meta.maml.MAML`.

    Raises:
        TypeError: ``family`` is not :class:`Streams`.
        ValueError: no parameter or module is called as ``adapts`` says, or the module does
            not fit the streams.
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
        if not isinstance(family, Streams):
            raise TypeError(
                "family must be Streams of something, as Streams(DigitStream()), got "
                f"{family!r}"
            )
        length = family.sample(1, np.random.default_rng(0)).support.inputs.shape[1]
        steps = -(-length // self.inner_batch)
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
        """A new learner of one stream, which begins with what was learned here.

        Its learning rate is ``inner_lr``; of the parameters, those that ``adapts`` names
        learn.
        """
        learner = OnlineSGD(
            self.network.template, loss_of(self.family), lr=self.lr, mask=self.mask
        )
        learner.params = self.initial.detach()[None].clone()
        return learner
