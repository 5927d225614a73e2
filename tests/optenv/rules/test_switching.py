"""Switching between update rules, all of which stay warm."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

import optenv
from agents import LearnedLR, LearnedOptimizer
from agents.evaluation.arms.select import load_policy_arms
from agents.policy.files import save_policy
from optenv import actions, rules
from optenv.rules import switching
from tests.helpers.policies import random_policy
from tests.helpers.small_runs import MLP

RUNS, SHAPES = 4, ((3, 4), (5,))
SIZE = 17
LR = torch.full((RUNS, 1), 1e-2, dtype=torch.float64)

every_name = pytest.mark.parametrize("name", switching.NAMES)


def gradients(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scales = 10.0 ** torch.linspace(-4, 1, SIZE, dtype=torch.float64)
    drawn = torch.randn(count, RUNS, SIZE, generator=generator, dtype=torch.float64)
    return (drawn + 0.5) * scales


def chosen(name):
    return torch.full((RUNS,), switching.NAMES.index(name))


def switch(names, every):
    """Return parameters, a row for each update by the rule of that name, and the state."""
    rule = rules.get("switching").bind(SHAPES)
    params = torch.zeros(RUNS, SIZE, dtype=torch.float64)
    state, found = rule.init(params), [params]
    for i, (name, grad) in enumerate(zip(names, every, strict=True)):
        if i == 0 or name != names[i - 1]:
            state = switching.choose(state, chosen(name))
        params, state = rule.update(params, grad, state, LR)
        found.append(params)
    return torch.stack(found), state


@every_name
def test_between_choices_a_rule_equals_the_one_of_its_name(name):
    every = gradients(30)
    found, state = switch([name] * 30, every)
    rule = rules.get(name).bind(SHAPES)
    params = torch.zeros(RUNS, SIZE, dtype=torch.float64)
    own = rule.init(params)
    for i, grad in enumerate(every):
        params, own = rule.update(params, grad, own, LR * state.scale)
        torch.testing.assert_close(found[i + 1], params, rtol=1e-9, atol=1e-12)


@every_name
@pytest.mark.parametrize("before", ["sgd", "lion"])
def test_after_a_switch_a_rule_is_as_warm_as_if_always_in_force(name, before):
    every = gradients(30)
    found, state = switch([before] * 20 + [name] * 10, every)
    rule = rules.get(name).bind(SHAPES)
    params = torch.zeros(RUNS, SIZE, dtype=torch.float64)
    own, walk = rule.init(params), []
    for grad in every:
        after, own = rule.update(params, grad, own, LR * state.scale)
        walk.append(after - params)
        params = after
    torch.testing.assert_close(
        found.diff(dim=0)[20:], torch.stack(walk[20:]), rtol=1e-8, atol=1e-12
    )


@every_name
def test_a_switch_keeps_the_length_of_the_step(name):
    every = gradients(21)
    found, _ = switch(["adam"] * 20 + [name], every)
    stayed, _ = switch(["adam"] * 21, every)
    lengths = [steps.diff(dim=0)[-1].norm(dim=1) for steps in (found, stayed)]
    torch.testing.assert_close(*lengths, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", switching.LINEAR)
def test_a_tiny_gradient_at_a_choice_makes_no_giant_steps(name):
    every = gradients(22)
    every[20] *= 1e-6
    found, _ = switch(["adam"] * 20 + [name] * 2, every)
    lengths = found.diff(dim=0).norm(dim=2)
    usual = every.square().mean(0).sum(1).sqrt()
    assert (lengths[21] < 30 * lengths[19] * every[21].norm(dim=1) / usual).all()
    assert (lengths[20:] > 0).all()


def test_each_run_of_a_batch_has_its_own_rule():
    every, rule = gradients(5), rules.get("switching").bind(SHAPES)
    params = torch.zeros(RUNS, SIZE, dtype=torch.float64)
    names = ("sgd", "adam", "lion", "orthogonal-adam")
    index = torch.tensor([switching.NAMES.index(name) for name in names])
    state = switching.choose(rule.init(params), index)
    for grad in every:
        params, state = rule.update(params, grad, state, LR)
    for i, name in enumerate(names):
        alone, _ = switch([name] * 5, every)
        torch.testing.assert_close(params[i], alone[-1, i], rtol=1e-12, atol=1e-15)


def test_before_any_choice_adam_is_in_force():
    every = gradients(3)
    rule, adam = rules.get("switching").bind(SHAPES), rules.get("adam")
    ours = theirs = torch.zeros(RUNS, SIZE, dtype=torch.float64)
    state, own = rule.init(ours), adam.init(theirs)
    for grad in every:
        ours, state = rule.update(ours, grad, state, LR)
        theirs, own = adam.update(theirs, grad, own, LR)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


def test_an_action_chooses_a_rule_and_a_multiplier():
    action = actions.make(
        {"kind": "rule", "rules": ["lion", "sgd"], "multipliers": [0.1, 1]}
    )
    every = torch.arange(action.space().n)
    names = [switching.NAMES[i] for i in action.choose(every)]
    assert names == ["lion", "lion", "sgd", "sgd"]
    np.testing.assert_allclose(action.shift(every).exp(), [0.1, 1, 0.1, 1])
    assert action.show(every).tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert actions.make(action.to_dict()) == action


def test_the_rule_in_force_is_observed():
    env = gym.make("optenv/UpdateRule-v0", tasks=MLP, horizon=4)
    observation, _ = env.reset(seed=0)
    names, seen = switching.NAMES, len(optenv.telemetry.FEATURES)
    assert observation[seen:].tolist() == [0.0] * len(names)
    for i in (7, 0, 3):
        observation, *_ = env.step(3 * i)
        assert observation[seen:].tolist() == [float(j == i) for j in range(len(names))]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"rule": "sgd"}, "needs rule 'switching', got rule 'sgd' with action 'rule'"),
        ({"action": "discrete"}, "got rule 'switching' with action 'discrete'"),
        ({"action": {"kind": "rule", "rules": []}}, r"each once, got \(\)|got \[\]"),
        ({"action": {"kind": "rule", "rules": ["sgd", "sgd"]}}, "must be some of sgd"),
        ({"action": {"kind": "rule", "rules": ["soap"]}}, "must be some of sgd"),
    ],
)
def test_invalid_sets_of_rules_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        gym.make("optenv/UpdateRule-v0", **arguments)


def switching_policy(**described):
    policy = random_policy("switching", {"kind": "rule"}, **described)
    with torch.no_grad():
        policy.networks[0][2].weight *= 3.0
    return policy.requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64, torch.float32])
def test_an_optimizer_switches_rules_and_explains_it(dtype):
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 3, generator=generator).to(dtype))
    bias = nn.Parameter(torch.randn(3, generator=generator).to(dtype))
    groups = [{"params": [weight], "weight_decay": 0.1}, {"params": [bias], "lr": 1e-2}]
    optimizer = LearnedOptimizer(groups, switching_policy(), total_steps=40)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = (weight.abs().square().sum() + bias.abs().square().sum()).float()
        loss.backward()
        optimizer.step(loss=loss)
        losses.append(loss.item())
    told = {row["rule"] for row in optimizer.explain()}
    assert len(told) > 1 and told <= set(switching.NAMES)
    table = str(optimizer.explain())
    assert any(name in table for name in told)
    assert table.split("\n\n")[1].splitlines()[-1].startswith("rule: update rule")
    factors = optimizer.explain().plot().axes[2]
    drawn = {text.get_text() for text in factors.get_legend().get_texts()}
    assert drawn == told | {"policy", "schedule"}
    assert losses[-1] < losses[0]
    low, high = (group["effective_lr"] for group in optimizer.param_groups)
    assert high == pytest.approx(10 * low)


def test_a_group_with_learning_rate_zero_keeps_its_moments():
    one, two = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    groups = [{"params": [one], "lr": 0.0}, {"params": [two]}]
    optimizer = LearnedOptimizer(groups, switching_policy(), total_steps=10)
    for _ in range(10):
        optimizer.zero_grad()
        (one.square().sum() + two.square().sum()).backward()
        optimizer.step()
    assert one.tolist() == [1.0] * 3 and two.tolist() != [1.0] * 3
    assert optimizer.state[one]["step"] == 0


def test_schedulers_and_controls_refuse_to_switch_rules(tmp_path):
    policy = switching_policy()
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], 0.1)
    with pytest.raises(ValueError, match="which a scheduler cannot"):
        LearnedLR(optimizer, 10, policy)
    path = save_policy(policy, tmp_path / "mine")
    with pytest.raises(ValueError, match="give --no-controls"):
        load_policy_arms([path], [1e-3], controls=True)
    assert load_policy_arms([path], [1e-3])
