"""Policies with a memory, in trials and across the runs of an optimizer."""

from __future__ import annotations

import copy
import io

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecMonitor
from torch import nn

from agents import LearnedOptimizer, export_policy, load_policy
from agents.evaluation.arms.controls import untrained
from agents.policy.files import save_policy
from agents.rl.rl2 import RL2, LstmPolicy
from optenv import telemetry
from optenv.sb3 import SB3VecEnv
from optenv.telemetry import FEATURES
from tests.helpers.policies import random_policy
from tests.helpers.small_runs import MLP

TRIALS = {
    "continuous": "optenv/LearningRateTrial-v0",
    "discrete": "optenv/DiscreteLearningRateTrial-v0",
}
HORIZON, TOTAL, RUNS = 6, 18, 3
SETTINGS = {
    "tasks": MLP, "horizon": HORIZON, "updates_per_step": TOTAL / HORIZON,
    "runs": RUNS, "previous_reward": "told", "on_divergence": "absorb",
}  # fmt: skip


def remembering(kind="continuous", **described):
    """A policy that its memory matters to."""
    policy = random_policy(
        action={"kind": kind}, horizon=HORIZON, spacing=1.0, memory=5, **described
    )
    return policy.requires_grad_(False)


def environment(kind="continuous", count=3, **arguments):
    mode = AutoresetMode.DISABLED
    return gym.make_vec(TRIALS[kind], count, autoreset_mode=mode, **SETTINGS, **arguments)


def walk_environment(policy, kind, index=1):
    """Of each run: first parameters, data, and learning rate and end of each window."""
    env = environment(
        kind, base_lr=2e-3, dtype="float64", action=policy.action,
        features=policy.registered,
    )  # fmt: skip
    policy = policy.to(torch.float64)
    observation, _ = env.reset(seed=4)
    memory, group = policy.blank(3), env.groups[0][1]
    walks = []
    for _ in range(RUNS):
        start, data, walk = group.state.run.params[index].clone(), group.data, []
        for step in range(HORIZON):
            action, memory = policy.act(torch.from_numpy(observation), memory)
            observation, _, ended, _, info = env.step(action.numpy())
            again = step == HORIZON - 1
            params = None if again else group.state.run.params[index].numpy()
            walk.append((info["lr"][index], params))
        walks.append((start, data, walk))
    assert ended.all()
    return walks


def run_optimizer(optimizer, parameters, data, index=1):
    """Take a run's steps in an ordinary loop; learning rate and end of each window."""
    walk = []
    for step in range(TOTAL):
        first = torch.full((len(data.order),), step)
        rows = data.batch_rows(first, 1, MLP.batch_size)
        inputs, targets = (part[index] for part in data.batch(rows))
        optimizer.zero_grad()
        stacked = tuple(p.unsqueeze(0) for p in parameters)
        loss = MLP.loss(stacked, inputs[None], targets[None])[0]
        loss.backward()
        optimizer.step(loss=loss)
        if step % (TOTAL // HORIZON) == 0:
            walk.append([optimizer.param_groups[0]["effective_lr"], None])
        walk[-1][1] = torch.cat([p.detach().flatten() for p in parameters]).numpy()
    return walk


def parameters_from(flat):
    return [p[0].clone().requires_grad_() for p in MLP.unflatten(flat[None])]


@pytest.mark.parametrize("kind", TRIALS)
@pytest.mark.parametrize(("members", "others"), [(1, []), (2, []), (1, ["fall", "norm"])])
def test_the_optimizer_remembers_as_the_trial_environment_does(
    kind, members, others, tmp_path, monkeypatch
):
    monkeypatch.setattr(telemetry.registered, "_REGISTERED", {})
    telemetry.register_feature(
        "fall", lambda probe, losses, history, _: history.loss_average - losses.mean
    )
    telemetry.register_feature("norm", lambda probe, *_: probe.grad_sq.log() / 4)
    made = remembering(kind, members=members, features=[*FEATURES, *others])
    policy = load_policy(save_policy(made, tmp_path / "policy"))
    optimizer = None
    for start, data, expected in walk_environment(policy, kind):
        parameters = parameters_from(start)
        if optimizer is None:
            optimizer = LearnedOptimizer(parameters, made, total_steps=TOTAL, lr=2e-3)
        else:
            optimizer.new_run(parameters)
        found = run_optimizer(optimizer, parameters, data)
        for (lr, params), (own_lr, own_params) in zip(expected, found, strict=True):
            np.testing.assert_allclose(own_lr, lr, rtol=1e-8)
            if params is not None:
                np.testing.assert_allclose(own_params, params, rtol=1e-8, atol=1e-10)


def model():
    torch.manual_seed(1)
    return nn.Linear(3, 2)


def train(optimizer, module, steps=TOTAL):
    """Learning rates of the steps of a run."""
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    rates = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = module(inputs).square().mean()
        loss.backward()
        optimizer.step(loss=loss)
        rates.append(optimizer.param_groups[0]["effective_lr"])
    return rates


def test_only_a_policy_with_memory_changes_a_repeated_run():
    for memory in (0, 5):
        module = model()
        start = copy.deepcopy(module.state_dict())
        described = {"memory": memory} if memory else {}
        policy = random_policy(horizon=HORIZON, **described)
        optimizer = LearnedOptimizer(module.parameters(), policy, total_steps=TOTAL)
        first = train(optimizer, module)
        module.load_state_dict(start)
        optimizer.new_run()
        assert (train(optimizer, module) == first) == (not memory)


def test_a_state_dict_holds_the_memory():
    module = model()
    optimizer = LearnedOptimizer(module.parameters(), remembering(), total_steps=TOTAL)
    train(optimizer, module)
    optimizer.new_run()
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "model": module.state_dict()}, file)
    expected = train(optimizer, module)
    file.seek(0)
    saved, other = torch.load(file, weights_only=True), model()
    other.load_state_dict(saved["model"])
    resumed = LearnedOptimizer(other.parameters(), remembering(), total_steps=TOTAL)
    resumed.load_state_dict(saved["optimizer"])
    assert train(resumed, other) == expected
    fresh = LearnedOptimizer(other.parameters(), remembering(), total_steps=TOTAL)
    assert train(fresh, other) != expected


def test_a_new_run_keeps_the_memory_and_nothing_else():
    module = model()
    optimizer = LearnedOptimizer(
        [{"params": [module.weight], "lr": 1.0}, {"params": [module.bias]}],
        remembering(), total_steps=TOTAL, weight_decay=0.1,
    )  # fmt: skip
    train(optimizer, module)
    optimizer.new_run(total_steps=7)
    assert not optimizer.state and optimizer.explain() == []
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 1e-3]
    other = model()
    optimizer.new_run(other.parameters())
    (group,) = optimizer.param_groups
    assert group["params"][0] is other.weight and group["weight_decay"] == 0.1
    with pytest.warns(UserWarning, match="total_steps=7 are done"):
        train(optimizer, other, 8)


@pytest.mark.parametrize(
    ("params", "arguments", "error"),
    [
        ([], {}, ValueError),
        ([1.0], {}, TypeError),
        (None, {"total_steps": 0}, ValueError),
        ([nn.Parameter(torch.ones(2))], {"total_steps": -1}, ValueError),
        ([{"params": [nn.Parameter(torch.ones(2))], "lr": -1.0}], {}, ValueError),
    ],
)
def test_a_refused_new_run_leaves_the_optimizer_unchanged(params, arguments, error):
    module, twin = model(), model()
    optimizer, same = (
        LearnedOptimizer(m.parameters(), remembering(), total_steps=TOTAL)
        for m in (module, twin)
    )
    train(optimizer, module, 5), train(same, twin, 5)
    with pytest.raises(error):
        optimizer.new_run(params, **arguments)
    assert train(optimizer, module, 5) == train(same, twin, 5)


@pytest.mark.parametrize("kind", TRIALS)
def test_an_exported_policy_acts_as_its_model_over_a_trial(kind, tmp_path):
    env = environment(kind, loss_dropout=1.0 if kind == "discrete" else 0.0)
    trained = RL2(
        LstmPolicy, VecMonitor(SB3VecEnv(env)), seed=0, n_steps=RUNS * HORIZON,
        batch_size=RUNS * HORIZON, learning_rate=0.03,
        policy_kwargs={"lstm_hidden_size": 7, "net_arch": [5]},
    )  # fmt: skip
    trained.learn(3 * 3 * RUNS * HORIZON)
    policy = load_policy(export_policy(trained, tmp_path / "policy"))
    env = environment(kind, loss_dropout=1.0 if kind == "discrete" else 0.0)
    observation, _ = env.reset(seed=1)
    memory, state, start, said = policy.blank(3), None, np.ones(3, bool), []
    for _ in range(RUNS * HORIZON):
        theirs, state = trained.predict(observation, state, start, deterministic=True)
        ours, memory = policy.act(torch.from_numpy(observation), memory)
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-5)
        observation, *_ = env.step(theirs)
        start[:] = False
        said.append(theirs.copy())
    assert np.std(said) > 0, "nothing was tested"


def test_a_policy_that_cannot_be_an_optimizer_is_not_exported(tmp_path):
    settings = {**SETTINGS, "previous_reward": "given"}
    seen = gym.make_vec(
        TRIALS["continuous"], 2, autoreset_mode=AutoresetMode.DISABLED, **settings
    )
    with pytest.raises(ValueError, match="does not know the previous reward"):
        export_policy(RL2(LstmPolicy, SB3VecEnv(seen), seed=0), tmp_path / "policy")
    both = {"lstm_kwargs": {"bidirectional": True}, "enable_critic_lstm": False}
    stock = RL2("MlpLstmPolicy", SB3VecEnv(environment()), seed=0, policy_kwargs=both)
    with pytest.raises(ValueError, match="a policy's has one direction"):
        export_policy(stock, tmp_path / "policy")
    assert not any(tmp_path.iterdir())


def test_a_memoryless_policy_observes_only_the_telemetry():
    assert random_policy().columns == list(range(len(FEATURES)))
    policy = remembering()
    assert policy.columns == list(range(len(FEATURES) + 3))


def test_a_new_run_resets_rates_that_a_scheduler_changed():
    module = model()
    optimizer = LearnedOptimizer(module.parameters(), remembering(), total_steps=TOTAL)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, TOTAL)
    for _ in range(TOTAL):
        train(optimizer, module, 1)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0)
    optimizer.new_run()
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert max(train(optimizer, module)) > 0


def test_the_first_losses_give_no_reward():
    module, seen = model(), []
    optimizer = LearnedOptimizer(module.parameters(), remembering(), total_steps=TOTAL)
    act = optimizer.policy.act
    optimizer.policy.act = lambda seen_now, memory: (
        seen.append(seen_now[0, -2].item()) or act(seen_now, memory)
    )
    for step in range(TOTAL):
        optimizer.zero_grad()
        loss = module(torch.ones(8, 3)).square().mean()
        loss.backward()
        optimizer.step(loss=loss if step >= 8 else None)
    assert seen[:4] == [0.0] * 4 and all(0 < abs(told) < 4 for told in seen[4:])


def test_the_untrained_control_has_a_memory_too():
    fresh = untrained(remembering(), 0)
    assert all(p.abs().max() > 0.1 for p in fresh.cells.parameters())


def test_a_picture_of_a_trial_shows_all_of_its_runs():
    for mode in ("rgb_array", "ansi"):
        env = gym.make(TRIALS["continuous"], render_mode=mode, **SETTINGS)
        env.reset(seed=0)
        for _ in range(RUNS * HORIZON):
            env.step(np.zeros(1, np.float32))
            assert env.render() is not None
    assert env.render().startswith("step 18/18 ")
