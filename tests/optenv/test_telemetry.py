"""Observations are finite, bounded, and invariant to the scales of a task."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import optenv
from optenv import tasks, telemetry
from optenv.telemetry import FEATURES, Control, History, Losses, Probe, observe
from tests.helpers.small_runs import (
    ENV_IDS,
    MLP,
    RULE_NAMES,
    assert_identical,
    assert_same,
    random_actions,
    rollout,
)

RUNS, WINDOWS = 6, 8
NAMES = list(FEATURES)
ALL = telemetry.observed_features("both")


def random_windows(
    dtype: torch.dtype = torch.float64, windows: int = WINDOWS
) -> Iterator[tuple[Probe, Losses, Control]]:
    """Yield windows of random gradients, steps, parameters and losses like a training's."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(-1)

    last, param = draw(RUNS, 20), draw(RUNS, 20)
    for window in range(windows):
        grad, step = 0.7 * last + draw(RUNS, 20), -1e-2 * last + 1e-2 * draw(RUNS, 20)
        param = param + step
        losses = Losses.empty(torch.zeros(RUNS, dtype=dtype))
        for _ in range(5):
            losses = losses.record((0.2 * draw(RUNS)).exp() * 0.9**window)
        if window == 0:
            yield telemetry.first_probe(dot, grad, param), losses, control(window, dtype)
        else:
            yield (
                telemetry.probe(dot, grad, param, last, step),
                losses,
                control(window, dtype),
            )
        last = grad


def control(window: int, dtype: torch.dtype = torch.float64, runs: int = RUNS) -> Control:
    one = torch.ones(runs, dtype=dtype)
    return Control(one * window / WINDOWS, 400, 0.1 * window * one, 0.2 * one, 0.1 * one)


def observations(windows: Any) -> Tensor:
    """Compute all features ``[windows, RUNS, F]`` of successive windows."""
    history, seen = None, []
    for probe, losses, state in windows:
        if history is None:
            history = History.empty(state.progress)
        observation, history = observe(probe, losses, history, state, names=ALL)
        seen.append(observation)
    return torch.stack(seen)


def rescale(window: tuple[Probe, Losses, Control], loss: float, param: float) -> Any:
    """Return the window with loss and parameters measured in other units."""
    probe, losses, state = window
    grad = loss / param
    units = {
        "grad_sq": grad**2, "last_grad_sq": grad**2, "grad_dot_last": grad**2,
        "step_sq": param**2, "param_sq": param**2,
        "grad_dot_step": loss, "last_grad_dot_step": loss,
    }  # fmt: skip
    probe = Probe(**{k: v * units[k] for k, v in probe._asdict().items()})
    mean, deviation = losses.mean * loss, losses.deviation * loss**2
    return probe, losses._replace(mean=mean, deviation=deviation), state


@pytest.mark.parametrize("loss", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("param", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_are_invariant_to_units_of_loss_and_parameters(
    loss: float, param: float, dtype: torch.dtype
) -> None:
    plain = observations(random_windows(dtype))
    scaled = observations(rescale(w, loss, param) for w in random_windows(dtype))
    torch.testing.assert_close(
        scaled, plain, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-10
    )
    changing = plain[1:].std(dim=0).amin(dim=0) > 0
    assert {n for n, c in zip(ALL, changing, strict=True) if not c} <= {
        "run_length", "learning_rate", "previous_action", "has_loss",
    }  # fmt: skip


@dataclass(frozen=True)
class ScaledQuadratic(tasks.Quadratic):
    """Quadratic in other units of the loss and of the parameters."""

    loss_unit: float = 1.0
    param_unit: float = 1.0

    def examples(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        inputs, curvature = super().examples(rng)
        unit = np.sqrt(self.loss_unit) / self.param_unit
        scale = np.array([unit, 1.0], np.float32)[:, None]
        return inputs * np.float32(self.param_unit), curvature * scale

    def init(self, generators: Any) -> Tensor:
        return super().init(generators) * self.param_unit


@pytest.mark.parametrize("rule", ["sgd", "momentum"])
@pytest.mark.parametrize(("loss", "param"), [(2.0**-20, 1.0), (2.0**20, 8.0), (1.0, 0.125)])
def test_a_run_in_other_units_has_the_same_observations(
    rule: str, loss: float, param: float
) -> None:
    def trajectory(loss_unit: float, param_unit: float) -> list[Any]:
        task = ScaledQuadratic(dim=8, loss_unit=loss_unit, param_unit=param_unit)
        env = gym.make_vec(
            "optenv/LearningRate-v0", 4, tasks=task, rule=rule, horizon=8,
            updates_per_step=5, base_lr=1e-3 * param_unit**2 / loss_unit, dtype="float64",
        )  # fmt: skip
        steps = rollout(env, random_actions(env.action_space, 8), seed=0)
        free = [i for i, name in enumerate(NAMES) if name != "learning_rate"]
        seen = [step[0][..., free] for step in steps]
        return seen + [step[1] for step in steps[1:]]

    assert_same(trajectory(loss, param), trajectory(1.0, 1.0), rtol=1e-6, atol=1e-7)


BAD = [float("nan"), float("inf"), float("-inf"), 0.0, 1e30, -1e30, 1e-38]


def replace(window: Any, value: float, part: int, name: str | None = None) -> Any:
    """Replace all fields, or one, of the probe (part 0) or the losses (part 1)."""
    names = window[part]._fields if name is None else (name,)
    fields = {n: torch.full_like(getattr(window[part], n), value) for n in names}
    changed = window[part]._replace(**fields)
    return (*window[:part], changed, *window[part + 1 :])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", BAD)
def test_observations_are_finite_and_bounded_for_any_statistics(
    value: float, dtype: torch.dtype
) -> None:
    fields = [(0, n) for n in (*Probe._fields, None)] + [
        (1, n) for n in (*Losses._fields, None)
    ]
    for (part, name), bad in itertools.product(fields, range(3)):
        windows = [
            replace(w, value, part, name) if i >= bad else w
            for i, w in enumerate(random_windows(dtype, windows=5))
        ]
        seen = observations(windows)
        assert seen.dtype == dtype
        assert seen.isfinite().all()
        assert seen.abs().max() <= telemetry.OBSERVATION_BOUND


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("part", "name"), [(0, None), (1, "mean"), (1, "deviation")])
def test_the_history_forgets_an_overflow(value: float, part: int, name: str | None) -> None:
    windows = list(random_windows(windows=40))
    clean = observations(windows)
    windows[3] = replace(windows[3], value, part, name)
    marred = observations(windows)
    assert not marred[3].equal(clean[3])
    torch.testing.assert_close(marred[:3], clean[:3])
    torch.testing.assert_close(marred[-1], clean[-1], rtol=0, atol=0.2)


def test_without_losses_all_loss_features_are_zero() -> None:
    with_losses = observations(random_windows())
    without = observations(replace(w, 0.0, part=1) for w in random_windows())
    for i, name in enumerate(ALL):
        if "loss" in name or name == "predicted_decrease":
            assert (without[:, :, i] == 0).all()
        else:
            assert_identical(without[:, :, i], with_losses[:, :, i])


def test_a_window_without_losses_keeps_the_last_loss_features() -> None:
    windows = list(random_windows())
    windows[4] = replace(windows[4], 0.0, part=1)
    seen = dict(zip(ALL, observations(windows).unbind(-1), strict=True))
    assert (seen["has_loss"][4] == 0).all() and (seen["has_loss"][5] == 1).all()
    for name in ("loss_vs_initial", "loss_noise"):
        assert_identical(seen[name][4], seen[name][3])
    for name in ("loss_vs_previous", *telemetry.INVARIANT_LOSS_FEATURES):
        assert (seen[name][4] == 0).all() and (seen[name][5] != 0).any()


def test_the_first_observation_is_constant() -> None:
    expected = dict.fromkeys(NAMES, 0.0)
    expected |= {"progress": -1.0, "elapsed": np.log(0.003) / 3, "has_loss": 1.0}
    for rule, split in itertools.product(RULE_NAMES, tasks.SPLITS):
        env = gym.make_vec("optenv/LearningRate-v0", 8, tasks=split, groups=4, rule=rule)
        observation, _ = env.reset(seed=0)
        np.testing.assert_allclose(observation, [list(expected.values())] * 8, rtol=1e-6)


def test_the_table_names_every_entry_of_an_observation() -> None:
    env = gym.make("optenv/LearningRate-v0")
    assert env.observation_space.shape == (len(FEATURES),)
    assert env.unwrapped.describe()["features"] == NAMES
    assert f"({len(FEATURES)},)" in env.unwrapped.__doc__
    probe, losses, state = next(random_windows())
    observation, _ = observe(probe, losses, History.empty(state.progress), state)
    assert observation.shape == (RUNS, len(FEATURES))
    assert all(FEATURES.values())


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_control_features_follow_the_actions(env_id: str) -> None:
    bounded = {"kind": optenv.ENVIRONMENTS[env_id]["action"], "bound": 0.7}
    env = gym.make_vec(
        env_id, 3, tasks=MLP, action=bounded, horizon=6, base_lr=1e-3, dtype="float64"
    )
    env.reset(seed=0)
    group = env.groups[0][1]
    # Roles and tensors have a multiplier each, of which the features tell the mean.
    parts = len(group.task.shapes if group.action.per_tensor else group.action.roles)
    s, at_bound = np.zeros((3, max(parts, 1))), False
    for step, action in enumerate(random_actions(env.action_space, 6), 1):
        observation, _, _, _, info = env.step(action)
        seen = dict(zip(NAMES, observation.T[: len(NAMES)], strict=True))
        if parts:  # numbers beyond those of the tensors have no effect
            action = action[:, :parts]
        asked = group.action.shift(torch.from_numpy(action)).numpy()
        np.testing.assert_allclose(seen["previous_action"], asked)
        np.testing.assert_allclose(
            3 * seen["log_multiplier"], np.log(info["lr"] / 1e-3), atol=1e-12
        )
        each = group.action.step * action if parts else asked[:, None]
        np.testing.assert_allclose(each.mean(1), asked)
        s = np.clip(s + each, -0.7, 0.7)
        at_bound |= (np.abs(s) == 0.7).any()
        np.testing.assert_allclose(3 * seen["log_multiplier"], s.mean(1), atol=1e-12)
        np.testing.assert_allclose(seen["progress"], 2 * step / 6 - 1)
        assert (seen["has_loss"] == 1).all()
    moves = not (group.action.is_update or group.action.sets_batch_size)
    assert at_bound == moves
    np.testing.assert_allclose(seen["elapsed"], 0, atol=1e-12)
    np.testing.assert_allclose(seen["remaining"], np.log(0.003) / 3)


# Losses of any unit and any sign.


def observed_losses(factor: float, shift: float, runs: int = RUNS) -> np.ndarray:
    """Return the invariant features of random windows whose losses are transformed."""
    history = History.empty(torch.zeros(runs, dtype=torch.float64))
    generator = torch.Generator().manual_seed(2)
    seen = []
    for window in range(WINDOWS):
        losses = Losses.empty(torch.zeros(runs, dtype=torch.float64))
        for _ in range(1 + window % 3):
            loss = torch.rand(runs, generator=generator, dtype=torch.float64)
            losses = losses.record(factor * (loss + 5 / (1 + window)) + shift)
        ones = torch.ones(runs, dtype=torch.float64)
        probe = Probe(*[ones] * len(Probe._fields))
        state = control(window, runs=runs)
        observation, history = observe(probe, losses, history, state, names=ALL)
        columns = [ALL.index(name) for name in telemetry.INVARIANT_LOSS_FEATURES]
        seen.append(observation[:, columns])
    return torch.stack(seen).numpy()


@pytest.mark.parametrize(
    ("factor", "shift"), [(1e-3, 0.0), (1e3, 0.0), (2.0**20, 0.0), (1.0, 1e3), (1.0, -1e3)]
)
@pytest.mark.parametrize("runs", [1, RUNS])
def test_invariant_features_do_not_depend_on_the_unit_and_the_zero_of_the_loss(
    runs: int, factor: float, shift: float
) -> None:
    expected = observed_losses(1.0, 0.0, runs)
    found = observed_losses(factor, shift, runs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    assert (np.ptp(expected, axis=0) > 0.05).all()


def seen_losses(values: list[float]) -> tuple[torch.Tensor, History]:
    """Return invariant features and history after windows with one loss each."""
    one = torch.ones(1, dtype=torch.float64)
    history = History.empty(0 * one)
    for value in values:
        losses = Losses.empty(0 * one).record(value * one)
        probe, state = Probe(*[one] * len(Probe._fields)), control(0, runs=1)
        names = telemetry.INVARIANT_LOSS_FEATURES
        observation, history = observe(probe, losses, history, state, names=names)
    return observation, history


@pytest.mark.parametrize("first", [[1e12], [-1e12], [1e12] * 3])
def test_first_losses_of_another_kind_do_not_set_the_range(first: list[float]) -> None:
    usual = [3.0, 2.5, 2.2, 2.4, 2.1, 2.0, 1.8]
    found, history = seen_losses([*first, *usual])
    torch.testing.assert_close(found, seen_losses(usual)[0], rtol=0, atol=0.2)
    assert (history.loss_lowest, history.loss_highest) == (1.8, 3.0)


def test_the_first_losses_of_a_steep_fall_stay_in_the_range() -> None:
    _, history = seen_losses([10.0**-i for i in range(8)])
    assert (history.loss_lowest, history.loss_highest) == (1e-7, 1.0)


def test_invariant_features_measure_losses_in_units_of_their_own() -> None:
    def window(*values: float) -> Losses:
        losses = Losses.empty(torch.zeros(1, dtype=torch.float64))
        for value in values:
            losses = losses.record(torch.tensor([value], dtype=torch.float64))
        return losses

    history = History.empty(torch.zeros(1, dtype=torch.float64))
    probe = Probe(*[torch.ones(1, dtype=torch.float64)] * len(Probe._fields))
    for i, losses in enumerate((window(-1.0, -3.0), window(-4.0, -8.0), window(-5.0))):
        state = control(i, runs=1)
        observation, history = observe(probe, losses, history, state, names=ALL)
    # Means -2, -6, -5: a range of 4, a rise of 1 after a change of 4.
    found = dict(zip(ALL, observation[0].tolist(), strict=True))
    variance = 2.0 + 0.3 * (8.0 - 2.0)
    usual = 4.0 + 0.3 * (1.0 - 4.0)
    average = -2.0 + 0.1 * (-6.0 + 2.0)
    average += 0.1 * (-5.0 - average)
    expected = {
        "loss_fall": math.asinh(30 * -1 / 4) / 2,
        "loss_rise": math.asinh(30 * 1 / 4) / 2,
        "loss_fall_noise": math.asinh(-1 / math.sqrt(variance)) / 2,
        "loss_fall_usual": math.asinh(-1 / 4) / 2,
        "loss_fall_trend": math.asinh((average + 5.0) / usual) / 2,
        "loss_usual_change": (math.log(usual / 4) + 3) / 2,
        "loss_noise_range": (math.log(math.sqrt(variance) / 4) + 3) / 2,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("key", list(telemetry.LOSS_FEATURE_SETS))
def test_an_environment_observes_the_features_of_the_loss_that_it_is_asked_for(
    key: str,
) -> None:
    names = telemetry.observed_features(key)
    env = gym.make_vec("optenv/LearningRate-v0", 4, tasks=MLP, loss_features=key)
    env.reset(seed=0)
    seen = np.stack([env.step(a)[0] for a in random_actions(env.action_space, 4)])
    assert seen.shape[2] == len(names)
    of_losses = [n for n in names if n in telemetry.LOSS_FEATURE_SETS["both"]]
    assert sorted(of_losses) == sorted(telemetry.LOSS_FEATURE_SETS[key])
    varied = np.ptp(seen, axis=(0, 1)) > 0
    assert all(varied[names.index(name)] for name in of_losses if name != "has_loss")
    assert telemetry.loss_features_of(names) == key


def test_an_unknown_set_of_loss_features_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="unknown loss_features 'all'; valid: both, posi"):
        gym.make("optenv/LearningRate-v0", loss_features="all")
