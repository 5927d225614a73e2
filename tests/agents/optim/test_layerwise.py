"""Policies that decide on each parameter tensor, in the optimizer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from agents import LearnedLR, LearnedOptimizer, Policy
from tests.helpers.loops import STEPS, batches, make_model, train, weights
from tests.helpers.policies import random_policy


def layerwise(**description: Any) -> Policy:
    action = {"kind": "layerwise", "bound": 4.0}
    return random_policy(description.pop("rule", "adam"), action, **description)


def optimizer_of(model: nn.Module, **arguments: Any) -> LearnedOptimizer:
    params = arguments.pop("params", None) or model.parameters()
    return LearnedOptimizer(params, layerwise(), **{"total_steps": STEPS, **arguments})


def log_multipliers(model: nn.Module, optimizer: LearnedOptimizer) -> dict[str, float]:
    return {
        name: float(optimizer.state[p]["decided"][0])
        for name, p in model.named_parameters()
        if "decided" in optimizer.state[p]
    }


def test_the_order_and_the_groups_of_tensors_make_no_difference() -> None:
    logs, ends = [], []
    for order in ([[0, 1, 2, 3]], [[2], [3, 0], [1]]):
        model = make_model(torch.float64)
        params = list(model.parameters())
        groups = [{"params": [params[i] for i in part]} for part in order]
        optimizer = optimizer_of(model, params=groups)
        train(model, optimizer, batches(torch.float64))
        logs.append(log_multipliers(model, optimizer))
        ends.append(weights(model))
    assert logs[0] == pytest.approx(logs[1], rel=1e-9)
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)
    assert len({round(log, 3) for log in logs[0].values()}) == 4


def test_each_tensor_moves_by_its_own_multiplier_of_the_schedule() -> None:
    """With plain SGD, steps are rates times gradients."""
    model = make_model(torch.float64)
    policy = layerwise(rule="sgd")
    optimizer = LearnedOptimizer(model.parameters(), policy, total_steps=STEPS, lr=0.1)
    data = list(batches(torch.float64))
    train(model, optimizer, data[:20])
    before = [p.detach().clone() for p in model.parameters()]
    train(model, optimizer, data[20:21])
    multipliers = []
    for p, old, (name, log) in zip(
        model.parameters(), before, log_multipliers(model, optimizer).items(), strict=True
    ):
        assert p.grad is not None, name
        torch.testing.assert_close(p.detach(), old - 0.1 * math.exp(log) * p.grad)
        multipliers.append(math.exp(log))
    last = optimizer.explain()[-1]
    assert last["multiplier_lowest"] == pytest.approx(min(multipliers))
    assert last["multiplier_highest"] == pytest.approx(max(multipliers))
    mean = math.exp(sum(map(math.log, multipliers)) / len(multipliers))
    assert last["multiplier"] == pytest.approx(mean)
    assert optimizer.param_groups[0]["effective_lr"] == pytest.approx(0.1 * mean)


def test_tensors_that_do_not_move_are_not_decided_on() -> None:
    model = make_model()
    first, *rest = model.parameters()
    optimizer = optimizer_of(
        model, params=[{"params": [first], "lr": 0.0}, {"params": rest}]
    )
    rest[0].requires_grad_(False)
    old = first.detach().clone()
    train(model, optimizer, list(batches())[:30])
    assert list(log_multipliers(model, optimizer)) == ["2.weight", "2.bias"]
    assert torch.equal(first, old)
    # Those that join later begin at the mean of the others.
    rest[0].requires_grad_(True)
    optimizer.param_groups[0]["lr"] = 1e-3
    train(model, optimizer, list(batches())[30:])
    assert len(log_multipliers(model, optimizer)) == 4
    assert not torch.equal(first, old)


def test_no_tensor_exceeds_the_largest_learning_rate_of_its_group() -> None:
    model = make_model()
    groups = [{"params": [p]} for p in model.parameters()]
    groups[0]["max_lr"] = 5e-4
    optimizer = optimizer_of(model, params=groups, lr=1e-3)
    train(model, optimizer, batches())
    logs = log_multipliers(model, optimizer)
    assert logs["0.weight"] <= math.log(0.5) + 1e-6
    highest = [row["multiplier_highest"] for row in optimizer.explain()]
    assert max(highest) > 1.0


def test_a_step_that_fails_changes_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    model, twin, data = make_model(), make_model(), list(batches())
    optimizer, undisturbed = optimizer_of(model), optimizer_of(twin)
    train(twin, undisturbed, data)
    decisions = [int(row["step"]) for row in undisturbed.explain()]
    cut = decisions[len(decisions) // 2]
    train(model, optimizer, data[:cut])
    before = log_multipliers(model, optimizer)
    with monkeypatch.context() as patch:
        patch.setattr("agents.optim.groups.update", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            train(model, optimizer, data[cut : cut + 1])
    assert log_multipliers(model, optimizer) == before
    train(model, optimizer, data[cut:])
    assert torch.equal(weights(model), weights(twin))


def fail(*_: Any, **__: Any) -> None:
    raise RuntimeError("out of memory")


def test_a_rollback_lowers_the_learning_rate_of_every_tensor() -> None:
    model = make_model()
    optimizer = optimizer_of(model, rollback=True)
    train(model, optimizer, list(batches())[:9])
    before = log_multipliers(model, optimizer)
    for _ in range(5):
        for p in model.parameters():
            p.grad = torch.full_like(p, math.nan)
        with_warning = pytest.warns(UserWarning, match="learning rate is a quarter")
        if optimizer.skipped == 4:
            with with_warning:
                optimizer.step()
        else:
            optimizer.step()
    assert optimizer.rollbacks == 1
    expected = {name: max(log - math.log(4), -4.0) for name, log in before.items()}
    assert log_multipliers(model, optimizer) == pytest.approx(expected)


def test_what_cannot_carry_out_decisions_on_tensors_refuses_them() -> None:
    model, policy = make_model(), layerwise()
    with pytest.raises(ValueError, match="which a scheduler cannot"):
        LearnedLR(torch.optim.Adam(model.parameters()), STEPS, policy)
    for argument in ({"partitioned": True}, {"capturable": True, "guard": "probe"}):
        with pytest.raises(ValueError, match="whose action is 'layerwise'"):
            optimizer_of(model, **argument)
