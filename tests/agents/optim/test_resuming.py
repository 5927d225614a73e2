"""Saved, copied and loaded runs continue bit for bit."""

from __future__ import annotations

import copy
import functools
import io
import itertools
import pickle

import pytest
import torch
from torch import nn

from agents import LearnedOptimizer
from optenv import rules
from tests.helpers.loops import STEPS, batches, learned, make_model, train, weights
from tests.helpers.policies import random_policy


def save_and_load(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


CUTS = [1, 7, 23, 24, 25, 41]


def whole_run(rule, cuts=()):
    """Train a whole run with ``rule``; return its weights, and what it saved at cuts."""
    model, data, saved = make_model(), list(batches()), {}
    optimizer = LearnedOptimizer(
        model.parameters(), random_policy(rule=rule), total_steps=STEPS
    )
    for begin, end in itertools.pairwise([0, *cuts, STEPS]):
        train(model, optimizer, data[begin:end])
        saved[end] = save_and_load((model.state_dict(), optimizer.state_dict()))
    return weights(model), saved


@functools.cache
def saving_run(rule):
    return whole_run(rule, CUTS)


@pytest.mark.parametrize("rule", list(rules.RULES))
def test_saving_does_not_disturb_the_run(rule):
    assert torch.equal(saving_run(rule)[0], whole_run(rule)[0])


@pytest.mark.parametrize("rule", list(rules.RULES))
@pytest.mark.parametrize("cut", CUTS)
def test_resuming_from_a_state_dict_is_bit_exact(rule, cut):
    expected, saved = saving_run(rule)
    state, optimizer_state = copy.deepcopy(saved[cut])
    model = make_model()
    resumed = LearnedOptimizer(
        model.parameters(), random_policy(rule=rule), total_steps=STEPS // 2
    )
    model.load_state_dict(state)
    with pytest.warns(UserWarning, match="total_steps=60 overrides total_steps=30"):
        resumed.load_state_dict(optimizer_state)
    train(model, resumed, list(batches())[cut:])
    assert torch.equal(weights(model), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_runs_that_keep_factors_resume_between_two_of_their_updates(dtype):
    policy = random_policy({"name": "orthogonal-adam", "refresh": 4})
    models, data = [make_model(dtype) for _ in range(3)], list(batches(dtype))
    whole, first, second = (
        LearnedOptimizer(model.parameters(), policy, total_steps=STEPS, matrices=True)
        for model in models
    )
    train(models[0], whole, data)
    train(models[1], first, data[:22])
    models[2].load_state_dict(models[1].state_dict())
    second.load_state_dict(save_and_load(first.state_dict()))
    assert any("factors" in state for state in second.state.values())
    train(models[2], second, data[22:])
    assert torch.equal(weights(models[2]), weights(models[0]))
    # Without them, they are computed anew.
    pruned = save_and_load(first.state_dict())
    for state in pruned["state"].values():
        state.pop("factors", None)
    models[2].load_state_dict(models[1].state_dict())
    second.load_state_dict(pruned)
    train(models[2], second, data[22:])
    assert not torch.equal(weights(models[2]), weights(models[0]))


@pytest.mark.parametrize("kind", ["hyperparameters", "roles", "layerwise"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cut", [1, 23, 41])
def test_runs_whose_policy_sets_more_than_a_rate_resume_bit_for_bit(kind, dtype, cut):
    policy, data = random_policy(action={"kind": kind}), list(batches(dtype))
    models = [make_model(dtype) for _ in range(3)]
    whole, first, second = (
        LearnedOptimizer.for_model(model, total_steps=STEPS, policy=policy)
        for model in models
    )
    train(models[0], whole, data)
    train(models[1], first, data[:cut])
    saved = save_and_load((models[1].state_dict(), first.state_dict()))
    train(models[1], first, data[cut:])  # must not disturb what was saved
    models[2].load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    train(models[2], second, data[cut:])
    for model, optimizer in zip(models[1:], (first, second), strict=True):
        assert torch.equal(weights(model), weights(models[0]))
        assert optimizer.explain() == whole.explain()
    if kind == "hyperparameters":
        (averages,) = {len(each.state) for each in (whole, first, second)}
        assert averages == 4
        for one, two in zip(whole.state.values(), second.state.values(), strict=True):
            assert one["average"].dtype == torch.float32
            assert torch.equal(one["average"], two["average"])


@pytest.mark.parametrize("rule", list(rules.RULES))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_resumes_with_single_precision_state(rule, dtype):
    policy, data = random_policy(rule=rule), list(batches(dtype))
    models = [make_model(dtype) for _ in range(2)]
    first, second = (
        LearnedOptimizer(model.parameters(), policy, total_steps=STEPS) for model in models
    )
    train(models[0], first, data[:24])
    models[1].load_state_dict(models[0].state_dict())
    second.load_state_dict(save_and_load(first.state_dict()))
    for optimizer in (first, second):
        kept = [
            value.dtype
            for state in optimizer.state.values()
            for name, value in state.items()
            if not name.startswith("last_")
        ]
        assert set(kept) <= {torch.float32} and (kept or rule == "sgd")
    for model, optimizer in zip(models, (first, second), strict=True):
        train(model, optimizer, data[24:])
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert weights(models[0]).isfinite().all()


@pytest.mark.parametrize("rule", list(rules.RULES))
def test_half_precision_with_zero_gradients_stays_finite(rule):
    p = nn.Parameter(torch.ones(4, 3, dtype=torch.float16))
    optimizer = LearnedOptimizer([p], random_policy(rule=rule), total_steps=STEPS)
    for _ in range(STEPS):
        p.grad = torch.zeros_like(p)
        p.grad[0] = 1e-7
        optimizer.step()
    assert p.isfinite().all() and torch.equal(p[1:].detach(), torch.ones_like(p[1:]))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_continue_exactly_as_the_original(clone):
    data, model = list(batches()), make_model()
    optimizer = learned(model)
    train(model, optimizer, data[:24])
    other, other_optimizer = clone((model, optimizer))
    train(model, optimizer, data[24:])
    train(other, other_optimizer, data[24:])
    assert torch.equal(weights(model), weights(other))


def test_the_schedule_is_restored_with_the_state():
    p = nn.Parameter(torch.ones(3))
    one, two = (
        LearnedOptimizer([p], "default", total_steps=60, schedule=schedule)
        for schedule in (None, "auto")
    )
    two.load_state_dict(one.state_dict())
    assert two.param_groups[0]["controller"]["schedule"] is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_state_loaded_onto_a_gpu_resumes():
    data, model = list(batches()), make_model().cuda()
    data = [(inputs.cuda(), targets.cuda()) for inputs, targets in data]
    optimizer = learned(model)
    train(model, optimizer, data[:24])
    buffer = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), buffer)
    buffer.seek(0)
    saved = torch.load(buffer, map_location="cuda")
    other = make_model().cuda()
    resumed = learned(other)
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    train(model, optimizer, data[24:])
    train(other, resumed, data[24:])
    assert torch.equal(weights(model), weights(other))


def by_name(optimizer, state):
    """A hook that puts parameters in the optimizer's own order, by their names."""
    state = copy.deepcopy(state)
    (group,) = state["param_groups"]
    ids = dict(zip(group["param_names"], group["params"], strict=True))
    group["param_names"] = optimizer.param_groups[0]["param_names"]
    group["params"] = [ids[name] for name in group["param_names"]]
    return state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hooks_can_change_the_state_to_load(dtype):
    model, data = make_model(dtype), list(batches(dtype))
    named = list(model.named_parameters())
    optimizer = LearnedOptimizer(named, "adam", total_steps=STEPS)
    train(model, optimizer, data[:20])
    other = LearnedOptimizer(named[::-1], "adam", total_steps=STEPS)
    other.register_load_state_dict_pre_hook(lambda _, state: state["wrapped"])
    other.register_load_state_dict_pre_hook(by_name)
    other.load_state_dict({"wrapped": optimizer.state_dict()})
    for _, p in named:
        own, found = optimizer.state[p], other.state[p]
        assert torch.equal(own["exp_avg"], found["exp_avg"])
        assert own["exp_avg"].dtype == found["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize("policy", ["default", "adam"])
def test_a_state_without_some_settings_can_be_loaded(policy):
    model, data = make_model(), list(batches())
    optimizer = LearnedOptimizer(model.parameters(), policy, total_steps=STEPS)
    train(model, optimizer, data[:20])
    other, saved = make_model(), copy.deepcopy(optimizer.state_dict())
    for name in ("maximize", "foreach", "fused", "weight_decay", "effective_lr"):
        del saved["param_groups"][0][name]
    for own in saved["state"].values():
        own["step"] = float(own["step"])
    resumed = LearnedOptimizer(other.parameters(), policy, total_steps=STEPS)
    resumed.load_state_dict(saved)
    other.load_state_dict(model.state_dict())
    train(model, optimizer, data[20:])
    train(other, resumed, data[20:])
    assert torch.equal(weights(model), weights(other))


@pytest.mark.parametrize("change", ["reverse", "remove"])
def test_the_run_survives_reordered_and_removed_groups(change):
    model, data = make_model(), list(batches())
    groups = [{"params": part.parameters()} for part in (model[0], model[2])]
    optimizer = LearnedOptimizer(groups, total_steps=STEPS)
    train(model, optimizer, data[:20])
    before = len(optimizer.explain())
    if change == "reverse":
        optimizer.param_groups.reverse()
    else:
        del optimizer.param_groups[0]
    kept = copy.deepcopy(optimizer)
    train(model, optimizer, data[20:])
    for each in (optimizer, kept):
        assert each.explain()[:before] == optimizer.explain()[:before]
    assert len(optimizer.explain()) == optimizer.policy.description["horizon"]
    assert sum("controller" in group for group in optimizer.param_groups) == 1


def test_parameters_and_state_can_be_sliced_during_a_run():
    p = nn.Parameter(torch.ones(8, 3))
    optimizer = LearnedOptimizer([p], "adam", total_steps=STEPS, rollback=True)
    for step in range(STEPS):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step))
        optimizer.step()
        if step % 3 == 0 and len(p) > 2:
            state = optimizer.state.pop(p)
            p = nn.Parameter(p.detach()[:-1].clone())
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = state[name][:-1].clone()
            optimizer.param_groups[0]["params"][0] = p
            optimizer.state[p] = state
    assert len(p) == 2 and p.isfinite().all()
