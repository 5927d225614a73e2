"""Shipped policies: small, described, and usable by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from agents import SHIPPED, LearnedOptimizer, load_policy
from agents.rl.presets import PRESETS
from optenv import rules
from optenv.telemetry import FEATURE_VERSION

LIMIT = 100_000

#: Policies that do badly unless they are given losses.
NEED_LOSSES = ("rl2",)


def fit(optimizer, module, steps=200, with_loss=True):
    """Return the first and the last loss of a small regression."""
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        inputs = torch.randn(32, 4, generator=generator)
        optimizer.zero_grad()
        loss = (module(inputs) - inputs.sum(1, keepdim=True).sin()).square().mean()
        loss.backward()
        optimizer.step(loss=loss if with_loss else None)
        losses.append(loss.item())
    return losses[0], losses[-1]


def small_module():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))


def test_all_documented_policies_are_shipped():
    promised = {"default", "gradient-only", "anytime", "adam", "momentum", "dqn", "rl2"}
    assert promised | {"unrolled-lr", "unrolled-rule"} <= set(SHIPPED)
    assert load_policy("rl2").memory
    assert load_policy("anytime").anytime and not load_policy("gradient-only").sees_loss


@pytest.mark.parametrize("name", list(SHIPPED))
def test_a_policy_is_small_and_names_the_command_that_made_it(name):
    files = [SHIPPED[name].with_suffix(end) for end in (".safetensors", ".json")]
    assert sum(file.stat().st_size for file in files) <= LIMIT
    described = load_policy(name).description
    assert described["command"].startswith("python train_agent.py ")
    seeds = described.get("seeds") or [described["seed"]]
    assert all(isinstance(seed, int) for seed in seeds)
    assert described["feature_version"] == FEATURE_VERSION
    preset = described["command"].split()[3]
    assert preset == name, "made by the preset of its name"
    rule = rules.get(described["rule"])
    if rule.name == "network":  # whose weights are learned
        rule = rules.get(rule.name)
    assert rule.to_spec() == rules.get(PRESETS[name]["env"]["rule"]).to_spec()
    assert described["timesteps"] >= PRESETS[name]["timesteps"]


@pytest.mark.parametrize(
    ("name", "with_loss"),
    [(n, loss) for n in SHIPPED for loss in (True, False) if loss or n not in NEED_LOSSES],
)
def test_a_policy_trains_at_its_default_rate_with_and_without_losses(name, with_loss):
    module = small_module()
    optimizer = LearnedOptimizer(module.parameters(), name, total_steps=200)
    first, last = fit(optimizer, module, with_loss=with_loss)
    assert last < 0.5 * first


def test_the_default_policy_depends_on_total_steps():
    p = nn.Parameter(torch.ones(2))
    assert not LearnedOptimizer([p], total_steps=60).policy.anytime
    with pytest.warns(UserWarning, match="using policy 'anytime'"):
        assert LearnedOptimizer([p]).policy.anytime
    default, named = LearnedOptimizer([p], total_steps=60), load_policy("default")
    assert default.policy.fingerprint() == named.fingerprint()
