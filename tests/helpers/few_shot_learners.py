"""Learners of few-shot tasks, and a network for them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from agents import meta


class DoubleSinusoids(meta.Sinusoids):
    """Waves in double precision."""

    def sample(self, count, rng):
        drawn = super().sample(count, rng)
        return meta.Episodes(*(meta.Examples(*(p.double() for p in x)) for x in drawn))


LEARNERS = {
    "MAML": meta.MAML,
    "FOMAML": meta.FOMAML,
    "ANIL": meta.ANIL,
    "MetaSGD": meta.MetaSGD,
    "LSLR": meta.LSLR,
    "HypergradientLR": meta.HypergradientLR,
    "MetaLSTM": meta.MetaLSTM,
    "LearnedRule": meta.LearnedRule,
    "Reptile": meta.Reptile,
}
each = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)


def perceptron(seed=0, width=8):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))
