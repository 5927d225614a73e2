"""Families, modules and streams for tests of the meta-learners, and a way to make each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from agents import meta

# Families.


class DoubleSinusoids(meta.Sinusoids):
    """Sine waves in double precision."""

    def sample(self, count, rng):
        return map_tensors(torch.Tensor.double)(super().sample(count, rng))


class Blobs(meta.Family):
    """Classification of points ``[n, 3]`` around random centres, ``ways`` of them."""

    loss = "cross_entropy"

    def __init__(self, ways=4, shots=2):
        self.ways, self.shots = ways, shots

    def sample(self, count, rng):
        centres = rng.normal(size=(count, self.ways, 1, 3))

        def examples(per_class):
            points = centres + 0.3 * rng.normal(size=(count, self.ways, per_class, 3))
            labels = np.broadcast_to(np.arange(self.ways)[:, None], points.shape[:-1])
            parts = points.astype(np.float32), labels
            return meta.Examples(*(torch.from_numpy(p.copy()).flatten(1, 2) for p in parts))

        return meta.Episodes(examples(self.shots), examples(5))


def map_tensors(function):
    """Return a function that applies ``function`` to all tensors of episodes."""
    return lambda episodes: meta.Episodes(
        *(meta.Examples(*map(function, part)) for part in episodes)
    )


def map_targets(function):
    """Return a function that applies ``function`` to the targets of episodes."""
    return lambda episodes: meta.Episodes(
        *(meta.Examples(x, function(y)) for x, y in episodes)
    )


def numbered_classes(classes=12, per_class=6, side=2):
    """Return pictures whose value is their number, ``per_class * class + drawing``."""
    numbers = np.arange(classes * per_class, dtype=np.float32)
    numbers = numbers.reshape(classes, per_class, 1, 1)
    groups = tuple(f"group {i % 3}" for i in range(classes))
    pictures = np.broadcast_to(numbers, (classes, per_class, side, side)).copy()
    return meta.Classes(pictures, groups)


def sample_tasks(family, count=3, seed=0):
    """Return episodes of ``count`` tasks."""
    return family.sample(count, np.random.default_rng(seed))


def sample_stream(family, seed=0):
    """Return one stream."""
    return family.sample(np.random.default_rng(seed))


# Modules, always with equal weights for a seed.


def _seeded(make):
    def seeded(seed=0, **arguments):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return make(**arguments)

    return seeded


@_seeded
def perceptron(width=8):
    """Return a network for sine waves."""
    return nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))


@_seeded
def embedding():
    """Return an embedding of :class:`Blobs`, which is a classifier of up to 8 classes."""
    return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 8))


@_seeded
def process():
    """Return the network of a neural process."""
    return meta.ProcessNetwork(width=16)


@_seeded
def stream_network(inputs=64, outputs=10):
    """Return a network for streams, of digits by default."""
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, outputs))


# Learners.

#: Gradient-based learners of few-shot tasks, by name.
GRADIENT_BASED = {
    name: learner
    for name, learner in meta.LEARNERS.items()
    if issubclass(learner, meta.MetaLearner) and learner is not meta.OML
}
each_gradient_based = pytest.mark.parametrize(
    "learner", GRADIENT_BASED.values(), ids=GRADIENT_BASED
)

#: Small streams of sine waves, as tasks.
STREAMS = meta.Streams(meta.SineStream(tasks=3, examples=8, tests=5))


def parts_of(learner):
    """Return what a learner's class is tested with.

    Returns:
        Function from a seed to a module, family, and required arguments. All gradient-based
        learners get sine waves, unless they have a line here.
    """
    if issubclass(learner, meta.OML):
        return (
            lambda seed=0: stream_network(seed, inputs=4, outputs=1),
            STREAMS,
            {"adapts": "2"},
        )
    if issubclass(learner, meta.NeuralProcess):
        return process, meta.Sinusoids(), {}
    if issubclass(learner, meta.AmortizedLearner):
        return embedding, Blobs(), {}
    return perceptron, meta.Sinusoids(), {}


def make_learner(learner, seed=0, **arguments):
    """Return a learner of a class, with the module of a seed."""
    module, family, required = parts_of(learner)
    return learner(module(seed), family, **required, **arguments)
