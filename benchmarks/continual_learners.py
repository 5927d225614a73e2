"""Learners of ``continual.py``, from scratch or trained beforehand, and their tuning."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from agents.meta.continual.la_maml import LaMAML
from agents.meta.continual.oml import OML, Streams
from agents.meta.continual.online import OnlineLearner, OnlineSGD, Replay, Retention
from agents.meta.continual.streams import DigitStream, SineStream, Stream
from agents.meta.maml import mask_of
from agents.meta.networks import perceptron
from agents.utils.progress import progress_bar
from optenv.tasks.stacked import named_loss

#: Configuration: values of the tuned arguments, by name.
Config = dict[str, Any]

#: Function from the seed of the network and of random choices, and a configuration, to a
#: learner.
Make = Callable[..., OnlineLearner]

#: Number of configurations over which each learner is tuned.
CONFIGURATIONS = 12


@dataclass(frozen=True)
class Setting:
    """Kind of stream, with its network and the grids of the search.

    Attributes:
        stream: family of the streams for tests.
        sizes: sizes of the network's layers.
        rates: learning rates of online SGD and replay.
        look_ahead: of La-MAML, initial learning rates, and learning rates of the rates.
        adapts: parameters that learn online after a training beforehand.
        inner_lr: inner learning rate of OML.
        memory: number of stored examples, a tenth of the stream.
    """

    stream: DigitStream | SineStream
    sizes: tuple[int, ...]
    rates: tuple[float, ...]
    look_ahead: tuple[tuple[float, ...], tuple[float, ...]]
    adapts: tuple[str, ...]
    inner_lr: float
    memory: int

    @property
    def train(self) -> DigitStream | SineStream:
        """Family of the streams for learning and tuning."""
        if isinstance(self.stream, DigitStream):
            return replace(self.stream, split="train")
        return self.stream

    def network(self, seed: int) -> nn.Module:
        """Make a network with the initial parameters of a seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return perceptron(*self.sizes)


SIZES: Config = {"tasks": 5, "examples": 100, "relabelled": True}
DIGITS: Config = {
    "sizes": (64, 100, 10),
    "rates": (0.1, 0.3, 0.5, 0.8),
    "look_ahead": ((0.1, 0.3, 0.5), (2.0, 8.0)),
    "inner_lr": 0.1,
    "memory": 50,
}

#: Permuted tasks share no representation, so that the whole network learns online.
SETTINGS = {
    "rotated": Setting(DigitStream("rotated", **SIZES), adapts=("3.",), **DIGITS),
    "permuted": Setting(DigitStream("permuted", **SIZES), adapts=("1.", "3."), **DIGITS),
    "sines": Setting(
        SineStream(), (11, 64, 64, 1), rates=(0.003, 0.01, 0.03, 0.06),
        look_ahead=((0.01, 0.03, 0.06), (0.01, 0.1)),
        adapts=("3.", "5."), inner_lr=0.02, memory=40,
    ),
}  # fmt: skip


def product(**values: Sequence[Any]) -> list[Config]:
    """Return the configurations of all combinations of values."""
    return [
        dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())
    ]


class Contender(NamedTuple):
    """Function that makes a learner, and the configurations over which it is tuned."""

    make: Make
    grid: list[Config]


def from_scratch(name: str, setting: Setting) -> Contender:
    """Return a learner without a training beforehand."""
    cls = {"online SGD": OnlineSGD, "replay": Replay, "La-MAML": LaMAML}[name]
    if cls is LaMAML:
        rates, rate_rates = setting.look_ahead
        grid = product(lr=rates, rate_lr=rate_rates, glances=(2, 5))
    else:
        grid = product(lr=setting.rates, glances=(1, 2, 5))
    fixed = {} if cls is OnlineSGD else {"memory": setting.memory}

    def make(number: int, **config: Any) -> OnlineLearner:
        network = setting.network(number)
        return cls(network, setting.stream.loss, seed=number, **fixed, **config)

    return Contender(make, grid)


def beforehand(name: str, setting: Setting, iterations: int, seed: int) -> Contender:
    """Return a learner trained by OML, or pretrained on as many streams."""
    train = {"OML": meta_trained, "pretrained": pretrained}[name]
    with progress_bar(iterations, name, unit="iteration") as advance:
        start = train(setting, iterations, seed, advance)

    def make(number: int, lr: float) -> OnlineLearner:
        learner = start()
        learner.lr = lr
        return learner

    rates = np.geomspace(1e-3, 0.5, CONFIGURATIONS - 1)
    return Contender(make, product(lr=(0.0, *(float(rate) for rate in rates))))


def meta_trained(
    setting: Setting, iterations: int, seed: int, done: Callable[[], object]
) -> Callable[[], OnlineSGD]:
    """Meta-train by OML, and return a function that makes learners of one stream.

    Args:
        setting: kind of stream.
        iterations: number of outer steps.
        seed: seed of the network and of the streams.
        done: called after each outer step.
    """
    learner = OML(
        setting.network(seed), Streams(setting.train), adapts=setting.adapts,
        inner_lr=setting.inner_lr, meta_lr=2e-3, grad_clip=10.0, seed=seed,
    )  # fmt: skip
    return learner.learn(iterations, lambda learner, loss: done() or True).online


def pretrained(
    setting: Setting, iterations: int, seed: int, done: Callable[[], object]
) -> Callable[[], OnlineSGD]:
    """Pretrain by Adam, and return a function that makes learners of one stream.

    The examples are those of OML's streams in random order. Digits have their own labels
    here, for random ones cannot be learned beforehand.

    Args:
        setting: kind of stream.
        iterations: number of streams.
        seed: seed of the network and of the streams.
        done: called after each stream.
    """
    stream = setting.train
    if isinstance(stream, DigitStream):
        stream = replace(stream, relabelled=False)
    network, family = setting.network(seed), Streams(stream)
    loss, rng = named_loss(family.loss), np.random.default_rng(seed)
    optimizer = torch.optim.Adam(network.parameters())
    for _ in range(iterations):
        support, query = family.sample(1, rng)
        inputs, targets = (torch.cat(p, dim=1)[0] for p in zip(support, query, strict=True))
        for rows in torch.from_numpy(rng.permutation(len(inputs))).split(100):
            optimizer.zero_grad()
            loss(network(inputs[rows]), targets[rows]).backward()
            optimizer.step()
        done()
    mask = mask_of(network, setting.adapts)
    return lambda: OnlineSGD(network, family.loss, lr=0.0, mask=mask)


def sample_streams(
    stream: DigitStream | SineStream, count: int, *seeds: int
) -> list[Stream]:
    """Sample ``count`` streams of given seeds."""
    return [stream.sample(np.random.default_rng([*seeds, i])) for i in range(count)]


def follow_streams(
    contender: Contender, config: Config, streams: Sequence[Stream], first: int
) -> list[Retention]:
    """Return the scores of a new learner on each stream, with seeds from ``first`` on."""
    return [
        contender.make(first + i, **config).follow(stream)
        for i, stream in enumerate(streams)
    ]


def search(contender: Contender, streams: Sequence[Stream], first: int) -> Config:
    """Return the configuration with the best average score on the streams."""
    scores = []
    with progress_bar(len(contender.grid), "search") as advance:
        for config in contender.grid:
            # Some configurations diverge, which a search may.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".* not finite after", RuntimeWarning)
                retentions = follow_streams(contender, config, streams, first)
            scores.append(np.mean([retention.average for retention in retentions]))
            advance()
    return contender.grid[int(np.nan_to_num(scores, nan=-np.inf).argmax())]
