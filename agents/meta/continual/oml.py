"""OML: meta-learn a representation on which a stream can be learned without forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from optenv.checks import positive_int
from optenv.tasks.stacked import LossFunction

from ..families.episodes import Episodes, Examples, Family
from ..maml import MAML
from ..validation import loss_of, refuse_fixed
from .online import OnlineSGD
from .streams import StreamFamily, check_stream


@dataclass(frozen=True)
class Streams(Family):
    """Whole streams as few-shot tasks, with the support in the order of the stream.

    A stream of ``T`` tasks with ``n`` examples and ``m`` tests each is one task, with the
    support ``[B, T n, ...]`` and the query ``[B, T m, ...]``. The query has the tests of
    all ``T`` tasks, so that forgetting counts.

    Attributes:
        stream: family of streams: a :class:`~agents.meta.DigitStream` (with
            ``split="train"``, if the learner will be tested on others), a
            :class:`~agents.meta.SineStream`, or your own with an attribute ``loss`` and a
            method ``sample(rng)`` that returns a :class:`~agents.meta.Stream`.

    Raises:
        TypeError: ``stream`` has no ``loss`` or ``sample``, or does not return streams.

    Example:
        >>> import numpy as np
        >>> from agents import meta
        >>> family = Streams(meta.SineStream(tasks=3, examples=8, tests=5))
        >>> support, query = family.sample(2, np.random.default_rng(0))
        >>> support.inputs.shape, query.targets.shape
        (torch.Size([2, 24, 4]), torch.Size([2, 15, 1]))
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
        """Loss of the family of streams."""
        return self.stream.loss

    def sample(self, count: int, rng: np.random.Generator) -> Episodes:
        streams = [check_stream(self.stream.sample(rng)) for _ in range(count)]
        parts = [torch.stack(part).flatten(1, 2) for part in zip(*streams, strict=True)]
        return Episodes(Examples(*parts[:2]), Examples(*parts[2:]))


class OML(MAML):
    r"""Online-aware meta-learning (Javed & White, 2019).

    Meta-learns a representation, and the initial parameters of the layers above it. The
    inner loop learns a whole stream, a mini-batch :math:`k` at a time, by
    :math:`\theta_{k+1} = \theta_k - \alpha \nabla L_k(\theta_k)` on some of the parameters;
    the outer loop minimises the loss on the tests of all tasks of the stream at the end.

    Args:
        module: network.
        family: :class:`~agents.meta.Streams`, all of one length.
        adapts: names of the parameters that learn from a stream, or of modules with such
            parameters, such as ``"2"`` or ``"head"``.
        inner_lr: inner learning rate :math:`\alpha`.
        inner_batch: examples of an inner step.
        meta_lr: learning rate of the outer loop.
        meta_batch: streams of an outer step.
        **outer: arguments of :class:`~agents.meta.MAML`, except ``inner_steps``, which
            follows from the length of a stream.

    Raises:
        TypeError: ``family`` is not of type :class:`~agents.meta.Streams`.
        ValueError: ``adapts`` names no parameter or module, or the module does not fit the
            streams.

    Example:
        >>> from agents import meta
        >>> from agents.meta.networks import perceptron
        >>> family = meta.Streams(meta.SineStream(tasks=3, examples=8, tests=5))
        >>> learner = OML(perceptron(4, 8, 1), family, adapts="3", inner_batch=4).learn(2)
        >>> learner.inner_steps
        6
        >>> online = learner.online()  # learns one stream
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
        refuse_fixed(self, outer, "inner_steps")
        super().__init__(
            module, family, adapts=adapts, inner_lr=inner_lr, inner_steps=steps,
            meta_lr=meta_lr, meta_batch=meta_batch, **outer,
        )  # fmt: skip
        # After these steps, the stream is over.
        self.rule.max_steps = steps

    def _batch(self, support: Examples, step: int) -> Examples:
        rows = slice(step * self.inner_batch, (step + 1) * self.inner_batch)
        return Examples(*(part[:, rows] for part in support))

    def online(self) -> OnlineSGD:
        """Return a new learner of one stream, which begins with the learned parameters.

        Its learning rate is ``inner_lr``; the parameters that ``adapts`` names learn.
        """
        learner = OnlineSGD(
            self.network.template, loss_of(self.family), lr=self.lr, mask=self.mask
        )
        learner.params = self.initial.detach()[None].clone()
        return learner
