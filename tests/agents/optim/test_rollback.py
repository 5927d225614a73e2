"""Roll-backs of non-finite parameters."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from agents import LearnedOptimizer
from agents.optim.guard import GUARDS, ROLLBACK_PATIENCE
from agents.optim.state_keys import GOOD_PARAM
from tests.helpers.loops import STEPS, batches, learned, make_model, train, weights
from tests.helpers.policies import random_policy

BAD = float("nan")

pytestmark = pytest.mark.filterwarnings("ignore:the gradients of 5 steps:UserWarning")


def step_with(optimizer, model, value):
    for p in model.parameters():
        if p.requires_grad:
            p.grad = torch.full_like(p, value)
    optimizer.step(loss=1.0)


def spoil(optimizer, model, steps=ROLLBACK_PATIENCE):
    for _ in range(steps):
        step_with(optimizer, model, BAD)


@pytest.mark.parametrize("policy", ["default", "adam", "momentum", "anytime"])
@pytest.mark.parametrize("guard", GUARDS)
def test_non_finite_parameters_are_rolled_back(policy, guard):
    model = make_model()
    optimizer = LearnedOptimizer(
        model.parameters(), policy, total_steps=STEPS, guard=guard, rollback=True
    )
    first = train(model, optimizer, list(batches())[:20])
    with torch.no_grad():
        model[0].weight[0, 0] = BAD  # as an update that overflows would leave it
    for batch in list(batches())[20:]:
        last = train(model, optimizer, [batch])
        if optimizer.rollbacks:
            break
    assert optimizer.rollbacks == 1 and math.isnan(last)
    assert weights(model).isfinite().all()
    state = optimizer.param_groups[0]["controller"]
    lowered = state["log_multiplier"].exp().item()
    assert lowered == pytest.approx(optimizer.explain()[-1]["multiplier"] / 4)
    assert train(model, optimizer, list(batches())[:20]) < 2 * first
    assert optimizer.rollbacks == 1


def test_a_rollback_returns_to_the_parameters_of_the_last_decision():
    model = make_model()
    optimizer = learned(model, rollback=True)
    seen = {}
    for step, batch in enumerate(list(batches())[:40]):
        seen[step] = weights(model)
        train(model, optimizer, [batch])
    for i in range(ROLLBACK_PATIENCE):
        assert optimizer.rollbacks == 0, i
        step_with(optimizer, model, BAD)
    assert optimizer.rollbacks == 1 and optimizer.skipped == ROLLBACK_PATIENCE
    assert torch.equal(weights(model), seen[int(optimizer.explain()[-1]["step"])])


def test_a_rollback_lowers_the_learning_rate_of_every_role():
    model = make_model()
    policy = random_policy(action={"kind": "roles", "bound": 9.0})
    optimizer = LearnedOptimizer.for_model(
        model, total_steps=STEPS, policy=policy, rollback=True
    )
    train(model, optimizer, list(batches())[:9])
    before = [group["effective_lr"] for group in optimizer.param_groups]
    spoil(optimizer, model)
    assert optimizer.rollbacks == 1
    state = optimizer.param_groups[0]["controller"]
    roles, mean = state["role_multipliers"], state["log_multiplier"]
    torch.testing.assert_close(roles.mean(1), mean)
    decisions = len(optimizer.explain())
    step_with(optimizer, model, 1e-3)
    assert len(optimizer.explain()) == decisions
    after = [group["effective_lr"] for group in optimizer.param_groups]
    assert len(set(before)) == len(before) > 1
    assert after == pytest.approx([lr / 4 for lr in before])


def test_without_rollback_no_copies_are_kept():
    model = make_model()
    optimizer = learned(model)
    train(model, optimizer, list(batches())[:40])
    before = weights(model)
    for _ in range(3 * ROLLBACK_PATIENCE):
        step_with(optimizer, model, BAD)
    assert optimizer.rollbacks == 0 and torch.equal(weights(model), before)
    assert not any(GOOD_PARAM in own for own in optimizer.state.values())


def test_a_run_with_rollback_resumes_and_copies_exactly():
    model, data = make_model(), list(batches())
    settings = {"rollback": True, "guard": "probe", "total_steps": 200}
    optimizer = learned(model, **settings)
    train(model, optimizer, data[:30])
    other, own = copy.deepcopy((model, optimizer))
    again = make_model()
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    resumed = learned(again, **settings)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for trained, its in ((model, optimizer), (other, own), (again, resumed)):
        for _ in range(40):
            step_with(its, trained, BAD)
            if its.rollbacks:
                break
        assert its.rollbacks == 1
        train(trained, its, data[30:])
    assert torch.equal(weights(model), weights(other))
    assert torch.equal(weights(model), weights(again))


def test_the_rollback_warning_points_at_the_users_line():
    model = make_model()
    optimizer = learned(model, rollback=True)
    train(model, optimizer, list(batches())[:5])
    with pytest.warns(UserWarning, match=r"again what they were .* BatchNorm") as caught:
        spoil(optimizer, model)
    assert [each.filename for each in caught] == [__file__]


def test_parameters_added_after_a_decision_are_rolled_back_too():
    model, data = make_model(), list(batches())
    optimizer = LearnedOptimizer(model[2].parameters(), total_steps=4000, rollback=True)
    train(model, optimizer, data[:10])
    optimizer.add_param_group({"params": model[0].parameters()})
    train(model, optimizer, data[10:11])
    assert optimizer.explain()[-1]["step"] < 10  # no decision since
    with torch.no_grad():
        model[0].weight.fill_(BAD)
    last = train(model, optimizer, data[11:])
    assert optimizer.rollbacks == 1 and optimizer.skipped == ROLLBACK_PATIENCE
    assert math.isfinite(last) and weights(model).isfinite().all()


def test_frozen_parameters_and_groups_at_lr_zero_are_not_rolled_back():
    model, extra = make_model(), nn.Parameter(torch.ones(3))
    groups = [{"params": model.parameters()}, {"params": [extra]}]
    optimizer = LearnedOptimizer(groups, total_steps=STEPS, rollback=True)
    extra.grad = torch.ones(3)
    train(model, optimizer, list(batches())[:20])
    model[0].weight.requires_grad_(False)
    optimizer.param_groups[1]["lr"] = 0.0
    with torch.no_grad():
        model[0].weight.fill_(7.0)
        extra.fill_(5.0)
    model[0].weight.grad = None
    spoil(optimizer, model)
    assert optimizer.rollbacks == 1
    assert (model[0].weight == 7.0).all() and (extra == 5.0).all()


def test_a_rollback_is_not_repeated_before_a_finite_step():
    model = make_model()
    optimizer = learned(model, rollback=True)
    train(model, optimizer, list(batches())[:20])
    with pytest.warns(UserWarning, match="20 steps in a row were skipped") as caught:
        spoil(optimizer, model, 10 * ROLLBACK_PATIENCE)
    assert {each.filename for each in caught} == {__file__}
    assert optimizer.rollbacks == 1
    step_with(optimizer, model, 1.0)
    spoil(optimizer, model)
    assert optimizer.rollbacks == 2
