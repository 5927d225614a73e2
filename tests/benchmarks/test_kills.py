"""Trainings that are killed go on, whenever they were killed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT


@pytest.mark.slow
@pytest.mark.training
@pytest.mark.parametrize("agent", ["ppo", "dqn", "rl2", "unrolled-rule"])
def test_three_kills_leave_the_training_as_it_would_have_been(agent):
    program = ROOT / "benchmarks" / "kills.py"
    command = [sys.executable, str(program), "--agent", agent, "--kills", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    row = done.stdout.strip().splitlines()[-1].strip("| ").split(" | ")
    assert row[:2] == [agent, "3"]
    assert row[-1] == "none"
