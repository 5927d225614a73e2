"""A run that breaks costs the benchmark its own result alone, and is named."""

from __future__ import annotations

import contextlib
import importlib
import math
from dataclasses import replace

import pytest

from agents.evaluation import evaluate
from agents.evaluation.report.plots import plot_curves
from agents.evaluation.row import DEFAULT, TUNED
from agents.evaluation.runs.jobs import Job
from agents.evaluation.runs.store import Store, StoredRuns
from agents.utils.job_engines import PROCESSES
from tests.helpers.benchmark_rows import ADAMW_ARM, row, short
from tests.helpers.broken_tasks import faulty_task

SEEDS = range(6)


def jobs_of(task):
    return [Job(ADAMW_ARM, task, seed) for seed in SEEDS]


def stored(path, jobs, workers):
    """Return the rows of jobs without CPU times, and the numbers of reused and made."""
    with contextlib.ExitStack() as stack:
        pool = None
        if workers:
            pool = stack.enter_context(contextlib.closing(PROCESSES.start(workers)))
        runs = StoredRuns(Store(path), pool, lambda job, row: None)
        return without_times(runs(jobs)), (runs.reused, runs.ran)


def without_times(rows):
    times = ("cpu_seconds", "adamw_seconds")
    return [{name: v for name, v in row.items() if name not in times} for row in rows]


@pytest.fixture(scope="module")
def sound():
    rows = evaluate([ADAMW_ARM], [short("friedman", 12)], SEEDS, progress=False)
    return without_times(rows)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_raises_is_named_and_the_others_are_kept(workers, tmp_path, sound):
    path, jobs = tmp_path / "rows.jsonl", jobs_of(faulty_task("raise", tmp_path / "once"))
    with pytest.raises(Exception, match="the loss has exploded at 7") as caught:
        stored(path, jobs, workers)
    (note,) = caught.value.__notes__
    broken = next(seed for seed in SEEDS if note == f"AdamW, task friedman, seed {seed}")
    kept = len(Store(path))
    assert kept == (broken if workers == 0 else min(broken + 1, len(SEEDS) - 1))
    rows, counts = stored(path, jobs, workers)
    assert rows == sound and counts == (kept, len(SEEDS) - kept)
    assert len(path.read_text().splitlines()) == len(SEEDS)


@pytest.mark.slow
def test_a_run_whose_process_is_killed_is_made_again(tmp_path, sound):
    path, jobs = tmp_path / "rows.jsonl", jobs_of(faulty_task("kill", tmp_path / "once"))
    with pytest.warns(RuntimeWarning, match="a worker process died"):
        rows, counts = stored(path, jobs, 2)
    assert (tmp_path / "once").exists()
    assert rows == sound and counts == (0, len(SEEDS))
    assert len(path.read_text().splitlines()) == len(SEEDS)


def test_a_loss_that_becomes_nan_is_a_diverged_run(tmp_path):
    rows, _ = stored(tmp_path / "rows.jsonl", jobs_of(faulty_task("nan", tmp_path)), 0)
    ends = [each["validation_loss"] for each in rows]
    assert math.inf in ends and not any(map(math.isnan, ends))
    assert not any(math.isnan(loss) for each in rows for _, loss in each["curve"])
    again, counts = stored(tmp_path / "rows.jsonl", jobs_of(short("friedman", 12)), 0)
    assert again == rows and counts == (len(SEEDS), 0), "they are read as they were"


@pytest.mark.parametrize("broken", [DEFAULT, TUNED, "ours", "all"])
def test_tables_are_printed_whichever_arm_has_no_finite_loss(broken, tmp_path, capsys):
    rows = []
    for task in ("a", "b"):
        for arm in (DEFAULT, TUNED, "ours"):
            for seed in range(2):
                is_broken = task == "a" and broken in (arm, "all")
                made = row(task, arm, seed, math.inf if is_broken else 0.5, arm == "ours")
                if is_broken and broken == "all":  # before the first update, too
                    made["initial_validation_loss"] = math.inf
                    made["curve"] = [(0, math.inf), (10, math.inf)]
                rows.append(made)
    main = importlib.import_module("agents.evaluation.__main__")
    main.write(rows, {"ours": ["ours"]}, {}, tmp_path)
    assert "inf" in capsys.readouterr().out
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("first", "last"), [(2.0, -1.5), (-1.0, -1.0), (0.0, 0.0)])
def test_curves_of_losses_at_and_below_zero_are_drawn(first, last, tmp_path):
    curve = [(0, first), (10, last)]
    rows = [row("a", arm, s, 0.5) | {"curve": curve} for arm in "xy" for s in range(2)]
    plot_curves(rows, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_network_that_is_not_finite_from_the_start_is_a_diverged_run():
    task = replace(short("friedman"), objective=not_finite)
    (found,) = evaluate([ADAMW_ARM], [task], [0], progress=False)
    assert found["initial_validation_loss"] == found["validation_loss"] == math.inf


def not_finite(outputs, targets):
    return outputs.mean() * math.nan
