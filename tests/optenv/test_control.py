"""Actions, schedules, and the windows between control steps."""

from __future__ import annotations

import json
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from optenv import actions, tasks, windows
from optenv.telemetry import FEATURES
from tests.helpers.small_runs import ENV_IDS, MLP, QUADRATIC, neutral_action, random_actions

ACTIONS = [
    actions.Continuous(),
    actions.Continuous(bound=2.0, start=-1.0, schedule="cosine", step=0.5),
    actions.Discrete(),
    actions.Discrete(multipliers=(0.1, 1.0, 3.0), bound=1.0),
]
LENGTHS = [*range(1, 60), 97, 100, 399, 400, 401, 16_000]


@pytest.mark.parametrize("spacing", [1.0, 1.3, 2.0, 3.0, 10.0])
@pytest.mark.parametrize("horizon", [1, 2, 7, 40])
def test_windows_split_a_run_into_at_least_one_update_each(
    spacing: float, horizon: int
) -> None:
    for total in LENGTHS:
        edges = windows.boundaries(total, horizon, spacing)
        assert edges.dtype == np.int64
        assert len(edges) == min(horizon, total) + 1
        assert (edges[0], edges[-1]) == (0, total)
        assert (np.diff(edges) >= 1).all()


@pytest.mark.parametrize("total", [400, 4000, 1000])
def test_windows_are_equal_unless_spaced_and_grow_if_spaced(total: int) -> None:
    assert len(set(np.diff(windows.boundaries(total, 40)))) == 1
    for spacing in (1.5, 2.0, 3.0):
        sizes = np.diff(windows.boundaries(total, 40, spacing))
        # Monotone but for the rounding to whole updates.
        assert (np.diff(sizes) >= -1).all()
        assert sizes[:10].sum() < total / 4 < sizes[-10:].sum()
        ideal = total * (np.arange(41) / 40) ** spacing
        late = ideal > np.arange(41)
        edges = windows.boundaries(total, 40, spacing)
        np.testing.assert_allclose(edges[late], ideal[late], atol=0.5)


def test_a_short_run_gets_a_control_step_per_update() -> None:
    np.testing.assert_array_equal(windows.boundaries(5, 40, 2.0), np.arange(6))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((0, 40), "total_updates must be at least 1, got 0"),
        ((10, 0), "horizon must be at least 1, got 0"),
        ((10, 5, 0.9), r"spacing must lie in \[1, 10\], got 0\.9"),
        ((10, 5, math.nan), r"spacing must lie in \[1, 10\], got nan"),
        ((10, 5, math.inf), r"spacing must lie in \[1, 10\], got inf"),
    ],
)
def test_impossible_windows_are_refused(arguments: tuple[Any, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        windows.boundaries(*arguments)


@pytest.mark.parametrize("updates_per_step", [1, 3, 10])
@pytest.mark.parametrize("spacing", [1.0, 2.0])
def test_control_steps_happen_at_the_boundaries(
    updates_per_step: int, spacing: float
) -> None:
    env = gym.make_vec(
        ENV_IDS[0], 2, tasks=MLP, horizon=8, updates_per_step=updates_per_step,
        spacing=spacing,
    )  # fmt: skip
    env.reset(seed=0)
    edges = windows.boundaries(8 * updates_per_step, 8, spacing)
    for edge in edges[1:]:
        *_, terminated, _, _ = env.step(neutral_action(env))
        assert env.groups[0][1].state.run.updates.tolist() == [edge, edge]
        assert terminated.all() == (edge == edges[-1])


def test_the_number_of_updates_is_drawn_between_its_bounds() -> None:
    env = gym.make(ENV_IDS[0], tasks=QUADRATIC, horizon=10, updates_per_step=(1, 20))
    env.reset(seed=0)
    lengths = []
    for _ in range(200):
        env.reset()
        lengths.append(env.unwrapped.batch.groups[0][1].total_updates)
    assert 10 <= min(lengths) < 14 and 150 < max(lengths) <= 200
    # Uniform in the logarithm: half of them below the geometric mean.
    assert 80 < sum(length < 10 * 20**0.5 for length in lengths) < 120


def test_max_work_shortens_only_the_runs_of_large_tasks() -> None:
    small, large = (tasks.Quadratic(dim=dim, batch_size=8) for dim in (4, 64))
    for task, longest in ((small, 200), (large, 60)):
        env = gym.make(
            ENV_IDS[0], tasks=task, horizon=10, updates_per_step=(1, 20),
            max_work=60 * large.work,
        )  # fmt: skip
        lengths = []
        for seed in range(100):
            env.reset(seed=seed)
            lengths.append(env.unwrapped.batch.groups[0][1].total_updates)
        assert 10 <= min(lengths) < 14 and 0.8 * longest < max(lengths) <= longest
    least = gym.make(ENV_IDS[0], tasks=large, updates_per_step=(2, 20), max_work=1)
    least.reset(seed=0)
    assert least.unwrapped.batch.groups[0][1].total_updates == 80  # of 40 control steps


def test_the_work_of_a_recurrent_task_counts_every_token() -> None:
    elman = tasks.LanguageModel(network="elman", length=8, batch_size=4)
    assert elman.work == elman.num_params * 4 * 8
    assert MLP.work == MLP.num_params * MLP.batch_size


def test_the_length_of_a_run_is_observed() -> None:
    for updates, seen in ((10, 0.0), (20, math.log(2) / 3)):
        env = gym.make(ENV_IDS[0], tasks=QUADRATIC, updates_per_step=updates)
        first, _ = env.reset(seed=0)
        later = env.step(neutral_action(env))[0]
        for observation in (first, later):
            assert observation[list(FEATURES).index("run_length")] == pytest.approx(seen)


def test_base_learning_rates_are_drawn_log_uniformly_one_per_run() -> None:
    env = gym.make_vec(ENV_IDS[0], 300, tasks=QUADRATIC, base_lr=(1e-4, 1e-2))
    env.reset(seed=0)
    drawn = env.groups[0][1].state.base_lr.double().log10()
    assert drawn.min() >= -4.0001 and drawn.max() <= -1.9999
    assert len(drawn.unique()) > 290
    assert abs(drawn.mean() + 3) < 0.1 and abs(drawn.std() - 2 / 12**0.5) < 0.05


@pytest.mark.parametrize("action", ACTIONS, ids=str)
def test_an_action_round_trips_through_json(action: actions.Action) -> None:
    assert actions.make(action) is action
    assert actions.make(json.loads(json.dumps(action.to_dict()))) == action


@pytest.mark.parametrize("kind", actions.ACTIONS)
def test_the_name_of_an_action_makes_its_default(kind: str) -> None:
    assert actions.make(kind) == actions.ACTIONS[kind]()
    assert actions.make(kind).kind == kind


@pytest.mark.parametrize("action", ACTIONS, ids=str)
def test_the_log_multiplier_stays_within_its_bound(action: actions.Action) -> None:
    space = action.space(np.float64)
    shifts = action.shift(torch.tensor(np.array(random_actions(space, 100))))
    assert (shifts > 0).any() and (shifts < 0).any()
    for toward in (shifts.max(), shifts.min()):
        s = torch.tensor([action.start], dtype=torch.float64)
        extreme = torch.tensor(
            [[1.0 if toward > 0 else -1.0]]
            if isinstance(action, actions.Continuous)
            else [len(action.multipliers) - 1 if toward > 0 else 0]
        )
        for _ in range(100):
            s = action.apply(extreme, s)
        assert s.item() == math.copysign(action.bound, toward)


@pytest.mark.parametrize("schedule", actions.SCHEDULES)
def test_the_learning_rate_is_base_times_schedule_times_multiplier(schedule: str) -> None:
    action = actions.Continuous(schedule=schedule, start=0.5)
    arguments = {"tasks": MLP, "horizon": 5, "updates_per_step": 4}
    env = gym.make(ENV_IDS[0], action=action.to_dict(), base_lr=1e-2, **arguments)
    env.reset(seed=0)
    s = 0.5
    for step, chosen in enumerate((1.0, -0.5, 0.25, 0.0, -1.0)):
        info = env.step(np.array([chosen], np.float32))[4]
        s += 0.9 * chosen
        factor = {
            "constant": 1.0,
            "cosine": (1 + math.cos(math.pi * step / 5)) / 2,
            "wsd": 1.0 if step < 4 else 0.2 / 0.3,
            "linear": 1 - step / 5,
        }
        assert info["lr"] == pytest.approx(1e-2 * factor[schedule] * math.exp(s))


@pytest.mark.parametrize("name", actions.SCHEDULES)
def test_a_schedule_starts_at_one_and_never_rises(name: str) -> None:
    factors = [actions.SCHEDULES[name](p) for p in np.linspace(0, 1, 50)]
    assert factors[0] == 1
    assert (np.diff(factors) <= 0).all() and min(factors) >= 0
