"""Gradient features do not depend on the length of the windows."""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import pytest

from optenv import tasks
from optenv.telemetry import FEATURES, observed_features

RUNS, HORIZON, SKIPPED = 64, 20, 8
GRADIENT_FEATURES = (
    "grad_vs_initial", "grad_vs_previous", "cos_grads", "cos_grads_mean", "cos_step",
    "cos_step_mean", "cos_descent", "slope_ratio", "step_size", "predicted_decrease",
)  # fmt: skip


@dataclass(frozen=True)
class Bowl(tasks.Quadratic):
    """Quadratic with unit curvature, stationary after some 20 updates."""

    def examples(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        total = self.num_train + self.num_validation
        inputs = 1 + rng.standard_normal((total, self.dim), np.float32)
        curvature = np.stack([np.ones(self.dim), np.zeros(self.dim)]).astype(np.float32)
        return inputs, np.broadcast_to(curvature, (total, 2, self.dim))


BOWL = Bowl(batch_size=8, num_train=1000, num_validation=16, dim=16)
MLP = tasks.MLP(
    batch_size=8, num_train=1000, num_validation=16, inputs=8, width=8, activation="tanh"
)


def late_observations(
    updates_per_step: int, task: tasks.Task, rule: str, base_lr: float
) -> np.ndarray:
    """Return observations ``[steps, RUNS, F]`` of late steps at a constant rate."""
    env = gym.make_vec(
        "optenv/LearningRate-v0", RUNS, tasks=task, rule=rule, base_lr=base_lr,
        horizon=HORIZON, updates_per_step=updates_per_step, loss_features="both",
    )  # fmt: skip
    env.reset(seed=0)
    constant = np.zeros((RUNS, 1), np.float32)
    steps = [env.step(constant)[0] for _ in range(HORIZON - 1)]
    return np.stack(steps[SKIPPED:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "rule", "base_lr"),
    [
        pytest.param(BOWL, "sgd", 0.3, id="stationary-sgd"),
        # A rate so small that the parameters hardly move: the gradients are all noise.
        pytest.param(MLP, "adam", 1e-7, id="still-adam"),
    ],
)
def test_gradient_features_have_one_distribution_for_short_and_long_windows(
    task: tasks.Task, rule: str, base_lr: float
) -> None:
    short, long = (late_observations(n, task, rule, base_lr) for n in (4, 400))
    for name in GRADIENT_FEATURES:
        i = observed_features("both").index(name)
        a, b = short[..., i], long[..., i]
        # Measured: at most 0.04 and 0.05. Statistics of whole windows instead of single
        # updates would differ by 1 and more.
        assert abs(a.mean() - b.mean()) < 0.1, name
        assert abs(a.std() - b.std()) < 0.1, name


def test_the_probed_step_is_one_update_whatever_the_window() -> None:
    sizes = []
    for updates in (1, 50):
        env = gym.make_vec(
            "optenv/LearningRate-v0", RUNS, tasks=BOWL, rule="sgd", base_lr=1e-6,
            horizon=2, updates_per_step=updates,
        )  # fmt: skip
        env.reset(seed=0)
        observation = env.step(np.zeros((RUNS, 1), np.float32))[0]
        sizes.append(observation[:, list(FEATURES).index("step_size")].mean())
    assert abs(sizes[0] - sizes[1]) < 0.1
