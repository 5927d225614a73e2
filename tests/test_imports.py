"""Imports of the packages load no library that only a part of them needs."""

from __future__ import annotations

import subprocess
import sys

from tests.helpers.cpu_budget import slowdown
from tests.helpers.paths import ROOT

#: One process for all, since starting one takes seconds.
PROGRAM = """
import sys

sys.modules["click"] = None  # whoever imports it fails

import gymnasium
import optenv

def loaded(*names):
    return [name for name in names if name in sys.modules]

gymnasium.make_vec("optenv/LearningRate-v0", 2).reset()
print("optenv", loaded("agents", "stable_baselines3", "pyarrow", "minari"))

import agents
print("agents", loaded("matplotlib", "stable_baselines3"))

import agents.evaluation
print("agents.evaluation")
"""


def test_importing_a_package_loads_no_library_of_its_extras() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True
    )
    expected = ["optenv []", "agents []", "agents.evaluation"]
    assert done.stdout.splitlines() == expected, done.stderr


#: Seconds of CPU time that importing optenv may take once torch is imported.
LONGEST = 2.0

TIMED = """
import time
import torch
begin = time.process_time()
import optenv
print(time.process_time() - begin)
"""


def test_importing_optenv_takes_less_than_two_seconds_beyond_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TIMED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < LONGEST * slowdown()
