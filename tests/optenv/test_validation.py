"""Environments give validation losses to observe, and change nothing else by it."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import optenv
from optenv import core
from optenv.group import losses as group_losses
from optenv.ranges import log_uniform_int
from optenv.recording.columns import observation_names
from optenv.telemetry import VALIDATION_FEATURES, ValidationHistory
from tests.helpers.small_runs import (
    ENV_IDS,
    MLP,
    QUADRATIC,
    random_actions,
)

ENV_ID = "optenv/LearningRate-v0"
HAS, AGE, FALL, RISE, USUAL, GAP = range(6)


def walk(
    steps: int = 9, num_envs: int = 4, env_id: str = ENV_ID, seed: int = 0, **arguments: Any
) -> tuple[np.ndarray, np.ndarray, Any]:
    """Return the observations ``[steps + 1, num_envs, F]``, the rewards, and the group."""
    settings = {"tasks": MLP, "horizon": 12, "updates_per_step": 2, **arguments}
    env = gym.make_vec(env_id, num_envs, **settings)
    seen, rewards = [env.reset(seed=seed)[0]], []
    for action in random_actions(env.action_space, steps):
        observation, reward, *_ = env.step(action)
        seen.append(observation)
        rewards.append(reward)
    return np.stack(seen), np.array(rewards), env.unwrapped.groups[0][1]


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_all_but_six_more_entries_stay_as_they_are(env_id: str) -> None:
    arguments: dict[str, Any] = {"env_id": env_id, "steps": 4, "loss_dropout": 0.5}
    plain, rewards, group = walk(**arguments)
    found, others, validating = walk(
        **arguments,
        observe_validation=True,
        validation_dropout=0.4,
        validation_every=(1, 3),
    )
    at = len(group.settings.observed)
    assert group.state.validation == () and validating.state.validation
    assert validating.settings.observed[at:] == VALIDATION_FEATURES
    assert found.shape[2] == plain.shape[2] + 6
    np.testing.assert_array_equal(np.delete(found, range(at, at + 6), axis=2), plain)
    np.testing.assert_array_equal(others, rewards)
    assert found[..., at].any()


@pytest.mark.parametrize("objective", ["train", "validation", "both"])
def test_it_is_the_loss_on_validation_examples_after_the_window(objective: str) -> None:
    *_, group = walk(steps=5, objective=objective, observe_validation=True, dtype="float64")
    task, data, run = group.task, group.data, group.state.run
    inputs, targets = data.validation(task.reward_examples)
    params = task.unflatten(run.params * (1.0 if data.scale is None else data.scale))
    expected = torch.stack(
        [
            task.loss(
                tuple(p[i : i + 1] for p in params), inputs[i][None], targets[i][None]
            )[0]
            for i in range(4)
        ]
    )
    torch.testing.assert_close(group.state.validation.latest, expected)
    assert (group.state.validation.seen == 5).all()


@pytest.mark.parametrize("every", [3, (1, 3)])
def test_runs_that_get_it_rarely_get_the_same_as_those_of_every_step(every: Any) -> None:
    *_, often = walk(steps=6, observe_validation=True, dtype="float64")
    *_, rarely = walk(
        steps=6, observe_validation=True, validation_every=every, dtype="float64"
    )
    due = 6 % rarely.validation_every == 0
    assert due.any()
    torch.testing.assert_close(
        rarely.state.validation.latest[due], often.state.validation.latest[due]
    )


def test_it_is_given_every_third_control_step() -> None:
    seen = walk(observe_validation=True, validation_every=3)[0][..., -6:]
    steps = np.arange(10)
    assert ((seen[..., HAS] == 1) == (steps >= 3)[:, None]).all()
    ages = np.where(steps < 3, 0, steps % 3)
    np.testing.assert_allclose(seen[..., AGE], np.log1p(ages)[:, None].repeat(4, 1) / 2)
    changed = (np.diff(seen[..., USUAL], axis=0) != 0).any(1)
    assert (np.flatnonzero(changed) + 1).tolist() == [6, 9]


def test_no_validation_loss_is_given_before_the_first_update() -> None:
    seen = walk(steps=1, observe_validation=True)[0][..., -6:]
    assert not seen[0].any() and (seen[1, :, :GAP] == [1, 0, 0, 0, 0]).all()


def test_runs_that_are_hidden_observe_zeros_throughout() -> None:
    seen, _, group = walk(num_envs=100, observe_validation=True, validation_dropout=0.3)
    has = seen[-1, :, -6 + HAS] == 1
    assert 0.6 < has.mean() < 0.8 and ((group.validation_every > 0) == has).all()
    assert not seen[:, ~has, -6:].any()
    assert (seen[1:, has, -6] == 1).all()
    hidden = walk(observe_validation=True, validation_dropout=1.0)[0]
    assert not hidden[..., -6:].any()


def test_how_often_it_is_given_is_drawn_for_each_run() -> None:
    group = walk(steps=0, num_envs=300, observe_validation=True, validation_every=(2, 5))[2]
    values, counts = np.unique(group.validation_every, return_counts=True)
    assert values.tolist() == [2, 3, 4, 5] and (np.diff(counts) < 0).all()


def test_a_run_draws_the_same_in_any_batch() -> None:
    arguments: dict[str, Any] = {
        "observe_validation": True, "validation_every": (1, 9), "validation_dropout": 0.5,
    }  # fmt: skip
    together = walk(steps=0, num_envs=8, **arguments)[2].validation_every
    alone = [walk(steps=0, num_envs=1, seed=i, **arguments)[2] for i in range(8)]
    assert [int(group.validation_every[0]) for group in alone] == together.tolist()


def test_integers_are_drawn_uniformly_in_the_logarithm() -> None:
    rng = np.random.default_rng(0)
    drawn = [log_uniform_int((1, 3), rng) for _ in range(4000)]
    expected = np.log([2, 3 / 2, 4 / 3]) / np.log(4)
    np.testing.assert_allclose(np.bincount(drawn)[1:] / 4000, expected, atol=0.03)
    assert {log_uniform_int((7, 7), rng) for _ in range(50)} == {7}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"objective": "both"}, 0),
        ({"objective": "validation"}, 0),
        ({"objective": "train"}, 6),
        ({"objective": "train", "validation_every": 3}, 2),
        ({"objective": "train", "validation_dropout": 1.0}, 0),
    ],
)
def test_nothing_is_evaluated_twice_or_in_vain(
    arguments: dict[str, Any], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: list[str] = []
    evaluate = core.evaluate

    def counted(*args: Any, source: str = "train", **kwargs: Any) -> torch.Tensor:
        sources.append(source)
        return evaluate(*args, source=source, **kwargs)

    monkeypatch.setattr(group_losses.core, "evaluate", counted)
    walk(steps=6, tasks=QUADRATIC, **{**arguments, "observe_validation": True})
    with_it, sources[:] = len(sources), []
    arguments = {"objective": arguments["objective"]}
    walk(steps=6, tasks=QUADRATIC, **arguments)
    assert with_it - len(sources) == expected


def test_an_averaging_action_observes_the_loss_of_the_parameters_at_hand() -> None:
    action = {"kind": "hyperparameters", "names": ["learning_rate", "average"]}
    *_, group = walk(
        steps=5, env_id="optenv/Hyperparameters-v0", action=action, objective="both",
        observe_validation=True, dtype="float64",
    )  # fmt: skip
    run, examples = group.state.run, group.data.validation(group.task.reward_examples)
    found = group.state.validation.latest
    at_hand, averaged = (
        core.evaluate(group.task, params, examples, group.data, run.buffers)
        for params in (run.params, run.evaluated)
    )
    torch.testing.assert_close(found, at_hand)
    assert not torch.allclose(found, averaged, rtol=1e-3)


def test_runs_that_are_reset_alone_begin_anew() -> None:
    env = optenv.LearningRateVectorEnv(
        3, tasks=MLP, horizon=8, updates_per_step=2, autoreset_mode="Disabled",
        observe_validation=True, validation_every=(1, 20),
    )  # fmt: skip
    env.reset(seed=0)
    group = env.groups[0][1]
    actions = np.zeros((3, 1), np.float32)
    for _ in range(3):
        env.step(actions)
    before, every = group.state.validation, group.validation_every.copy()
    mask = np.array([False, True, False])
    observation, _ = env.reset(seed=7, options={"reset_mask": mask})
    assert not observation[1, -6:].any()
    for old, new in zip(before, group.state.validation, strict=True):
        assert torch.equal(new[[0, 2]], old[[0, 2]])
        assert new[1] == 0
    assert (group.validation_every[[0, 2]] == every[[0, 2]]).all()
    for step in range(1, 4):
        observation, *_ = env.step(actions)
        due = step >= group.validation_every[1]
        assert observation[1, -6 + HAS] == due


def test_runs_of_a_trial_share_how_often_it_is_given_and_begin_anew() -> None:
    env = optenv.TrialVectorEnv(
        12, runs=2, tasks=MLP, horizon=4, updates_per_step=2, observe_validation=True,
        validation_every=(1, 3), validation_dropout=0.3, on_divergence="absorb",
    )  # fmt: skip
    seen = [env.reset(seed=0)[0]]
    group = env.groups[0][1]
    every = group.validation_every.copy()
    assert len(set(every.tolist())) >= 3
    for _ in range(7):
        seen.append(env.step(np.zeros((12, 1), np.float32))[0])
    at = len(env.settings.observed) - 5
    has = np.stack(seen)[..., at + HAS]
    assert not has[4].any()  # the first observation of the second run
    np.testing.assert_array_equal(has[4:], has[:4])
    assert (group.validation_every == every).all() and group.state.validation.seen.any()


def test_where_tasks_change_it_is_that_of_the_present_task() -> None:
    *_, group = walk(
        steps=9, tasks="digits", changes=2, observe_validation=True, dtype="float64"
    )
    everyone = torch.arange(4)
    data, run = group.data.at(group.state.run.updates - 1), group.state.run
    examples = data.validation(group.task.reward_examples, everyone)
    expected = core.evaluate(
        group.task, run.params, examples, data, run.buffers, source="validation"
    )
    torch.testing.assert_close(group.state.validation.latest, expected)


def test_a_run_that_has_diverged_keeps_what_it_knew() -> None:
    env = optenv.LearningRateVectorEnv(
        2, tasks=QUADRATIC, rule="sgd", horizon=12, updates_per_step=4, base_lr=1e3,
        on_divergence="absorb", observe_validation=True,
    )  # fmt: skip
    env.reset(seed=0)
    for _ in range(12):
        observation, *_ = env.step(np.ones((2, 1), np.float32))
    assert np.isfinite(observation).all()
    history = env.groups[0][1].state.validation
    assert isinstance(history, ValidationHistory)
    assert all(part.isfinite().all() for part in history)


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_the_description_and_recordings_name_the_features(dropout: float) -> None:
    env = gym.make(ENV_ID, observe_validation=True, validation_dropout=dropout).unwrapped
    described = json.loads(json.dumps(env.describe()))
    assert described["features"][-6:] == list(VALIDATION_FEATURES)
    size = env.observation_space.shape[0]
    assert observation_names(described, size)[-6:] == list(VALIDATION_FEATURES)
    assert size == len(described["features"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"observe_validation": 1}, TypeError, "must be True or False, got 1"),
        (
            {"validation_dropout": 0.2}, ValueError,
            "validation_dropout=0.2 .*no effect .*give observe_validation=True",
        ),
        (
            {"validation_every": (1, 4)}, ValueError,
            r"validation_every=\(1, 4\) have no effect .*observe_validation=True",
        ),
        (
            {"observe_validation": True, "validation_dropout": 1.1}, ValueError,
            r"validation_dropout must be a number in \[0, 1\], got 1.1",
        ),
        ({"validation_dropout": "half"}, ValueError, r"in \[0, 1\], got 'half'"),
        ({"validation_every": 0}, ValueError, "must be a positive integer, got 0"),
        ({"validation_every": 1.5}, ValueError, "must be a positive integer, got 1.5"),
        ({"validation_every": (3, 2)}, ValueError, r"low <= high, got \(3, 2\)"),
        ({"validation_every": (1, 2, 3)}, ValueError, r"a pair of them, got '?\(1, 2, 3\)"),
        ({"validation_every": (0, 2)}, ValueError, "each of validation_every .* got 0"),
    ],
)  # fmt: skip
def test_arguments_that_are_not_valid_are_quoted(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        gym.make(ENV_ID, **arguments)


@pytest.mark.parametrize("reward", ["log_loss", "baseline"])
def test_a_run_can_be_judged_by_the_validation_losses_that_it_observes(reward: str) -> None:
    seeing = {"observe_validation": True, "validation_dropout": 0.5}
    arguments: dict[str, Any] = {"steps": 12, "num_envs": 12, "reward": reward, **seeing}
    found = walk(**arguments, objective="observed")
    alone, both = (walk(**arguments, objective=name) for name in ("validation", "both"))
    observes = found[2].validation_every > 0
    assert 0 < observes.sum() < len(observes)
    expected = np.where(observes, alone[1], both[1])
    np.testing.assert_allclose(found[1], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found[0], both[0])


def test_an_objective_that_is_never_observed_is_refused() -> None:
    with pytest.raises(
        ValueError, match="objective='observed' needs observe_validation=True"
    ):
        gym.make(ENV_ID, objective="observed")
