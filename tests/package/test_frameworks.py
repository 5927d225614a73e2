"""The examples of frameworks run as their docstrings say, and learn."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from tests.helpers.example_process import EXAMPLES, ROOT, command, output

#: Those whose networks a policy trains: all but the one that trains a policy.
TRAININGS = [path for path in EXAMPLES if path.stem != "with_rllib"]

#: What an example needs beyond what all tests do.
PACKAGES = {
    "with_lightning": ["lightning"],
    "with_trainer": ["transformers", "accelerate"],
    "with_accelerate": ["accelerate"],
}

#: Far above that of ten classes at random, and below what each comes to.
ACCURACY = 0.9


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
        "with_rllib", "with_trainer",
    }  # fmt: skip


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_in_the_readme_and_shadows_no_package(example):
    readme = (ROOT / "README.md").read_text()
    assert f"[`{command(example)}`](examples/{example.name})" in readme
    spec = importlib.util.find_spec(example.stem)
    assert spec is None or Path(spec.origin) == example


@pytest.mark.slow
@pytest.mark.parametrize("example", TRAININGS, ids=lambda path: path.stem)
def test_an_example_learns_with_a_policy_that_sees_losses_and_acts(example, tmp_path):
    for package in PACKAGES.get(example.stem, []):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (extra: frameworks)")
    printed = output(example, tmp_path)
    (ends,) = re.findall(r"validation loss ([\d.]+), accuracy ([\d.]+)", printed)
    loss, accuracy = map(float, ends)
    assert accuracy > ACCURACY and loss < 0.5
    story = decisions(printed)
    assert len(story) == 40  # those of a run whose length is known
    assert len({row["multiplier"] for row in story}) > 20
    assert story[0]["loss_vs_initial"] == 0 and story[-1]["loss_vs_initial"] < -1
