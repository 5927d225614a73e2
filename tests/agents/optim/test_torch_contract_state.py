"""What torch's own tests hold torch's optimizers to: states, their hooks, copies.

As :mod:`tests.agents.optim.test_torch_contract`, over every shipped policy, LearnedLR and
two of torch's optimizers.
"""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from tests.helpers.optimizers import (
    WITH_SCHEDULER,
    assert_same,
    parametrized,
    restore,
    save,
    scheduler_of,
)

pytestmark = parametrized(WITH_SCHEDULER)

named = pytest.mark.parametrize("named", [False, True], ids=["plain", "named"])
other_named = pytest.mark.parametrize("other_named", [False, True], ids=["plain", "named"])


def make_model():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(4, 2, 1, stride=2), nn.BatchNorm2d(2))


def inputs_of(step):
    return torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(step))


def train(model, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        (model(inputs_of(step)) * inputs_of(step)[:, :2, :3, :3]).sum().backward()
        optimizer.step()


def trained(make, named=False, steps=10, **arguments):
    """Return a model and an optimizer of it, after some steps."""
    model = make_model()
    params = model.named_parameters() if named else model.parameters()
    optimizer = make(params, **arguments)
    train(model, optimizer, range(steps))
    return model, optimizer


def without_names(state):
    state = copy.deepcopy(state)
    for group in state["param_groups"]:
        group.pop("param_names", None)
    return state


@named
@other_named
def test_equal_runs_have_equal_states_also_after_loading(make, named, other_named):
    model, optimizer = trained(make, named)
    other = copy.deepcopy(model)
    params = other.named_parameters() if other_named else other.parameters()
    resumed = make(params)
    restore(resumed, copy.deepcopy(save(optimizer)))
    for step in range(10, 25):
        train(model, optimizer, [step])
        train(other, resumed, [step])
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q)
    (state, controller), (found, of_other) = save(optimizer), save(resumed)
    assert_same(without_names(found), without_names(state))
    assert_same(of_other, controller)
    # A group that is there twice is packed as it is.
    groups = resumed.param_groups
    resumed.param_groups = groups * 2
    twice = without_names(resumed.state_dict())["param_groups"][-1]
    assert_same(twice, without_names(state)["param_groups"][-1])


def test_loading_leaves_the_given_state_as_it_was(make):
    _, optimizer = trained(make)
    state, other = copy.deepcopy(save(optimizer)), make_model()
    before = copy.deepcopy(state)
    restore(make(other.parameters()), state)
    assert_same(state, before)


@pytest.mark.parametrize("flag", ["foreach", "fused", "maximize", "capturable", "all"])
def test_states_from_before_a_setting_was_known_can_be_loaded(make, flag):
    model, optimizer = trained(make, steps=3)
    state, controller = copy.deepcopy(save(optimizer))
    flags = ("foreach", "fused", "maximize", "differentiable", "capturable")
    for group in state["param_groups"]:
        for name in flags if flag == "all" else (flag,):
            group.pop(name, None)
    restore(optimizer, (state, controller))
    train(model, optimizer, range(3, 6))
    assert all(p.isfinite().all() for p in model.parameters())


@named
@other_named
def test_states_with_and_without_names_load_into_each_other(make, named, other_named):
    _, optimizer = trained(make, named, steps=3)
    other = make_model()
    params = other.named_parameters() if other_named else other.parameters()
    resumed = make(params)
    restore(resumed, copy.deepcopy(save(optimizer)))
    train(other, resumed, range(3, 5))
    group = resumed.state_dict()["param_groups"][0]
    if named or other_named:
        assert group["param_names"] == [name for name, _ in other.named_parameters()]
    else:
        assert "param_names" not in group


@named
def test_a_state_on_disk_equals_the_state_that_was_saved(make, named):
    _, optimizer = trained(make, named)
    for state in save(optimizer):
        buffer = io.BytesIO()
        torch.save(state, buffer)
        for weights_only in (False, True):
            buffer.seek(0)
            assert_same(torch.load(buffer, weights_only=weights_only), state)


def test_counts_of_steps_that_are_plain_numbers_can_be_loaded(make):
    model, optimizer = trained(make, steps=3)
    state, controller = copy.deepcopy(save(optimizer))
    for own in state["state"].values():
        if torch.is_tensor(own.get("step")):
            own["step"] = own["step"].item()
    plain = copy.deepcopy((model, save(optimizer)))
    restore(optimizer, (state, controller))
    train(model, optimizer, range(3, 6))
    other, saved = plain
    resumed = make(other.parameters())
    restore(resumed, saved)
    train(other, resumed, range(3, 6))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_copies_have_all_public_attributes(make):
    _, optimizer = trained(make, steps=3)
    original = scheduler_of(optimizer) or optimizer
    clone = copy.deepcopy(original)
    assert {name for name in vars(clone) if name[0] != "_"} == {
        name for name in vars(original) if name[0] != "_"
    }


# Hooks.


def test_state_dict_hooks_can_add_to_the_state_and_change_it(make):
    def before(own):
        own.state["test"] = 1

    def after(own, state):
        return {**state, "had": state["state"].pop("test", None)}

    model, optimizer = trained(make, steps=1)
    handle = optimizer.register_state_dict_post_hook(after)
    assert optimizer.state_dict()["had"] is None
    optimizer.register_state_dict_pre_hook(before)
    assert optimizer.state_dict()["had"] == 1
    handle.remove()
    assert optimizer.state_dict()["state"]["test"] == 1
    train(model, optimizer, range(1, 20))
    assert optimizer.state["test"] == 1


def test_an_entry_of_the_users_own_in_the_state_is_loaded_with_it(make):
    model, optimizer = trained(make, steps=3)
    optimizer.state["test"] = 1
    saved = copy.deepcopy(save(optimizer))
    other = make_model()
    resumed = make(other.parameters())
    restore(resumed, saved)
    assert resumed.state["test"] == 1
    train(other, resumed, range(3, 6))
    train(model, optimizer, range(3, 6))
    assert copy.deepcopy(optimizer).state["test"] == 1


def set_rate(lr):
    def hook(own, state):
        state["param_groups"][0]["lr"] = lr

    return hook


def replace_rate(lr):
    def hook(own, state):
        state = copy.deepcopy(state)
        state["param_groups"][0]["lr"] = lr
        return state

    return hook


def test_hooks_of_loading_run_in_order_and_may_replace_the_state(make):
    optimizer = make([nn.Parameter(torch.ones(2, 3))])
    state = optimizer.state_dict()
    optimizer.register_load_state_dict_pre_hook(set_rate(0.002))
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.002
    optimizer.register_load_state_dict_pre_hook(replace_rate(0.003), prepend=True)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.002
    optimizer.register_load_state_dict_pre_hook(replace_rate(0.004))
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.004


def test_hooks_after_loading_see_the_loaded_state(make):
    optimizer = make([nn.Parameter(torch.ones(2, 3))])
    seen = []
    optimizer.register_load_state_dict_pre_hook(replace_rate(0.003))
    optimizer.register_load_state_dict_post_hook(
        lambda own: seen.append(own.param_groups[0]["lr"])
    )
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == [0.003]
