"""Skipping, clipping, warnings and argument checks of LearnedOptimizer."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import nn

from agents import LearnedOptimizer
from agents.optim import groups
from agents.optim.layerwise import column
from agents.optim.state_keys import DECIDED
from optenv import rules
from tests.helpers.loops import STEPS, batches, learned, make_model, train, weights
from tests.helpers.policies import EACH_SHIPPED, random_policy


def test_a_state_of_another_policy_is_refused():
    model = make_model()
    optimizer = learned(model)
    policy = random_policy()
    with torch.no_grad():
        next(policy.parameters())[0, 0] += 1e-3
    other = LearnedOptimizer(model.parameters(), policy, total_steps=STEPS)
    before, here = (each.policy.fingerprint()[:12] for each in (optimizer, other))
    says = f"with the policy of fingerprint {before}; .* uses the policy of .* {here}"
    with pytest.raises(ValueError, match=says):
        other.load_state_dict(optimizer.state_dict())


def test_a_state_of_another_shipped_policy_is_refused_by_the_names_of_both():
    model = make_model()
    saved = LearnedOptimizer(model.parameters(), total_steps=STEPS).state_dict()
    other = LearnedOptimizer(model.parameters(), "adam", total_steps=STEPS)
    with pytest.raises(ValueError, match=r"saved with policy 'default'; .*") as error:
        other.load_state_dict(saved)
    assert "this LearnedOptimizer uses policy 'adam'" in str(error.value)
    assert "give policy='default' (if none is named, the policy" in str(error.value)


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD])
def test_a_state_of_an_optimizer_without_a_policy_is_refused_in_words(make):
    model = make_model()
    saved = make(model.parameters()).state_dict()
    says = r"is not the state_dict of a LearnedOptimizer \(it has no 'controller'\)"
    with pytest.raises(ValueError, match=says):
        learned(model).load_state_dict(saved)
    with pytest.raises(ValueError, match="is not the state_dict of a LearnedOptimizer"):
        learned(model).load_state_dict(model.state_dict())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_gradients_are_skipped_and_counted(bad):
    data, model = list(batches()), make_model()
    optimizer = learned(model)
    train(model, optimizer, data[:11])
    before = weights(model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    next(model.parameters()).grad[0, 0] = bad
    optimizer.step(loss=1.0)
    assert torch.equal(weights(model), before)
    assert optimizer.skipped == 1
    assert train(model, optimizer, data[11:]) < 10
    assert weights(model).isfinite().all()


def regression(optimizer, module, spike=1.0, at=60, steps=200):
    """Last loss of a small regression, the gradient of step ``at`` times ``spike``."""
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        inputs = torch.randn(32, 6, generator=generator)
        optimizer.zero_grad()
        loss = (module(inputs)[:, 0] - inputs.sum(1).sin()).square().mean()
        loss.backward()
        if step == at:
            for p in module.parameters():
                p.grad *= spike
        optimizer.step(loss=loss)
    return loss.item()


@functools.cache
def last_loss(name, spike=1.0, at=60):
    """Return the last loss of a regression with a shipped policy."""
    module = make_model()
    optimizer = LearnedOptimizer(module.parameters(), name, total_steps=200)
    loss = regression(optimizer, module, spike, at)
    assert optimizer.clipped == (spike > 1) and optimizer.skipped == 0
    return loss


@pytest.mark.parametrize("name", EACH_SHIPPED)
@pytest.mark.parametrize("at", [5, 60, 100])
def test_one_gradient_a_million_times_too_large_costs_little(name, at):
    # AdamW at 1e-2: 0.20, and 0.53 to 0.78; the policies of SGD undisturbed: 0.46, 0.52.
    assert last_loss(name) < 0.6
    assert last_loss(name, 1e6, at) < 3 * last_loss(name)


def test_gradients_that_stay_large_are_soon_no_longer_clipped():
    p = nn.Parameter(torch.zeros(2))
    optimizer = LearnedOptimizer([p], random_policy("sgd"), total_steps=200)
    for step in range(100):
        p.grad = torch.ones(2) * (1.0 if step < 50 else 1e4)
        optimizer.step()
    assert 0 < optimizer.clipped < 20
    clipped = optimizer.clipped
    optimizer.step()
    assert optimizer.clipped == clipped


def test_clipping_leaves_the_users_gradients_unchanged():
    p, q = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    optimizers = [
        LearnedOptimizer([x], random_policy("sgd", horizon=1), total_steps=200)
        for x in (p, q)
    ]
    for step in range(21):
        for x, optimizer, spike in zip((p, q), optimizers, (1e6, 10.0), strict=True):
            x.grad = torch.ones(2) * (spike if step == 20 else 1.0)
            optimizer.step()
    assert p.grad.tolist() == [1e6, 1e6]
    torch.testing.assert_close(p, q)  # as if it had been ten times the usual


def test_zero_gradients_do_not_lower_the_clipping_threshold():
    p = nn.Parameter(torch.zeros(2))
    optimizer = LearnedOptimizer([p], random_policy("sgd"), total_steps=1000)
    for step in range(500):
        p.grad = torch.ones(2) if step % 20 == 0 else torch.zeros(2)
        optimizer.step()
    assert optimizer.clipped == 0


def test_a_run_far_longer_than_in_training_gives_a_warning():
    policy = random_policy()
    policy.description["total_updates"] = [10, 50]
    p = nn.Parameter(torch.zeros(2))
    LearnedOptimizer([p], policy, total_steps=100)
    with pytest.warns(UserWarning, match=r"total_steps=101 .* at most 50 updates"):
        LearnedOptimizer([p], policy, total_steps=101)


def test_a_run_far_shorter_than_in_training_gives_a_warning():
    p = nn.Parameter(torch.zeros(2))
    LearnedOptimizer([p], total_steps=30)
    with pytest.warns(UserWarning, match=r"total_steps=29 .* at least 60 updates"):
        LearnedOptimizer([p], total_steps=29)


def test_a_policy_of_another_type_is_refused():
    with pytest.raises(TypeError, match="policy must be a name, a path or a Policy, got 5"):
        LearnedOptimizer([nn.Parameter(torch.zeros(2))], 5, total_steps=5)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (1e-3, r"0\.001; a learning rate is given by name: lr=0\.001$"),
        (400, "400; a number of steps is given by name: total_steps=400$"),
        (1, "1; a number of steps is given by name: total_steps=1$"),
        (4e2, r"400\.0; a number of steps is given by name: total_steps=400\.0$"),
        ([], r"got \[\]$"),
        (True, "got True$"),
    ],
)
def test_a_number_in_place_of_the_policy_is_told_where_it_belongs(given, says):
    with pytest.raises(TypeError, match=says):
        LearnedOptimizer([nn.Parameter(torch.zeros(2))], given)
    with pytest.raises(TypeError, match=says):
        LearnedOptimizer.for_model(make_model(), given)


def test_opposite_infinities_do_not_cancel():
    p = nn.Parameter(torch.zeros(2))
    optimizer = LearnedOptimizer([p], random_policy(), total_steps=10)
    p.grad = torch.tensor([float("inf"), -float("inf")])
    optimizer.step()
    assert torch.equal(p.detach(), torch.zeros(2))


@pytest.mark.parametrize("huge", [1e20, 3e38, 1e200])
def test_losses_beyond_the_range_of_float32_do_no_harm(huge):
    model = make_model()
    optimizer = learned(model)
    for step in range(STEPS):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step(loss=huge * (1 + step % 2) / 2)
    assert weights(model).isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), torch.tensor(float("nan"))])
def test_non_finite_losses_are_ignored(bad):
    data, model = list(batches()), make_model()
    optimizer = learned(model)
    train(model, optimizer, data[:5])
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step(loss=bad)
    train(model, optimizer, data[6:])
    assert weights(model).isfinite().all()
    state = optimizer.param_groups[0]["controller"]
    assert all(torch.isfinite(v).all() for v in state["history"].values())


def test_after_a_negative_loss_the_policy_ignores_losses():
    model = make_model()  # of a policy that observes logarithms of losses
    optimizer = LearnedOptimizer(model.parameters(), "default@0.1", total_steps=STEPS)
    for step, (inputs, targets) in enumerate(batches()):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        if step == 30:
            with pytest.warns(UserWarning, match=r"a loss is -\d.* as if none were given"):
                optimizer.step(loss=loss - 5)
        else:
            optimizer.step(loss=loss)
    told = [row["has_loss"] == 1 for row in optimizer.explain() if row["step"] > 0]
    steps = [row["step"] for row in optimizer.explain() if row["step"] > 0]
    assert told == [step < 30 for step in steps]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total_steps": 0}, "total_steps must be a positive integer, got 0"),
        ({"total_steps": True}, "total_steps must be a positive integer, got True"),
        ({"total_steps": 1.5}, "total_steps must be a positive integer, got 1.5"),
        ({"total_steps": 5, "lr": -1.0}, "lr must be at least 0 and finite, got -1.0"),
        ({"total_steps": 5, "lr": float("nan")}, "lr must be .* got nan"),
        ({"total_steps": 5, "weight_decay": -1.0}, "weight_decay must be .* got -1.0"),
        ({"total_steps": 5, "schedule": "cosine"}, "schedule must be .* got 'cosine'"),
    ],
)
def test_bad_arguments_are_quoted(arguments, message):
    with pytest.raises(ValueError, match=message):
        LearnedOptimizer([nn.Parameter(torch.ones(1))], random_policy(), **arguments)


@pytest.mark.parametrize(
    ("group", "error", "message"),
    [
        ({"lr": "a"}, TypeError, "lr must be a number, got 'a'"),
        ({"lr": True}, TypeError, "lr must be a number, got True"),
        ({"lr": -1.0}, ValueError, r"lr must be at least 0 and finite, got -1\.0"),
        ({"lr": float("nan")}, ValueError, "lr must be at least 0 .* got nan"),
        ({"lr": torch.ones(2)}, ValueError, r"Tensor lr must be 1-element"),
        ({"weight_decay": None}, TypeError, "weight_decay must be a number, got None"),
        ({"foreach": "yes"}, TypeError, "foreach must be True, False or None, got 'yes'"),
        ({"maximize": "no"}, TypeError, "maximize must be True or False, got 'no'"),
        ({"fused": True}, ValueError, "but this policy's is 'orthogonal-adam'"),
    ],
)
def test_settings_of_each_group_are_checked(group, error, message):
    p, q = (nn.Parameter(torch.ones(1)) for _ in range(2))
    with pytest.raises(error, match=message):
        LearnedOptimizer([p], total_steps=STEPS, **group)
    with pytest.raises(error, match=message):
        LearnedOptimizer([{"params": [p], **group}], total_steps=STEPS)
    optimizer = LearnedOptimizer([p], total_steps=STEPS)
    with pytest.raises(error, match=message):
        optimizer.add_param_group({"params": [q], **group})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("flag", ["rollback", "synchronize", "partitioned"])
def test_flags_other_than_bools_are_refused(flag):
    with pytest.raises(TypeError, match=f"{flag} must be True or False, got 'x'"):
        LearnedOptimizer([nn.Parameter(torch.ones(1))], total_steps=60, **{flag: "x"})


@pytest.mark.parametrize("loss", ["0.5", b"1", 10**400, torch.tensor(1j)])
def test_a_loss_that_is_no_number_is_refused(loss):
    model = make_model()
    optimizer = learned(model)
    with pytest.raises(TypeError, match="loss must be"):
        optimizer.step(loss=loss)


def test_a_loss_that_is_not_a_scalar_is_refused_before_anything_moves():
    model = make_model()
    optimizer = learned(model)
    before = weights(model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    with pytest.raises(
        ValueError, match=r"loss must be a scalar, got a tensor of shape \[3\]"
    ):
        optimizer.step(loss=torch.ones(3))
    assert torch.equal(weights(model), before)


def test_a_loss_passed_as_the_closure_is_refused():
    p = nn.Parameter(torch.ones(2))
    optimizer = LearnedOptimizer([p], random_policy(), total_steps=5)
    p.grad = torch.ones(2)
    with pytest.raises(TypeError, match=r"got tensor\(1\.\); .* step\(loss=loss\)"):
        optimizer.step(torch.tensor(1.0))
    with pytest.raises(TypeError, match=r"loss must be a scalar, got \[1\.0, 2\.0\]"):
        optimizer.step(loss=[1.0, 2.0])


@pytest.mark.parametrize("rule", list(rules.RULES))
def test_sparse_gradients_are_refused_before_anything_moves(rule):
    module = nn.Embedding(5, 2, sparse=True)
    before = weights(module)
    optimizer = LearnedOptimizer(
        module.parameters(), random_policy(rule=rule), total_steps=5
    )
    module(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r"sparse gradients.* shape \[5, 2\]"):
        optimizer.step()
    assert torch.equal(weights(module), before)


@functools.cache
def late_loss(policy, spiked=None):
    """Return the mean of the last losses, and how often gradients were clipped."""
    model, losses = make_model(), []
    optimizer = LearnedOptimizer(model.parameters(), policy, total_steps=STEPS)
    for i, (inputs, _) in enumerate(batches()):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), inputs[:, :3].argmax(1))
        (loss * (1000.0 if i == spiked else 1.0)).backward()
        optimizer.step(loss=loss)
        losses.append(loss.item())
    return sum(losses[-20:]) / 20, optimizer.clipped


@pytest.mark.parametrize("policy", ["default", "adam"])
@pytest.mark.parametrize("spiked", [*range(10), 10, 12, 20, 30, 50])
def test_a_spike_costs_nothing_however_early(policy, spiked):
    usual, clipped = late_loss(policy)
    with_spike, clipped_then = late_loss(policy, spiked)
    assert clipped == 0 and clipped_then == 1
    assert with_spike < 1.1 * usual


@pytest.mark.parametrize("kind", ["continuous", "layerwise"])
def test_norms_are_not_observed_against_those_of_an_outlier(kind):
    policy = random_policy("sgd", {"kind": kind}).requires_grad_(False)
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), policy, total_steps=STEPS)
    for i, (inputs, targets) in enumerate(batches()):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        (loss * (1e6 if i == 0 else 1.0)).backward()
        optimizer.step(loss=loss)
    seen = {row["step"]: row["grad_vs_initial"] for row in optimizer.explain()}
    assert all(abs(value) < 2 for value in seen.values()) and len(seen) > 10
    if kind == "layerwise":
        entries = [optimizer.state[p][DECIDED] for p in model.parameters()]
        assert all(entry[column("grad_initial")] < math.log(1e3) for entry in entries)


@pytest.mark.parametrize("policy", ["default", "momentum", "rl2", "unrolled-rule"])
def test_a_step_that_failed_and_is_retried_changes_nothing(policy, monkeypatch):
    def run(failing):
        model = make_model()
        optimizer = LearnedOptimizer(model.parameters(), policy, total_steps=STEPS)
        for i, (inputs, targets) in enumerate(batches()):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            if i in failing:
                with monkeypatch.context() as patch:
                    patch.setattr(groups, "update", fail)
                    with pytest.raises(MemoryError):
                        optimizer.step(loss=loss)
            optimizer.step(loss=loss)
        return weights(model), optimizer.explain()

    def fail(*args, **kwargs):
        raise MemoryError

    whole, decisions = run(())
    retried, same_decisions = run(range(STEPS))
    assert decisions == same_decisions
    assert torch.equal(whole, retried)


@pytest.mark.parametrize("interrupted", range(6))
def test_a_first_step_interrupted_while_it_allocates_can_be_retried(
    interrupted, monkeypatch
):
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), total_steps=STEPS)
    inputs, targets = next(iter(batches()))
    nn.functional.cross_entropy(model(inputs), targets).backward()
    before, calls, zeros = weights(model), [], torch.zeros

    def interrupting(*args, **kwargs):
        calls.append(args)
        if len(calls) == interrupted + 1:
            raise KeyboardInterrupt
        return zeros(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", interrupting)
        with pytest.raises(KeyboardInterrupt):
            optimizer.step(loss=1.0)
    assert torch.equal(weights(model), before)
    for _ in range(3):
        optimizer.step(loss=1.0)
    assert optimizer.log_dict()["step"] == 3
