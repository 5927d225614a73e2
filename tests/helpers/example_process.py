"""Examples, and a function that runs one in a separate process."""

from __future__ import annotations

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agents import load_policy
from tests.helpers.paths import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def command(example: Path) -> str:
    """Return the command in an example's docstring: the line that names the file."""
    lines = ast.get_docstring(ast.parse(example.read_text())).splitlines()
    (line,) = [line for line in lines if f"examples/{example.name}" in line]
    return line


def output(example: Path, folder: Path, **environment: str) -> str:
    """Run an example's command in ``folder``; return what it prints.

    Args:
        example: path of the example.
        folder: working directory, which gets a link to the examples.
        **environment: additional environment variables.
    """
    (folder / "examples").symlink_to(ROOT / "examples")
    words = shlex.split(command(example))
    executables = str(Path(sys.executable).parent)
    process = subprocess.Popen(
        words, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
        env={
            **os.environ, "PATH": f"{executables}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
            **environment,
        },
    )  # fmt: skip
    try:
        printed, errors = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that torchrun started
        printed, errors = process.communicate()
        pytest.fail(f"{words} did not end:\n{errors}")
    assert process.returncode == 0, errors
    return printed


def check_trained(printed: str, folder: Path) -> None:
    """Assert that an example has trained a policy, exported it, and trained with it.

    The first iteration is of actions that are nearly random.

    Args:
        printed: what the example has printed.
        folder: folder in which it has left one policy.
    """
    lines = re.findall(r"iteration \d+: .*mean return (-?[\d.]+)\n", printed)
    returns = np.array(lines, float)
    assert len(returns) >= 8 and returns[-3:].mean() > returns[0] + 0.5, returns
    (loss,) = re.findall(r"as an optimizer: loss ([\d.]+) to ([\d.]+)", printed)
    assert float(loss[1]) < 0.9 * float(loss[0]), loss
    (path,) = folder.glob("*.safetensors")
    assert load_policy(path).description["algorithm"] == "PPO"
