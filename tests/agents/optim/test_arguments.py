"""Groups and arguments as users give them: what is copied, checked and refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from agents import LearnedLR, LearnedOptimizer
from tests.helpers.loops import STEPS, batches, learned, make_model, train


def parameter():
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    return p


def test_a_group_of_another_optimizer_is_copied_without_its_state():
    model, other = make_model(), make_model()
    first = learned(model, max_lr=0.5)
    train(model, first, list(batches())[:10])
    before = copy.deepcopy(first.param_groups[0]["controller"])
    second = LearnedOptimizer(first.param_groups, total_steps=300)
    assert second.param_groups[0]["lr_limit"] == 0.5
    assert second.param_groups[0]["effective_lr"] == 0.0
    assert (first.total_steps, second.total_steps) == (STEPS, 300)
    second.step()
    second.add_param_group({"params": other.parameters()})
    assert str(first.param_groups[0]["controller"]) == str(before)
    assert len(first.param_groups) == 1 and len(first.explain()) != len(second.explain())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("controller", 3), ("effective_lr", "x"), ("effective_lr", -1.0), ("peak_lr", "x"),
        ("initial_lr", "x"), ("initial_lr", -0.1), ("lr_limit", "x"), ("lr_limit", -1.0),
    ],
)  # fmt: skip
def test_reserved_keys_with_values_of_the_users_own_are_refused(key, value):
    optimizer = LearnedOptimizer([parameter()], total_steps=STEPS)
    name = "max_lr" if key == "lr_limit" else key
    with pytest.raises((ValueError, TypeError), match=rf"{name}.*got {value!r}"):
        optimizer.add_param_group({"params": [parameter()], key: value})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("key", "value", "valid"),
    [("lr", 1e7, 1e6), ("weight_decay", 1e4, 1e3), ("eps", 1e30, 1e6)],
)
def test_the_constructor_has_the_bounds_of_saved_states(key, value, valid):
    for as_group in (True, False):
        with pytest.raises(ValueError, match=rf"{key} .*got"):
            group = {"params": [parameter()], **({key: value} if as_group else {})}
            given = {} if as_group else {key: value}
            LearnedOptimizer([group], "adam", total_steps=STEPS, **given)
    largest = LearnedOptimizer([parameter()], "adam", total_steps=STEPS, **{key: valid})
    largest.load_state_dict(largest.state_dict())


@pytest.mark.parametrize("lr", [-0.1, float("nan"), torch.tensor(-0.1)])
def test_a_rate_that_becomes_negative_is_refused_before_the_step(lr):
    p = parameter()
    optimizer = LearnedOptimizer([p], total_steps=STEPS)
    optimizer.step()
    before = p.detach().clone()
    optimizer.param_groups[0]["lr"] = lr
    with pytest.raises(ValueError, match="lr of parameter group 0 must be at least 0"):
        optimizer.step()
    assert p.equal(before) and optimizer.log_dict()["step"] == 1


def test_a_schedule_below_zero_is_refused_at_its_step():
    p = parameter()
    optimizer = LearnedOptimizer([p], total_steps=STEPS, lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0 - 0.75 * t)
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    with pytest.raises(ValueError, match=r"has been set to -0\.05 since"):
        optimizer.step()


def test_losses_are_not_used_where_groups_differ_in_their_direction():
    def run(loss):
        groups = [{"params": [parameter()]}, {"params": [parameter()], "maximize": True}]
        with pytest.warns(UserWarning, match="differ in maximize"):
            optimizer = LearnedOptimizer(groups, total_steps=STEPS)
        for _ in range(STEPS):
            optimizer.step(loss=loss)
        return optimizer.explain()

    assert run(1.0) == run(None) and run(1.0)[-1]["has_loss"] == 0
    groups = [{"params": [parameter()]}, {"params": [parameter()], "maximize": True}]
    LearnedOptimizer(groups, "gradient-only", total_steps=STEPS)  # without a warning


def test_arrays_and_numbers_in_place_of_flags_are_refused_by_name():
    for name in ("foreach", "fused", "maximize", "schedule", "guard", "rollback"):
        for value in (np.ones(2), torch.ones(2), 1):
            with pytest.raises((TypeError, ValueError), match=rf"^{name} must be .*got"):
                LearnedOptimizer([parameter()], total_steps=STEPS, **{name: value})
    with pytest.raises(ValueError, match="guard is of the whole optimizer"):
        LearnedOptimizer([{"params": [parameter()], "guard": np.ones(2)}], total_steps=9)


@pytest.mark.parametrize("value", [None, "5", 2.5, -1, True, np.float64("nan")])
def test_a_warm_up_is_an_integer_of_at_least_zero(value):
    match = "warmup_steps must be an integer of at least 0, got"
    with pytest.raises(ValueError, match=match):
        LearnedOptimizer([parameter()], total_steps=STEPS, warmup_steps=value)
    with pytest.raises(ValueError, match=match):
        LearnedLR(torch.optim.SGD([parameter()], 0.1), STEPS, warmup_steps=value)


@pytest.mark.parametrize("value", [1e1, 10, np.int64(10), np.float64(10)])
def test_an_integral_float_is_a_warm_up(value):
    p = parameter()
    optimizer = LearnedOptimizer([p], total_steps=STEPS, warmup_steps=value)
    optimizer.step()
    row = optimizer.explain()[0]
    assert row["schedule"] == pytest.approx(0.1)
    optimizer.load_state_dict(optimizer.state_dict())


def test_a_loss_without_data_is_refused():
    p = parameter()
    optimizer = LearnedOptimizer([p], total_steps=STEPS)
    with pytest.raises(ValueError, match="loss is on device 'meta'"):
        optimizer.step(loss=torch.ones((), device="meta"))
    assert p.equal(torch.ones(3))


def test_an_optimizer_without_groups_still_reports():
    optimizer = LearnedOptimizer([parameter()], total_steps=STEPS)
    optimizer.step()
    optimizer.param_groups.clear()
    assert optimizer.log_dict()["lr"] == 0.0 and optimizer.log_dict()["step"] == 1
    assert len(optimizer.explain()) == 1 and "step: 1 of 60" in repr(optimizer)
    optimizer.extend(2 * STEPS)
    assert optimizer.total_steps == 2 * STEPS


def test_a_schedule_of_torch_alone_is_described_alone():
    optimizer = LearnedOptimizer([parameter()], total_steps=STEPS, schedule=None)
    assert "schedule: none\n" in repr(optimizer)
    torch.optim.lr_scheduler.StepLR(optimizer, 5)
    assert "schedule: a torch scheduler's factor\n" in repr(optimizer)


@pytest.mark.parametrize(
    ("lr", "total", "loss", "first"),
    [
        (1e-4, 100, 2.0, 0.316), (1e-3, 1000, 0.01, 0.295), (1e-3, 1000, 2.0, 0.295),
        (1e-3, 1000, None, 0.287), (0.1, 10_000, None, 0.152),
    ],
)  # fmt: skip
def test_the_first_rate_of_the_default_is_that_of_the_docs(lr, total, loss, first):
    optimizer = LearnedOptimizer([parameter()], total_steps=total, lr=lr)
    optimizer.step(loss=loss)
    assert optimizer.log_dict()["lr"] / lr == pytest.approx(first, abs=0.002)


def test_a_loaded_limit_holds_and_one_that_was_not_saved_stays():
    saved = {
        limit: LearnedOptimizer([parameter()], total_steps=STEPS, max_lr=limit).state_dict()
        for limit in (None, 0.5)
    }
    for limit, held in ((None, 0.1), (0.5, 0.5)):
        optimizer = LearnedOptimizer([parameter()], total_steps=STEPS, max_lr=0.1)
        optimizer.load_state_dict(saved[limit])
        assert optimizer.param_groups[0]["lr_limit"] == held
