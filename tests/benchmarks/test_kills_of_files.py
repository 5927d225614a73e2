"""Benchmarks and saves of policies that are killed lose nothing, whenever it happens."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT


def kill(*arguments):
    """Run the program, and return the cells of the last row of its table."""
    command = [sys.executable, str(ROOT / "benchmarks" / "kills_of_files.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip().splitlines()[-1].strip("| ").split(" | ")


@pytest.mark.slow
def test_killed_saves_leave_a_policy_that_loads():
    row = kill("--of", "save_policy", "--kills", "50")
    assert row[1] == "50" and row[-1] == "none"
    assert int(row[4]) > 0, "some were hit while they were writing"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_three_kills_leave_the_benchmark_as_it_would_have_been(workers):
    row = kill("--of", "benchmark", "--kills", "3", "--workers", str(workers))
    assert row[:2] == [f"benchmark, `--workers {workers}`", "3"] and row[-1] == "none"
