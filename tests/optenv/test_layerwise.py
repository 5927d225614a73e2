"""Control of one learning rate for each parameter tensor."""

from __future__ import annotations

import doctest
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import optenv
from optenv import PerTensor, tasks
from optenv.telemetry import FEATURES, Control, Losses, Probe
from optenv.tensor_telemetry import TENSOR_FEATURES, empty_history, observe_tensors
from tests.helpers.small_runs import MLP, QUADRATIC

ID = "optenv/LayerwiseLearningRate-v0"
TRIAL = "optenv/LayerwiseLearningRateTrial-v0"
SHORT: dict[str, Any] = {
    "tasks": MLP, "horizon": 4, "updates_per_step": 3, "dtype": "float64",
}  # fmt: skip
SHARED, OWN = len(FEATURES), len(TENSOR_FEATURES)
#: Tasks with four and with six parameter tensors.
DEPTHS = [MLP, tasks.MLP(batch_size=8, num_train=60, inputs=4, outputs=3, width=6, depth=2)]


def batch(
    count: int, tensors: int, mode: str = "Disabled", *, env_id: str = ID, **arguments: Any
) -> Any:
    action = {"kind": "layerwise", "tensors": tensors}
    return gym.make_vec(
        env_id, count, action=action, autoreset_mode=mode, **{**SHORT, **arguments}
    )


def rows(observation: np.ndarray) -> np.ndarray:
    """Observations of tensors, ``[R, T, OWN]``, of those of runs."""
    return observation[:, SHARED:].reshape(len(observation), -1, OWN)


def test_a_model_of_one_tensor_is_observed_twice() -> None:
    env = batch(3, 2, tasks=QUADRATIC)
    env.reset(seed=0)
    same = [list(FEATURES).index(name) for name in TENSOR_FEATURES[:-1]]
    for step in range(4):
        observation = env.step(np.full((3, 2), 0.3 * step - 0.5))[0]
        np.testing.assert_allclose(rows(observation)[:, 0, :-1], observation[:, same])
        assert (rows(observation)[:, 0, -1] == 0.0).all()  # its share is the whole
        assert (rows(observation)[:, 1] == 0.0).all()


def test_features_of_tensors_are_those_in_which_they_differ() -> None:
    env = batch(1, 4)
    env.reset(seed=0)
    moves = np.random.default_rng(0).uniform(-1, 1, (3, 1, 4))
    seen = np.stack([rows(env.step(action)[0])[0] for action in moves])
    differ = np.ptp(seen, axis=1).max(0) > 0
    assert dict(zip(TENSOR_FEATURES, differ, strict=True)) == dict.fromkeys(
        TENSOR_FEATURES, True
    )
    control = ["progress", "elapsed", "remaining", "run_length"]
    assert not set(TENSOR_FEATURES) & {*control, "has_loss", "loss_trend", "loss_noise"}


def test_tensors_move_at_their_own_learning_rates() -> None:
    arguments: dict[str, Any] = {"rule": "sgd", "horizon": 1, "updates_per_step": 1}
    env = batch(1, 5, base_lr=0.1, **arguments)
    env.reset(seed=1)
    group = env.groups[0][1]
    before, grad = group.state.run.params[0], group.state.run.grad[0]
    action = np.array([[1.0, -1.0, 0.0, 0.5, 1.0]])  # the last one has no tensor
    info = env.step(action)[-1]
    sizes = [int(np.prod(shape)) for shape in MLP.shapes]
    rates = torch.tensor(np.repeat(0.1 * np.exp(0.9 * action[0, :4]), sizes))
    torch.testing.assert_close(group.state.run.params[0], before - rates * grad)
    assert info["lr"][0] == pytest.approx(0.1 * np.exp(0.9 * action[0, :4].mean()))


def test_the_order_of_the_tensors_is_that_of_their_observations() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(2, 5, 10, generator=generator, dtype=torch.float64) + 0.1
    probe = Probe(*drawn[..., :7].unbind(-1))
    losses = Losses(*torch.rand(3, 2, generator=generator, dtype=torch.float64))
    progress, order = torch.full((2,), 0.4, dtype=torch.float64), [3, 0, 4, 1, 2]
    control = Control(progress, 100, *drawn[..., 7:].unbind(-1))
    history = empty_history(drawn[..., 0])
    seen, updated = observe_tensors(probe, losses, history, control)
    permuted = observe_tensors(
        Probe(*(part[:, order] for part in probe)),
        losses,
        history,
        control._replace(
            log_multiplier=control.log_multiplier[:, order],
            log_lr=control.log_lr[:, order],
            previous_action=control.previous_action[:, order],
        ),
    )
    assert torch.equal(permuted[0], seen[:, order])
    assert torch.equal(permuted[1], updated[:, order])
    assert not torch.equal(permuted[0], seen)


def test_a_model_of_more_tensors_than_an_action_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"MLP task has 4 .* only 3 entries; give action="):
        batch(2, 3).reset(seed=0)
    with pytest.raises(ValueError, match="tensors must be a positive integer, got 0"):
        batch(2, 0)


def test_a_trial_shows_the_last_action_of_each_tensor() -> None:
    arguments: dict[str, Any] = {"tasks": DEPTHS, "groups": 4, "runs": 2}
    env = batch(4, 7, env_id=TRIAL, **arguments)
    seed = next(s for s in range(20) if tensors_of(env, s) == {4, 6})
    first, _ = env.reset(seed=seed)
    assert not first[:, -9:-1].any() and (first[:, -1] == 1.0).all()
    counts = env.unwrapped.num_tensors
    rng = np.random.default_rng(0)
    for step in range(8):
        action = rng.uniform(-1, 1, (4, 7))
        observation = env.step(action)[0]
        has_tensor = np.arange(7) < counts[:, None]
        np.testing.assert_array_equal(observation[:, -9:-2], action * has_tensor)
        assert (observation[:, -1] == (step == 3)).all()
        assert (env.unwrapped.num_tensors == counts).all()


# The wrapper


def test_sub_environments_are_the_tensors_of_runs() -> None:
    runs, split = (batch(2, 6, tasks=DEPTHS, groups=2) for _ in range(2))
    split = PerTensor(split)
    assert split.num_envs == 12
    assert split.single_observation_space.shape == (SHARED + OWN,)
    assert split.single_action_space == gym.spaces.Box(-1, 1, (1,), np.float64)
    seed = next(s for s in range(20) if tensors_of(runs, s) == {4, 6})
    expected, _ = runs.reset(seed=seed)
    found, _ = split.reset(seed=seed)
    counts = runs.unwrapped.num_tensors
    rng = np.random.default_rng(0)
    for _ in range(4):
        of_slot = rows(expected)[np.arange(2)[:, None], np.arange(6) % counts[:, None]]
        for slot in range(6):
            np.testing.assert_array_equal(
                found[2 * slot :][:2, :SHARED], expected[:, :SHARED]
            )
            np.testing.assert_array_equal(found[2 * slot :][:2, SHARED:], of_slot[:, slot])
        assert split.observation_space.contains(found)
        # Slots of one tensor act by their mean.
        given = rng.uniform(-1, 1, (12, 1))
        of_runs = given.reshape(6, 2).T.copy()
        for action, count in zip(of_runs, counts, strict=True):
            for tensor in range(count):
                action[tensor] = action[tensor::count].mean()
        expected, reward, terminated, _, info = runs.step(of_runs)
        found, rewards, ends, truncated, infos = split.step(given)
        np.testing.assert_array_equal(rewards, np.tile(reward, 6))
        np.testing.assert_array_equal(ends, np.tile(terminated, 6))
        np.testing.assert_array_equal(infos["loss"], np.tile(info["loss"], 6))
    assert ends.all() and not truncated.any()


def tensors_of(env: Any, seed: int) -> set[int]:
    env.reset(seed=seed)
    return set(env.unwrapped.num_tensors.tolist())


def test_the_last_observations_are_of_the_tensors_that_ended() -> None:
    modes = (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)
    same, disabled = (
        PerTensor(batch(1, 6, mode, tasks=DEPTHS, horizon=1)) for mode in modes
    )
    for env in (same, disabled):
        env.reset(seed=4)
    counts = [int(same.unwrapped.num_tensors[0])]  # type: ignore[attr-defined]
    for _ in range(6):
        action = same.action_space.sample()
        observation, _, ended, _, info = same.step(action)
        final = disabled.step(action)[0]
        assert ended.all()
        np.testing.assert_array_equal(np.stack(info["final_obs"]), final)
        begun, _ = disabled.reset(options={"reset_mask": ended})
        np.testing.assert_array_equal(observation, begun)
        counts.append(int(same.unwrapped.num_tensors[0]))  # type: ignore[attr-defined]
    assert set(counts) == {4, 6}


def test_the_wrapper_refuses_what_it_cannot_split() -> None:
    with pytest.raises(ValueError, match="needs actions on tensors, got action 'disc"):
        PerTensor(gym.make_vec("optenv/DiscreteLearningRate-v0", 2))
    with pytest.raises(TypeError, match="needs a batch made by"):
        PerTensor(gym.make(ID))  # type: ignore[arg-type]
    env = PerTensor(batch(2, 4))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(env.action_space.sample())
    env.reset(seed=[5] * 8)
    with pytest.raises(ValueError, match="seed must have one entry per sub-environment"):
        env.reset(seed=[5] * 2)
    mask = np.zeros(8, np.bool_)
    mask[0] = True
    with pytest.raises(ValueError, match="must be the same for all tensors of a run"):
        env.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match=r"must have shape \(8,\)"):
        env.reset(options={"reset_mask": mask[:2]})
    with pytest.raises(ValueError, match=r"actions must have shape \(8, 1\)"):
        env.step(np.zeros((2, 4)))
    mask[:] = [True, False] * 4
    assert env.reset(options={"reset_mask": mask})[0].shape == (8, SHARED + OWN)


def test_slots_of_a_trial_observe_the_action_that_acted_on_their_tensor() -> None:
    runs, split = (
        batch(2, 6, env_id=TRIAL, tasks=DEPTHS, groups=2, runs=2) for _ in range(2)
    )
    split = PerTensor(split)
    assert split.single_observation_space.shape == (SHARED + OWN + 3,)
    seed = next(s for s in range(20) if tensors_of(runs, s) == {4, 6})
    expected, _ = runs.reset(seed=seed)
    found, _ = split.reset(seed=seed)
    counts, rng = runs.unwrapped.num_tensors, np.random.default_rng(0)
    for step in range(8):
        for run, slot in np.ndindex(2, 6):
            row, tensor = found[2 * slot + run], slot % counts[run]
            seen = expected[run, SHARED:-8].reshape(6, OWN)
            parts = (expected[run, :SHARED], seen[tensor], expected[run, -8:-2][[tensor]])
            np.testing.assert_array_equal(row, np.concatenate([*parts, expected[run, -2:]]))
        assert split.observation_space.contains(found)
        given = rng.uniform(-1, 1, (12, 1))
        of_runs = given.reshape(6, 2).T.copy()
        for action, count in zip(of_runs, counts, strict=True):
            for tensor in range(count):
                action[tensor] = action[tensor::count].mean()
        expected, _, terminated, *_ = runs.step(of_runs)
        found, _, ends, *_ = split.step(given)
        assert (found[:, -1] == (step == 3)).all()
        np.testing.assert_array_equal(ends, np.tile(terminated, 6))
    assert ends.all()


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_a_trial_that_begins_anew_shows_its_tensors_no_last_action(
    mode: AutoresetMode,
) -> None:
    env = PerTensor(batch(1, 6, mode, env_id=TRIAL, tasks=DEPTHS, horizon=1, runs=2))
    env.reset(seed=4)
    counts, begun = set(), 0
    for _ in range(12):
        observation, _, ended, _, info = env.step(env.action_space.sample())
        counts.add(int(env.unwrapped.num_tensors[0]))  # type: ignore[attr-defined]
        is_new = ~observation[:, -3:-1].any(1) & (observation[:, -1] == 1.0)
        begun += int(is_new.all())
        if mode is AutoresetMode.SAME_STEP:
            assert (is_new == ended).all()
        if "final_obs" in info:
            assert all(each[-3] != 0.0 for each in info["final_obs"])
    assert counts == {4, 6} and begun >= 4


def test_the_example_of_the_wrapper_runs() -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(optenv.PerTensor, globs={})
    assert doctest.DocTestRunner().run(example).failed == 0
