"""Losses in any unit: a policy may not be led astray by what is passed as the loss."""

from __future__ import annotations

import math
import warnings
from functools import cache

import pytest
import torch
from torch import nn

from agents import LearnedOptimizer, load_policy
from agents.optim.loss_unit import MOST, OBSERVED, correct, is_outgrown
from optenv.telemetry import History, Losses, Probe, observed_features
from tests.helpers.loops import batches as small_batches
from tests.helpers.loops import make_model, train
from tests.helpers.policies import EACH_SHIPPED, random_policy

TOTAL = 60
POSITIVE = observed_features("positive")
UNITS = {
    "times 1e-3": lambda loss: loss * 1e-3,
    "times 1e3": lambda loss: loss * 1e3,
    "times 2^20": lambda loss: loss * 2**20,
    "plus 1e3": lambda loss: loss + 1e3,
    "minus 1e3": lambda loss: loss - 1e3,
}


def run(policy, unit=lambda loss: loss, first_losses=()):
    """Train a regression; return losses before and after, highest rate and optimizer.

    The optimizer is told ``unit(loss)``, but ``first_losses`` at the first steps.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 8, generator=generator)
    targets = inputs.sum(1, keepdim=True).sin()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    total = None if policy == "anytime" else TOTAL
    optimizer = LearnedOptimizer(model.parameters(), policy, total_steps=total)
    first = (model(inputs) - targets).pow(2).mean().item()
    highest = 0.0
    for i in range(TOTAL):
        index = torch.randint(256, (32,), generator=generator)
        optimizer.zero_grad()
        loss = (model(inputs[index]) - targets[index]).pow(2).mean()
        loss.backward()
        told = first_losses[i] if i < len(first_losses) else unit(loss.detach())
        optimizer.step(loss=told)
        highest = max(highest, optimizer.param_groups[0]["effective_lr"])
    last = (model(inputs) - targets).pow(2).mean().item()
    return first, last, highest, optimizer


@cache
def reference(policy):
    return run(policy)


@cache
def told_in_unit(policy, unit):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a loss is .*below zero")
        return run(policy, UNITS[unit])


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("policy", EACH_SHIPPED)
def test_no_shipped_policy_is_led_astray_by_the_unit_of_the_loss(policy, unit):
    first, last, highest, _ = told_in_unit(policy, unit)
    _, usual_last, usual_highest, _ = reference(policy)
    assert last < first and last < 2 * usual_last
    assert highest < 5 * usual_highest
    if not load_policy(policy).needs_positive_losses:  # but for rounding
        assert last == pytest.approx(usual_last, rel=1e-4)


@pytest.mark.parametrize("unit", UNITS)
def test_policies_of_invariant_features_do_not_notice_unit_and_zero_of_the_loss(unit):
    def end(unit):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2)).double()
        policy = random_policy(features=list(observed_features("invariant")))
        optimizer = LearnedOptimizer(model.parameters(), policy, total_steps=TOTAL)
        generator = torch.Generator().manual_seed(1)
        losses = []
        for _ in range(TOTAL):
            x = torch.randn(32, 8, generator=generator, dtype=torch.float64)
            mean, log_deviation = model(x).split(1, dim=1)  # of a normal distribution
            error = (x[:, :1].sin() - mean) * (-log_deviation).exp()
            loss = (log_deviation + error.square() / 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step(loss=unit(loss.detach()))
            losses.append(loss.item())
        assert optimizer.ignored_losses == 0
        rates = {row["rate"] for row in optimizer.explain()}
        return torch.cat([p.detach().flatten() for p in model.parameters()]), losses, rates

    expected, losses, rates = end(lambda loss: loss)
    assert losses[0] > 0 > losses[-1] and len(rates) > 5
    torch.testing.assert_close(end(UNITS[unit])[0], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("first", [[1e-12], [0.0], [-1.0], [0.0] * 5, [0.01], [1e12]])
@pytest.mark.parametrize("policy", EACH_SHIPPED)
def test_no_shipped_policy_is_led_astray_by_the_first_losses(policy, first):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a loss is .*below zero")
        before, last, highest, _ = run(policy, first_losses=first)
    _, usual_last, usual_highest, _ = reference(policy)
    assert last < before and last < 1.5 * usual_last
    assert highest < 3 * usual_highest


def test_a_loss_that_rises_with_its_gradients_keeps_its_first_value():
    zero = torch.zeros(1)
    history = History.empty(zero)._replace(loss_windows=zero + 1, windows=zero + 1)
    losses = Losses(*(torch.tensor([x]) for x in (1.0, math.exp(20.0), 0.0)))
    same = torch.tensor([1.0])
    large = torch.tensor([math.exp(20.0)])  # of the square: a norm of e^10
    probe = Probe(*[same] * len(Probe._fields))
    assert is_outgrown(probe, losses, history)
    assert not is_outgrown(probe._replace(grad_sq=large, param_sq=large), losses, history)
    assert not is_outgrown(probe, losses, history._replace(loss_windows=zero))
    assert not is_outgrown(probe, losses._replace(seen=zero), history)


def test_the_loss_against_the_first_stays_in_the_range_of_the_training():
    given = features(-0.3)
    given[0, POSITIVE.index("loss_vs_initial")] = 4.0
    corrected, shift = correct(given, 0.0)
    assert shift == 0.0 and value(corrected) == pytest.approx(-0.3)
    assert corrected[0, POSITIVE.index("loss_vs_initial")] == pytest.approx(MOST)


@pytest.mark.parametrize("policy", EACH_SHIPPED)
def test_losses_far_too_large_and_far_too_small_are_the_same(policy):
    large, small = (told_in_unit(policy, unit)[1] for unit in ("times 1e3", "times 1e-3"))
    assert large == pytest.approx(small, rel=0.02)


def test_every_loss_that_is_not_used_is_counted():
    with pytest.warns(UserWarning, match="below zero"):
        optimizer = run("unrolled-lr@0.1", lambda loss: loss - 1e3)[-1]
    assert optimizer.ignored_losses == TOTAL
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), total_steps=60)
    train(model, optimizer, small_batches())
    assert optimizer.ignored_losses == 0


def features(decrease, step_size=0.0):
    row = torch.zeros(1, len(POSITIVE))
    row[0, POSITIVE.index("predicted_decrease")] = decrease
    row[0, POSITIVE.index("step_size")] = step_size
    return row


def value(row):
    return row[0, POSITIVE.index("predicted_decrease")].item()


def test_a_plausible_unit_changes_nothing_at_any_learning_rate():
    for decrease, step_size in ((-0.3, 0.0), (-2.0, -3.0), (1.0, 2.0)):
        given = features(decrease, step_size)
        same, shift = correct(given, None)
        assert same is given and shift == 0.0


def test_an_implausible_unit_is_shifted_for_the_rest_of_the_run():
    corrected, shift = correct(features(-3.0), None)
    assert shift == pytest.approx((1.4 - (3 * -3.0 - 5 + 7)) / 3)
    assert value(corrected) == pytest.approx(-3.0 + shift)
    later, same = correct(features(-2.5), shift)
    assert same == shift and value(later) == pytest.approx(-2.5 + shift)


def test_the_unit_is_not_judged_before_there_are_a_step_and_a_loss():
    given = features(0.0)
    assert correct(given, None) == (given, None)


def test_the_feature_stays_in_the_range_of_the_training():
    for decrease in (-40.0, 40.0):
        corrected, _ = correct(features(decrease), 0.0)
        assert OBSERVED[0] <= value(corrected) <= OBSERVED[1]
