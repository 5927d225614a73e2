"""Language models of generated text: residual perceptrons and Elman networks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import known
from . import sequence_layers as layers
from .base import set_sizes
from .generated import LARGE_DATA_SIZE, Examples, GeneratedTask, data_size

__all__ = ["NETWORKS", "LanguageModel", "TopicLanguageModel", "sample_language"]

#: Values of :attr:`LanguageModel.network`.
NETWORKS = ("residual", "elman")

#: Number of classes of tokens. A token depends on the class of the token two before it.
CONTEXTS = 4

#: Number of topics of :class:`TopicLanguageModel`.
TOPICS = 8


@dataclass(frozen=True)
class LanguageModel(GeneratedTask):
    """Predict the next token of a random Markov source.

    The distribution of a token depends on the token before it and on the class of the one
    before that. Frequencies of tokens are as uneven as those of words (Zipf, 1949). The
    loss is the mean cross-entropy in nats.

    Attributes:
        network: ``"residual"``, a perceptron with pre-norm residual blocks that predicts
            the token after a context; or ``"elman"`` (Elman, 1990), a tanh recurrence
            that predicts the next token at each position.
        vocabulary: number of different tokens.
        length: number of tokens in a context.
        embedding: size of a token's embedding.
        width: units of each block, or of the recurrence.
        depth: residual blocks; an Elman network has one layer.
        init_spread: standard deviation of the log gain of a run's initial weights.
    """

    network: str = "residual"
    vocabulary: int = 32
    length: int = 6
    embedding: int = 12
    width: int = 32
    depth: int = 1
    init_spread: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        known("network", self.network, NETWORKS)
        set_sizes(self, "vocabulary", "length", "embedding", "width", "depth")

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        v, e, w = self.vocabulary, self.embedding, self.width
        if self.network == "elman":
            return ((v, e), (w, e), (w, w), (w,), (v, w), (v,))
        block = ((w,), (w,), (2 * w, w), (2 * w,), (w, 2 * w), (w,))
        first = ((v, e), (w, self.length * e), (w,))
        return (*first, *block * self.depth, (w,), (w,), (v, w), (v,))

    @property
    def roles(self) -> tuple[str, ...]:
        return ("embeddings", *super().roles[1:])

    @property
    def work(self) -> int:
        places = self.length if self.network == "elman" else 1
        return super().work * places

    @property
    def example_numbers(self) -> int:
        return 4 * self.length  # a token is an int64

    @property
    def drawing_numbers(self) -> int:
        # Chances of a token after others, and of those after a token of each example.
        total = self.num_train + self.num_validation
        return 5 * CONTEXTS * self.vocabulary**2 + 2 * total * self.vocabulary

    def examples(self, rng: np.random.Generator) -> Examples:
        tokens = self._texts(rng)
        after = tokens[:, 1:] if self.network == "elman" else tokens[:, -1]
        return tokens[:, :-1], after

    def _texts(self, rng: np.random.Generator) -> np.ndarray:
        """Draw a source, and ``length + 1`` tokens of each example, int64."""
        v, total = self.vocabulary, self.num_train + self.num_validation
        zipf = -rng.uniform(0.5, 1.5) * np.log(1.0 + rng.permutation(v))
        sharpness = rng.uniform(0.5, 2.5)
        logits = sharpness * rng.standard_normal((CONTEXTS, v, v), np.float32) + zipf
        rates = np.exp(logits - logits.max(-1, keepdims=True)).cumsum(-1)
        rates /= rates[..., -1:]
        classes = rng.integers(CONTEXTS, size=v)
        tokens = np.empty((total, self.length + 1), np.int64)
        before = rng.integers(v, size=total)
        token = rng.integers(v, size=total)
        chances = rng.random((self.length + 2, total, 1), np.float32)
        for t, chance in enumerate(chances):
            drawn = (rates[classes[before], token] < chance).sum(-1)
            before, token = token, np.minimum(drawn, v - 1)
            if t > 0:  # the first one depends on tokens that the source did not draw
                tokens[:, t - 1] = token
        return tokens

    def init(self, generators: Sequence[np.random.Generator]) -> Tensor:
        return torch.from_numpy(np.stack([self._init(g) for g in generators]))

    def _init(self, rng: np.random.Generator) -> np.ndarray:
        # As in torch: normal embeddings, other weights uniform, scaled by the fan-in.
        gain = np.exp(self.init_spread * rng.standard_normal())
        parts: list[np.ndarray] = []
        for i, shape in enumerate(self.shapes):
            if i == 0:
                parts.append(rng.standard_normal(math.prod(shape)))
            elif len(shape) == 2:
                spread = gain / math.sqrt(shape[1])
                parts.append(rng.uniform(-spread, spread, math.prod(shape)))
            else:
                parts.append(np.full(shape, 1.0 if i in self._scales else 0.0))
        return np.concatenate(parts).astype(np.float32)

    @property
    def _scales(self) -> tuple[int, ...]:
        """Indices of the parameters that are scales of a layer norm."""
        if self.network == "elman":
            return ()
        return tuple(3 + 6 * block for block in range(self.depth + 1))

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        rest = iter(params)
        embedded = layers.embed(next(rest), inputs)
        outputs = (self._elman if self.network == "elman" else self._residual)(
            rest, embedded
        )
        return layers.cross_entropy(outputs, targets.flatten(1))

    def _elman(self, rest: Iterator[Tensor], embedded: Tensor) -> Tensor:
        """Compute logits ``[B, n * T, V]``, positions innermost as in the targets."""
        from_input, from_state, bias = next(rest), next(rest), next(rest)
        count, length = embedded.shape[1:3]
        driven = torch.baddbmm(bias.unsqueeze(1), embedded.flatten(1, 2), from_input.mT)
        steps = driven.unflatten(1, (count, length)).unbind(2)
        states = layers.elman(steps, from_state)
        hidden = torch.stack(states, 2).flatten(1, 2)
        return layers.linear(rest, hidden)

    def _residual(self, rest: Iterator[Tensor], embedded: Tensor) -> Tensor:
        """Compute logits ``[B, n, V]``."""
        hidden = layers.linear(rest, embedded.flatten(2))
        for _ in range(self.depth):
            inner = F.gelu(layers.linear(rest, layers.norm(rest, hidden)))
            hidden = hidden + layers.linear(rest, inner)
        return layers.linear(rest, layers.norm(rest, hidden))


@dataclass(frozen=True)
class TopicLanguageModel(LanguageModel):
    """Predict the next token of a source with hidden topics.

    Tokens are drawn from the distribution of the current topic. At each token the topic
    stays, with a probability between 0.8 and 0.98, or is drawn again. The order of tokens
    within a topic carries no information. Otherwise as :class:`LanguageModel`.
    """

    def _texts(self, rng: np.random.Generator) -> np.ndarray:
        v, total = self.vocabulary, self.num_train + self.num_validation
        zipf = -rng.uniform(0.5, 1.5) * np.log(1.0 + rng.permutation(v))
        logits = rng.uniform(1.0, 3.0) * rng.standard_normal((TOPICS, v)) + zipf
        rates = np.exp(logits - logits.max(-1, keepdims=True)).cumsum(-1)
        rates /= rates[..., -1:]
        stay = rng.uniform(0.8, 0.98)
        tokens = np.empty((total, self.length + 1), np.int64)
        topic = rng.integers(TOPICS, size=total)
        for t in range(self.length + 1):
            stays = rng.random(total) < stay
            topic = np.where(stays, topic, rng.integers(TOPICS, size=total))
            drawn = (rates[topic] < rng.random((total, 1))).sum(-1)
            tokens[:, t] = np.minimum(drawn, v - 1)
        return tokens


def sample_language(rng: np.random.Generator, split: str) -> LanguageModel:
    """Draw a language model; the splits have different vocabularies.

    The texts of ``"ood"`` have topics; its contexts are longer, its batches of other sizes,
    its residual networks deeper.
    """
    if split == "ood":
        return _sample_topics(rng)
    network = str(rng.choice(NETWORKS))
    elman = network == "elman"
    return LanguageModel(
        network=network,
        vocabulary=int(rng.choice({"train": (16, 32, 64, 96), "test": (24, 48)}[split])),
        length=int(rng.choice((8, 16, 24) if elman else (3, 5, 8, 12))),
        embedding=int(rng.choice((8, 16))),
        width=int(rng.choice((16, 32, 48, 64))),
        depth=int(rng.integers(1, 4)),
        batch_size=int(rng.choice((4, 8, 16) if elman else (8, 16, 32, 64))),
        **data_size(rng, (1024, 4096), LARGE_DATA_SIZE // 2 if elman else LARGE_DATA_SIZE),
    )


def _sample_topics(rng: np.random.Generator) -> TopicLanguageModel:
    network = str(rng.choice(NETWORKS))
    elman = network == "elman"
    return TopicLanguageModel(
        network=network,
        vocabulary=int(rng.choice((40, 80))),
        length=int(rng.choice((32, 40) if elman else (18, 20))),
        embedding=int(rng.choice((8, 16))),
        width=int(rng.choice((24, 40))),
        depth=int(rng.choice((4, 5))),
        batch_size=int(rng.choice((6, 12) if elman else (24, 48))),
        **data_size(rng, (1024, 4096), LARGE_DATA_SIZE // 2 if elman else LARGE_DATA_SIZE),
    )
