"""Policies that choose the batch size: advice to the loop, and a budget of examples."""

from __future__ import annotations

import io
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import optenv
from agents import LearnedLR, LearnedOptimizer, load_policy
from agents.policy.files import save_policy
from optenv import telemetry
from tests.helpers.policies import random_policy

HORIZON, TOTAL, OWN = 12, 90, 16
TASK = optenv.tasks.MLP(
    batch_size=OWN, num_train=200, inputs=8, width=12, depth=2, activation="tanh",
    layer_norm=True,
)  # fmt: skip


def policy_of(**description: Any) -> Any:
    """Return a random policy that chooses many batch sizes, and changes them often."""
    schedule = description.pop("schedule", "cosine")
    action = {"kind": "batch-size", "schedule": schedule}
    policy = random_policy("adam", action, HORIZON, **description)
    with torch.no_grad():
        last, generator = policy.networks[0][2], torch.Generator().manual_seed(3)
        last.weight.copy_(torch.randn(last.weight.shape, generator=generator))
    return policy.requires_grad_(False)


def walk_environment(policy: Any, index: int = 1) -> tuple[list[Any], Any, Any]:
    """Return the walk of one run among several, its initial parameters and its group."""
    described = policy.description
    env = optenv.LearningRateVectorEnv(
        3, tasks=TASK, rule=described["rule"], action=described["action"], horizon=HORIZON,
        updates_per_step=TOTAL / HORIZON, spacing=described["spacing"], base_lr=2e-3,
        dtype="float64", autoreset_mode="Disabled", on_divergence="absorb",
    )  # fmt: skip
    observation, _ = env.reset(seed=4)
    group = env.groups[0][1]
    start, walk = group.state.run.params[index].clone(), []
    policy = policy.to(torch.float64)
    for _ in range(HORIZON):
        features = observation[index, : len(telemetry.FEATURES)]
        action = policy(torch.from_numpy(observation))
        observation, *_, info = env.step(action.numpy())
        run = group.state.run
        walk.append(
            (features, info["lr"][index], info["batch_size"][index], run.updates[index],
             run.params[index].numpy())
        )  # fmt: skip
    return walk, start, group


def walk_optimizer(policy: Any, start: Any, group: Any, index: int = 1) -> Any:
    """Repeat the run in a training loop that loads batches of the advised size."""
    parameters = [p[0].clone().requires_grad_() for p in TASK.unflatten(start[None])]
    optimizer = LearnedOptimizer(
        parameters, policy, total_steps=TOTAL, lr=2e-3, batch_size=OWN
    )
    data, loaded, walk = group.data, 0, []
    while optimizer.progress < 1:
        first = torch.full((len(data.order),), loaded)
        rows = data.rows_from(first, optimizer.batch_size)
        inputs, targets = (part[index] for part in data.batch(rows))
        loaded += optimizer.batch_size
        optimizer.zero_grad()
        stacked = tuple(p.unsqueeze(0) for p in parameters)
        loss = TASK.loss(stacked, inputs[None], targets[None])[0]
        loss.backward()
        before = len(optimizer.explain())
        optimizer.step(loss=loss)
        decisions = optimizer.explain()
        if len(decisions) > before:
            features = np.array([decisions[-1][name] for name in telemetry.FEATURES])
            walk.append([features, decisions[-1]["rate"], decisions[-1]["batch_size"], 0])
        walk[-1][3] += 1
        walk[-1][4:] = [torch.cat([p.detach().flatten() for p in parameters]).numpy()]
    return walk, loaded, optimizer


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_loop_that_follows_the_advice_makes_the_environment_s_run(
    schedule: str, tmp_path: Any
) -> None:
    written = save_policy(policy_of(schedule=schedule), tmp_path / "policy")
    policy = load_policy(written)
    expected, start, group = walk_environment(policy)
    found, loaded, optimizer = walk_optimizer(policy, start, group)
    assert len({size for _, _, size, *_ in expected}) > 2, "nothing was tested"
    assert len(found) == HORIZON
    made = np.diff([0, *(updates for *_, updates, _ in expected)])
    for ours, theirs, updates in zip(found, expected, made, strict=True):
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-8)
        assert (ours[2], ours[3]) == (theirs[2], updates)
        np.testing.assert_allclose(ours[4], theirs[4], rtol=1e-8, atol=1e-10)
    # The last batch of the environment is for a gradient that no update follows.
    assert loaded == group.state.run.drawn[1] - found[-1][2]
    assert loaded <= OWN * TOTAL + OWN and optimizer.progress == 1


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def train(module: nn.Module, optimizer: Any, loaded: int, steps: int) -> int:
    """Train on batches of the advised size out of a fixed stream of examples."""
    for _ in range(steps):
        generator = torch.Generator().manual_seed(loaded)
        size = optimizer.batch_size
        inputs = torch.randn(size, 6, generator=generator)
        targets = torch.randint(3, (size,), generator=generator)
        loaded += size
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(inputs), targets)
        loss.backward()
        optimizer.step(loss=loss)
    return loaded


@pytest.mark.parametrize("cut", [1, 9, 30])
def test_runs_with_a_budget_resume_bit_for_bit(cut: int) -> None:
    policy = policy_of()
    first, second = model(), model()
    whole = LearnedOptimizer(first.parameters(), policy, total_steps=40, batch_size=8)
    loaded = train(first, whole, 0, cut)
    buffer = io.BytesIO()
    torch.save((first.state_dict(), whole.state_dict()), buffer)
    train(first, whole, loaded, 25)
    buffer.seek(0)
    weights, saved = torch.load(buffer, weights_only=True)
    second.load_state_dict(weights)
    resumed = LearnedOptimizer(second.parameters(), policy, total_steps=40, batch_size=4)
    with pytest.warns(UserWarning, match="batch_size=8 overrides batch_size=4"):
        resumed.load_state_dict(saved)
    train(second, resumed, loaded, 25)
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)
    assert resumed.explain() == whole.explain()
    assert (resumed.batch_size, resumed.progress) == (whole.batch_size, whole.progress)


def test_the_progress_is_the_share_of_the_budget_that_is_used() -> None:
    policy, module = policy_of(), model()
    optimizer = LearnedOptimizer(module.parameters(), policy, total_steps=30, batch_size=8)
    assert (optimizer.progress, optimizer.batch_size) == (0.0, 8)
    seen, loaded = [0.0], 0
    while optimizer.progress < 1:
        size = optimizer.batch_size
        loaded = train(module, optimizer, loaded, 1)
        seen.append(optimizer.progress)
        # The budget is of the batches after the first; up to one batch may be left over.
        assert abs(optimizer.progress * 240 - (loaded - 8 + size)) <= 128
    assert seen == sorted(seen) and seen[-1] == 1
    assert optimizer.log_dict()["batch_size"] == optimizer.batch_size
    assert "of the budget is used" in repr(optimizer)
    assert "batch_size: number of examples in the next batches" in str(optimizer.explain())
    with pytest.warns(UserWarning, match="total_steps=30 are done; further steps"):
        train(module, optimizer, loaded, 1)
    assert optimizer.progress == 1
    optimizer.new_run(total_steps=20)
    assert (optimizer.progress, optimizer.batch_size) == (0.0, 8)


def test_an_anytime_policy_advises_batch_sizes_without_an_end() -> None:
    policy, module = policy_of(anytime=True, schedule="constant"), model()
    optimizer = LearnedOptimizer(module.parameters(), policy, batch_size=8)
    train(module, optimizer, 0, 60)
    assert optimizer.progress is None and len(optimizer.explain()) > 5


def test_a_roll_back_keeps_the_batch_size_until_the_next_decision() -> None:
    policy, module = policy_of(), model()
    optimizer = LearnedOptimizer(
        module.parameters(), policy, total_steps=200, batch_size=8, rollback=True
    )
    loaded = train(module, optimizer, 0, 20)
    state = optimizer.param_groups[0]["controller"]
    while state["budget"]["done"] < state["budget"]["updates"]:
        loaded = train(module, optimizer, loaded, 1)
        state = optimizer.param_groups[0]["controller"]
    state["probing"] = False  # as a roll-back leaves it
    decisions, window = len(optimizer.explain()), state["budget"]["window"]
    size = optimizer.batch_size
    train(module, optimizer, loaded, 1)
    assert optimizer.batch_size == size and len(optimizer.explain()) == decisions
    after = optimizer.param_groups[0]["controller"]["budget"]
    assert (after["window"], after["done"]) == (window + 1, 1)


def test_arguments_that_do_not_fit_the_policy_are_refused() -> None:
    params, policy = [*model().parameters()], policy_of()
    with pytest.raises(ValueError, match="batch_size is missing: this policy chooses"):
        LearnedOptimizer(params, policy, total_steps=30)
    with pytest.raises(ValueError, match="got batch_size=8 for one whose action is 'cont"):
        LearnedOptimizer(params, total_steps=30, batch_size=8)
    with pytest.raises(ValueError, match="batch_size must be a positive integer, got 0"):
        LearnedOptimizer(params, policy, total_steps=30, batch_size=0)
    with pytest.raises(ValueError, match="capturable=True is for policies that set"):
        LearnedOptimizer(
            params, policy, total_steps=30, batch_size=8, capturable=True, guard="probe"
        )
    with pytest.raises(ValueError, match="which a scheduler cannot"):
        LearnedLR(torch.optim.Adam(params), policy=policy, total_steps=30)
    optimizer = LearnedOptimizer(params, policy, total_steps=30, batch_size=8)
    for change in (optimizer.extend, optimizer.finish):
        with pytest.raises(ValueError, match="budget of examples is that of the beginning"):
            change(100)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("size", 0, "budget: size must be an integer from 1"),
        ("first", 10**6, "ends after it begins"),
        (None, None, "budget must be a dictionary"),
    ],
)
def test_a_damaged_budget_is_refused(entry: Any, value: Any, message: str) -> None:
    params = [*model().parameters()]
    optimizer = LearnedOptimizer(params, policy_of(), total_steps=30, batch_size=8)
    saved = optimizer.state_dict()
    controller = dict(saved["param_groups"][0]["controller"])
    damaged = {**controller["budget"], entry: value} if entry else None
    saved["param_groups"][0]["controller"] = {**controller, "budget": damaged}
    with pytest.raises(ValueError, match=re.escape(message)):
        optimizer.load_state_dict(saved)


def test_a_pickle_from_before_there_were_budgets_goes_on() -> None:
    module = model()
    optimizer = LearnedOptimizer(module.parameters(), random_policy(), total_steps=30)
    del optimizer.param_groups[0]["controller"]["budget"]
    copied = pickle.loads(pickle.dumps(optimizer))
    params = [p for group in copied.param_groups for p in group["params"]]
    for p in params:
        p.grad = torch.ones_like(p)
    copied.step(loss=1.0)
    assert copied.batch_size is None and copied.progress == pytest.approx(1 / 30)
