"""Features of validation losses tell of them in units of the run's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from optenv import telemetry
from optenv.telemetry import (
    VALIDATION_FEATURES,
    Control,
    History,
    Losses,
    Probe,
    ValidationHistory,
    observe,
    record_validation,
)

NAN = math.nan

#: Features of validation losses alone.
ALONE = VALIDATION_FEATURES[:-1]

#: Validation losses of two runs at ten control steps; NaN where none is given.
GIVEN = np.array(
    [
        [NAN, 3.0, NAN, NAN, 2.0, 2.5, NAN, 1.0, 1.0, NAN],
        [NAN, NAN, 5.0, 5.0, 4.0, NAN, 7.0, NAN, NAN, 6.5],
    ]
)


def seen(
    losses: np.ndarray, dtype: torch.dtype = torch.float64
) -> tuple[np.ndarray, ValidationHistory]:
    """Return the features ``[steps, B, 5]`` of losses ``[B, steps]``, and the history."""
    one = torch.ones(len(losses), dtype=dtype)
    history, rows = ValidationHistory.empty(one), []
    probe, control = Probe(*[one] * 7), Control(None, None, 0 * one, 0 * one, 0 * one)
    for column in losses.T:
        history = record_validation(history, torch.from_numpy(column).to(dtype))
        observation, _ = observe(
            probe, Losses.empty(0 * one), History.empty(one), control,
            names=ALONE, validation=history,
        )  # fmt: skip
        rows.append(observation)
    return torch.stack(rows).numpy(), history


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize(
    ("factor", "shift"),
    [(1e-3, 0.0), (2.0**20, 0.0), (1.0, 1e3), (1.0, -1e3), (10.0, -7.0)],
)
def test_they_depend_neither_on_the_unit_nor_on_the_zero_of_the_loss(
    runs: int, factor: float, shift: float
) -> None:
    expected, _ = seen(GIVEN[:runs])
    found, _ = seen(factor * GIVEN[:runs] + shift)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    assert (np.ptp(expected, axis=0) > 0.3).all()


def test_a_single_run_observes_what_it_does_in_a_batch() -> None:
    together, _ = seen(GIVEN)
    for run in range(2):
        alone, _ = seen(GIVEN[run : run + 1])
        np.testing.assert_allclose(alone[:, 0], together[:, run], rtol=1e-14, atol=1e-14)


def test_they_are_those_of_the_formulas() -> None:
    found, _ = seen(GIVEN[:1])
    by_name = dict(zip(ALONE, found[:, 0].T, strict=True))
    np.testing.assert_array_equal(by_name["has_validation"], [0] + [1] * 9)
    ages = [0, 0, 1, 2, 0, 0, 1, 0, 0, 1]
    np.testing.assert_allclose(by_name["validation_age"], np.log1p(ages) / 2)
    falls = [0, 0, 0, 0, 1, -0.5, -0.5, 0.75, 0, 0]  # of 3, 2, 2.5, 1, 1; ranges 1, 1, 2
    np.testing.assert_allclose(
        by_name["validation_fall"], np.arcsinh(30 * np.array(falls)) / 2
    )
    rises = [0, 0, 0, 0, 0, 0.5, 0.5, 0, 0, 0]
    np.testing.assert_allclose(
        by_name["validation_rise"], np.arcsinh(30 * np.array(rises)) / 2
    )
    usual = [1.0, 1.0 + 0.3 * (0.5 - 1.0)]
    usual.append(usual[-1] + 0.3 * (1.5 - usual[-1]))
    usual.append(0.7 * usual[-1])
    ratios = [usual[0], usual[1], usual[1], usual[2] / 2, usual[3] / 2, usual[3] / 2]
    np.testing.assert_allclose(
        by_name["validation_usual_change"],
        [0] * 4 + [(math.log(r) + 2) / 2 for r in ratios],
    )


def test_before_the_first_validation_loss_all_are_zero() -> None:
    found, history = seen(np.full((3, 5), NAN))
    assert not found.any() and not torch.stack([*history]).any()


def test_after_one_validation_loss_only_its_age_is_told() -> None:
    found, _ = seen(np.array([[4.0, NAN, NAN], [-4.0, NAN, NAN]]))
    assert (found[:, :, 0] == 1).all() and not found[:, :, 2:].any()
    assert (np.diff(found[:, :, 1], axis=0) > 0).all()


@pytest.mark.parametrize("bad", [math.inf, -math.inf, NAN])
def test_a_loss_that_is_not_finite_counts_as_none(bad: float) -> None:
    marred = np.where(np.isnan(GIVEN), bad, GIVEN)
    np.testing.assert_array_equal(seen(marred)[0], seen(GIVEN)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("runs", [1, 3])
def test_they_are_finite_and_bounded_for_losses_of_any_size(
    runs: int, dtype: torch.dtype
) -> None:
    most = torch.finfo(dtype).max
    losses = np.tile([1.0, -most, most, -most, 0.0, 1e-30, 1e30, 3.0], (runs, 1))
    found, history = seen(losses, dtype)
    assert np.isfinite(found).all() and np.abs(found).max() <= telemetry.OBSERVATION_BOUND
    assert all(part.isfinite().all() for part in history)


def test_no_gradient_is_spoilt_where_none_is_given() -> None:
    loss = torch.tensor([3.0, 2.0, 2.5], requires_grad=True)
    history = ValidationHistory.empty(torch.zeros(2))
    for value in (loss[0], loss[1], None, loss[2]):
        given = torch.full((2,), NAN)
        if value is not None:
            given = torch.stack([value, given[0]])
        history = record_validation(history, given)
    sum(part.sum() for part in history).backward()
    assert loss.grad is not None and loss.grad.isfinite().all() and loss.grad.any()


def test_they_are_observed_last_and_only_where_they_are_asked_for() -> None:
    for key in telemetry.LOSS_FEATURE_SETS:
        without = telemetry.observed_features(key)
        assert telemetry.observed_features(key, True) == (*without, *VALIDATION_FEATURES)
        assert not telemetry.observes_validation(without)
        for names in (without, (*without, VALIDATION_FEATURES[2])):
            asked = len(names) > len(without)
            expected = telemetry.observed_features(key, asked)
            assert telemetry.own_features(names) == expected
    assert list(telemetry.ALL_FEATURES)[-6:] == list(VALIDATION_FEATURES)
    assert not {*telemetry.FEATURES} & {*VALIDATION_FEATURES}


def gaps(
    training: np.ndarray, validation: np.ndarray, factor: float = 1.0, shift: float = 0.0
) -> list[float]:
    """Return the gap at each step of a run with these losses, NaN where there is none."""
    one = torch.ones(1, dtype=torch.float64)
    history, earlier = ValidationHistory.empty(one), History.empty(one)
    probe, control = Probe(*[one] * 7), Control(None, None, 0 * one, 0 * one, 0 * one)
    found = []
    for loss, held_out in factor * np.stack([training, validation], axis=1) + shift:
        history = record_validation(history, held_out * one)
        losses = Losses.empty(0 * one)
        if not math.isnan(loss):
            losses = losses.record(loss * one)
        observation, earlier = observe(
            probe, losses, earlier, control, names=("validation_gap",), validation=history
        )
        found.append(observation.item())
    return found


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (3.0, -20.0), (1e-3, 0.0)])
def test_the_gap_is_the_validation_loss_above_the_training_loss(
    factor: float, shift: float
) -> None:
    training = np.array([4.0, 3.0, 2.0, 2.5])
    validation = np.array([NAN, 3.5, 3.0, NAN])
    expected = np.array([0.0, 0.5 / 1, 1.0 / 2, 0.5 / 2])  # in units of the range so far
    found = gaps(training, validation, factor, shift)
    np.testing.assert_allclose(found, np.arcsinh(10 * expected) / 2, rtol=1e-9)


def test_without_training_losses_there_is_no_gap() -> None:
    assert gaps(np.full(4, NAN), np.array([NAN, 3.0, 2.0, 5.0])) == [0.0] * 4
