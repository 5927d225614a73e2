"""Losses and gradients that are not finite do not reach the weights, whatever acts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from agents import SHIPPED, LearnedOptimizer
from tests.helpers.policies import random_policy

STEPS = 24
ACTIONS = {
    "continuous": {"kind": "continuous"},
    "discrete": {"kind": "discrete"},
    "rule": {"kind": "rule"},
    "hyperparameters": {"kind": "hyperparameters"},
    "roles": {"kind": "roles"},
    "layerwise": {"kind": "layerwise"},
}


def model_of():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def train(policy, kind, value):
    """Train for some steps, of which three are broken; return the losses."""
    model, losses = model_of(), []
    optimizer = LearnedOptimizer.for_model(model, policy, total_steps=STEPS, lr=1e-3)
    inputs = torch.randn(16, 3, generator=torch.Generator().manual_seed(1))
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        if is_broken := step in (0, 7, 8):
            if "gradient" in kind:
                model[0].weight.grad[0, 0] = value
            if "loss" in kind:
                loss = loss * value
        optimizer.step(loss=loss)
        if not is_broken:
            losses.append(loss.item())
        assert all(p.isfinite().all() for p in model.parameters()), step
    return losses


@pytest.mark.parametrize("policy", [*SHIPPED, *(f"of kind {kind}" for kind in ACTIONS)])
@pytest.mark.parametrize("kind", ["loss", "gradient", "loss and gradient"])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.filterwarnings("ignore:.*steps:UserWarning")
def test_broken_steps_leave_the_weights_finite(policy, kind, value):
    if policy.startswith("of kind "):
        action = ACTIONS[policy.removeprefix("of kind ")]
        rule = "switching" if action["kind"] == "rule" else "adam"
        policy = random_policy(rule, action)
    losses = train(policy, kind, value)
    assert all(map(math.isfinite, losses))
