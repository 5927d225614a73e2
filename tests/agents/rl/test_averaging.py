"""The average over the last part of a training, of snapshots or as a running mean."""

from __future__ import annotations

import pytest
import torch

from agents.utils.averaging import TAIL_SHARE, TailAverage

both = pytest.mark.parametrize("running", [True, False], ids=["running", "snapshots"])


def snapshots(count):
    """Parameters of two shapes at ``count`` positions."""
    generator = torch.Generator().manual_seed(0)
    return [
        [torch.randn(3, 5, generator=generator), torch.randn(1, generator=generator)]
        for _ in range(count)
    ]


@both
def test_only_the_last_part_of_a_training_is_averaged(running):
    average, given = TailAverage(10, start=100, running=running), snapshots(10)
    for i, tensors in enumerate(given):
        average.update(100 + i, tensors)
    late = given[6:]
    assert average.begin == 100 + (1 - TAIL_SHARE) * 10 and average.count == len(late)
    for mean, values in zip(average.mean(), zip(*late, strict=True), strict=True):
        torch.testing.assert_close(mean, torch.stack(values).mean(0))


@both
def test_the_average_does_not_follow_later_changes_of_the_parameters(running):
    parameter = torch.nn.Parameter(torch.zeros(2))
    average = TailAverage(1, running=running)
    for value in (1.0, 3.0):
        with torch.no_grad():
            parameter.fill_(value)
        average.update(1, [parameter])
    (mean,) = average.mean()
    assert mean.tolist() == [2.0, 2.0] and not mean.requires_grad


@both
def test_a_training_that_ends_early_has_no_average(running):
    average = TailAverage(10, running=running)
    average.update(5, [torch.ones(2)])
    assert average.count == 0 and not average.mean()


def test_each_agent_keeps_the_arithmetic_of_its_published_results():
    """Bit for bit: the running mean of PPO and DQN, the stacked one of unrolled agents."""
    given = snapshots(17)
    running, stacked = (TailAverage(0, running=flag) for flag in (True, False))
    means = [torch.zeros_like(tensor) for tensor in given[0]]
    for i, tensors in enumerate(given, 1):
        running.update(i, tensors)
        stacked.update(i, tensors)
        means = [torch.lerp(m, t, 1 / i) for m, t in zip(means, tensors, strict=True)]
    for mean, expected in zip(running.mean(), means, strict=True):
        assert torch.equal(mean, expected)
    for mean, values in zip(stacked.mean(), zip(*given, strict=True), strict=True):
        assert torch.equal(mean, torch.stack(values).mean(0))
