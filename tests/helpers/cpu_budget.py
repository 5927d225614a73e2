"""A pytest plugin that fails quick tests which take too long.

A test without the marker ``slow`` may take :data:`LIMIT` seconds of CPU time. CPU time is
counted instead of wall time, since others may use the machine. It is that of the process
and of its children, for the test's call and for its function-scoped fixtures: what a
session or a module shares is not charged to the test that happens to come first.

A test over the limit fails only after a calibration: a fixed workload is timed there and
then, and on a machine that takes ``k`` times as long as the reference machine, the limit is
``k`` times as high. The environment variable ``OPTENV_TEST_CPU_LIMIT`` sets another limit;
0 means none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from typing import Any

import pytest
import torch

#: Seconds of CPU time that a test without the marker ``slow`` may take.
LIMIT = 5.0
LIMIT_VARIABLE = "OPTENV_TEST_CPU_LIMIT"
#: Seconds that :func:`workload` takes on the machine for which the limit is meant.
REFERENCE_SECONDS = 0.3

used_seconds = pytest.StashKey[float]()


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def workload() -> None:
    """Run what tests spend their time on: small operations of torch, one by one."""
    vector = torch.ones(64)
    for _ in range(40_000):
        vector = torch.add(vector, 1e-3).mul_(0.999)


def slowdown() -> float:
    """Return how many times as long as the reference machine this one takes, at least 1."""
    seconds = []
    for _ in range(4):
        begin = time.process_time()
        workload()
        seconds.append(time.process_time() - begin)
    return max(1.0, max(seconds) / REFERENCE_SECONDS)


class CpuBudget:
    """Measures the CPU time of each test, and fails those over the limit."""

    def __init__(self) -> None:
        self.limit = float(os.environ.get(LIMIT_VARIABLE, LIMIT))
        self.shared_seconds = 0.0

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        begin, self.shared_seconds = cpu_seconds(), 0.0
        try:
            return (yield)
        finally:
            item.stash[used_seconds] = cpu_seconds() - begin - self.shared_seconds

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, Any, Any]:
        begin = cpu_seconds()
        try:
            return (yield)
        finally:
            if fixturedef.scope != "function":
                self.shared_seconds += cpu_seconds() - begin

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        begin, self.shared_seconds = cpu_seconds(), 0.0
        result = yield
        seconds = cpu_seconds() - begin - self.shared_seconds + item.stash[used_seconds]
        if 0 < self.limit < seconds and item.get_closest_marker("slow") is None:
            limit = self.limit * slowdown()
            if seconds > limit:
                pytest.fail(
                    f"{seconds:.1f} s of CPU time are more than the {limit:.1f} s that a "
                    "test may take here: make it quicker or mark it as slow",
                    pytrace=False,
                )
        return result
