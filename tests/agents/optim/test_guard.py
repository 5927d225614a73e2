"""Gradient checks at every step or around decisions, and counters of bad values."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from agents import LearnedOptimizer
from agents.optim import guard as guards
from tests.helpers.loops import STEPS, batches, learned, make_model, train, weights
from tests.helpers.policies import random_policy

BAD = float("nan")


def step_with(optimizer, model, value):
    for p in model.parameters():
        p.grad = torch.full_like(p, value)
    optimizer.step(loss=1.0)


@pytest.mark.parametrize("policy", ["default", "adam", "momentum"])
def test_guards_do_not_change_an_ordinary_run(policy):
    ends = []
    for guard in guards.GUARDS:
        model = make_model()
        optimizer = LearnedOptimizer(
            model.parameters(), policy, total_steps=STEPS, guard=guard
        )
        train(model, optimizer, batches())
        assert optimizer.clipped == optimizer.skipped == 0
        ends.append(weights(model))
    assert torch.equal(*ends)


@pytest.mark.parametrize("guard", guards.GUARDS)
def test_the_probe_guard_takes_norms_only_around_decisions(guard, monkeypatch):
    taken, norm = [], guards.grad_norm

    def counted(*arguments):
        taken.append(len(rates))
        return norm(*arguments)

    monkeypatch.setattr(guards, "grad_norm", counted)
    model, rates = make_model(), []
    optimizer = learned(model, total_steps=1000, guard=guard)
    for _ in range(1000):
        step_with(optimizer, model, 1.0)
        rates.append(optimizer.param_groups[0]["effective_lr"])
    decisions = [int(row["step"]) for row in optimizer.explain()]
    assert len(decisions) == 20
    if guard == "step":
        assert taken == list(range(1000))
    else:
        watched = {step - ahead for step in decisions for ahead in (0, 1)} - {-1}
        assert taken == sorted(watched)


def test_the_probe_guard_skips_only_steps_that_it_checks():
    model = make_model()
    optimizer = learned(model, guard="probe")
    train(model, optimizer, list(batches())[:10])
    decisions = {1 + int(row["step"]) for row in optimizer.explain()}
    assert 10 not in decisions
    skipped = 0
    while skipped == 0:  # moves up to the next step that is looked at
        before = weights(model)
        kept = copy.deepcopy(optimizer.state_dict())
        step_with(optimizer, model, BAD)
        skipped = optimizer.skipped
        if not skipped:
            model.load_state_dict(make_model().state_dict())
            optimizer.load_state_dict(kept)
            step_with(optimizer, model, 1.0)
    assert torch.equal(weights(model), before)


def test_after_a_skipped_step_all_are_checked_until_one_is_finite():
    model = make_model()
    optimizer = learned(model, total_steps=1000, guard="probe")
    for _ in range(300):
        step_with(optimizer, model, 1.0)
    while optimizer.skipped == 0:
        kept = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        step_with(optimizer, model, BAD)
        if optimizer.skipped == 0:
            model.load_state_dict(kept[0])
            optimizer.load_state_dict(kept[1])
            step_with(optimizer, model, 1.0)
    for _ in range(3):
        step_with(optimizer, model, BAD)
    assert optimizer.skipped == 4 and weights(model).isfinite().all()
    step_with(optimizer, model, 1.0)
    assert optimizer.param_groups[0]["controller"]["skipped_in_a_row"] == 0


def test_a_non_finite_action_is_counted_and_changes_nothing():
    policy = random_policy()
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), policy, total_steps=STEPS)
    train(model, optimizer, list(batches())[:10])
    before = optimizer.param_groups[0]["controller"]["log_multiplier"]
    with torch.no_grad():
        for p in optimizer.policy.parameters():
            p.fill_(BAD)
    train(model, optimizer, list(batches())[10:])
    assert torch.equal(optimizer.param_groups[0]["controller"]["log_multiplier"], before)
    assert optimizer.ignored_actions > 5 and weights(model).isfinite().all()


def test_non_finite_losses_are_counted():
    model = make_model()
    optimizer = learned(model)
    for loss in (1.0, BAD, float("inf"), 2.0):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step(loss=loss)
    assert optimizer.ignored_losses == 2 and optimizer.skipped == 0


def test_an_unknown_guard_is_refused():
    with pytest.raises(ValueError, match=r"one of .*'step', 'probe'.*, got 'always'"):
        LearnedOptimizer([nn.Parameter(torch.ones(1))], total_steps=5, guard="always")
