"""The command that runs the whole benchmark, and continues where it stopped."""

from __future__ import annotations

import csv
import importlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from agents.evaluation.arms.controls import CONTROLS
from agents.evaluation.row import DEFAULT, SHARED, TUNED
from agents.policy.files import save_policy
from tests.helpers.benchmark_rows import benchmark as invoke
from tests.helpers.benchmark_rows import row
from tests.helpers.damage import full_at
from tests.helpers.paths import ROOT
from tests.helpers.policies import random_policy

pytest.importorskip("sklearn")

TASKS = ("cancer", "module-classifier")
TINY = [
    "--task", TASKS[0], "--task", TASKS[1], "--length", "0.02", "--seeds", "2",
    "--tuning-seeds", "1", "--arm", SHARED, "--arm", "NAdamW warm-up + cosine",
    "--no-progress",
]  # fmt: skip
FILES = {
    "choices.json", "curves.png", "losses.png", "profiles.png", "rows.jsonl", "summary.csv"
}  # fmt: skip
#: Tuning (21 settings, a seed), four baselines; an arm of ours and its controls.
BASELINES = 2 * (21 + 4 * 2)
OURS, CONTROL = 2 * 2, 2 * 2 * len(CONTROLS)


def done(out, *arguments):
    """Output of a tiny benchmark that ends well, and runs in this process."""
    result = invoke(*TINY, "--workers", 0, "--out", out, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def lines(out):
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def runs_by_arm(rows):
    return Counter(row["arm"] for row in rows)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder with a policy and a benchmark of it."""
    folder = tmp_path_factory.mktemp("benchmark")
    save_policy(random_policy(), folder / "mine" / "policy")
    arguments = ("--policy", folder / "mine", "--lr", 1e-3, "--lr", 1e-2)
    return folder / "out", arguments, done(folder / "out", *arguments)


@pytest.mark.slow
def test_one_command_writes_all_results(results):
    out, _, text = results
    assert {path.name for path in out.iterdir()} == FILES
    assert len(lines(out)) == BASELINES + 2 * (OURS + CONTROL)
    choices = json.loads((out / "choices.json").read_text())
    assert choices.keys() == set(TASKS) and choices[TASKS[0]].keys() == {SHARED, TUNED}
    with (out / "summary.csv").open() as file:
        summary = {line["arm"]: line for line in csv.DictReader(file)}
    families = ["mine", *(f"mine {kind}" for kind in CONTROLS)]
    ours = [f"{each}{end}" for each in families for end in (" lr 0.001", ", worst lr")]
    assert {DEFAULT, SHARED, TUNED, "NAdamW warm-up + cosine", *ours} <= summary.keys()
    assert float(summary[DEFAULT]["cpu"]) == 1.0
    assert float(summary["mine, worst lr"]["iqm"]) <= float(summary["mine lr 0.01"]["iqm"])
    for name in ("curves.png", "losses.png", "profiles.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    for part in ("Validation loss", "IQM", "Ours against each baseline", "CPU time of an"):
        assert part in text


@pytest.mark.slow
def test_a_second_call_reuses_all_runs(results):
    out, arguments, text = results
    written = (out / "rows.jsonl").read_bytes(), (out / "rows.jsonl").stat().st_mtime_ns
    again = done(out, *arguments)
    assert f"0 runs done, {len(lines(out))} reused" in again
    assert written == (
        (out / "rows.jsonl").read_bytes(), (out / "rows.jsonl").stat().st_mtime_ns
    )  # fmt: skip
    tables = [each[each.index("Validation loss") :] for each in (text, again)]
    assert tables[0].split("all done")[0] == tables[1].split("all done")[0]


def test_arms_whose_runs_are_stored_need_no_package(tmp_path, monkeypatch):
    out = tmp_path / "out"
    arms = ("--arm", "SOAP", "--arm", "Schedule-Free AdamW tuned", "--length", 0.01)
    arms += ("--task", TASKS[0], "--tuning-seeds", 1, "--no-progress", "--workers", 0)
    first = invoke(*arms, "--seeds", 1, "--out", out)
    assert first.exit_code == 0, first.output
    for package in ("pytorch_optimizer", "schedulefree"):
        monkeypatch.setitem(sys.modules, package, None)
    again = invoke(*arms, "--seeds", 1, "--out", out)
    assert again.exit_code == 0 and "\n0 runs done" in f"\n{again.output}"
    written = (out / "rows.jsonl").read_bytes()
    more = invoke(*arms, "--seeds", 2, "--out", out)
    assert more.exit_code == 2 and "SOAP cannot run" in more.output
    left = [line for line in written.splitlines(keepends=True) if b'"SOAP"' in line]
    (out / "rows.jsonl").write_bytes(b"".join(left))
    less = invoke(*arms, "--seeds", 1, "--out", out)
    assert less.exit_code == 2 and "Schedule-Free AdamW 0.0001" in less.output


@pytest.mark.slow
def test_a_changed_policy_reruns_its_own_arms_alone(tmp_path):
    policy, out = tmp_path / "mine" / "policy", tmp_path / "out"
    save_policy(random_policy(), policy)
    done(out, "--policy", policy, "--lr", 1e-3, "--no-controls")
    before = lines(out)
    assert len(before) == BASELINES + OURS
    save_policy(random_policy(horizon=7), policy)
    text = done(out, "--policy", policy, "--lr", 1e-3)
    assert f"{OURS + CONTROL} runs done, {BASELINES} reused" in text
    rows = lines(out)
    new = runs_by_arm(rows[len(before) :])
    assert rows[: len(before)] == before
    arms = ["mine lr 0.001", *(f"mine {kind} lr 0.001" for kind in CONTROLS)]
    assert new == dict.fromkeys(arms, 4)


@pytest.mark.slow
def test_an_incomplete_results_file_is_repaired(results, tmp_path):
    out, arguments, text = results
    content = (out / "rows.jsonl").read_bytes()
    (tmp_path / "rows.jsonl").write_bytes(content[:-30])
    with pytest.warns(UserWarning, match="half written"):
        again = done(tmp_path, *arguments)
    assert "1 runs done" in again
    assert len(lines(tmp_path)) == len(lines(out))
    table = text[text.index("Validation loss") : text.index("CPU time of an")]
    assert table.split("IQM")[0] in again, "the run ends as it did before"


@pytest.mark.slow
def test_replay_has_the_mean_learning_rates_of_the_policy(results):
    out, _, _ = results
    rows = [row for row in lines(out) if row["arm"].endswith("lr 0.01")]
    traces = {
        name: [
            [math.log(lr) for _, lr in row["lr_trace"]]
            for row in rows
            if row["arm"] == name and row["task"] == "module-classifier"
        ]
        for name in ("mine lr 0.01", "mine replay lr 0.01")
    }
    first, second = traces["mine replay lr 0.01"]
    assert first == second and len(first) == 10
    # The other task is shorter: these decisions are made on this one alone.
    mean = [sum(values) / 2 for values in zip(*traces["mine lr 0.01"], strict=True)]
    assert first[2:] == pytest.approx(mean[2:], abs=1e-5)


def test_without_learning_there_is_no_summary(tmp_path, capsys):
    for name in ("summary.csv", "losses.png", "profiles.png"):
        (tmp_path / name).write_text("of an earlier call")
    rows = [row("a", arm, 0, 3.0) for arm in (DEFAULT, TUNED)]
    importlib.import_module("agents.evaluation.__main__").write(rows, {}, {}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"choices.json", "curves.png"}
    text = capsys.readouterr().out
    assert "Validation loss" in text
    assert "no summary and no profiles: the reference 'AdamW tuned' has learned" in text


@pytest.mark.slow
@pytest.mark.parametrize("full", ["rows.jsonl", "choices.json", "curves.png"])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(results, tmp_path, full):
    out, arguments, _ = results
    shutil.copytree(out, tmp_path / "out")
    kept = (out / "rows.jsonl").read_bytes().splitlines(keepends=True)[:-1]
    if full == "rows.jsonl":
        (tmp_path / "out" / full).write_bytes(b"".join(kept))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    sizes = {"rows.jsonl": len(before["rows.jsonl"]) + 10, "choices.json": 50}
    with full_at(sizes.get(full, 10_000)):
        command = *TINY, "--workers", 0, "--out", tmp_path / "out", *arguments
        result = invoke(*command)
    assert result.exit_code == 1 and result.output.count("Error") == 1
    assert f"Error: {tmp_path / 'out' / full} cannot be written: File" in result.output
    assert "the same command goes on" in result.output
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert after == before, "the old files are whole, and no others are there"
    done(tmp_path / "out", *arguments)
    assert len(lines(tmp_path / "out")) == len(lines(out))


@pytest.mark.slow
def test_an_interrupted_benchmark_continues(tmp_path):
    command = [
        sys.executable, "-m", "agents.evaluation", *TINY, "--length", "0.3",
        "--workers", "1", "--out", str(tmp_path),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        # A shell's background jobs, and so this test in one, ignore interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        deadline, rows = time.monotonic() + 120, tmp_path / "rows.jsonl"
        while not rows.exists() or not rows.stat().st_size:
            assert time.monotonic() < deadline, "no run has ended"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    kept = len(lines(tmp_path))
    assert 0 < kept < BASELINES
    assert f"goes on from the {kept} runs" in output
    assert f"{BASELINES - kept} runs done, {kept} reused" in done(
        tmp_path, "--length", "0.3"
    )
