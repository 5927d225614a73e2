"""LearnedLR on any torch optimizer."""

from __future__ import annotations

import copy
import io
import itertools
import math
import pickle

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import state_dict as checkpoint
from torch.optim import lr_scheduler

from agents import LearnedLR, LearnedOptimizer
from optenv.telemetry import FEATURES
from tests.helpers.loops import STEPS, batches, learned, make_model, weights
from tests.helpers.policies import random_policy

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "Muon": lambda p: torch.optim.Muon([x for x in p if x.ndim == 2], lr=1e-2),
    "NAdam tensor lr": lambda p: torch.optim.NAdam(p, lr=torch.tensor(1e-2)),
}


def train(model, optimizer, scheduler, steps, with_loss=True):
    for inputs, targets in steps:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        scheduler.step(*([loss] if with_loss else []))
    return loss.item()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_shipped_policies_drive_any_torch_optimizer(name):
    model = make_model()
    optimizer = OPTIMIZERS[name](model.parameters())
    scheduler = LearnedLR(optimizer, total_steps=STEPS)
    losses, rates = [], []
    for inputs, _ in batches():
        step = (inputs, inputs[:, :3].argmax(1))
        losses.append(train(model, optimizer, scheduler, [step]))
        rates.append(float(scheduler.get_last_lr()[0]))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert len(set(rates)) > 10 and rates[-1] < 0.2 * max(rates)
    assert type(optimizer.param_groups[0]["lr"]) is type(optimizer.defaults["lr"])


@pytest.mark.parametrize(
    ("rule", "make"),
    [
        ("adam", lambda p: torch.optim.Adam(p, lr=2e-3)),
        ("sgd", lambda p: torch.optim.SGD(p, lr=2e-3)),
        ("momentum", lambda p: torch.optim.SGD(p, lr=2e-3, momentum=0.9)),
    ],
)
def test_without_losses_it_equals_learned_optimizer_of_the_same_rule(rule, make):
    policy, ours, theirs = random_policy(rule), make_model(), make_model()
    own = LearnedOptimizer(ours.parameters(), policy, total_steps=STEPS, lr=2e-3)
    optimizer = make(theirs.parameters())
    scheduler = LearnedLR(optimizer, STEPS, policy)
    for inputs, targets in batches():
        for model, driven in ((ours, own), (theirs, optimizer)):
            driven.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            driven.step()
        scheduler.step()
        rate = own.param_groups[0]["effective_lr"]
        assert scheduler.get_last_lr() == pytest.approx([rate])
    torch.testing.assert_close(weights(ours), weights(theirs))
    assert len(scheduler.explain()) == len(own.explain())


def test_the_loss_of_a_closure_is_observed_at_once():
    policy, ours, theirs = random_policy(), make_model(), make_model()
    own = learned(ours, lr=2e-3)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=2e-3)
    scheduler = LearnedLR(optimizer, STEPS, policy)
    calls = []
    for i, (inputs, targets) in enumerate(batches()):

        def closure(model, driven, inputs=inputs, targets=targets):
            driven.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            calls.append(loss)
            return loss

        own.step(lambda: closure(ours, own))
        extra = {"closure": lambda: closure(theirs, optimizer)}
        result = optimizer.step(**extra) if i % 2 else optimizer.step(*list(extra.values()))
        assert result is calls[-1]
        scheduler.step()
    assert len(calls) == 2 * STEPS
    torch.testing.assert_close(weights(ours), weights(theirs))
    for a, b in zip(own.explain(), scheduler.explain(), strict=True):
        assert [a[name] for name in FEATURES] == pytest.approx(
            [b[name] for name in FEATURES], abs=1e-4
        )


class Repeating(torch.optim.Optimizer):
    """Gradient descent that evaluates its closure several times in a step."""

    def step(self, closure):
        for _ in range(3):
            with torch.enable_grad():
                closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.data.sub_(group["lr"] * p.grad)


NOT_DRIVEN_NAMES = ["LBFGS", "Adadelta", "Rprop", "SparseAdam"]


@pytest.mark.parametrize("name", NOT_DRIVEN_NAMES)
def test_optimizers_whose_lr_is_no_rate_are_refused(name):
    optimizer = getattr(torch.optim, name)([nn.Parameter(torch.ones(3))])
    with pytest.raises(TypeError, match=f"cannot drive {name}: its"):
        LearnedLR(optimizer, STEPS)


@pytest.mark.parametrize("name", ["Prodigy", "DAdaptAdam", "MechanicAdamW"])
def test_optimizers_that_estimate_their_rate_are_refused(name):
    cls = type(name, (torch.optim.SGD,), {})
    for each in (cls, type("Mine", (cls,), {})):
        with pytest.raises(TypeError, match=f"cannot drive {name}: it estimates"):
            LearnedLR(each([nn.Parameter(torch.ones(3))], lr=1.0), STEPS)


ALL = sorted(
    name
    for name, value in vars(torch.optim).items()
    if isinstance(value, type) and value is not torch.optim.Optimizer
)


def train_at_defaults(name, driven, steps=100):
    """Train a classifier with an optimizer of torch at its defaults; return the loss."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 8, generator=generator)
    targets = (inputs[:, :4].sum(1).sin() > 0).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 2))
    params = [p for p in model.parameters() if name != "Muon" or p.ndim == 2]
    optimizer = getattr(torch.optim, name)(params)
    scheduler = LearnedLR(optimizer, steps) if driven else None
    for _ in range(steps):
        chosen = torch.randint(256, (32,), generator=generator)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen])
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step(loss)
    return nn.functional.cross_entropy(model(inputs), targets).item()


@pytest.mark.parametrize("name", [name for name in ALL if name not in NOT_DRIVEN_NAMES])
def test_no_optimizer_of_torch_at_its_defaults_is_ruined(name):
    alone, driven = (train_at_defaults(name, flag) for flag in (False, True))
    # The usual rate of RMSprop is a good one here, which the policy has to find first.
    assert driven < (2.0 if name == "RMSprop" else 1.0) * alone
    assert driven < math.log(2)


def test_the_refused_optimizers_are_all_of_torch():
    assert set(NOT_DRIVEN_NAMES) < set(ALL) and len(ALL) >= 15


def test_a_closure_called_repeatedly_counts_as_one_step():
    model = make_model()
    optimizer = Repeating(model.parameters(), {"lr": 0.1})
    scheduler = LearnedLR(optimizer, STEPS, random_policy())
    inputs, targets = next(batches())

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
        scheduler.step()
    assert scheduler.state_dict()["controller"]["steps"] == 5


@pytest.mark.parametrize("cut", [1, 7, 23, 24, 25, 41])
def test_resuming_is_bit_exact(cut):
    data, policy = list(batches()), random_policy()
    whole, first, second = (make_model() for _ in range(3))

    def made(model):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        return model, optimizer, LearnedLR(optimizer, STEPS, policy)

    train(*made(whole), data)
    begun = made(first)
    train(*begun, data[:cut])
    buffer = io.BytesIO()
    torch.save([part.state_dict() for part in begun], buffer)
    buffer.seek(0)
    resumed = made(second)
    for part, state in zip(resumed, torch.load(buffer, weights_only=True), strict=True):
        part.load_state_dict(state)
    train(*begun, data[cut:])
    train(*resumed, data[cut:])
    assert torch.equal(weights(first), weights(whole))
    assert torch.equal(weights(second), weights(whole))


def test_groups_keep_the_proportions_of_their_rates():
    model, extra = make_model(), nn.Parameter(torch.ones(2))
    groups = [
        {"params": model[0].parameters(), "lr": 1e-4},
        {"params": model[2].parameters()},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    scheduler = LearnedLR(optimizer, STEPS)
    data = list(batches())
    train(model, optimizer, scheduler, data[:10])
    optimizer.add_param_group({"params": [extra], "lr": 1e-3})
    extra.grad = torch.ones(2)
    train(model, optimizer, scheduler, data[10:40])
    rates = scheduler.get_last_lr()
    assert rates == pytest.approx([rates[0], 100 * rates[0], 10 * rates[0]])


def test_non_finite_gradients_do_not_reach_the_policy():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = LearnedLR(optimizer, STEPS)
    before = copy.deepcopy(scheduler.state_dict()["controller"])
    for p in model.parameters():
        p.grad = torch.full_like(p, float("nan"))
    optimizer.step()
    scheduler.step(torch.tensor(float("nan")))
    assert before["ignored_losses"] == 0
    before["ignored_losses"] = 1
    assert str(scheduler.state_dict()["controller"]) == str(before)


def test_optimizers_that_cannot_be_driven_are_refused():
    p = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    with pytest.raises(TypeError, match="needs a torch optimizer, got 5"):
        LearnedLR(5, 10)
    with pytest.raises(TypeError, match="has a policy already"):
        LearnedLR(LearnedOptimizer([p], total_steps=60), 60)
    with pytest.raises(ValueError, match="total_steps must be a positive integer, got 0"):
        LearnedLR(optimizer, 0)
    with pytest.raises(ValueError, match="total_steps is missing"):
        LearnedLR(optimizer, policy="adam")
    with pytest.raises(ValueError, match=r"got 'adam'; .* by name: policy='adam'"):
        LearnedLR(optimizer, "adam")
    with pytest.raises(TypeError, match=r"0\.1; the learning rate is that of the optim"):
        LearnedLR(optimizer, 60, 0.1)
    with pytest.raises(TypeError, match="by name: total_steps=60"):
        LearnedLR(optimizer, 60, 60)
    scheduler = LearnedLR(optimizer, 60)
    with pytest.raises(ValueError, match=r"shape \[2\]"):
        scheduler.step(torch.ones(2))
    other = torch.optim.lr_scheduler.StepLR(optimizer, 5).state_dict()
    with pytest.raises(ValueError, match="is not the state_dict of a LearnedLR"):
        scheduler.load_state_dict(other)
    state = LearnedLR(torch.optim.SGD([p], lr=0.1), 60, "adam").state_dict()
    with pytest.raises(ValueError, match=r"policy 'adam'; .* uses policy 'momentum'"):
        scheduler.load_state_dict(state)


def test_the_default_policy_depends_on_the_optimizer():
    p = nn.Parameter(torch.ones(2))
    sgd, *adams = (torch.optim.SGD([p]), torch.optim.Adam([p]), torch.optim.Adam([p]))
    assert LearnedLR(sgd, 60).policy.rule.name == "momentum"
    assert LearnedLR(adams[0], 60).policy.rule.name == "adam"
    with pytest.warns(UserWarning, match="using policy 'anytime'"):
        assert LearnedLR(adams[1]).policy.anytime


def test_a_scheduler_prints_what_it_drives_and_how_far_it_is():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = LearnedLR(optimizer, STEPS)
    train(model, optimizer, scheduler, list(batches())[:3])
    rate = optimizer.param_groups[0]["lr"]
    assert repr(scheduler).splitlines() == [
        "LearnedLR (",
        "policy: momentum",
        "optimizer: SGD, driven",
        f"step: 3 of {STEPS}",
        "schedule: constant, then falls to zero over the last 30 %",
        "counters: all 0",
        f"learning rates: {rate:.4g}",
        ")",
    ]
    scheduler.remove()
    assert "optimizer: SGD, no longer driven" in str(scheduler)


def test_a_step_at_lr_zero_does_not_count():
    model, data = make_model(), list(batches())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    scheduler = LearnedLR(optimizer, STEPS)
    train(model, optimizer, scheduler, data[:10])
    before, steps = weights(model), len(scheduler.explain())
    for _ in range(3):  # each takes a step of its own
        checkpoint.get_optimizer_state_dict(model, optimizer)
    assert torch.equal(weights(model), before) and len(scheduler.explain()) == steps
    saved = [part.state_dict() for part in (model, optimizer, scheduler)]
    saved = copy.deepcopy(saved)
    train(model, optimizer, scheduler, data[10:])
    other = make_model()
    again = torch.optim.AdamW(other.parameters(), lr=0.1, weight_decay=0.5)
    resumed = LearnedLR(again, STEPS)
    for part, state in zip((other, again, resumed), saved, strict=True):
        part.load_state_dict(state)
    train(other, again, resumed, data[10:])
    assert torch.equal(weights(model), weights(other))


def test_after_remove_another_scheduler_can_drive_the_optimizer():
    model, data = make_model(), list(batches())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = LearnedLR(optimizer, STEPS)
    train(model, optimizer, scheduler, data[:10])
    scheduler.remove()
    optimizer.param_groups[0]["lr"] = 0.05
    other = torch.optim.lr_scheduler.StepLR(optimizer, 100)
    train(model, optimizer, other, data[10:20], with_loss=False)
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_a_second_scheduler_gives_a_warning():
    model, data = make_model(), list(batches())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = LearnedLR(optimizer, STEPS)
    other = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    train(model, optimizer, scheduler, data[:1])
    other.step()
    with pytest.warns(UserWarning, match=r"set to .* by someone else.*warmup_steps="):
        train(model, optimizer, scheduler, data[1:2])


@pytest.mark.parametrize("first", [True, False])
def test_a_sequence_of_schedulers_refuses_a_learned_one_before_it_trains(first):
    model, data = make_model(), list(batches())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parts = [LearnedLR(optimizer, STEPS), lr_scheduler.LinearLR(optimizer, 0.5)]
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TypeError, match=r"part of a SequentialLR.*warmup_steps="):
        lr_scheduler.SequentialLR(optimizer, parts if first else parts[::-1], [4])
        inputs, targets = data[0]
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_chain_of_schedulers_says_what_to_do_about_a_learned_one():
    model, data = make_model(), list(batches())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learned = LearnedLR(optimizer, STEPS)
    linear = lr_scheduler.LinearLR(optimizer, 0.5)
    chain = lr_scheduler.ChainedScheduler([linear, learned])
    with pytest.warns(UserWarning, match=r"someone else.*warmup_steps="):
        train(model, optimizer, chain, data[:3], with_loss=False)


def test_fused_gradients_are_unscaled_before_they_are_observed():
    ends = []
    for fused in (False, True):
        model = make_model()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
        scheduler = LearnedLR(optimizer, STEPS)
        scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
        for inputs, targets in batches():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            scheduler.step(loss)
        ends.append([row["multiplier"] for row in scheduler.explain()])
    assert ends[0] == pytest.approx(ends[1], rel=1e-2)


def test_a_state_with_a_group_added_in_the_run_loads():
    model, data = make_model(), list(batches())
    first, *others = model.parameters()
    optimizer = torch.optim.Adam([first], lr=1e-3)
    scheduler = LearnedLR(optimizer, STEPS)
    train(model, optimizer, scheduler, data[:4])
    optimizer.add_param_group({"params": others, "lr": 1e-2})
    scheduler.load_state_dict(scheduler.state_dict())
    train(model, optimizer, scheduler, data[4:6])
    state = copy.deepcopy(scheduler.state_dict())
    assert state["base_lrs"] == [1e-3, 1e-2]
    two = torch.optim.Adam([{"params": [first]}, {"params": others}], lr=1e-3)
    two.load_state_dict(optimizer.state_dict())
    resumed = LearnedLR(two, STEPS)
    resumed.load_state_dict(state)
    assert resumed.get_last_lr() == scheduler.get_last_lr()


def test_a_state_dict_does_not_change_with_later_steps():
    model, data = make_model(), list(batches())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = LearnedLR(optimizer, STEPS)
    for batch in data:
        train(model, optimizer, scheduler, [batch])
        saved = scheduler.state_dict()
        before = str(saved)
        train(model, optimizer, scheduler, [batch])
        assert str(saved) == before
        if saved["kept"]:
            return
    pytest.fail("nothing was ever kept for a probe")


def test_the_state_of_a_larger_model_is_refused():
    small, large = nn.Parameter(torch.ones(2)), make_model()
    optimizer = torch.optim.SGD(large.parameters(), lr=0.1)
    scheduler = LearnedLR(optimizer, STEPS)
    train(large, optimizer, scheduler, list(batches())[:1])
    state = scheduler.state_dict()
    assert state["kept"]
    other = LearnedLR(torch.optim.SGD([small], lr=0.1), STEPS)
    with pytest.raises(ValueError, match="more than the 1 parameters here"):
        other.load_state_dict(state)


@pytest.mark.parametrize("with_loss", [True, False])
def test_to_maximise_is_to_minimise_the_negative(with_loss):
    stories = []
    for sign in (1.0, -1.0):
        model = make_model()
        optimizer = torch.optim.AdamW(model.parameters(), maximize=sign < 0)
        scheduler = LearnedLR(optimizer, STEPS)
        for inputs, targets in batches():
            optimizer.zero_grad()
            loss = sign * nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            scheduler.step(*([loss] if with_loss else []))
        stories.append(scheduler.explain())
    assert stories[0][-1]["has_loss"] == with_loss
    assert stories[0] == stories[1]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_drives_its_own_copy_of_the_optimizer(clone):
    model, data = make_model(), list(batches())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = LearnedLR(optimizer, STEPS)
    train(model, optimizer, scheduler, data[:24])
    own = clone((model, optimizer, scheduler))
    for each in ((model, optimizer, scheduler), own):
        train(*each, data[24:])
    assert torch.equal(weights(model), weights(own[0]))
    assert own[2].explain() == scheduler.explain()
    scheduler.remove()
    assert len(clone((optimizer, scheduler))[0]._optimizer_step_pre_hooks) == 0


def test_an_optimizer_has_one_learned_scheduler_at_a_time():
    optimizer = torch.optim.SGD(make_model().parameters(), lr=0.1)
    scheduler = LearnedLR(optimizer, STEPS)
    with pytest.raises(ValueError, match=r"driven by a LearnedLR already, .* remove"):
        LearnedLR(optimizer, STEPS)
    scheduler.remove()
    LearnedLR(optimizer, STEPS)


def test_a_wrapped_optimizer_is_refused():
    accelerate = pytest.importorskip("accelerate", reason="extra: frameworks")
    optimizer = torch.optim.SGD(make_model().parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"AcceleratedOptimizer: .* within"):
        LearnedLR(accelerate.Accelerator(cpu=True).prepare(optimizer), STEPS)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_a_removed_scheduler_drives_nothing(clone):
    p = nn.Parameter(torch.ones(3))
    scheduler = LearnedLR(torch.optim.SGD([p], 0.1), STEPS)
    p.grad = torch.ones(3)
    scheduler.optimizer.step()
    scheduler.step()
    scheduler.remove()
    other = clone(scheduler)
    other.remove()
    (group,) = other.optimizer.param_groups
    rate, group["params"][0].grad = group["lr"], torch.ones(3)
    for _ in range(STEPS):
        other.optimizer.step()
        other.step()
    assert group["lr"] == rate and len(other.explain()) == 1


@pytest.mark.parametrize("value", ["no", 1, None])
def test_synchronize_is_a_flag(value):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(3))], 0.1)
    with pytest.raises(TypeError, match="synchronize must be True or False, got"):
        LearnedLR(optimizer, STEPS, synchronize=value)
    LearnedLR(optimizer, STEPS)  # nothing drives the optimizer yet


def test_a_rate_of_zero_everywhere_is_warned_of():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(3))], 0.0)
    with pytest.warns(UserWarning, match="lr is 0 for all parameters"):
        LearnedLR(optimizer, STEPS)


@pytest.mark.parametrize("policy", ["adam", "momentum", "default"])
def test_max_lr_limits_every_group_that_has_no_limit_of_its_own(policy):
    first, second = nn.Linear(3, 4), nn.Linear(4, 2)
    groups = [
        {"params": first.parameters(), "max_lr": 3e-5},
        {"params": second.parameters()},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-5)
    scheduler = LearnedLR(optimizer, 60, policy, max_lr=1e-4)
    highest = [0.0, 0.0]
    for _ in range(60):
        optimizer.zero_grad()
        loss = second(first(torch.randn(8, 3)).relu()).square().mean()
        loss.backward()
        optimizer.step()
        scheduler.step(loss)
        rates = [group["lr"] for group in optimizer.param_groups]
        highest = [max(pair) for pair in zip(highest, rates, strict=True)]
    assert highest[0] <= 3e-5 * (1 + 1e-6) and highest[1] <= 1e-4 * (1 + 1e-6)
    assert highest[1] > 3e-5


@pytest.mark.parametrize(("limit", "error"), [(0.0, ValueError), ("high", TypeError)])
def test_a_limit_that_is_no_positive_number_is_refused(limit, error):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    with pytest.raises(error, match="max_lr must be"):
        LearnedLR(optimizer, 10, max_lr=limit)
    assert "max_lr" not in optimizer.param_groups[0]
    optimizer.param_groups[0]["max_lr"] = limit
    with pytest.raises(error, match="max_lr must be"):
        LearnedLR(optimizer, 10)


def test_numbers_for_a_logger_are_those_of_the_scheduler():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = LearnedLR(optimizer, STEPS)
    train(model, optimizer, scheduler, itertools.islice(batches(), 7))
    logged = scheduler.log_dict("lr/")
    assert logged["lr/lr"] == optimizer.param_groups[0]["lr"] and logged["lr/step"] == 7
    assert logged["lr/skipped"] == logged["lr/clipped"] == 0
    assert math.isclose(logged["lr/lr"] / 0.1, logged["lr/multiplier"], rel_tol=1e-5)
