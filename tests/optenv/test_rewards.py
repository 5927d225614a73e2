"""Returns are the log progress of runs, and diverged runs return least."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor, nn

from optenv import rewards, rules, tasks
from optenv.rules import switching
from tests.helpers.small_runs import (
    ENV_IDS,
    MLP,
    QUADRATIC,
    assert_same,
    neutral_action,
    random_actions,
    rollout,
)

ID = "optenv/LearningRate-v0"
RUNS, HORIZON = 6, 6
TASKS = {
    "mlp": MLP,
    "regression": tasks.MLP(source="sine", num_train=200, width=8, outputs=1),
    "quadratic": tasks.Quadratic(batch_size=4, num_train=300, num_validation=200, dim=8),
}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
every_source = pytest.mark.parametrize("source", ["train", "validation"])
FLOOR = -math.log(rewards.EPSILON / (1 + rewards.EPSILON))


def run(actions: list[Any], **arguments: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """Return returns and highest losses ``[RUNS]`` of absorbing runs, and their batch."""
    env = gym.make_vec(
        ID, RUNS, horizon=HORIZON, on_divergence="absorb", dtype="float64", **arguments
    )
    total, highest = np.zeros(RUNS), np.zeros(RUNS)
    for _, reward, _, _, info in rollout(env, actions, seed=0)[1:]:
        total += reward
        highest = np.maximum(highest, info["loss"])
    return total, highest, env


def potential(loss: Tensor, initial: Tensor) -> Tensor:
    """Compute the potential of a reward with one source."""
    return rewards.potential(loss.unsqueeze(-1), initial.unsqueeze(-1))


def reward_loss(env: Any, source: str, params: Tensor) -> Tensor:
    """Compute the loss of the reward without the environment."""
    group = env.groups[0][1]
    data, task = group.data, group.task
    start = 0 if source == "train" else task.num_train
    size = task.num_train if source == "train" else task.num_validation
    rows = data.rows[:, start : start + min(128, size)]
    assert rows.shape[1] == min(128, size)
    return task.loss(task.unflatten(params), data.inputs[rows], data.targets[rows])


@every_source
@pytest.mark.parametrize(
    ("task", "rule"),
    [
        (TASKS["mlp"], "adam"),
        (TASKS["regression"], "momentum"),
        (TASKS["quadratic"], "adam"),
    ],
    ids=TASKS,
)
def test_returns_order_learning_rates_exactly_as_final_losses_do(
    task: tasks.Task, source: str, rule: str
) -> None:
    returns, losses = [], []
    for base_lr in np.logspace(-5, 3, 10):
        constant = [np.zeros((RUNS, 1))] * HORIZON
        total, highest, env = run(
            constant, tasks=task, rule=rule, base_lr=base_lr, objective=source
        )
        state = env.groups[0][1].state
        loss = reward_loss(env, source, state.run.params).numpy()
        diverged = (
            highest / state.initial_loss[:, 0].numpy() > 20.057
        )  # its potential > log 20
        returns.append(total)
        losses.append(np.where(diverged, np.inf, loss))
    for ours, theirs in zip(np.transpose(returns), np.transpose(losses), strict=True):
        finite = np.isfinite(theirs)
        assert 3 <= finite.sum() < 10
        np.testing.assert_array_equal(np.argsort(-ours[finite]), np.argsort(theirs[finite]))
        assert len(np.unique(ours[finite])) == finite.sum()
        np.testing.assert_allclose(ours[~finite], -rewards.DIVERGED_POTENTIAL)
        assert ours[~finite].max() < ours[finite].min() - 0.5


@every_task
@every_source
def test_a_return_is_the_log_progress_of_the_whole_run(
    task: tasks.Task, source: str
) -> None:
    env = gym.make_vec(
        ID,
        RUNS,
        tasks=task,
        horizon=HORIZON,
        objective=source,
        dtype="float64",
        base_lr=1e-2,
    )
    env.reset(seed=0)
    state = env.groups[0][1].state
    initial = reward_loss(env, source, state.run.params)
    total = np.zeros(RUNS)
    for action in random_actions(env.action_space, HORIZON):
        _, reward, terminated, _, info = env.step(action)
        total += reward
        loss = reward_loss(env, source, env.groups[0][1].state.run.params)
        np.testing.assert_allclose(info["loss"], loss, rtol=1e-10)
        progress = -torch.log((loss + 0.003 * initial) / (1.003 * initial))
        np.testing.assert_allclose(total, progress, rtol=1e-8, atol=1e-10)
    assert terminated.all()
    assert (total != 0).all()


def test_train_and_validation_rewards_differ() -> None:
    constant = [np.zeros((RUNS, 1))] * HORIZON
    train, validation = (
        run(constant, tasks=MLP, base_lr=1e-2, objective=source)[0]
        for source in ("train", "validation")
    )
    assert (train != validation).all()


def test_both_sources_together_reward_the_mean_of_their_progress() -> None:
    constant = [np.zeros((RUNS, 1))] * HORIZON
    train, validation, both = (
        run(constant, tasks=MLP, base_lr=1e-2, objective=source)[0]
        for source in ("train", "validation", "both")
    )
    np.testing.assert_allclose(both, (train + validation) / 2, rtol=1e-8)


def returns(name: str, actions: list[Any], **arguments: Any) -> np.ndarray:
    """Return the return ``[RUNS]`` of runs that are rewarded by ``name``."""
    arguments = {"tasks": MLP, "base_lr": 1e-2, "objective": "both", **arguments}
    return run(actions, reward=name, **arguments)[0]


@pytest.mark.parametrize("on_divergence", ["end", "absorb"])
def test_the_final_reward_is_paid_once_and_sums_to_the_progress(on_divergence: str) -> None:
    actions = random_actions(gym.make_vec(ID, RUNS).action_space, HORIZON)
    paid, progress = [], []
    for name in ("final", "log_loss"):
        env = gym.make_vec(
            ID, RUNS, reward=name, tasks=MLP, base_lr=(1e-3, 1e4), rule="sgd",
            horizon=HORIZON, on_divergence=on_divergence, autoreset_mode="NextStep",
            dtype="float64",
        )  # fmt: skip
        total, live = np.zeros(RUNS), np.ones(RUNS, np.bool_)
        for _, reward, ended, *_ in rollout(env, actions, seed=0)[1:]:
            total += reward * live
            if name == "final":
                assert (reward[live & ~ended] == 0).all()
                assert (reward[live & ended] != 0).all()
            live &= ~ended
        assert not live.any()
        assert 0 < (total == -rewards.DIVERGED_POTENTIAL).sum() < RUNS
        (paid if name == "final" else progress).append(total)
    np.testing.assert_allclose(paid, progress, rtol=1e-12)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_the_reward_of_time_divides_progress_by_the_cost_of_the_rule(rule: str) -> None:
    constant = [np.zeros((RUNS, 1))] * HORIZON
    progress, per_time = (returns(n, constant, rule=rule) for n in ("log_loss", "time"))
    cost = rules.relative_cost(rule, MLP.num_params, MLP.work)
    assert (cost > 1.2) == (rule == "adam")
    assert (progress > 0).all()
    np.testing.assert_allclose(per_time, progress / cost, rtol=1e-10)


def test_the_reward_of_time_takes_the_mean_cost_of_the_rules_that_were_chosen() -> None:
    chosen = ["sgd", "orthogonal-adam", "adam"]
    actions = [np.full(RUNS, 3 * switching.NAMES.index(name) + 1) for name in chosen]
    env = gym.make_vec(
        "optenv/UpdateRule-v0", RUNS, tasks=MLP, horizon=3, spacing=2.0, reward="time",
        updates_per_step=10, dtype="float64",
    )  # fmt: skip
    total = sum(step[1] for step in rollout(env, actions, seed=0)[1:])
    group = env.groups[0][1]
    updates = np.diff(group.boundaries)
    assert updates[0] < updates[1] < updates[2]
    costs = [rules.relative_cost(n, MLP.num_params, MLP.work) for n in chosen]
    mean = (updates * costs).sum() / updates.sum()
    potential = group.state.potential.numpy()
    assert (potential < 0).all() and mean > 2
    np.testing.assert_allclose(total, -potential / mean, rtol=1e-10)


def test_a_costly_rule_makes_a_diverged_run_no_better() -> None:
    constant = [np.zeros((RUNS, 1))] * HORIZON
    for rule in ("momentum", "orthogonal-adam"):
        total = returns("time", constant, rule=rule, base_lr=1e6)
        np.testing.assert_allclose(total, -rewards.DIVERGED_POTENTIAL)


PAIRS = [
    (env_id, name)
    for env_id in [*ENV_IDS, "optenv/UpdateRuleTrial-v0"]
    for name in rewards.REWARDS
]


@pytest.mark.parametrize(("env_id", "name"), PAIRS)
def test_all_rewards_are_alike_in_single_and_vector_environments(
    env_id: str, name: str
) -> None:
    arguments: dict[str, Any] = {
        "tasks": QUADRATIC, "horizon": 3, "updates_per_step": 3, "reward": name,
        "objective": "validation", "base_lr": 0.01, "dtype": "float64",
    }  # fmt: skip
    single, batch = gym.make(env_id, **arguments), gym.make_vec(env_id, 2, **arguments)
    actions = random_actions(batch.action_space, 3)
    twin = gym.make(EnvSpec.from_json(single.spec.to_json()), tasks=QUADRATIC)
    alone, again = (
        rollout(env, [action[1] for action in actions], seed=1) for env in (single, twin)
    )
    together = rollout(batch, actions, seed=0)
    assert_same(alone, again)
    copied = pickle.loads(pickle.dumps(single))
    assert_same(rollout(copied, [a[1] for a in actions], seed=1), alone)
    for one, both in zip(alone[1:], together[1:], strict=True):
        np.testing.assert_allclose(one[1], both[1][1], rtol=1e-6, atol=1e-9)
    assert any(step[1] for step in alone[1:]) or env_id.count("Trial")


def test_objectives_of_examples_that_a_reward_does_not_take_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = {"mine": rewards.Reward(("validation",))}
    monkeypatch.setattr(rewards, "_REGISTERED", own)
    for objective in ("train", "validation"):
        gym.make(ID, reward="mine", objective=objective)
    with pytest.raises(ValueError, match=r"'mine' takes .* own, validation;.* got 'both'"):
        gym.make(ID, reward="mine", objective="both")


def test_the_reward_of_time_needs_the_cost_of_the_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = dataclasses.replace(rules.RULES["sgd"], name="mine")
    monkeypatch.setattr(rules, "_REGISTERED", {"mine": mine})
    with pytest.raises(ValueError, match=r"COSTS\['mine'\] = "):
        gym.make(ID, rule="mine", reward="time")
    monkeypatch.setitem(rules.COSTS, "mine", 3.8)
    gym.make(ID, rule="mine", reward="time")


def test_a_run_is_diverged_if_one_of_its_losses_is() -> None:
    loss = torch.tensor([[1.0, 1.0], [1.0, 30.0], [math.nan, 1.0]])
    phi, diverged = rewards.REWARDS["log_loss"].evaluate(loss, torch.ones(3, 2))
    assert diverged.tolist() == [False, True, True]
    assert (phi > rewards.MAX_POTENTIAL).tolist() == [False, True, True]


def test_the_validation_loss_at_the_end_is_on_all_validation_examples() -> None:
    task = TASKS["quadratic"]
    env = gym.make_vec(ID, RUNS, tasks=task, horizon=2, dtype="float64")
    env.reset(seed=0)
    assert "validation_loss" not in env.step(neutral_action(env))[4]
    info = env.step(neutral_action(env))[4]
    group = env.groups[0][1]
    rows = group.data.rows[:, task.num_train :]
    assert rows.shape[1] == task.num_validation > 128
    loss = task.loss(
        (group.state.run.params,), group.data.inputs[rows], group.data.targets[rows]
    )
    np.testing.assert_allclose(info["validation_loss"], loss, rtol=1e-10)


def test_a_diverged_run_stays_diverged_even_if_its_loss_recovers() -> None:
    action = {"kind": "continuous", "step": 4.0}
    up, down, stay = (np.full((RUNS, 1), a) for a in (1.0, -1.0, 0.0))
    total, highest, env = run(
        [up, down, *[stay] * 4], tasks=tasks.Quadratic(batch_size=64, num_train=64, dim=4),
        rule="adam", base_lr=0.3, action=action, updates_per_step=10,
    )  # fmt: skip
    state = env.groups[0][1].state
    recovered = (state.loss < state.initial_loss)[:, 0].numpy()
    diverged = recovered & (highest > 25 * state.initial_loss[:, 0].numpy())
    assert diverged.sum() >= 2
    np.testing.assert_allclose(total[diverged], -rewards.DIVERGED_POTENTIAL)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_diverged_potential_is_worse_than_every_other(dtype: torch.dtype) -> None:
    initial = torch.logspace(-6, 6, 13, dtype=dtype)
    for ratio in (0.0, 1e-30, 1e-3, 1.0, 19.0):
        phi = potential(ratio * initial, initial)
        assert (phi <= rewards.MAX_POTENTIAL).all()
        assert (phi < rewards.DIVERGED_POTENTIAL - 0.5).all()
        assert (-phi <= FLOOR + 1e-4).all()
    for ratio in (21.0, 1e6, math.inf, math.nan):
        phi = potential(ratio * initial, initial)
        assert (phi > rewards.MAX_POTENTIAL).all()
        assert (phi == torch.tensor(rewards.DIVERGED_POTENTIAL, dtype=dtype)).all()


def test_the_potential_grows_with_the_loss_and_starts_at_zero() -> None:
    loss = torch.logspace(-8, 1, 200, dtype=torch.float64)
    phi = potential(3 * loss, torch.full_like(loss, 3.0))
    assert (phi.diff() > 0).all()
    assert phi.isfinite().all()
    one = torch.ones(1)
    assert potential(one, one).item() == pytest.approx(0, abs=1e-6)
    # Bounded below: runs gain nothing from the last digits of a loss near zero.
    assert potential(0 * one, one).item() == pytest.approx(-FLOOR, rel=1e-6)


def test_the_potential_grows_with_losses_of_either_sign() -> None:
    loss = torch.linspace(-40, 15, 500, dtype=torch.float64)
    for initial in (2.0, 1e-3, 0.0, -1e-3, -3.0):
        given = torch.cat([loss, torch.tensor([initial], dtype=torch.float64)]).sort()[0]
        phi = rewards.log_progress(given, torch.full_like(given, initial))
        assert (phi.diff() > 0).sum() == (given.diff() > 0).sum()
        assert phi[given == initial].abs().max() < 1e-12
        assert phi.isfinite().all()


def test_a_loss_at_or_below_zero_is_not_diverged_unless_it_rises_far() -> None:
    initial = torch.tensor([0.0, 0.0, 0.0, -0.01, -5.0, -5.0, 1.0, 1.0, math.nan])
    loss = torch.tensor([0.0, 2.0, 50.0, 0.5, -80.0, 60.0, -9.0, -math.inf, 1.0])
    _, diverged = rewards.REWARDS["log_loss"].evaluate(loss[:, None], initial[:, None])
    assert diverged.tolist() == [False, False, True, False, False, True, False, True, True]


def test_the_potential_of_losses_of_either_sign_has_finite_gradients() -> None:
    loss = torch.tensor([-1.0, 0.0, 0.0, 2.0, 3.0, -4.0]).requires_grad_()
    initial = torch.tensor([1.0, 0.0, 1.0, 0.0, -2.0, -2.0])
    (gradient,) = torch.autograd.grad(rewards.log_progress(loss, initial).sum(), loss)
    assert gradient.isfinite().all() and (gradient > 0).all()


def likelihood_task() -> tasks.Task:
    """Return a task whose negative log-likelihood falls below zero."""
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.standard_normal((60, 3), np.float32))
    targets = 0.02 * inputs[:, :1]

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        mean, log_std = outputs[:, :1], outputs[:, 1:]
        return (0.5 * ((target - mean) / log_std.exp()) ** 2 + log_std).mean()

    return tasks.from_module(lambda: nn.Linear(3, 2), inputs, targets, loss=loss)


def test_a_run_whose_loss_falls_below_zero_is_rewarded_to_its_end() -> None:
    env = gym.make_vec(ID, 3, tasks=likelihood_task(), horizon=6, base_lr=0.03)
    total = np.zeros(3)
    for _, reward, _, _, info in rollout(env, [neutral_action(env)] * 6, seed=0)[1:]:
        assert not info["diverged"].any()
        total += reward
    assert (info["loss"] < 0).all() and (total > FLOOR).all()


def test_a_run_that_begins_without_a_loss_is_not_diverged() -> None:
    inputs, targets = torch.full((20, 1), 1e3), torch.zeros(20, dtype=torch.int64)

    def sure() -> nn.Module:
        module = nn.Linear(1, 2)
        nn.init.constant_(module.weight[0], 1.0)
        nn.init.constant_(module.weight[1], -1.0)
        return module

    task = tasks.from_module(sure, inputs, targets, batch_size=4)
    env = gym.make_vec(ID, 2, tasks=task, horizon=2, updates_per_step=2)
    for _, reward, _, _, info in rollout(env, [neutral_action(env)] * 2, seed=0)[1:]:
        assert (info["loss"] == 0).all() and (reward == 0).all()
        assert not info["diverged"].any()
