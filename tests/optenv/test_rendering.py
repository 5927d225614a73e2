"""Pictures and lines of episodes, of single environments and of batches."""

from __future__ import annotations

import copy
import importlib.util
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import optenv
from optenv import actions
from optenv.rendering import axes, contour, picture
from optenv.rendering.path import PathPanel
from optenv.rendering.trace import named_values
from tests.helpers.small_runs import MLP, QUADRATIC, neutral_action

SHORT: dict[str, Any] = {"tasks": MLP, "horizon": 4, "updates_per_step": 2}
SHAPE = (picture.HEIGHT, picture.WIDTH, 3)
TWO = optenv.tasks.Function(function="himmelblau")


def frames_of(env: Any) -> Iterator[np.ndarray]:
    """Yield the frames of an episode of neutral actions."""
    env.reset(seed=0)
    yield env.render()
    done = False
    while not done:
        *_, done, _, _ = env.step(neutral_action(env))
        yield env.render()


@pytest.mark.parametrize("env_id", [*optenv.ENVIRONMENTS, "optenv/HyperparametersTrial-v0"])
def test_every_control_step_has_a_picture_of_its_own(env_id: str) -> None:
    env = gym.make(env_id, render_mode="rgb_array", **SHORT)
    frames = [*frames_of(env)]
    assert {frame.shape for frame in frames} == {SHAPE}
    assert {frame.dtype for frame in frames} == {np.dtype(np.uint8)}
    assert all((a != b).any() for a, b in itertools.pairwise(frames))
    # Colours stand out of white paper, on all sides of the picture.
    ink = (np.ptp(frames[-1], axis=2) > 60).reshape(2, SHAPE[0] // 2, 2, -1)
    assert (ink.sum((1, 3)) > 100).all()


def test_a_picture_does_not_depend_on_the_frames_before_it() -> None:
    names = ["learning_rate", "clip"]
    env = gym.make(
        "optenv/HyperparametersTrial-v0", render_mode="rgb_array", runs=2,
        action={"kind": "hyperparameters", "names": names}, **SHORT,
    )  # fmt: skip
    *_, last = frames_of(env)
    batch = copy.deepcopy(env.unwrapped)  # without the figures
    np.testing.assert_array_equal(batch.render(), last)


def test_the_path_is_drawn_where_there_are_two_parameters() -> None:
    drawn = {}
    for dim in (2, 3):
        task = optenv.tasks.Quadratic(dim=dim)
        env = gym.make("optenv/LearningRate-v0", render_mode="rgb_array", tasks=task)
        env.reset(seed=0)
        env.render()
        panels = env.unwrapped.batch.renderer._pictures[0]._panels
        drawn[dim] = any(isinstance(panel, PathPanel) for panel in panels)
    assert drawn == {2: True, 3: False}


def test_the_surface_has_the_losses_of_the_rewards() -> None:
    env = gym.make("optenv/LearningRate-v0", tasks=TWO, reparametrize=0.5)
    env.reset(seed=3)
    group = env.unwrapped.group
    extent = (-1.0, 1.0, -0.5, 1.5)
    axes = [torch.linspace(*extent[k : k + 2], contour.POINTS) for k in (0, 2)]
    expected = TWO.surface(group.data, *axes)[0]
    found = contour.surface(group, 0, extent)
    np.testing.assert_allclose(found.losses, expected, rtol=2e-4, atol=2e-3)
    assert found.minimizers.shape == (4, 2)


def test_a_window_that_a_run_leaves_stays_around_its_start() -> None:
    points = np.array([[0.0, 0.0], [1e9, 2.0], [np.nan, 1.0]])
    assert contour.window(points[:1]) == (-0.25, 0.25, -0.25, 0.25)
    assert contour.window(points, largest=3.0) == (-3.0, 3.0, -3.0, 3.0)


@pytest.mark.parametrize("mode", ["ansi", "rgb_array"])
def test_a_batch_renders_each_run_as_the_single_environment_does(mode: str) -> None:
    env_id, short = "optenv/UpdateRule-v0", {**SHORT, "render_mode": mode}
    batch, single = gym.make_vec(env_id, 3, **short), gym.make(env_id, **short)
    batch.reset(seed=5)
    single.reset(seed=6)
    for action in (13, 14):  # Adam
        batch.step(np.full(3, action))
        single.step(action)
    together = batch.render()
    assert isinstance(together, tuple) and len(together) == 3
    np.testing.assert_array_equal(together[1], single.render())
    assert "rule adam" in together[1] or mode == "rgb_array"


def test_some_runs_of_a_batch_are_rendered() -> None:
    batch: Any = gym.make_vec(
        "optenv/LearningRate-v0", 5, groups=2, render_mode="rgb_array", rendered=1, **SHORT
    )
    batch.reset(seed=0)
    batch.step(neutral_action(batch))
    first, *others = batch.render()
    assert (first < 255).any() and all((frame == 255).all() for frame in others)
    assert len(others) == 4 and [*batch.renderer.traces] == [0]
    with pytest.raises(ValueError, match=r"rendered must lie in \[1, 5\], got 6"):
        gym.make_vec("optenv/LearningRate-v0", 5, render_mode="ansi", rendered=6)
    with pytest.raises(ValueError, match=r"rendered=1 has no effect without a render_mode"):
        gym.make_vec("optenv/LearningRate-v0", 5, rendered=1)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_the_picture_of_a_new_episode_begins_empty(mode: AutoresetMode) -> None:
    batch: Any = gym.make_vec(
        "optenv/LearningRate-v0", 2, render_mode="ansi", autoreset_mode=mode, **SHORT
    )
    batch.reset(seed=0)
    for _ in range(4 + (mode is AutoresetMode.NEXT_STEP)):
        batch.step(neutral_action(batch))
    assert [text.split("  ")[0] for text in batch.render()] == ["step 0/4"] * 2


def test_a_trial_records_where_its_runs_begin() -> None:
    env: Any = gym.make("optenv/LearningRateTrial-v0", runs=2, render_mode="ansi", **SHORT)
    lines = [*frames_of(env)]
    trace = env.unwrapped.batch.renderer.traces[0]
    assert trace.starts == [0, 4] and trace.steps == trace.length == 8
    assert trace.at == [0, 1, 2, 3, 4, 4, 4, 5, 6, 7, 8]
    assert np.flatnonzero(np.isnan(trace.points["loss"])).tolist() == [5]
    assert "run 1/2" in lines[1] and "run 2/2" in lines[-1]
    assert trace.until(2).points["loss"] == trace.points["loss"][:3]


def test_what_a_new_kind_of_action_sets_is_drawn_by_its_name() -> None:
    @dataclass(frozen=True)
    class Clipping(actions.Continuous):
        kind: ClassVar[str] = "clipping"
        sets: ClassVar[tuple[str, ...]] = ("clip",)

        def hyperparameters(self, action: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"clip": 1.0 + action.reshape(len(action)).abs()}

    env: Any = gym.make(
        "optenv/LearningRate-v0", render_mode="rgb_array", **{**SHORT, "action": Clipping()}
    )
    *_, frame = frames_of(env)
    assert frame.shape == SHAPE
    assert env.unwrapped.batch.renderer.traces[0].named == {"clip": [1.0] * 4}
    assert "clip 1" in env.unwrapped.batch.renderer.traces[0].text()


def test_unknown_parts_of_a_decision_are_drawn_by_their_names() -> None:
    class Wider(NamedTuple):
        shift: torch.Tensor
        hyperparameters: dict[str, torch.Tensor]
        batch_size: torch.Tensor
        update: torch.Tensor
        advice: None = None

    one, two = torch.ones(3), torch.ones(3, 2)
    found = named_values(Wider(one, {"clip": one}, 32 * one, two))  # type: ignore[arg-type]
    assert [*found] == ["clip", "batch_size", "update 1", "update 2"]


def test_losses_that_are_not_positive_or_not_finite_are_drawn() -> None:
    env: Any = gym.make(
        "optenv/LearningRate-v0", render_mode="rgb_array", rule="sgd", tasks=QUADRATIC,
        base_lr=1e4, on_divergence="absorb", horizon=6, updates_per_step=4,
    )  # fmt: skip
    *_, last = frames_of(env)
    assert last.shape == SHAPE and env.unwrapped.batch.renderer.traces[0].diverged
    assert axes.grown(np.array([-2.0, 3.0]), False, 0.1, None) == (-2.5, 3.5)


def test_ticks_are_round_and_few() -> None:
    assert axes.ticks_between(0.02, 30.0, True) == [0.1, 1.0, 10.0]
    assert axes.ticks_between(0.0, 40.0, False) == [0, 10, 20, 30, 40]
    for low, high in ((2.1, 2.2), (1e-9, 1e9), (0.5, 3.0)):
        assert 2 <= len(axes.ticks_between(low, high, True)) <= 6


def test_pictures_without_matplotlib_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(gym.error.DependencyNotInstalled, match=r'install "\.\[render\]"'):
        gym.make("optenv/LearningRate-v0", render_mode="rgb_array")
    gym.make("optenv/LearningRate-v0", render_mode="ansi")


def test_compared_episodes_have_the_same_axes() -> None:
    batch: Any = gym.make_vec(
        "optenv/Hyperparameters-v0", 2, render_mode="rgb_array", **SHORT
    )
    batch.reset(seed=0)
    for sign in (1, -1, 1):
        batch.step(0.5 * sign * np.array([[1.0], [0.1]]) * np.ones(6))
    traces = batch.renderer.traces
    drawn = picture.Comparison({"one": traces[0], "two": traces[1]})
    assert drawn.steps == 3 and (drawn.draw(1) != drawn.draw(3)).any()
    (_, left), (_, right) = drawn._halves
    limits = [[panel.axes.get_ylim() for panel in half] for half in (left, right)]
    assert limits[0] == limits[1]


def test_stable_baselines3_joins_the_pictures_of_a_batch() -> None:
    sb3 = pytest.importorskip("optenv.sb3")
    batch = gym.make_vec(
        "optenv/LearningRate-v0", 2, autoreset_mode=AutoresetMode.DISABLED,
        render_mode="rgb_array", **SHORT,
    )  # fmt: skip
    env = sb3.SB3VecEnv(batch)
    env.reset()
    joined = env.render("rgb_array")
    assert joined.shape == (2 * SHAPE[0], SHAPE[1], 3)


@pytest.mark.parametrize("batched", [False, True])
def test_videos_are_recorded(batched: bool, tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    env: Any
    if batched:
        env = gym.make_vec("optenv/LearningRate-v0", 2, render_mode="rgb_array", **SHORT)
        env = gym.wrappers.vector.RecordVideo(env, str(tmp_path / "videos"))
    else:
        env = gym.make("optenv/LearningRate-v0", render_mode="rgb_array", **SHORT)
        env = gym.wrappers.RecordVideo(env, str(tmp_path / "videos"))
    env.reset(seed=0)
    for _ in range(4):
        env.step(neutral_action(env))
    env.close()
    (video,) = (tmp_path / "videos").glob("*.mp4")
    assert video.stat().st_size > 1000


@pytest.mark.parametrize("limits", [(0.988, 1.012), (0.9985, 1.0001), (0.0, 0.04), (3, 90)])
def test_ticks_of_an_axis_read_differently(limits: tuple[float, float]) -> None:
    labels = [axes.number(tick) for tick in axes.ticks_between(*limits, False)]
    assert len(labels) >= 2 and len(set(labels)) == len(labels)
