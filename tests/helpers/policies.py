"""Policies with random weights, for tests that do not need a trained one."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

import optenv
from agents import SHIPPED, LearnedOptimizer, Policy
from optenv import telemetry
from tests.helpers.markers import slow

#: Shipped policies that users get without naming one, or are advised to take.
USUAL = ("default", "anytime", "adam")

#: All shipped policies as parameters of a test; the less usual ones are slow tests.
EACH_SHIPPED = [slow(name, if_=name not in USUAL) for name in SHIPPED]


def random_policy(
    rule: str = "adam",
    action: dict[str, Any] | None = None,
    horizon: int = 20,
    **description: Any,
) -> Policy:
    """Return a policy with fixed random weights that first raises, then lowers, the rate.

    Random weights make the action depend on every observation. The first hidden unit
    follows the run's progress and moves the learning rate over a wide range.

    Args:
        rule: name or specification of the update rule.
        action: settings of the action; by default continuous, of at most 3 nats.
        horizon: control steps of a run.
        **description: further entries of the policy's description.
    """
    spec = optenv.actions.make({"kind": "continuous", "bound": 3.0, **(action or {})})
    spec = spec.for_rule(optenv.rules.get(rule))
    outputs, memory = spec.outputs, description.get("memory", 0)
    names = description.get("features", list(telemetry.FEATURES))
    inputs = len(names) + spec.observed
    inputs += memory
    inputs += outputs + 2 if description.get("trials", bool(memory)) else 0
    policy = Policy(
        {
            "feature_version": telemetry.FEATURE_VERSION,
            "features": names,
            "total_updates": [10, 10_000],
            "action": spec.to_dict(),
            "rule": rule,
            "horizon": horizon,
            "spacing": 1.7,
            "layers": [inputs, 16, outputs],
            "activation": "tanh",
            **description,
        }
    )
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        policy.networks[0][0].weight[0] = 0.0
        policy.networks[0][0].weight[0, names.index("progress")] = 3.0
        policy.networks[0][2].weight[:, 0] = 1.5 * torch.linspace(-1, 1, outputs).neg()
        if outputs == 1:
            policy.networks[0][2].weight[0, 0] = -1.5
    return policy


def switching_policy() -> Policy:
    """Return a random policy that chooses update rules and has a memory."""
    return random_policy("switching", {"kind": "rule"}, memory=3)


def train_briefly(policy: Policy, steps: int = 4) -> None:
    """Train a small model, and assert that it stays finite."""
    generator = torch.Generator().manual_seed(0)
    p = nn.Parameter(torch.randn(3, 4, generator=generator))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of lengths beyond training
        total = None if policy.anytime else 6
        optimizer = LearnedOptimizer([p], policy, total_steps=total)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (p - 1.0).square().mean()
            loss.backward()
            optimizer.step(loss=loss)
    assert p.isfinite().all(), policy.description
