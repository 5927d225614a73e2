"""The store of finished runs: read back by key, and never run twice."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import pytest

from agents.evaluation.arms.factories import adamw
from agents.evaluation.arms.learned import learned_arm
from agents.evaluation.runs.jobs import Job, job_key
from agents.evaluation.runs.store import Store, StoredRuns
from tests.helpers.benchmark_rows import ADAMW_ARM, row, short
from tests.helpers.damage import full_at
from tests.helpers.policies import random_policy

JOB = Job(ADAMW_ARM, short("friedman"), 0)
ROW = {**row("friedman", "AdamW", 0, math.inf), "train_loss": math.nan}


def stored(path, jobs):
    """Return the rows of the jobs, and how many of them were reused and run."""
    runs = StoredRuns(Store(path), None, lambda job, row: None)
    return runs(jobs), (runs.reused, runs.ran)


def test_a_run_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "rows.jsonl"
    Store(path).add(job_key(JOB), ROW)
    found = Store(path).get(job_key(JOB))
    assert repr(found) == repr(ROW), "numbers that are not finite among them"
    assert all(isinstance(point, tuple) for point in found["curve"])

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    (line,) = path.read_text().splitlines()
    read = json.loads(line, parse_constant=refuse)
    assert (read["validation_loss"], read["train_loss"]) == ("inf", "nan")
    assert read["curve"][-1] == [10, "inf"]


def test_the_last_run_of_a_key_counts(tmp_path):
    store = Store(tmp_path / "rows.jsonl")
    for loss in (1.0, 0.5):
        store.add(job_key(JOB), row("friedman", "AdamW", 0, loss))
    for each in (store, Store(store.path)):
        assert len(each) == 1
        assert each.get(job_key(JOB))["validation_loss"] == 0.5


@pytest.mark.parametrize(
    "other",
    [
        JOB._replace(seed=1),
        JOB._replace(curve_points=0),
        JOB._replace(task=short("friedman", 9)),
        JOB._replace(task=replace(JOB.task, horizon_factor=2.0)),
        JOB._replace(task=replace(JOB.task, name="other")),
        JOB._replace(arm=replace(ADAMW_ARM, name="other")),
        JOB._replace(arm=replace(ADAMW_ARM, factory=partial(adamw, lr=2e-2))),
        JOB._replace(arm=replace(ADAMW_ARM, schedule=math.cos)),
    ],
    ids=["seed", "curve", "length", "horizon", "task", "arm", "lr", "schedule"],
)
def test_a_run_of_another_key_is_not_reused(other, tmp_path):
    store = Store(tmp_path / "rows.jsonl")
    store.add(job_key(JOB), ROW)
    assert store.get(job_key(JOB)) and store.get(job_key(other)) is None


def test_the_key_of_a_policy_is_its_fingerprint():
    def key(policy):
        return job_key(JOB._replace(arm=learned_arm("ours", policy, lr=1e-3)))

    policy, other = random_policy(), random_policy(horizon=21)
    assert key(policy) == key(random_policy()) != key(other)
    assert key(policy)["policy"] == policy.fingerprint() and key(policy)["lr"] == 1e-3


def test_only_missing_jobs_are_run(tmp_path):
    path = tmp_path / "rows.jsonl"
    jobs = [JOB._replace(seed=seed) for seed in (0, 1)]
    first, counts = stored(path, jobs[1:])
    assert counts == (0, 1)
    both, counts = stored(path, jobs)
    assert counts == (1, 1) and both[1] == first[0]
    content = path.read_bytes()
    again, counts = stored(path, jobs)
    assert counts == (2, 0) and again == both and path.read_bytes() == content


def test_long_runs_are_run_first_and_returned_in_order(tmp_path):
    path = tmp_path / "rows.jsonl"
    jobs = [JOB._replace(task=short("friedman", n)) for n in (2, 8, 4)]
    rows, _ = stored(path, jobs)
    assert [each["updates"] for each in rows] == [2, 8, 4]
    written = [json.loads(line)["updates"] for line in path.read_text().splitlines()]
    assert written == [8, 4, 2]


def test_an_incomplete_last_line_is_dropped_and_run_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    jobs = [JOB._replace(seed=seed) for seed in (0, 1)]
    stored(path, jobs)
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    with pytest.warns(UserWarning, match="half written; its run is dropped"):
        store = Store(path)
    assert len(store) == 1 and content.startswith(path.read_bytes())
    assert stored(path, jobs)[1] == (1, 1)
    assert len(path.read_text().splitlines()) == len(Store(path)) == 2


def test_a_run_that_does_not_fit_on_the_disk_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "rows.jsonl"
    store = Store(path)
    store.add(job_key(JOB), ROW)
    content, other = path.read_bytes(), JOB._replace(seed=1)
    with full_at(len(content) + 100), pytest.raises(OSError, match="too large") as caught:
        store.add(job_key(other), ROW)
    assert caught.value.filename == str(path) and path.read_bytes() == content
    assert store.get(job_key(other)) is None
    store.add(job_key(other), ROW)
    assert len(Store(path)) == 2


def damaged_line(**changes):
    """Return a line of a run with other entries; None leaves one out."""
    entries = {**row("friedman", "AdamW", 0, 1.0), "key": job_key(JOB), **changes}
    return json.dumps({name: v for name, v in entries.items() if v is not None}).encode()


def test_an_undamaged_line_is_a_run(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(damaged_line() + b"\n")
    assert Store(tmp_path / "rows.jsonl").get(job_key(JOB))["validation_loss"] == 1.0


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense", b"", b"{}", b"[1]", b"5", b"null", b'{"key": {}, "task": "a"}',
        b"\x00" * 500, b"\xff\xfe", b"[" * 200_000, damaged_line()[:-40],
        damaged_line(key=5), damaged_line(task=1), damaged_line(seed="0"),
        damaged_line(learned="yes"), damaged_line(updates=None), damaged_line(curve=[]),
        damaged_line(curve=5), damaged_line(curve=[[1]]), damaged_line(curve=[["a", 1.0]]),
        damaged_line(validation_loss="low"), damaged_line(train_loss=[1.0]),
        damaged_line(lr=10**400),
        damaged_line(shifts=None),  # as of an earlier version
    ],
)  # fmt: skip
def test_a_damaged_line_is_named_and_nothing_is_changed(line, tmp_path):
    path = tmp_path / "rows.jsonl"
    Store(path).add(job_key(JOB), ROW)
    content = path.read_bytes()
    path.write_bytes(content + line + b"\n" + content)
    with pytest.raises(ValueError, match=r"line 2 of .*rows.jsonl is not a run"):
        Store(path)
    assert path.read_bytes() == content + line + b"\n" + content
