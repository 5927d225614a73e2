"""An optimizer over one flat float32 vector, as DeepSpeed's ZeRO-1 and -2 have it.

DeepSpeed itself is not run: these are its calls, imitated in one process.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from agents import LearnedOptimizer
from tests.helpers.loops import make_model, weights

STEPS = 60


class Flat:
    """A model whose optimizer has a flat copy of the parameters in its only group."""

    def __init__(self, policy, **arguments):
        self.model = make_model()
        self.optimizer = LearnedOptimizer(
            self.model.parameters(), policy, total_steps=STEPS + 1, **arguments
        )
        self.flat = nn.Parameter(weights(self.model))
        self.optimizer.param_groups[0]["params"] = [self.flat]
        self.flat.grad = torch.zeros_like(self.flat)
        self.optimizer.step()  # to allocate the state
        self.flat.grad = None

    def train(self, batches):
        for inputs in batches:
            self.model.zero_grad()
            targets = inputs[:, :3].argmax(1)
            loss = nn.functional.cross_entropy(self.model(inputs), targets)
            loss.backward()
            gradients = [p.grad.flatten() for p in self.model.parameters()]
            self.flat.grad = torch.cat(gradients)
            self.optimizer.step()
            self.flat.grad = None
            sizes = [p.numel() for p in self.model.parameters()]
            parts = self.flat.detach().split(sizes)
            with torch.no_grad():
                for p, part in zip(self.model.parameters(), parts, strict=True):
                    p.copy_(part.view_as(p))
        return loss.item()


def drawn(count=STEPS, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(32, 6, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("policy", ["adam", "momentum"])
@pytest.mark.parametrize("partitioned", [False, True])
def test_a_flat_vector_is_trained_without_losses(policy, partitioned):
    run = Flat(policy, partitioned=partitioned)
    assert torch.equal(run.flat.detach(), weights(make_model()))  # the first step is none
    first = run.train(drawn(1))
    assert run.train(drawn(STEPS - 1)) < 0.7 * first
    assert run.optimizer.log_dict()["step"] == STEPS + 1
    seen = run.optimizer.explain()
    assert len(seen) > 10 and not any(each["has_loss"] for each in seen)


def test_a_run_on_a_flat_vector_resumes_bit_for_bit():
    run, batches = Flat("adam"), drawn()
    run.train(batches[:30])
    saved = copy.deepcopy((run.model.state_dict(), run.optimizer.state_dict()))
    other = Flat("adam")
    other.model.load_state_dict(saved[0])
    other.optimizer.load_state_dict(saved[1])
    with torch.no_grad():
        other.flat.copy_(weights(other.model))
    for each in (run, other):
        each.train(batches[30:])
    assert torch.equal(weights(run.model), weights(other.model))
