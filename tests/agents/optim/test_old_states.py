"""State dictionaries saved by version 0.1 load, and their runs go on as they did then.

``data/states_0_1.pt.xz`` has, for every policy shipped with 0.1 and for a ``LearnedLR``,
the states after 33 of 60 steps of the loop below, and the weights at its end. The rule
``orthogonal-adam`` approximates the polar factor in another way since: the weights at the
end are those of this version for policies of that rule.
"""

from __future__ import annotations

import io
import lzma
from pathlib import Path

import pytest
import torch
from torch import nn

from agents import SHIPPED, LearnedLR, LearnedOptimizer
from agents.policies import EARLIER

FILE = Path(__file__).parent / "data" / "states_0_1.pt.xz"
SAVED, STEPS = 33, 60


@pytest.fixture(scope="module")
def saved():
    with lzma.open(FILE) as file:
        return torch.load(io.BytesIO(file.read()), weights_only=True)


def make_model():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def backward(model, optimizer, i):
    generator = torch.Generator().manual_seed(i)
    inputs = torch.randn(8, 4, generator=generator)
    targets = torch.randint(3, (8,), generator=generator)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(inputs), targets)
    loss.backward()
    return loss


def name_now(policy):
    """Return the name that a policy of version 0.1 has in this version."""
    earlier = f"{policy}@0.1"
    return earlier if earlier in EARLIER else policy


def make_optimizer(model, policy):
    total = None if policy.startswith("anytime") else STEPS
    return LearnedOptimizer(model.parameters(), policy, total_steps=total)


@pytest.mark.parametrize("policy", sorted(SHIPPED))
def test_a_state_of_version_0_1_loads_and_goes_on(saved, policy):
    states, model = saved[policy], make_model()
    optimizer = make_optimizer(model, name_now(policy))
    model.load_state_dict(states["model"])
    optimizer.load_state_dict(states["optimizer"])
    for i in range(SAVED, STEPS):
        optimizer.step(loss=backward(model, optimizer, i))
    torch.testing.assert_close(model.state_dict(), states["end"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("earlier", sorted(EARLIER))
def test_a_state_of_a_replaced_policy_is_refused_with_the_name_it_has_now(saved, earlier):
    name, _ = earlier.split("@")
    optimizer = make_optimizer(make_model(), name)
    with pytest.raises(ValueError, match=f"give policy='{earlier}'"):
        optimizer.load_state_dict(saved[name]["optimizer"])


def test_the_state_of_a_scheduler_of_version_0_1_loads_and_goes_on(saved):
    states, model = saved["LearnedLR"], make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = LearnedLR(optimizer, STEPS, policy=name_now("momentum"))
    model.load_state_dict(states["model"])
    optimizer.load_state_dict(states["optimizer"])
    scheduler.load_state_dict(states["scheduler"])
    for i in range(SAVED, STEPS):
        loss = backward(model, optimizer, i)
        optimizer.step()
        scheduler.step(loss)
    torch.testing.assert_close(model.state_dict(), states["end"], rtol=1e-3, atol=1e-4)
