"""The examples run as their docstrings say, and learn."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path

import pytest

from tests.helpers.example_process import (
    EXAMPLES,
    ROOT,
    check_trained,
    command,
    output,
)

#: Examples in which a policy is trained, before it trains a network.
POLICY_EXAMPLES = ["with_cleanrl", "with_rllib", "with_torchrl"]

#: Examples of recordings, which are about environments alone.
RECORDING_EXAMPLES = ["record_policy"]

#: Examples in which a policy of the package trains a network.
NETWORK_EXAMPLES = [
    path for path in EXAMPLES if path.stem not in POLICY_EXAMPLES + RECORDING_EXAMPLES
]

#: Optional packages of each example.
PACKAGES = {
    "with_lightning": ["lightning"],
    "with_trainer": ["transformers", "accelerate"],
    "with_accelerate": ["accelerate"],
    "with_rllib": ["ray"],
    "with_torchrl": ["torchrl"],
}

#: Chance is 0.1; each example reaches more than this.
MIN_ACCURACY = 0.9


def decisions(printed):
    """Return the rows of the printed ``explain()`` as dictionaries by column."""
    rows = [line.split() for line in printed.splitlines()]
    (head,) = [row for row in rows if row[:2] == ["step", "moved"]]
    body = rows[rows.index(head) + 1 :]
    numeric = body[: body.index([])]  # the meanings of the columns follow an empty line
    return [dict(zip(head, map(float, row), strict=True)) for row in numeric]


def skip_without_packages(example):
    for package in PACKAGES.get(example.stem, []):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


@pytest.mark.slow
@pytest.mark.frameworks
@pytest.mark.training
@pytest.mark.parametrize("name", ["with_cleanrl", "with_torchrl"])
def test_an_example_trains_a_policy_that_becomes_an_optimizer(name, tmp_path):
    example = ROOT / "examples" / f"{name}.py"
    skip_without_packages(example)
    check_trained(output(example, tmp_path), tmp_path)


def test_there_is_an_example_of_each_framework():
    assert {path.stem for path in EXAMPLES} == {
        "plain_loop", "record_policy", "with_accelerate", "with_cleanrl", "with_ddp",
        "with_fsdp", "with_lightning", "with_rllib", "with_torchrl", "with_trainer",
    }  # fmt: skip


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_documentation_links_each_example_and_none_shadows_a_package(example):
    is_recording = example.stem in RECORDING_EXAMPLES
    name = "recording.md" if is_recording else "frameworks.md"
    page = (ROOT / "docs" / name).read_text()
    assert f"[`{command(example)}`](../examples/{example.name})" in page
    spec = importlib.util.find_spec(example.stem)
    assert spec is None or Path(spec.origin) == example


@pytest.mark.slow
@pytest.mark.frameworks
@pytest.mark.parametrize("example", NETWORK_EXAMPLES, ids=lambda path: path.stem)
def test_an_example_learns_with_a_policy_that_uses_losses(example, tmp_path):
    skip_without_packages(example)
    printed = output(example, tmp_path)
    (final,) = re.findall(r"validation loss ([\d.]+), accuracy ([\d.]+)", printed)
    loss, accuracy = map(float, final)
    assert accuracy > MIN_ACCURACY and loss < 0.5
    rows = decisions(printed)
    assert len(rows) == 40  # the decisions of a run whose length is known
    assert len({row["multiplier"] for row in rows}) > 20
    assert rows[0]["loss_fall"] == 0 and rows[-1]["loss"] < rows[0]["loss"] / math.exp(2)
