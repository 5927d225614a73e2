"""Runs an example as its docstring says, in a process of its own."""

from __future__ import annotations

import ast
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def command(example: Path) -> str:
    """The command in its docstring: the line that names the file."""
    lines = ast.get_docstring(ast.parse(example.read_text())).splitlines()
    (found,) = [line for line in lines if f"examples/{example.name}" in line]
    return found


def output(example: Path, folder: Path, **environment: str) -> str:
    """What its command prints in ``folder``, with the executables of this Python."""
    (folder / "examples").symlink_to(ROOT / "examples")
    words = shlex.split(command(example))
    own = str(Path(sys.executable).parent)
    process = subprocess.Popen(
        words, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
        env={
            **os.environ, "PATH": f"{own}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
            **environment,
        },
    )  # fmt: skip
    try:
        printed, errors = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # torchrun's own processes as well
        printed, errors = process.communicate()
        pytest.fail(f"{words} did not end:\n{errors}")
    assert process.returncode == 0, errors
    return printed
