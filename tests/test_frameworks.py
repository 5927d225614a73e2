"""The examples of frameworks run as their docstrings say, and learn."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

#: What an example needs beyond what all tests do.
PACKAGES = {
    "with_lightning": ["lightning"],
    "with_trainer": ["transformers", "accelerate"],
    "with_accelerate": ["accelerate"],
}

#: Far above that of ten classes at random, and below what each comes to.
ACCURACY = 0.9


def command(example):
    """The command in its docstring: the line that names the file."""
    lines = ast.get_docstring(ast.parse(example.read_text())).splitlines()
    (found,) = [line for line in lines if f"examples/{example.name}" in line]
    return found


def output(words, folder):
    """What a command prints, run with the executables of this Python."""
    own = str(Path(sys.executable).parent)
    process = subprocess.Popen(
        words, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
        env={
            **os.environ, "PATH": f"{own}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
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


def decisions(printed):
    """The rows of the table that ``explain()`` prints, by its head."""
    rows = [line.split() for line in printed.splitlines()]
    (head,) = [row for row in rows if row[:2] == ["step", "moved"]]
    body = rows[rows.index(head) + 1 :]
    numeric = [row for row in body if len(row) == len(head) and row[0].isdigit()]
    return [dict(zip(head, map(float, row), strict=True)) for row in numeric]


def test_there_is_one_for_each_way():
    assert {path.stem for path in EXAMPLES} == {
        "plain_loop", "with_accelerate", "with_ddp", "with_fsdp", "with_lightning",
        "with_trainer",
    }  # fmt: skip


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_in_the_readme_and_shadows_no_package(example):
    readme = (ROOT / "README.md").read_text()
    assert f"[`{command(example)}`](examples/{example.name})" in readme
    spec = importlib.util.find_spec(example.stem)
    assert spec is None or Path(spec.origin) == example


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_learns_with_a_policy_that_sees_losses_and_acts(example, tmp_path):
    for package in PACKAGES.get(example.stem, []):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (extra: frameworks)")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    printed = output(shlex.split(command(example)), tmp_path)
    (ends,) = re.findall(r"validation loss ([\d.]+), accuracy ([\d.]+)", printed)
    loss, accuracy = map(float, ends)
    assert accuracy > ACCURACY and loss < 0.5
    story = decisions(printed)
    assert len(story) == 40  # those of a run whose length is known
    assert len({row["multiplier"] for row in story}) > 20
    assert story[0]["loss_vs_initial"] == 0 and story[-1]["loss_vs_initial"] < -1
