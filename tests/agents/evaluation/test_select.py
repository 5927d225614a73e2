"""Selection of arms, tasks and policies, and messages for unknown names."""

from __future__ import annotations

import sys

import pytest

from agents.evaluation.arms.arm import grid_arms
from agents.evaluation.arms.select import load_policy_arms, require_packages, select_arms
from agents.evaluation.arms.table import SEARCHES, untuned_arms
from agents.evaluation.row import SHARED
from agents.evaluation.tasks.benchmark import BENCHMARK
from agents.policy.files import save_policy
from tests.helpers.benchmark_rows import benchmark as invoke
from tests.helpers.policies import random_policy

pytest.importorskip("sklearn")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--polcy", "a"], "Did you mean '--policy'?"),
        (["--task", "mnist"], "unknown held-out task 'mnist'; valid tasks: photo-cnn, "),
        (["--arm", "Adam"], "unknown arm 'Adam'; valid arms: AdamW default, "),
        (["--policy", "nowhere"], "no policy at 'nowhere'"),
        (["--lr", "0"], "0.0 is not in the range x>0"),
        (["--lr", "inf"], "--lr must be in (0, 1e+06], got inf"),
        (["--seeds", "1001"], "1001 is not in the range 1<=x<=1000"),
        (["--length", "inf"], "factor must be a positive number, got inf"),
        (["--length", "1e308"], "at most 1,000,000,000 updates, got 1e+308 times"),
        (
            ["--policy", "default", "--lr", "1e308"],
            "--lr must be in (0, 1e+06], got 1e+308",
        ),
        (["--policy", "default", "--lr", "nan"], "--lr must be in (0, 1e+06], got nan"),
        (["--workers", "-1"], "-1 is not in the range 0<=x<=4096"),
    ],
)
def test_a_mistake_is_named_with_what_is_valid(arguments, message, tmp_path):
    result = invoke(*arguments, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "run").exists(), "nothing is written before the check"


def test_an_unknown_arm_or_task_lists_all_valid_names(tmp_path):
    arms = " ".join(invoke("--arm", "x", "--out", tmp_path / "run").output.split())
    names = [*(arm.name for arm in untuned_arms()), SHARED, *SEARCHES]
    assert arms.endswith(", ".join(names))
    tasks = " ".join(invoke("--task", "x", "--out", tmp_path / "run").output.split())
    assert tasks.endswith(", ".join(task.name for task in BENCHMARK))


def test_a_missing_package_is_named_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    result = invoke("--arm", "Prodigy", "--out", tmp_path / "run")
    assert result.exit_code == 2 and "Prodigy cannot run" in result.output


@pytest.mark.parametrize("name", ["SOAP", "SOAP tuned"])
def test_a_missing_package_raises_before_its_arm_runs(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    selected = select_arms([name])
    tried = [arm for search in selected.searches.values() for arm in grid_arms(search)]
    with pytest.raises(
        ImportError, match=r'SOAP.* cannot run: .*install "\.\[benchmark\]"'
    ):
        require_packages([*selected.untuned, *tried])


def test_arguments_are_checked_before_packages(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    result = invoke("--arm", "Prodigy", "--address", "auto", "--out", tmp_path / "run")
    assert result.exit_code == 2 and "give --engine ray as well" in result.output


def test_policies_are_named_after_their_folders(tmp_path, monkeypatch):
    for i, name in enumerate(["a/policy", "b/policy", "c/a/policy", "c/other"]):
        save_policy(random_policy(horizon=20 + i), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    paths = ["a", "b/policy", "c/a/policy.json", "c/other", "a/policy"]
    found = load_policy_arms(paths, [1e-3, 1e-3])
    labels = [policy_arms.label for policy_arms in found]
    mark = found[2].policy.fingerprint()[:6]
    assert labels == ["a", "b", f"a-{mark}", "other"]
    assert found[0].rates == (1e-3,) and found[0].arms()[0].name == "a lr 0.001"
    monkeypatch.chdir(tmp_path / "b")
    assert load_policy_arms(["policy"], [1e-3])[0].label == "b"
    with pytest.raises(
        ValueError, match=r"differ in six digits, got 0\.001, 0\.00100000001"
    ):
        load_policy_arms(["policy"], [1e-3, 1.00000001e-3])
