"""Updates as actions, on functions of few parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO, SAC

from optenv import actions, instances
from optenv.sb3 import SB3VecEnv
from optenv.tasks import Function
from optenv.telemetry import FEATURES
from tests.helpers.small_runs import MLP, QUADRATIC

ID = "optenv/Update-v0"
ROSENBROCK = Function(normalize=True)
WIDTH = len(FEATURES)


def made(count: int, **arguments: Any) -> Any:
    mode = AutoresetMode.DISABLED
    given = {"tasks": ROSENBROCK, "dtype": "float64", **arguments}
    return gym.make_vec(ID, count, autoreset_mode=mode, **given)


def test_an_action_is_the_update_up_to_its_scale() -> None:
    env = made(5, updates_per_step=2, base_lr=0.1)
    env.reset(seed=0)
    group = env.unwrapped.groups[0][1]
    before = group.state.run.params.numpy()
    action = np.array([[0, 1], [-1, 0.5], [0.1, -0.1], [1, 1], [0, 0]], np.float64)
    env.step(action)
    moved = group.state.run.params.numpy() - before
    np.testing.assert_allclose(moved, 2 * 0.1 * np.sinh(6 * action) / np.sinh(6))


def test_parameters_gradients_and_losses_of_the_past_are_observed() -> None:
    env = made(3)
    observation, _ = env.reset(seed=0)
    group, rng = env.unwrapped.groups[0][1], np.random.default_rng(0)
    grads, losses, first = [], [], None
    for step in range(6):
        run = group.state.run
        grad, loss = run.grad.numpy(), run.latest.numpy()
        first = np.linalg.norm(grad, axis=1, keepdims=True) if first is None else first
        grads.insert(0, np.arcsinh(np.sinh(6) * grad / first) / 2)
        losses.insert(0, loss)
        zero, spread = np.zeros((3, 2)), np.ptp(losses, axis=0) + (step == 0)
        past = [grads[i] if i <= step else zero for i in range(4)]
        change = [loss - losses[min(i, step)] for i in range(1, 4)]
        seen = [run.params.numpy(), *past]
        seen += [(np.arcsinh(100 * each / spread) / 2)[:, None] for each in change]
        expected = np.concatenate(seen, axis=1).clip(-4, 4)
        np.testing.assert_allclose(observation[:, WIDTH:], expected, rtol=1e-9, atol=1e-12)
        observation = env.step(rng.uniform(-0.5, 0.5, (3, 2)))[0]


def test_the_gradient_as_action_is_gradient_descent() -> None:
    env = made(3, base_lr=0.1)
    observation, _ = env.reset(seed=0)
    group = env.unwrapped.groups[0][1]
    for _ in range(4):
        run = group.state.run
        step = run.params - 0.1 * run.grad / group.state.memory[:, -3:-2]
        if np.abs(observation[:, WIDTH + 2 : WIDTH + 4]).max() > 3:
            break  # longer than the longest step
        observation = env.step(-observation[:, WIDTH + 2 : WIDTH + 4] / 3)[0]
        np.testing.assert_allclose(group.state.run.params, step)


def test_observations_are_free_of_scale_and_offset_of_the_loss() -> None:
    tasks = [replace(ROSENBROCK, function="styblinski-tang", normalize=scaled,
                     subtract_minimum=not scaled) for scaled in (True, False)]  # fmt: skip
    action = np.random.default_rng(0).uniform(-0.7, 0.7, (5, 3, 2))
    seen = []
    for task in tasks:
        env = made(3, tasks=task)
        observations = [env.reset(seed=0)[0], *(env.step(each)[0] for each in action)]
        seen.append(np.stack(observations)[..., WIDTH:])
    np.testing.assert_allclose(*seen, rtol=1e-5, atol=1e-5)


def test_only_tasks_of_few_parameters_are_drawn() -> None:
    env = gym.make_vec(ID, 64, groups=32, horizon=2)
    env.reset(seed=0)
    drawn = [group.task for _, group in env.unwrapped.groups]  # type: ignore[attr-defined]
    assert {task.dim for task in drawn} == {2} and len({t.function for t in drawn}) > 3
    kind = {"kind": "update", "dim": 4}
    env = gym.make_vec(ID, 64, groups=32, horizon=2, action=kind)
    observation, _ = env.reset(seed=0)
    drawn = [group.task for _, group in env.unwrapped.groups]  # type: ignore[attr-defined]
    assert {task.dim for task in drawn} == {2, 4}
    for i, task in enumerate(drawn):  # what a task lacks is 0
        params = observation[2 * i : 2 * i + 2, WIDTH : WIDTH + 4]
        assert (params[:, task.dim :] == 0).all() and (params[:, : task.dim] != 0).all()


def test_the_space_fits_the_tasks_and_instances_that_are_given() -> None:
    def entries(**arguments: Any) -> int:
        return gym.make(ID, **arguments).action_space.shape[0]  # type: ignore[index]

    assert entries() == entries(tasks="functions/ood") == 2
    assert entries(tasks="functions/test") == 3
    assert entries(tasks=[QUADRATIC, ROSENBROCK]) == QUADRATIC.num_params
    chosen = instances.make("functions/train")[2:4]
    assert entries(instances=chosen) == 16


def test_tasks_with_too_many_parameters_are_refused() -> None:
    two = {"kind": "update", "dim": 2}
    with pytest.raises(ValueError, match=r"has 51 parameters, .* 2 entries.*'dim': 51"):
        gym.make(ID, tasks=MLP, action=two).reset()
    with pytest.raises(ValueError, match=r"none of 1000 tasks drawn .* at most 2 param"):
        gym.make(ID, tasks="functions/test", action=two).reset()


@pytest.mark.parametrize(
    ("fields", "error", "match"),
    [
        ({"dim": 0}, ValueError, "dim must be .*, got 0"),
        ({"history": 1.5}, ValueError, r"history must be .*, got 1\.5"),
        ({"fineness": 0.0}, ValueError, r"fineness must be positive and finite, got 0\.0"),
        ({"fineness": 99}, ValueError, r"fineness must be at most 50, got 99\.0"),
    ],
)
def test_wrong_fields_are_refused(fields: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        actions.make({"kind": "update", **fields})


def test_the_update_has_no_rule() -> None:
    with pytest.raises(ValueError, match=r"uses no rule: leave rule at 'sgd'.*got 'adam'"):
        gym.make("optenv/LearningRate-Functions-v0", action="update")


def returns(env: Any, act: Any) -> float:
    """Mean return of a batch of runs."""
    observation, _ = env.reset(seed=10**6)
    total = np.zeros(env.num_envs)
    for _ in range(10):
        observation, reward, *_ = env.step(act(observation))
        total += reward
    return float(total.mean())


@pytest.mark.slow  # about 40 s of CPU time
def test_ppo_beats_random_updates_and_the_best_constant_gradient_descent() -> None:
    arguments: dict[str, Any] = {
        "tasks": Function(function="quadratic", condition=30.0, normalize=True),
        "horizon": 10, "updates_per_step": 1, "on_divergence": "absorb",
        "autoreset_mode": AutoresetMode.DISABLED,
    }  # fmt: skip
    rng = np.random.default_rng(0)
    runs = gym.make_vec(ID, 256, **arguments)
    random = returns(runs, lambda _: rng.uniform(-1, 1, (256, 2)).astype(np.float32))
    descent = [
        returns(
            gym.make_vec(
                "optenv/LearningRate-v0", 256, rule="sgd", base_lr=lr, **arguments
            ),
            lambda _: np.zeros((256, 1), np.float32),
        )
        for lr in (0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65)
    ]
    model = PPO(
        "MlpPolicy", SB3VecEnv(gym.make_vec(ID, 128, **arguments)), n_steps=10,
        batch_size=640, n_epochs=6, gamma=1.0, learning_rate=1e-3, device="cpu", seed=0,
        policy_kwargs={"log_std_init": -1.0},
    )  # fmt: skip
    model.learn(300_000)
    learned = returns(runs, lambda seen: model.predict(seen, deterministic=True)[0])
    assert random < 1 < 3 < max(descent) < learned - 0.2, (random, descent, learned)


def test_sac_trains_on_updates() -> None:
    env = SB3VecEnv(made(4, dtype="float32", horizon=5))
    model = SAC("MlpPolicy", env, learning_starts=20, batch_size=16, device="cpu", seed=0)
    before = [p.detach().clone() for p in model.actor.parameters()]
    model.learn(60)
    after = model.actor.parameters()
    assert any(not old.equal(new) for old, new in zip(before, after, strict=True))
