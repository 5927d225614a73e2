"""LearnedOptimizer as a torch optimizer: groups, closures, schedules, rates."""

from __future__ import annotations

import copy
import inspect
import math

import pytest
import torch
from torch import nn

from agents import LearnedOptimizer
from agents.optim import groups
from agents.optim.controller import mean_log_lr
from agents.policy.module import Policy
from optenv import rules
from optenv.telemetry import FEATURES
from tests.helpers.loops import STEPS, batches, learned, make_model, train, weights
from tests.helpers.policies import random_policy


def test_the_callers_policy_is_not_changed():
    policy, model = random_policy(), make_model().double()
    optimizer = LearnedOptimizer(model.parameters(), policy, total_steps=STEPS)
    train(model, optimizer, batches(dtype=torch.float64))
    assert all(p.dtype == torch.float32 for p in policy.parameters())
    assert optimizer.policy.fingerprint() == policy.fingerprint()


def test_training_works_without_any_loss():
    model = make_model()
    optimizer = learned(model)
    train(model, optimizer, batches(), use_loss=False)
    assert optimizer.explain()[-1]["has_loss"] == 0
    assert weights(model).isfinite().all()


def test_the_closure_is_called_once_with_gradients_and_its_value_returned():
    data, calls = list(batches()), []
    model, other = make_model(), make_model()
    policy = random_policy()
    optimizer = LearnedOptimizer(model.parameters(), policy, total_steps=STEPS)
    for inputs, targets in data:

        def closure(inputs=inputs, targets=targets):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            calls.append(loss)
            return loss

        assert optimizer.step(closure) is calls[-1]
    assert len(calls) == STEPS
    train(other, LearnedOptimizer(other.parameters(), policy, total_steps=STEPS), data)
    assert torch.equal(weights(model), weights(other))


def test_each_group_has_its_own_base_rate_and_lr_is_never_written():
    model = make_model()
    groups = [
        {"params": model[0].parameters(), "lr": 1e-4},
        {"params": model[2].parameters()},
    ]
    optimizer = LearnedOptimizer(groups, random_policy(), total_steps=STEPS, lr=1e-2)
    train(model, optimizer, batches())
    first, second = optimizer.param_groups
    assert (first["lr"], second["lr"]) == (1e-4, 1e-2)
    assert second["effective_lr"] == pytest.approx(100 * first["effective_lr"])


def test_repr_shows_groups_without_the_controller():
    text = repr(learned(make_model(), lr=0.25))
    assert "Parameter Group 0" in text and "lr: 0.25" in text
    assert "controller" not in text and "tensor" not in text
    limited = repr(learned(make_model(), lr=0.25, max_lr=1.0))
    assert "max_lr: 1.0" in limited and "lr_limit" not in limited


def test_repr_says_which_policy_runs_and_what_applies():
    optimizer = LearnedOptimizer(make_model().parameters(), total_steps=STEPS)
    text = repr(optimizer)
    for line in (
        "policy: default", "rule: orthogonal-adam", "step: 0 of 60", "counters: all 0",
        "schedule: constant, then falls to zero over the last 30 %",
    ):  # fmt: skip
        assert line in text
    torch.optim.lr_scheduler.LinearLR(optimizer)
    assert "or a torch scheduler's factor, whichever is lower" in repr(optimizer)
    optimizer.finish(10)
    assert "falls to zero from step 0 to 10" in repr(optimizer)


def test_numbers_for_a_logger_are_flat_and_current():
    model = make_model()
    optimizer = learned(model, lr=0.1)
    train(model, optimizer, list(batches())[:5])
    numbers = optimizer.log_dict("optimizer/")
    assert numbers["optimizer/lr"] == optimizer.param_groups[0]["effective_lr"] > 0
    assert numbers["optimizer/step"] == 5 and numbers["optimizer/skipped"] == 0
    last = optimizer.explain()[-1]["multiplier"]
    assert numbers["optimizer/multiplier"] == pytest.approx(last)
    two = LearnedOptimizer([{"params": [p]} for p in model.parameters()], total_steps=9)
    assert {"lr_0", "lr_3"} < set(two.log_dict())
    two.param_groups[1]["effective_lr"] = 0.5
    assert two.log_dict()["lr"] == two.log_dict()["lr_1"] == 0.5
    assert all(type(value) in (int, float) for value in two.log_dict().values())


def test_a_limit_of_the_learning_rate_holds_for_its_group():
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    groups = [{"params": [p], "max_lr": 1e-6}, {"params": [q]}]
    optimizer = LearnedOptimizer(groups, total_steps=STEPS, lr=1e-3)
    for _ in range(STEPS):
        p.grad, q.grad = torch.ones(3), torch.ones(3)
        optimizer.step()
        first, second = (group["effective_lr"] for group in optimizer.param_groups)
        multiplier = optimizer.explain()[-1]["multiplier"]
        schedule = second / (1e-3 * multiplier)
        assert first == pytest.approx(min(1e-6, 1e-3 * multiplier) * schedule)
    with pytest.raises(ValueError, match="max_lr must be at least 0 and finite, got -1"):
        LearnedOptimizer([p], total_steps=STEPS, max_lr=-1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("policy", "momentum"), ("total_steps", 50), ("schedule", None), ("guard", "probe"),
        ("amsgrad", True), ("nesterov", True), ("momentum", 0.9), ("betas", (0.9, 1.5)),
        ("betas", 0.9), ("eps", -1.0), ("alpha", 0.99), ("capturable", True),
        ("eps", [1]), ("eps", torch.ones(2)), ("betas", (torch.ones(2), 0.9)),
        ("alpha", torch.ones(2)), ("momentum", "high"), ("max_lr", 0.0),
        ("Lr", 0.1), ("weightdecay", 0.1), ("weight-decay", 0.1), ("total_step", 5),
        ("learning_rate", 0.1), ("min_lr", 1e-7), ("warmup", 3), ("max_grad_norm", 1.0),
        ("refresh", 4), ("refresh", 0),
    ],
)  # fmt: skip
def test_settings_that_would_have_no_effect_are_refused(key, value):
    group = {"params": [nn.Parameter(torch.ones(3))], key: value}
    with pytest.raises((ValueError, TypeError), match=key.rstrip("s")):
        LearnedOptimizer([group], "adam", total_steps=STEPS)


def test_no_argument_of_an_optimizer_of_torch_is_taken_for_a_key_of_the_users_own():
    of_torch = {
        name
        for each in vars(torch.optim).values()
        if isinstance(each, type) and issubclass(each, torch.optim.Optimizer)
        for name in inspect.signature(each).parameters
    }
    known = {*groups.KNOWN, *groups.GLOBAL, *groups.FOREIGN}
    # The last one says what weight decay here is in any case.
    assert of_torch - known == {"params", "defaults", "decoupled_weight_decay"}
    assert not {"name", "lr_scale", "initial_lr", "layer", "decay"} & known


def test_a_misspelt_setting_is_answered_with_the_right_one():
    group = {"params": [nn.Parameter(torch.ones(3))], "Weight_Decays": 0.1}
    with pytest.raises(ValueError, match="did you mean 'weight_decay'"):
        LearnedOptimizer([group], total_steps=STEPS)


def test_a_limit_beside_a_least_rate_is_not_taken_for_that_of_a_scheduler():
    group = {"params": [nn.Parameter(torch.ones(3))], "max_lr": 2e-5, "min_lr": 1e-7}
    with pytest.raises(ValueError, match=r"min_lr=1e-07 would have no effect"):
        LearnedOptimizer([group], total_steps=STEPS)


def test_a_group_may_repeat_the_arguments_of_the_optimizer():
    arguments = {"policy": "adam", "total_steps": STEPS, "guard": "probe"}
    group = {"params": [nn.Parameter(torch.ones(3))], **arguments}
    optimizer = LearnedOptimizer([group], **arguments)
    copied = copy.deepcopy(optimizer)
    copied.add_param_group({"params": [nn.Parameter(torch.ones(2))], "policy": "adam"})
    with pytest.raises(ValueError, match="total_steps is of the whole optimizer"):
        copied.add_param_group({"params": [nn.Parameter(torch.ones(2))], "total_steps": 9})


@pytest.mark.parametrize(
    ("policy", "settings"),
    [
        ("adam", {"betas": (0.8, 0.999), "eps": 1e-8}), ("momentum", {"momentum": 0.9}),
        ("default", {"betas": (0.9, 0.9999), "eps": 1e-8, "refresh": 1}),
    ],
)  # fmt: skip
def test_hyperparameters_of_the_rule_are_among_the_defaults(policy, settings):
    optimizer = LearnedOptimizer([nn.Parameter(torch.ones(3))], policy, total_steps=STEPS)
    assert settings.items() <= optimizer.defaults.items()
    assert settings.items() <= optimizer.param_groups[0].items()


def test_settings_of_other_optimizers_may_be_there_if_they_are_off():
    off = {"amsgrad": False, "momentum": 0, "alpha": None, "decoupled_weight_decay": True}
    group = {"params": [nn.Parameter(torch.ones(3))], **off}
    optimizer = LearnedOptimizer([group], "adam", total_steps=STEPS)
    assert off.items() <= optimizer.param_groups[0].items()


def test_keys_of_the_users_own_are_kept():
    group = {"params": [nn.Parameter(torch.ones(3))], "name": "head", "lr_scale": 0.5}
    optimizer = LearnedOptimizer([{**group, "amsgrad": False}], total_steps=STEPS)
    assert optimizer.param_groups[0]["name"] == "head"
    assert optimizer.param_groups[0]["lr_scale"] == 0.5


@pytest.mark.parametrize("of_group", [True, False])
@pytest.mark.parametrize(
    ("policy", "settings", "same"),
    [
        ("adam", {"betas": (0.5, 0.9), "eps": 1e-3},
         lambda p, lr: torch.optim.Adam(p, lr, betas=(0.5, 0.9), eps=1e-3)),
        ("momentum", {"momentum": 0.5},
         lambda p, lr: torch.optim.SGD(p, lr, momentum=0.5)),
    ],
)  # fmt: skip
def test_hyperparameters_of_the_rule_are_heeded(policy, settings, same, of_group):
    ours, theirs = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    group = {"params": [ours], **(settings if of_group else {})}
    extra = {} if of_group else settings
    optimizer = LearnedOptimizer([group], policy, total_steps=STEPS, **extra)
    reference = same([theirs], 1.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        ours.grad = torch.randn(3, generator=generator)
        theirs.grad = ours.grad.clone()
        optimizer.step()
        reference.param_groups[0]["lr"] = optimizer.param_groups[0]["effective_lr"]
        reference.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("of_group", [True, False])
def test_factors_are_kept_for_as_many_updates_as_the_user_says(of_group):
    p, factors = nn.Parameter(torch.zeros(4, 6)), []
    settings = {"refresh": 3}
    group = {"params": [p], **(settings if of_group else {})}
    extra = {"matrices": True} | ({} if of_group else settings)
    optimizer = LearnedOptimizer([group], total_steps=STEPS, **extra)
    generator = torch.Generator().manual_seed(0)
    for _ in range(18):
        p.grad = torch.randn(4, 6, generator=generator)
        optimizer.step()
        factors.append(optimizer.state[p]["factors"].clone())
    renewed = [t for t in range(1, 18) if not torch.equal(factors[t], factors[t - 1])]
    assert [t + 1 for t in renewed if t >= 10] == [12, 15, 18]
    with pytest.raises(ValueError, match="refresh must be a positive integer, got 0"):
        LearnedOptimizer([p], total_steps=STEPS, refresh=0)


def test_a_rate_of_zero_everywhere_is_warned_of():
    with pytest.warns(UserWarning, match="lr is 0 for all parameters"):
        LearnedOptimizer([nn.Parameter(torch.ones(3))], total_steps=STEPS, lr=0.0)


def test_a_step_that_moves_only_groups_at_lr_zero_does_not_count():
    still, frozen = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    groups = [{"params": [still], "lr": 0.0}, {"params": [frozen], "lr": 1e-3}]
    optimizer = LearnedOptimizer(groups, total_steps=STEPS)
    still.grad = torch.ones(3)
    for _ in range(5):
        optimizer.step()
    assert optimizer.explain() == [] and torch.equal(still.detach(), torch.ones(3))


def test_a_closure_can_return_something_other_than_a_loss():
    p = nn.Parameter(torch.ones(3))
    optimizer = LearnedOptimizer([p], total_steps=STEPS)

    def closure():
        p.grad = torch.ones(3)
        return 0.5, "outputs"

    assert optimizer.step(closure) == (0.5, "outputs")
    assert optimizer.explain()[0]["has_loss"] == 0


@pytest.mark.parametrize("rule", list(rules.RULES))
def test_a_step_at_lr_zero_does_not_count(rule):
    model, data = make_model(), list(batches())
    optimizer = LearnedOptimizer(
        model.parameters(), random_policy(rule=rule), total_steps=STEPS, weight_decay=0.1
    )
    train(model, optimizer, data[:10])
    before, saved = weights(model), copy.deepcopy(optimizer.state_dict())
    rate, optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"], 0.0
    train(model, optimizer, data[10:20])
    optimizer.param_groups[0]["lr"] = rate
    assert torch.equal(weights(model), before)
    saved["param_groups"][0]["effective_lr"] = 0.0
    assert str(optimizer.state_dict()) == str(saved)


@pytest.mark.parametrize("rule", list(rules.RULES))
def test_a_step_at_lr_zero_allocates_all_state(rule):
    models = [make_model() for _ in range(2)]
    one, two = (
        LearnedOptimizer(m.parameters(), random_policy(rule=rule), total_steps=STEPS)
        for m in models
    )
    train(models[0], one, list(batches())[:1])
    two.param_groups[0]["lr"] = torch.tensor(0.0)
    train(models[1], two, list(batches())[:1])

    def shapes(optimizer):
        return [
            {
                name: value.shape
                for name, value in state.items()
                if not name.startswith("last_")
            }
            for state in optimizer.state.values()
        ]

    assert shapes(one) == shapes(two)


def test_weight_decay_is_decoupled():
    p = nn.Parameter(torch.ones(3))
    optimizer = LearnedOptimizer(
        [p], random_policy(), total_steps=10, lr=0.1, weight_decay=0.5
    )
    p.grad = torch.zeros(3)
    optimizer.step()
    lr = optimizer.param_groups[0]["effective_lr"]
    torch.testing.assert_close(p.detach(), torch.full((3,), 1 - 0.5 * lr))


def test_steps_past_the_end_run_at_a_floor_and_warn_once():
    p = nn.Parameter(torch.ones(3))
    optimizer = LearnedOptimizer([p], random_policy(), total_steps=20)
    rates = []
    for _ in range(20):
        p.grad = torch.ones(3)
        optimizer.step()
        rates.append(optimizer.param_groups[0]["effective_lr"])
    with pytest.warns(UserWarning, match="total_steps=20 are done") as caught:
        for _ in range(5):
            optimizer.step()
            rate = optimizer.param_groups[0]["effective_lr"]
            assert 0 < rate <= 0.0101 * max(rates)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_parameters_without_gradient_and_late_groups_are_accepted():
    model, extra = make_model(), nn.Parameter(torch.ones(2))
    unused = nn.Parameter(torch.ones(2))
    optimizer = LearnedOptimizer(
        [*model.parameters(), unused], random_policy(), total_steps=STEPS
    )
    optimizer.step()  # no gradient anywhere: nothing happens
    assert optimizer.param_groups[0]["controller"]["steps"] == 0
    data = list(batches())
    train(model, optimizer, data[:10])
    optimizer.add_param_group({"params": [extra]})
    for inputs, targets in data[10:]:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs) + extra.sum(), targets)
        (loss + extra.square().sum()).backward()
        optimizer.step(loss=loss)
    assert torch.equal(unused.detach(), torch.ones(2))
    assert not torch.equal(extra.detach(), torch.ones(2))


def test_the_global_generator_is_not_used():
    before = torch.get_rng_state()
    model = make_model()
    train(
        model,
        learned(model),
        batches(),
    )
    assert torch.equal(torch.get_rng_state(), before)


def rates(schedule, steps=10, driven=False, **described):
    """Effective rates under a policy that moves nothing, perhaps driven by a scheduler."""
    p = nn.Parameter(torch.ones(3))
    described = {**random_policy(action={"schedule": "wsd"}).description, **described}
    optimizer = LearnedOptimizer(
        [p], Policy(described), total_steps=10, lr=0.1, schedule=schedule
    )
    lr_scheduler = torch.optim.lr_scheduler
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t) if driven else None
    found = []
    for _ in range(steps):
        p.grad = torch.ones(3)
        optimizer.step()
        found.append(optimizer.param_groups[0]["effective_lr"])
        if scheduler is not None:
            scheduler.step()
    return found


def test_a_torch_scheduler_replaces_the_policys_schedule():
    own = [min(1.0, (1 - t / 10) / 0.3) for t in range(10)]
    users = [0.5**t for t in range(10)]
    both = [a * b for a, b in zip(own, users, strict=True)]
    assert rates("auto") == rates("always") == pytest.approx([0.1 * x for x in own])
    assert rates(None) == pytest.approx([0.1] * 10)
    assert rates("auto", driven=True) == pytest.approx([0.1 * x for x in users])
    assert rates(None, driven=True) == pytest.approx([0.1 * x for x in users])
    assert rates("always", driven=True) == pytest.approx([0.1 * x for x in both])


@pytest.mark.parametrize("schedule", [None, "always"])
def test_the_floor_past_the_end_holds_with_and_without_a_schedule(schedule):
    with pytest.warns(UserWarning, match="total_steps=10 are done"):
        assert rates(schedule, steps=12)[-2:] == pytest.approx([0.001] * 2)


def test_torchs_default_dtype_and_device_do_not_matter():
    generator, policy = torch.Generator().manual_seed(2), random_policy()
    # More steps than a counter in bfloat16 can count.
    gradients = torch.randn(300, 3, generator=generator)

    def walk():
        p = nn.Parameter(torch.ones(3, dtype=torch.float32, device="cpu"))
        optimizer = LearnedOptimizer([p], policy, total_steps=300)
        for gradient in gradients:
            p.grad = gradient.clone()
            optimizer.step(loss=gradient.square().sum())
        return p.detach()

    expected = walk()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            found = walk()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("policy", [None, "default", "gradient-only", "dqn"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_change_a_step(policy, dtype):
    walks = []
    for enabled in (False, True):
        params = [nn.Parameter(torch.ones(shape)) for shape in ((3,), (4, 6), (6, 2))]
        chosen = random_policy() if policy is None else policy
        optimizer = LearnedOptimizer(params, chosen, total_steps=20)
        with torch.autocast("cpu", dtype, enabled=enabled):
            for step in range(20):
                for p in params:
                    p.grad = torch.linspace(-1, 1, p.numel()).view_as(p) * (step + 1)
                optimizer.step(loss=1.0 / (step + 1))
        walks.append(params)
    assert all(map(torch.equal, *walks))


def test_effective_lr_is_zero_before_the_first_step():
    p = nn.Parameter(torch.ones(2))
    optimizer = LearnedOptimizer([p], random_policy(), total_steps=5)
    p.grad = torch.full((2,), torch.nan)
    optimizer.step()
    assert optimizer.param_groups[0]["effective_lr"] == 0.0
    p.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.param_groups[0]["effective_lr"] > 0


def test_the_policy_observes_the_mean_log_lr_of_all_groups():
    a, b = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(1))

    frozen = torch.nn.Parameter(torch.zeros(1000), requires_grad=False)
    a.grad, b.grad = torch.ones(3), torch.ones(1)

    def group(p, lr):
        return {"params": [p, frozen], "lr": lr}

    both = mean_log_lr([group(a, 1e-3), group(b, 1e-1)])
    assert both == pytest.approx(0.75 * math.log(1e-3) + 0.25 * math.log(1e-1))
    assert mean_log_lr([group(a, 0.0), group(b, 1e-1)]) == pytest.approx(math.log(1e-1))
    assert mean_log_lr([group(a, 0.0)]) == mean_log_lr([group(frozen, 1.0)]) == -math.inf


def test_the_base_lr_changes_only_the_learning_rate_feature():
    def first_observation(lr):
        model = make_model()
        policy = random_policy()
        optimizer = LearnedOptimizer(model.parameters(), policy, total_steps=STEPS, lr=lr)
        train(model, optimizer, list(batches())[:1])
        return {name: optimizer.explain()[0][name] for name in FEATURES}

    low, high = first_observation(1e-3), first_observation(2e-3)
    rates = [seen.pop("learning_rate") for seen in (low, high)]
    assert rates[1] - rates[0] == pytest.approx(math.log(2) / 2)
    assert low == high
