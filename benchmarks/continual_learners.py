"""The learners of ``continual.py``: from scratch, and after learning beforehand."""

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

#: What is tuned, by name.
Config = dict[str, Any]

#: A learner of a number, which its network and its draws depend on, and a configuration.
Make = Callable[..., OnlineLearner]

#: Configurations that each learner is tuned over.
CONFIGURATIONS = 12


@dataclass(frozen=True)
class Setting:
    """A kind of stream, and what goes with it.

    Attributes:
        stream: for tests.
        sizes: of the network's layers.
        rates: learning rates of descent and replay.
        look_ahead: of La-MAML, first ones and those of the rates.
        adapts: parameters that learn online after learning beforehand.
        inner_lr: of OML's inner loop.
        memory: examples that can be kept, a tenth of the stream.
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
        """Source of the streams that are learned or searched on."""
        if isinstance(self.stream, DigitStream):
            return replace(self.stream, split="train")
        return self.stream

    def network(self, seed: int) -> nn.Module:
        """A network with the initial parameters of a seed."""
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

#: Permuted tasks share no representation, so all of the network learns there.
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
    """Configurations of all combinations."""
    return [
        dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())
    ]


class Contender(NamedTuple):
    """Makes a learner, of the configurations that it is tuned over."""

    make: Make
    grid: list[Config]


def from_scratch(name: str, setting: Setting) -> Contender:
    """A learner that has learned nothing before its stream."""
    kind = {"online SGD": OnlineSGD, "replay": Replay, "La-MAML": LaMAML}[name]
    if kind is LaMAML:
        first, second = setting.look_ahead
        grid = product(lr=first, rate_lr=second, glances=(2, 5))
    else:
        grid = product(lr=setting.rates, glances=(1, 2, 5))
    fixed = {} if kind is OnlineSGD else {"memory": setting.memory}

    def make(number: int, **config: Any) -> OnlineLearner:
        network = setting.network(number)
        return kind(network, setting.stream.loss, seed=number, **fixed, **config)

    return Contender(make, grid)


def beforehand(name: str, setting: Setting, iterations: int, seed: int) -> Contender:
    """A learner after OML's outer steps, or pretrained on as many streams."""
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
    """Make a learner that OML has meta-trained."""
    learner = OML(
        setting.network(seed), Streams(setting.train), adapts=setting.adapts,
        inner_lr=setting.inner_lr, meta_lr=2e-3, grad_clip=10.0, seed=seed,
    )  # fmt: skip
    return learner.learn(iterations, lambda learner, loss: done() or True).online


def pretrained(
    setting: Setting, iterations: int, seed: int, done: Callable[[], object]
) -> Callable[[], OnlineSGD]:
    """Make a learner pretrained by Adam on the shuffled examples of OML's streams.

    Digits have their own labels there: there is nothing to learn of random ones.
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


def drawn(stream: DigitStream | SineStream, count: int, *seeds: int) -> list[Stream]:
    """Streams of these seeds."""
    return [stream.sample(np.random.default_rng([*seeds, i])) for i in range(count)]


def followed(
    contender: Contender, config: Config, streams: Sequence[Stream], first: int
) -> list[Retention]:
    """Follow the rest of each stream, with learners numbered from ``first`` on."""
    return [
        contender.make(first + i, **config).follow(stream)
        for i, stream in enumerate(streams)
    ]


def search(contender: Contender, streams: Sequence[Stream], first: int) -> Config:
    """The configuration that has the best average on these streams."""
    scores = []
    with progress_bar(len(contender.grid), "search") as advance:
        for config in contender.grid:
            with warnings.catch_warnings():  # a search tries what diverges, too
                warnings.filterwarnings("ignore", ".* not finite after", RuntimeWarning)
                found = followed(contender, config, streams, first)
            scores.append(np.mean([each.average for each in found]))
            advance()
    return contender.grid[int(np.nan_to_num(scores, nan=-np.inf).argmax())]
