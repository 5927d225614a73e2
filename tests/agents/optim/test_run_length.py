"""Length of a run, warm-up, and the schedules that apply to the learning rate."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import state_dict as checkpoint
from torch.optim import lr_scheduler

from agents import LearnedLR, LearnedOptimizer
from agents.optim import clock
from agents.policies import SHIPPED
from agents.policy.module import Policy
from optenv.roles import ROLES
from optenv.windows import boundaries
from tests.helpers.loops import batches, make_model, train
from tests.helpers.policies import random_policy

STEPS = 20


def still(schedule="wsd", **described):
    """Return a policy that moves nothing, with a base schedule."""
    return Policy({**random_policy(action={"schedule": schedule}).description, **described})


def make(policy=None, **arguments):
    p = nn.Parameter(torch.ones(3))
    arguments = {"total_steps": STEPS, "lr": 0.1, **arguments}
    return LearnedOptimizer([p], still() if policy is None else policy, **arguments)


def take(optimizer, steps, scheduler=None):
    """Take steps, and return the learning rates of each over the base rate."""
    found = []
    for _ in range(steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()
        found.append(optimizer.param_groups[0]["effective_lr"] / 0.1)
        if scheduler is not None:
            scheduler.step()
    return np.array(found)


def wsd(steps=STEPS):
    return np.minimum(1.0, (1 - np.arange(steps) / steps) / 0.3)


# Schedules of the user, and the policy's own.

WARM_UPS = {
    "linear": lambda o: lr_scheduler.LinearLR(o, 0.25, total_iters=4),
    "constant": lambda o: lr_scheduler.ConstantLR(o, 0.25, total_iters=4),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda t: min(1.0, (t + 1) / 4)),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, 0.5, total_iters=4), lr_scheduler.ConstantLR(o, 1.0)],
        [4],
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, 0.5, total_iters=4), lr_scheduler.ConstantLR(o, 1.0)]
    ),
}


@pytest.mark.parametrize("name", WARM_UPS)
def test_the_policys_fall_comes_after_a_torch_schedulers_warm_up(name):
    optimizer = make()
    found = take(optimizer, STEPS, WARM_UPS[name](optimizer))
    assert found[0] < 0.6
    np.testing.assert_allclose(found[5:], wsd()[5:], rtol=1e-6)


def test_a_one_cycle_of_the_user_is_followed_as_it_is():
    optimizer, plain = make(), torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)
    users = []
    for each in (optimizer, plain):
        scheduler = lr_scheduler.OneCycleLR(
            each, 0.1, STEPS, pct_start=0.25, cycle_momentum=False
        )
        if each is plain:
            for _ in range(STEPS):
                users.append(plain.param_groups[0]["lr"] / 0.1)
                plain.step()
                scheduler.step()
        else:
            found = take(optimizer, STEPS, scheduler)
    np.testing.assert_allclose(found, users, rtol=1e-6)


def test_the_max_lr_of_a_one_cycle_is_no_limit_of_the_user():
    optimizer = make("default", total_steps=100, lr=1e-2, max_lr=1e-3)
    scheduler = lr_scheduler.OneCycleLR(optimizer, 1e-2, 101, cycle_momentum=False)
    assert max(take(optimizer, 100, scheduler)) * 0.1 == pytest.approx(1e-3)
    free = make("default", total_steps=100, lr=1e-2)
    scheduler = lr_scheduler.OneCycleLR(free, 1e-2, 101, cycle_momentum=False)
    assert max(take(free, 100, scheduler)) * 0.1 > 1.5e-2


@pytest.mark.parametrize("given", ["argument", "group", "written later"])
def test_schedules_lower_a_limited_rate(given):
    p = nn.Parameter(torch.ones(3))
    group = {"params": [p], **({"max_lr": 0.05} if given == "group" else {})}
    limit = 0.05 if given == "argument" else None
    optimizer = LearnedOptimizer(
        [group], still(), total_steps=STEPS, lr=0.1, max_lr=limit, warmup_steps=5
    )
    if given == "written later":
        optimizer.param_groups[0]["max_lr"] = 0.05
    expected = 0.5 * wsd()
    expected[:5] *= np.arange(1, 6) / 5
    np.testing.assert_allclose(take(optimizer, STEPS), expected, rtol=1e-6)
    assert optimizer.param_groups[0]["max_lr"] == 0.05
    with pytest.warns(UserWarning, match="no more than 1%"):
        assert take(optimizer, 1)[0] == pytest.approx(0.005)


def test_a_torch_scheduler_lowers_a_limited_rate():
    optimizer = make(max_lr=0.05)
    found = take(optimizer, STEPS, lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS))
    users = 1 - np.arange(STEPS) / STEPS
    np.testing.assert_allclose(found, 0.5 * np.minimum(users, wsd()), rtol=1e-6)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_policy_sees_no_multiplier_beyond_the_limit(name):
    total = None if name == "anytime" else 200
    optimizer = make(name, total_steps=total, lr=1e-3, max_lr=1e-5)
    take(optimizer, 150)
    assert max(row["multiplier"] for row in optimizer.explain()) <= 0.01 * (1 + 1e-5)
    assert optimizer.param_groups[0]["effective_lr"] <= 1e-5


def test_a_limit_holds_for_the_learning_rate_of_each_role():
    model = make_model()
    policy = random_policy(action={"kind": "roles", "start": 2.9})
    optimizer = LearnedOptimizer.for_model(
        model, policy, total_steps=60, lr=1e-2, max_lr=2e-2
    )
    train(model, optimizer, list(batches())[:30])
    rows = optimizer.explain()
    roles = np.array([[row[f"multiplier_{role}"] for role in ROLES] for row in rows])
    assert roles.max() == pytest.approx(2.0) and roles.min() < 1.9
    seen = [row["log_multiplier"] for row in rows[1:]]
    np.testing.assert_allclose(seen, np.log(roles).mean(1)[:-1] / 3, rtol=1e-4)
    limit = 2e-2 * (1 + 1e-6)
    assert all(group["effective_lr"] <= limit for group in optimizer.param_groups)


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: lr_scheduler.StepLR(o, 5, 0.1),
        lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
        lambda o: lr_scheduler.MultiStepLR(o, [3, 12], 0.1),
        lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    ],
)
@pytest.mark.parametrize("goes_on", [True, False])
def test_a_run_under_a_torch_scheduler_falls_when_it_finishes(scheduler, goes_on):
    optimizer = make()
    users = scheduler(optimizer)
    before = take(optimizer, 8, users)[-1]
    optimizer.finish(8)
    found = take(optimizer, 8, users if goes_on else None)
    assert all(np.diff(found) < 0) and found[0] <= before
    rates = optimizer.param_groups[0]["lr"] / 0.1
    if not goes_on:
        np.testing.assert_allclose(found, rates * (1 - np.arange(8) / 8), rtol=1e-6)


def test_the_lower_of_the_users_factor_and_the_policys_applies():
    optimizer = make()
    scheduler = lr_scheduler.MultiStepLR(optimizer, [10, 19], 0.5)
    users = np.array([1.0] * 10 + [0.5] * 9 + [0.25])
    found = take(optimizer, STEPS, scheduler)
    np.testing.assert_allclose(found, np.minimum(users, wsd()), rtol=1e-6)


def test_each_group_follows_the_lower_of_its_own_factor_and_the_policys():
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = LearnedOptimizer(
        [{"params": [p]}, {"params": [q]}], still(), total_steps=STEPS, lr=0.1
    )
    scheduler = lr_scheduler.LambdaLR(
        optimizer, [lambda t: 1.0, lambda t: 1.0 if t < 10 else 0.5]
    )
    found = []
    for _ in range(STEPS):
        p.grad, q.grad = torch.ones(3), torch.ones(3)
        optimizer.step()
        scheduler.step()
        found.append([group["effective_lr"] / 0.1 for group in optimizer.param_groups])
    halved = np.array([1.0] * 10 + [0.5] * 10)
    expected = np.stack([wsd(), np.minimum(halved, wsd())], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "momentum", "default"])
def test_a_one_cycle_cycles_the_rules_momentum_too(name):
    optimizer = make(name, total_steps=100, lr=1e-2)
    scheduler = lr_scheduler.OneCycleLR(optimizer, 1e-2, 101)
    take(optimizer, 50, scheduler)
    group = optimizer.param_groups[0]
    momentum = group["momentum"] if name == "momentum" else group["betas"][0]
    assert 0.85 <= momentum < 0.95


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_distributed_checkpoint_knows_how_high_the_users_rate_has_been(tmp_path):
    def made():
        model = nn.Linear(3, 1)
        optimizer = LearnedOptimizer(model.parameters(), still(), total_steps=STEPS, lr=0.1)
        lr_scheduler.LambdaLR(optimizer, lambda t: 2.0)
        return model, optimizer

    def state(model, optimizer):
        return {"optimizer": checkpoint.get_optimizer_state_dict(model, optimizer)}

    model, optimizer = made()
    take(optimizer, 3)
    dcp.save(state(model, optimizer), checkpoint_id=tmp_path, no_dist=True)
    other, resumed = made()
    loaded = state(other, resumed)
    dcp.load(loaded, checkpoint_id=tmp_path, no_dist=True)
    checkpoint.set_optimizer_state_dict(
        other, resumed, optim_state_dict=loaded["optimizer"]
    )
    assert resumed.param_groups[0][clock.PEAK] == pytest.approx(0.2)


def test_a_resumed_run_knows_how_high_the_users_rate_has_been():
    first = make()
    take(first, 12, lr_scheduler.LambdaLR(first, lambda t: 2.0 if t < 6 else 1.0))
    second = make()
    lr_scheduler.LambdaLR(second, lambda t: 1.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    np.testing.assert_array_equal(take(first, 8), take(second, 8))
    assert first.param_groups[0][clock.PEAK] == pytest.approx(0.2)


@pytest.mark.parametrize("schedule", clock.SCHEDULES)
def test_a_warm_up_of_its_own_rises_linearly(schedule):
    expected = wsd() if schedule else np.ones(STEPS)
    expected[:5] *= np.arange(1, 6) / 5
    optimizer = make(warmup_steps=5, schedule=schedule)
    np.testing.assert_allclose(take(optimizer, STEPS), expected, rtol=1e-6)


def test_a_warm_up_belongs_to_each_run_and_to_the_saved_state():
    optimizer = make(warmup_steps=5)
    take(optimizer, 3)
    other = make()
    other.load_state_dict(optimizer.state_dict())
    assert take(other, 1)[0] == pytest.approx(4 / 5)
    optimizer.new_run()
    assert take(optimizer, 1)[0] == pytest.approx(1 / 5)


@pytest.mark.parametrize("value", [-1, 20, 3.5, True, "3", None])
def test_a_warm_up_that_is_no_part_of_the_run_is_refused(value):
    with pytest.raises(ValueError, match="warmup_steps must be"):
        make(warmup_steps=value)


def test_a_scheduler_with_warm_up_drives_any_optimizer():
    p = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([p], 0.1)
    scheduler = LearnedLR(optimizer, STEPS, still(), warmup_steps=4)
    found = []
    for _ in range(STEPS):
        p.grad = torch.ones(3)
        optimizer.step()
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"] / 0.1)
    expected = wsd()
    expected[:4] *= np.arange(1, 5) / 4
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# Lengths.


@pytest.mark.parametrize(
    "total", [1e3, np.float64(1e3), np.float32(1e3), np.int64(1000), 1000]
)
def test_integral_floats_are_numbers_of_steps(total):
    assert make(total_steps=total).total_steps == 1000
    assert type(make(total_steps=total).total_steps) is int


@pytest.mark.parametrize("total", [1.5, float("nan"), float("inf"), True, "10", -1.0, 0])
def test_other_values_are_no_numbers_of_steps(total):
    with pytest.raises(ValueError, match="total_steps must be a positive integer, got"):
        make(total_steps=total)


@pytest.mark.filterwarnings("ignore:total_steps=.* is far beyond:UserWarning")
@pytest.mark.parametrize("total", [10**12, 2**63 - 1])
def test_the_state_does_not_grow_with_the_length_of_the_run(total):
    def numbers(total):
        optimizer = make(total_steps=total)
        tensors = [optimizer.state_dict()["param_groups"][0]["controller"]["trace"]]
        return [tensor.numel() for tensor in tensors]

    assert numbers(total) == numbers(1000)


def test_a_length_beyond_64_bits_is_refused():
    with pytest.raises(
        ValueError, match=f"total_steps must be at most {2**63 - 1}, got 1000"
    ):
        make(total_steps=10**400)


def drivers():
    """Return a learned optimizer and a scheduler, both of the same length."""
    other = torch.optim.SGD([nn.Parameter(torch.ones(3))], 0.1)
    return make(), LearnedLR(other, STEPS, still())


def test_an_assigned_length_is_refused_with_what_to_call():
    for driver in drivers():
        with pytest.raises(AttributeError, match=r"extend\(total_steps\)"):
            driver.total_steps = 40
        assert driver.total_steps == STEPS


def test_a_state_of_another_length_is_named_when_it_is_loaded():
    for own, other in zip(drivers(), drivers(), strict=True):
        own.extend(3 * STEPS)
        with pytest.warns(UserWarning, match=r"total_steps=60.*total_steps=20"):
            other.load_state_dict(own.state_dict())
        assert other.total_steps == 3 * STEPS
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            other.load_state_dict(own.state_dict())


@pytest.mark.parametrize("done", [5, 17, 25])
def test_an_extended_run_goes_on_as_one_of_that_length(done):
    optimizer = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of 25 steps in a run of 20
        take(optimizer, done)
    optimizer.extend(40)
    np.testing.assert_allclose(take(optimizer, 40 - done), wsd(40)[done:], rtol=1e-6)
    steps = [row["step"] for row in optimizer.explain()]
    assert steps == sorted(set(steps)) and steps[-1] < 40
    described = optimizer.policy.description
    expected = boundaries(40, described["horizon"], described["spacing"])
    assert {s for s in steps if s >= done} <= {s for s in expected.tolist() if s >= done}


@pytest.mark.parametrize("done", [0, 3, 10, 15, 19])
@pytest.mark.parametrize("steps", [1, 4, 30])
def test_a_finished_run_falls_to_zero_from_where_its_schedule_stands(done, steps):
    optimizer = make()
    take(optimizer, done)
    optimizer.finish(steps)
    assert optimizer.total_steps == done + steps
    expected = wsd()[done] * (1 - np.arange(steps) / steps)
    np.testing.assert_allclose(take(optimizer, steps), expected, rtol=1e-6)
    seen = [row["progress"] for row in optimizer.explain() if row["step"] > done]
    assert all(np.diff(seen) > 0)
    with pytest.warns(UserWarning, match=f"total_steps={done + steps} are done"):
        assert take(optimizer, 1)[0] <= 0.01 + 1e-6
    with pytest.raises(ValueError, match="the run has ended"):
        optimizer.finish(5)


def test_a_run_finished_in_its_warm_up_falls_at_once():
    optimizer = make(warmup_steps=8)
    take(optimizer, 3)
    optimizer.finish(4)
    expected = 4 / 8 * (1 - np.arange(4) / 4)
    np.testing.assert_allclose(take(optimizer, 4), expected, rtol=1e-6)
    optimizer.extend(40)
    np.testing.assert_allclose(take(optimizer, 1), [1.0])


def test_a_decision_that_an_extension_makes_due_waits_for_its_measurements():
    seen = 0
    for done in range(1, 100):
        optimizer = make("default", total_steps=200)
        take(optimizer, done)
        due = optimizer._controller.state["probing"]
        optimizer.extend(300)
        if optimizer._controller.is_decision() and not due:
            seen += 1
            take(optimizer, 1)
            assert optimizer.explain()[-1]["step"] < done
        if seen == 2:
            break
    assert seen


@pytest.mark.parametrize("policy", ["anytime", None])
def test_a_run_finished_twice_falls_on_from_where_it_is(policy):
    total = None if policy else 100
    optimizer = make(policy, total_steps=total, schedule="auto" if policy else None)
    take(optimizer, 20)
    optimizer.finish(20)
    take(optimizer, 15)
    optimizer.finish(20)
    fall = optimizer._controller_state()["fall"]
    assert fall == (35, 55, pytest.approx(0.25))
    assert "still to come" not in optimizer.explain().note


def test_runs_of_unknown_length_can_be_finished():
    optimizer = make("anytime", total_steps=None)
    take(optimizer, 30)
    multiplier = optimizer.explain()[-1]["multiplier"]
    optimizer.finish(10)
    found = take(optimizer, 10)
    assert optimizer.total_steps == 40
    multipliers = [multiplier] + [
        row["multiplier"] for row in optimizer.explain() if row["step"] >= 30
    ]
    assert min(multipliers) * 0.1 <= found[-1] * (1 + 1e-6) <= max(multipliers) * 0.11
    with pytest.warns(UserWarning, match="total_steps=40 are done"):
        take(optimizer, 1)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_finished_or_extended_run_resumes_bit_for_bit(name):
    anytime = name == "anytime"
    optimizer = make(name, total_steps=None if anytime else 200)
    take(optimizer, 50)
    if anytime:
        optimizer.finish(100)
    else:
        optimizer.extend(300)
        take(optimizer, 20)
        optimizer.finish(90)
    take(optimizer, 25)
    other = make(name, total_steps=None if anytime else 200)
    for mine, theirs in zip(
        optimizer.param_groups[0]["params"], other.param_groups[0]["params"], strict=True
    ):
        theirs.data.copy_(mine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of another length
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    np.testing.assert_array_equal(take(optimizer, 30), take(other, 30))


@pytest.mark.parametrize("value", [0, -3, 2.5, True, None, "9"])
def test_lengths_that_make_no_sense_are_refused_and_change_nothing(value):
    for driver in drivers():
        with pytest.raises(ValueError, match="steps"):
            driver.extend(value)
        with pytest.raises(ValueError, match="steps must be a positive integer"):
            driver.finish(value)
        assert driver.total_steps == STEPS
    optimizer = make()
    take(optimizer, 8)
    with pytest.raises(ValueError, match="more than the 8 steps so far, got 8"):
        optimizer.extend(8)


def test_an_anytime_policy_has_no_length_to_extend():
    optimizer = make("anytime", total_steps=None)
    take(optimizer, 10)
    with pytest.raises(ValueError, match="no total_steps to extend"):
        optimizer.extend(30)
    optimizer.finish(5)
    optimizer.extend(30)
    assert take(optimizer, 5)[-1] > 0.5 * take(optimizer, 1)[-1]


def test_leaving_out_the_length_says_which_policy_that_means():
    p = nn.Parameter(torch.ones(3))
    with pytest.warns(UserWarning, match="using policy 'anytime'.*'default'"):
        LearnedOptimizer([p])
    with pytest.warns(UserWarning, match="using policy 'anytime'.*'momentum'"):
        LearnedLR(torch.optim.SGD([p], 0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LearnedOptimizer([p], "anytime")


def test_the_warning_on_another_loaded_length_names_the_call_that_changes_it():
    saved = make(total_steps=30)
    take(saved, 8)
    longer, shorter = make(total_steps=60), make(total_steps=5)
    says = r"total_steps=30 overrides total_steps=60, .*; extend\(60\) changes it$"
    with pytest.warns(UserWarning, match=says):
        longer.load_state_dict(saved.state_dict())
    assert longer.total_steps == 30
    longer.extend(60)
    assert longer.total_steps == 60
    with pytest.warns(UserWarning, match=r"=5, .*; extend\(total_steps\) changes it$"):
        shorter.load_state_dict(saved.state_dict())


@pytest.mark.parametrize("bounds", [(1, 5), (10**4, 10**5)])
def test_the_warning_on_an_unusual_length_says_what_may_happen(bounds):
    policy = still(total_updates=list(bounds))
    with pytest.warns(UserWarning, match="total_steps=20 .*; performance may degrade$"):
        make(policy)
