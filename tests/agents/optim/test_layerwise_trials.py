"""Policies that decide on each parameter tensor in trials, and remember each of them."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor
from torch import Tensor, nn

import optenv
from agents import LearnedOptimizer, Policy, check_export, export_policy, load_policy
from agents.optim.state_keys import REMEMBERED
from agents.policy.files import save_policy
from agents.rl.rl2 import RL2, LstmPolicy
from optenv.sb3 import SB3VecEnv
from tests.helpers.policies import random_policy
from tests.helpers.small_runs import MLP

ID = "optenv/LayerwiseLearningRateTrial-v0"
HORIZON, TOTAL, RUNS = 6, 18, 3
EVERY = TOTAL // HORIZON


def remembering(**described: Any) -> Policy:
    """A policy that its memories and the last actions on tensors matter to."""
    described = {"memory": 5, "spacing": 1.0, **described}
    # Small outputs, so that no bound is reached.
    policy = random_policy(action=action(), horizon=HORIZON, **described)
    policy.requires_grad_(False)
    for network in policy.members:
        last = network[-1]
        assert isinstance(last, nn.Linear)
        last.weight *= 0.4
    return policy


def environment(count: int = 3, slots: int = len(MLP.shapes)) -> optenv.PerTensor:
    """The tensors of a batch of trials, which have the settings of the optimizers here."""
    batch = gym.make_vec(
        ID, count, autoreset_mode=AutoresetMode.DISABLED, action=action(slots), tasks=MLP,
        horizon=HORIZON, updates_per_step=EVERY, runs=RUNS, base_lr=2e-3, dtype="float64",
        on_divergence="absorb",
    )  # fmt: skip
    return optenv.PerTensor(batch)


def action(slots: int = len(MLP.shapes)) -> dict[str, Any]:
    """Small steps, so that no bound is reached."""
    return {"kind": "layerwise", "tensors": slots, "step": 0.3, "bound": 3.0}


#: Actions ``[S * R, 1]`` for observations ``[S * R, F]``; True at the first of a trial.
Act = Callable[[np.ndarray, bool], np.ndarray]


def by_policy(policy: Policy) -> Act:
    policy, memory = copy.deepcopy(policy).to(torch.float64), torch.zeros(0)

    def act(observation: np.ndarray, first: bool) -> np.ndarray:
        nonlocal memory
        memory = policy.blank(len(observation)) if first else memory
        acted, memory = policy.act(torch.from_numpy(observation), memory)
        return acted.numpy()

    return act


def by_model(model: Any) -> Act:
    state: Any = None

    def act(observation: np.ndarray, first: bool) -> np.ndarray:
        nonlocal state
        starts = np.full(len(observation), first)
        acted, state = model.predict(observation, state, starts, deterministic=True)
        return np.asarray(acted)

    return act


def walk_environment(env: optenv.PerTensor, act: Act, index: int = 1) -> Any:
    """Of each run: first parameters, data, and log-multipliers and end of each window.

    Args:
        env: tensors of a batch of trials.
        act: who acts.
        index: the trial whose path is returned.
    """
    observation, _ = env.reset(seed=4)
    group = env.unwrapped.groups[0][1]  # type: ignore[attr-defined]
    walks = []
    for run in range(RUNS):
        start, data, walk = group.state.run.params[index].clone(), group.data, []
        for step in range(HORIZON):
            acted = act(observation, run == step == 0)
            observation, _, ended, _, info = env.step(acted)
            again = step == HORIZON - 1  # the next run has begun
            params = None if again else group.state.run.params[index].numpy()
            logs = None if again else group.state.part_multipliers[index].numpy()
            walk.append((math.log(info["lr"][index]), logs, params))
        walks.append((start, data, walk))
    assert ended.all()
    return walks


def assert_parity(policy: Policy, walks: Any, tolerance: float) -> None:
    """Repeat the runs of a trial with an optimizer, decision by decision."""
    optimizer = None
    for start, data, expected in walks:
        parameters = parameters_from(start)
        if optimizer is None:
            optimizer = LearnedOptimizer(parameters, policy, total_steps=TOTAL, lr=2e-3)
        else:
            optimizer.new_run(parameters)
        found = run_optimizer(optimizer, parameters, data)
        for own, theirs in zip(found, expected, strict=True):
            for value, expected_value in zip(own, theirs, strict=True):
                if expected_value is not None:
                    np.testing.assert_allclose(
                        value, expected_value, rtol=tolerance, atol=tolerance
                    )
        logs = found[-1][1]
        assert np.std(logs) > 100 * tolerance, "the tensors must be apart from each other"


def parameters_from(flat: Tensor) -> list[Tensor]:
    return [p[0].clone().requires_grad_() for p in MLP.unflatten(flat[None])]


def run_optimizer(
    optimizer: LearnedOptimizer, parameters: list[Tensor], data: Any, index: int = 1
) -> list[list[Any]]:
    """Take a run's steps in an ordinary loop; what :func:`walk_environment` returns."""
    walk: list[list[Any]] = []
    for step in range(TOTAL):
        rows = data.batch_rows(torch.full((len(data.order),), step), 1, MLP.batch_size)
        inputs, targets = (part[index] for part in data.batch(rows))
        optimizer.zero_grad()
        stacked = tuple(p.unsqueeze(0) for p in parameters)
        loss = MLP.loss(stacked, inputs[None], targets[None])[0]
        loss.backward()
        optimizer.step(loss=loss)
        if step % EVERY == 0:
            logs = [float(optimizer.state[p]["decided"][0]) for p in parameters]
            walk.append([math.log(optimizer.param_groups[0]["effective_lr"]), logs, None])
        walk[-1][2] = torch.cat([p.detach().flatten() for p in parameters]).numpy()
    return walk


@pytest.mark.parametrize(
    ("described", "slots"),
    [
        ({}, None),
        ({"members": 2, "memory_layers": 2}, None),
        ({}, 11),  # slots that share a tensor decide alike
        ({"memory": 0, "trials": True}, None),
    ],
    ids=["memory", "members and layers", "more slots", "no memory"],
)
def test_each_tensor_is_decided_on_as_in_the_trials_of_the_environment(
    described: dict[str, Any], slots: int | None, tmp_path: Any
) -> None:
    policy = load_policy(save_policy(remembering(**described), tmp_path / "policy"))
    env = environment(slots=slots or len(MLP.shapes))
    assert_parity(policy, walk_environment(env, by_policy(policy)), 1e-8)


LSTM = {"lstm_hidden_size": 7, "net_arch": [5]}


@pytest.mark.parametrize(
    ("kind", "network", "settings"),
    [
        (RL2, LstmPolicy, LSTM),
        (RecurrentPPO, "MlpLstmPolicy", LSTM),
        (PPO, "MlpPolicy", {"net_arch": [5]}),
    ],
    ids=["RL2", "RecurrentPPO", "PPO"],
)
def test_an_exported_optimizer_decides_as_the_model_that_was_trained_on_tensors(
    kind: Any, network: Any, settings: dict[str, Any], tmp_path: Any
) -> None:
    steps = RUNS * HORIZON
    model = kind(
        network, VecMonitor(SB3VecEnv(environment())), seed=0, n_steps=steps,
        batch_size=4 * steps, learning_rate=0.03, policy_kwargs=settings, device="cpu",
    )  # fmt: skip
    check_export(model)
    model.learn(3 * steps * model.n_envs)
    policy = load_policy(export_policy(model, tmp_path / "policy"))
    assert policy.on_trials and bool(policy.memory) == (kind is not PPO)
    # The model computes in single precision.
    assert_parity(policy, walk_environment(environment(), by_model(model)), 1e-5)


# What is kept of each tensor

#: Shapes of the parameters of :func:`model`, in order.
SHAPES = [(4, 3), (4,), (2, 4), (2,)]


def model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def optimizer_of(module: nn.Module, **arguments: Any) -> LearnedOptimizer:
    policy = arguments.pop("policy", None) or remembering()
    params = arguments.pop("params", None) or module.parameters()
    return LearnedOptimizer(params, policy, total_steps=TOTAL, **arguments)


def train(
    optimizer: LearnedOptimizer, module: nn.Module, steps: int = TOTAL
) -> list[dict[str, Any]]:
    """Take steps, and return the decisions of the run so far."""
    dtype = next(module.parameters()).dtype
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (module(inputs) - 1.0).square().mean()
        loss.backward()
        optimizer.step(loss=loss)
    return list(optimizer.explain())


def kept(optimizer: LearnedOptimizer) -> list[Tensor | None]:
    """What is remembered of each parameter: previous action, then the hidden state."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return [optimizer.state[p].get(REMEMBERED) for p in params]


def same(found: list[Tensor | None], expected: list[Tensor | None]) -> bool:
    """Whether two lists of what is remembered are the same."""
    pairs = zip(found, expected, strict=True)
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


def test_each_tensor_has_a_memory_and_a_previous_action_of_its_own() -> None:
    module = model()
    optimizer = optimizer_of(module)
    train(optimizer, module)
    entries = [each for each in kept(optimizer) if each is not None]
    assert [tuple(each.shape) for each in entries] == [(1 + 2 * 5,)] * len(SHAPES)
    assert len({tuple(each.tolist()) for each in entries}) == len(SHAPES)
    assert all(-1 <= float(each[0]) <= 1 for each in entries)


def test_a_new_run_keeps_memories_and_previous_actions_and_nothing_else() -> None:
    module = model()
    optimizer = optimizer_of(module)
    train(optimizer, module)
    before = kept(optimizer)
    optimizer.new_run()
    assert same(kept(optimizer), before)
    assert all(set(state) == {REMEMBERED} for state in optimizer.state.values())
    assert optimizer.explain() == []
    other = model()
    optimizer.new_run(other.parameters())
    assert same(kept(optimizer), before)
    assert set(optimizer.state) == set(other.parameters())


def test_a_second_run_depends_on_what_is_remembered() -> None:
    module = model()
    start = copy.deepcopy(module.state_dict())
    optimizer = optimizer_of(module)
    first = train(optimizer, module)
    module.load_state_dict(start)
    optimizer.new_run()
    assert train(optimizer, module) != first


def test_a_memory_of_single_runs_ends_with_the_run_of_each_tensor() -> None:
    module = model()
    start = copy.deepcopy(module.state_dict())
    optimizer = optimizer_of(module, policy=remembering(trials=False))
    first = train(optimizer, module)
    assert all(each is not None and each[1:].any() for each in kept(optimizer))
    module.load_state_dict(start)
    optimizer.new_run()
    assert not optimizer.state
    assert train(optimizer, module) == first


@pytest.mark.parametrize("steps", [0, 7])
def test_a_state_dict_holds_the_memory_of_each_tensor(steps: int) -> None:
    module = model()
    optimizer = optimizer_of(module)
    train(optimizer, module)
    optimizer.new_run()
    train(optimizer, module, steps)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "model": module.state_dict()}, file)
    expected = train(optimizer, module, TOTAL - steps)
    file.seek(0)
    saved, other = torch.load(file, weights_only=True), model()
    other.load_state_dict(saved["model"])
    resumed = optimizer_of(other)
    resumed.load_state_dict(saved["optimizer"])
    assert train(resumed, other, TOTAL - steps) == expected
    assert same(kept(resumed), kept(optimizer))


def test_half_precision_parameters_keep_their_memories_in_single_precision() -> None:
    module = model(torch.bfloat16)
    optimizer = optimizer_of(module)
    train(optimizer, module)
    resumed = optimizer_of(module)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert {each.dtype for each in kept(resumed) if each is not None} == {torch.float32}
    assert same(kept(resumed), kept(optimizer))


def test_the_order_of_tensors_makes_no_difference_to_their_memories() -> None:
    found = []
    for order in ([[0, 1, 2, 3]], [[2], [3, 0], [1]]):
        module = model(torch.float64)
        start = copy.deepcopy(module.state_dict())
        params = list(module.parameters())
        groups = [{"params": [params[i] for i in part]} for part in order]
        optimizer = optimizer_of(module, params=groups)
        train(optimizer, module)
        module.load_state_dict(start)
        optimizer.new_run()
        train(optimizer, module)
        found.append(torch.stack([optimizer.state[p][REMEMBERED] for p in params]))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_tensors_that_join_late_begin_without_a_memory() -> None:
    seen: list[Tensor] = []
    module = model()
    first, *rest = module.parameters()
    optimizer = optimizer_of(
        module, params=[{"params": [first], "lr": 0.0}, {"params": rest}]
    )
    act = optimizer.policy.act

    def spy(observation: Tensor, memory: Tensor) -> Any:
        seen.append(torch.cat([observation[:, -3:-2], memory.flatten(1)], dim=1))
        return act(observation, memory)

    optimizer.policy.act = spy  # type: ignore[method-assign]
    train(optimizer, module, EVERY + 1)
    assert kept(optimizer)[0] is None and all(p is not None for p in kept(optimizer)[1:])
    optimizer.param_groups[0]["lr"] = 1e-3
    train(optimizer, module, EVERY)
    assert [len(each) for each in seen] == [3, 3, 4]
    assert not seen[2][0].any() and all(row.any() for row in seen[2][1:])


def test_a_next_run_of_other_tensors_warns_of_those_without_a_memory() -> None:
    module = model()
    optimizer = optimizer_of(module)
    train(optimizer, module)
    before = kept(optimizer)
    other = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Linear(5, 2))
    with pytest.warns(UserWarning, match="4 of 6 parameters have none of their shape at"):
        optimizer.new_run(other.parameters())
    assert same(kept(optimizer), [*before[:2], *[None] * 4])
    train(optimizer, other)
    assert None not in kept(optimizer)


@pytest.mark.filterwarnings("error")
def test_a_refused_next_run_keeps_all_that_is_remembered() -> None:
    module, twin = model(), model()
    optimizer, undisturbed = optimizer_of(module), optimizer_of(twin)
    train(optimizer, module, 5), train(undisturbed, twin, 5)
    with pytest.raises(UserWarning, match="none of their shape"):
        optimizer.new_run(nn.Linear(7, 7).parameters())
    assert train(optimizer, module, 9) == train(undisturbed, twin, 9)


def test_a_step_that_fails_changes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    module, twin = model(), model()
    optimizer, undisturbed = optimizer_of(module), optimizer_of(twin)
    train(optimizer, module, EVERY), train(undisturbed, twin, EVERY)
    before = kept(optimizer)
    with monkeypatch.context() as patch:
        patch.setattr("agents.optim.groups.update", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            train(optimizer, module, 1)
    assert same(kept(optimizer), before)
    assert train(optimizer, module, 9) == train(undisturbed, twin, 9)


def fail(*_: Any, **__: Any) -> None:
    raise RuntimeError("out of memory")


def test_a_rollback_keeps_memories() -> None:
    module = model()
    optimizer = optimizer_of(module, rollback=True)
    train(optimizer, module, 8)
    before = kept(optimizer)
    for p in module.parameters():
        p.grad = torch.full_like(p, math.nan)
    with pytest.warns(UserWarning, match="learning rate is a quarter"):
        for _ in range(5):
            optimizer.step()
    assert optimizer.rollbacks == 1 and same(kept(optimizer), before)


def test_memories_outlast_a_first_gradient_that_was_an_outlier() -> None:
    module = model()
    optimizer = optimizer_of(module)
    inputs = torch.ones(8, 3)
    for scale in (1e6, 1.0):
        optimizer.zero_grad()
        loss = (module(inputs) - 1.0).square().mean()
        (loss * scale).backward()
        optimizer.step(loss=loss)
        if scale > 1:
            before = kept(optimizer)
    assert optimizer.clipped == 1 and same(kept(optimizer), before)


def test_decisions_that_are_not_finite_leave_memories_as_they_were() -> None:
    module = model()
    optimizer = optimizer_of(module)
    train(optimizer, module, EVERY)
    before = kept(optimizer)
    with torch.no_grad():
        for p in optimizer.policy.networks.parameters():
            p.fill_(math.nan)
    train(optimizer, module, 1)
    assert optimizer.ignored_actions == 1 and same(kept(optimizer), before)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda entry: entry[:-1], r"shape \[11\], got a tensor of .* and shape \[10\]"),
        (lambda entry: entry * math.nan, "must be finite"),
        (lambda entry: entry.long(), r"a tensor of torch\.float32 and shape \[11\]"),
        (lambda entry: "all", "must be a tensor of torch.float32 .* got 'all'"),
        (lambda entry: entry + 3.0, r"last action must be a finite number from -1 to 1"),
    ],
    ids=["shape", "NaN", "integers", "text", "action"],
)
def test_a_damaged_memory_is_refused(damage: Callable[[Tensor], Any], error: str) -> None:
    module = model()
    optimizer = optimizer_of(module)
    train(optimizer, module, 5)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][2][REMEMBERED] = damage(saved["state"][2][REMEMBERED])
    with pytest.raises(ValueError, match=rf"state\[2\]: remembered.*{error}"):
        optimizer.load_state_dict(saved)


def test_a_policy_without_a_memory_has_no_entry_for_one() -> None:
    module = model()
    optimizer = optimizer_of(module, policy=remembering(memory=0))
    train(optimizer, module, 5)
    assert kept(optimizer) == [None] * len(SHAPES)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][2][REMEMBERED] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"state\[2\] must be entries out of .*remembered"):
        optimizer.load_state_dict(saved)
