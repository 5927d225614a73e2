"""Quadratics out of distribution."""

from __future__ import annotations

import numpy as np

from optenv import tasks


def test_curvatures_fall_by_a_power_law() -> None:
    task = tasks.PowerLawQuadratic(dim=20, num_train=64)
    for seed in range(5):
        _, targets = task.examples(np.random.default_rng(seed))
        curvature = targets[0, 0].astype(np.float64) ** 2
        place = np.log(np.arange(1, 21))
        slope, offset = np.polyfit(place, np.log(curvature), 1)
        assert -2 <= slope <= -0.5
        np.testing.assert_allclose(np.log(curvature), offset + slope * place, atol=1e-4)


def test_scattered_minima_have_outliers() -> None:
    def kurtosis(kind: type[tasks.Quadratic]) -> float:
        inputs, _ = kind(dim=8, num_train=20_000).examples(np.random.default_rng(0))
        part = inputs - np.median(inputs, 0)
        return float((part**4).mean() / (part**2).mean() ** 2)

    assert abs(kurtosis(tasks.Quadratic) - 3) < 0.2
    assert kurtosis(tasks.PowerLawQuadratic) > 5
