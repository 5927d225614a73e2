"""The tables of all arms and tasks are complete, and the command draws from them."""

from __future__ import annotations

import importlib.metadata

import pytest

from agents.evaluation.arms.arm import Arm
from agents.evaluation.arms.short_list import SHORT_LIST
from agents.evaluation.arms.table import ARMS, SEARCHES, untuned_arms
from agents.evaluation.report.catalog import arm_table, catalog, task_table
from agents.evaluation.row import SHARED, TUNED
from agents.evaluation.tasks.benchmark import BENCHMARK
from agents.evaluation.tasks.suites import SUITES
from tests.helpers.benchmark_rows import benchmark as invoke

pytest.importorskip("sklearn")


def test_an_entry_is_named_like_its_arm_and_described_in_a_line():
    for name, entry in ARMS.items():
        if isinstance(entry.optimizer, Arm):
            assert entry.optimizer.name == name
        assert entry.description and "\n" not in entry.description
    assert {n: e for n, e in ARMS.items() if n in SHORT_LIST} == SHORT_LIST


def test_every_arm_is_untuned_shared_or_a_search():
    untuned = [arm.name for arm in untuned_arms()]
    assert [*untuned, SHARED, *SEARCHES] == list(ARMS)
    assert [ARMS[n].tuning for n in (untuned[0], SHARED, TUNED)] == [
        "none", "all tasks", "each task",
    ]  # fmt: skip


def test_packages_of_arms_are_requirements_of_an_extra():
    requirements = importlib.metadata.requires("optenv") or []
    extra = (
        " ".join(r for r in requirements if "benchmark" in r or "train" in r)
        .replace("_", "-")
        .lower()
    )
    for entry in ARMS.values():
        package = entry.package.split()[0] if entry.package else ""
        assert not package or package == "torch" or package.replace("_", "-") in extra


def test_tables_have_a_line_for_each_arm_and_task():
    lines = arm_table().splitlines()
    assert len(lines) == 2 + len(ARMS)
    assert len({line.count("|") for line in lines}) == 1
    lines = task_table(BENCHMARK).splitlines()
    assert len(lines) == 2 + len(BENCHMARK)
    assert lines[2] == (
        "| photo-cnn | which of two photographs a 12 × 12 patch is from | "
        "CNN, 2 convolutions with BatchNorm, ReLU | 500 × 32 |"
    )
    assert lines[-1].endswith("500 × 64, announced as 250 |")


def test_the_command_lists_arms_and_tasks_and_exits(tmp_path):
    result = invoke("--list", "--out", tmp_path / "run")
    assert result.exit_code == 0 and result.output == catalog() + "\n"
    for name in [*ARMS, *(task.name for tasks in SUITES.values() for task in tasks)]:
        assert f"| {name} |" in result.output
    assert not (tmp_path / "run").exists()
    help_text = " ".join(invoke("--help").output.split())
    assert all(name in help_text for name in ARMS)
