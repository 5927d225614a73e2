"""Runs that share updates or batches have the results of runs on their own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from agents.evaluation.arms.arm import Arm, Choice, tuned_arms
from agents.evaluation.arms.short_list import ADAMW
from agents.evaluation.runs import batches
from agents.evaluation.runs.batches import KeptBatches, build_problem
from agents.evaluation.runs.jobs import make_jobs, run_together, share_updates
from agents.evaluation.runs.run import train
from tests.helpers.benchmark_rows import short

pytest.importorskip("sklearn")

#: The first arm's schedule parts at once, the others' late or never; two are twins.
CHOICES = {
    "early": Choice(1e-2, "cosine"),
    "never": Choice(1e-2, "constant"),
    "late": Choice(1e-2, "wsd"),
    "twin": Choice(1e-2, "cosine"),
    "other rate": Choice(3e-3, "constant"),
}


def without_times(row):
    """Return a row without CPU times, which are never the same twice."""
    return {key: value for key, value in row.items() if not key.endswith("_seconds")}


@pytest.mark.parametrize("curve_points", [0, 3])
@pytest.mark.parametrize("task", ["friedman", "photo-cnn"])
def test_shared_updates_change_no_result(task, curve_points):
    arms = tuned_arms(CHOICES, ADAMW)
    jobs = list(make_jobs(arms, [short(task, 20)], [0], curve_points))
    groups = share_updates(jobs)
    assert [len(group) for group in groups] == [4, 1]
    shared = [row for group in groups for row in run_together(group)]
    alone = [train(*job) for job in jobs]
    assert list(map(without_times, shared)) == list(map(without_times, alone))


def test_only_runs_of_one_optimizer_task_and_seed_are_shared():
    arms = tuned_arms({"a": Choice(1e-2, "cosine"), "b": Choice(1e-2, "wsd")}, ADAMW)
    tasks = [short("friedman"), short("photo-cnn")]
    groups = share_updates(list(make_jobs(arms, tasks, [0, 1])))
    assert [{(j.task.name, j.seed) for j in group} for group in groups] == [
        {(task.name, seed)} for task in tasks for seed in (0, 1)
    ]
    special = [replace(arm, takes_loss=True) for arm in arms]
    special += [Arm(str(i), lambda params, total: torch.optim.SGD(params)) for i in (0, 1)]
    jobs = list(make_jobs(special, tasks[:1], [0]))
    assert share_updates(jobs) == [[job] for job in jobs]


def test_a_batch_is_drawn_once_unless_it_was_changed():
    drawn = []

    def draw(t):
        drawn.append(t)
        return torch.full((2,), float(t)), torch.zeros(2)

    kept = KeptBatches(draw, max_bytes=56)
    first, _ = kept(0)
    assert kept(0)[0] is first and kept(1)[0].tolist() == [1.0, 1.0]
    first.add_(1.0)
    assert kept(0)[0].tolist() == [0.0, 0.0] and drawn == [0, 1, 0]
    kept(2), kept(2)
    assert drawn == [0, 1, 0, 2], "the third batch has room"
    kept(3), kept(3)
    assert drawn[4:] == [3, 3], "the fourth batch has none"


def test_problems_of_one_task_and_seed_have_one_set_of_batches(monkeypatch):
    monkeypatch.setattr(batches, "_kept", type(batches._kept)())
    task = short("friedman")
    one, again = build_problem(task, 0), build_problem(replace(task), 0)
    other = build_problem(task, 1)
    assert one.batch is again.batch is not other.batch
    assert torch.equal(one.batch(3)[0], task.build(0).batch(3)[0])
    assert one.module is not again.module
    unpicklable = replace(task, sample=lambda *_: (torch.zeros(1), torch.zeros(1)))
    assert not isinstance(build_problem(unpicklable, 0).batch, KeptBatches)
    for seed in range(5):
        build_problem(task, seed)
    assert len(batches._kept) == batches.MAX_PROBLEMS
