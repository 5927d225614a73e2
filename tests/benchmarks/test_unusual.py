"""Problems of ``unusual.py``: reproducible, judged without a trace; its verdicts."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch
import unusual
from unusual import ADAMW, Comparison, Job, Row, compare
from unusual_problems import PROBLEMS, Problem, Run

from agents import LearnedOptimizer
from optenv.intervals import Interval

EACH = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=list(PROBLEMS))


def adamw(run: Run) -> torch.optim.Optimizer:
    return torch.optim.AdamW(run.parameters())


def losses_of(problem: Problem, updates: int = 2, judged: bool = False) -> list[float]:
    """Return losses of the first updates, and the value after them."""
    run = problem.make(0)
    optimizer, losses = adamw(run), []
    for step in range(updates):
        if judged:
            run.evaluate()
        run.before_step(step, optimizer)
        optimizer.zero_grad()
        loss = run.loss(step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return [*losses, run.evaluate()]


def test_there_are_many_problems_with_distinct_descriptions():
    descriptions = {problem.description for problem in PROBLEMS.values()}
    assert len(PROBLEMS) == len(descriptions) >= 42
    assert all(20 <= problem.updates <= 1000 for problem in PROBLEMS.values())
    assert all(name == problem.name for name, problem in PROBLEMS.items())


@EACH
def test_all_trained_parameters_get_gradients(problem):
    run = problem.make(0)
    optimizer = adamw(run)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    missing = {id(p) for p in params if p.requires_grad}
    assert missing
    for step in range(2):
        run.before_step(step, optimizer)
        optimizer.zero_grad()
        loss = run.loss(step)
        assert loss.shape == () and torch.isfinite(loss)
        loss.backward()
        given = [p for p in params if p.grad is not None]
        assert all(torch.isfinite(p.grad).all() for p in given)
        missing -= {id(p) for p in given}
        optimizer.step()
    assert not missing


@EACH
def test_runs_of_a_seed_are_the_same_and_evaluation_leaves_no_trace(problem):
    state = torch.get_rng_state()
    plain = losses_of(problem)
    assert all(map(math.isfinite, plain))
    assert losses_of(problem, judged=True) == plain
    assert torch.equal(torch.get_rng_state(), state)


@EACH
def test_seeds_differ(problem):
    first, second = (problem.make(seed).evaluate() for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize("name", ["growing-depth", "discriminative", "valley"])
def test_groups_of_problems_reach_the_learned_optimizer(name):
    problem = PROBLEMS[name]
    run = problem.make(0)
    optimizer = unusual.optimizer_of(run, "default", problem.updates)
    assert isinstance(optimizer, LearnedOptimizer)
    before = run.evaluate()
    for step in range(20):
        run.before_step(step, optimizer)
        optimizer.zero_grad()
        loss = run.loss(step)
        loss.backward()
        optimizer.step(loss=loss)
    assert math.isfinite(run.evaluate()) and run.evaluate() != before


@pytest.mark.slow
@EACH
def test_adamw_makes_progress(problem):
    row = unusual.run_job(Job(problem.name, ADAMW, 0))
    assert row.final < row.initial


def rows(*finals: float, initial: float = 2.0) -> list[Row]:
    return [Row(initial, final, 1.0) for final in finals]


@pytest.mark.parametrize(
    ("finals", "verdict"),
    [
        ((1.1, 1.1, 1.11), "behind"),
        ((1.0, 1.01, 1.5), "unclear"),
        ((1.01, 1.01, 1.01), "not behind"),
        ((0.9, 0.9, 0.89), "ahead"),
        ((0.5, 1.0, 1.0), "not behind"),
        ((math.nan, 0.9, 0.9), "behind"),
        ((math.inf, 0.9, 0.9), "behind"),
        ((1.5,), "unclear"),
    ],
)
def test_verdicts_are_of_the_mean_difference_and_its_interval(finals, verdict):
    adamw_rows = rows(*[1.0] * len(finals))
    assert compare("a", adamw_rows, rows(*finals)).verdict == verdict


def test_differences_are_in_percent_of_the_way_and_paired():
    found = compare("a", rows(1.0, 0.0), rows(1.5, 0.5))
    assert found.initial == 2.0 and found.adamw == 0.5 and found.policy == 1.0
    assert found.difference.mean == pytest.approx(100 * 0.5 / 1.5)
    assert found.difference.half == pytest.approx(0.0)


def test_a_way_that_adamw_did_not_go_is_a_short_one():
    found = compare("a", rows(3.0, 3.0), rows(2.0, 2.0))
    assert math.isfinite(found.difference.mean) and found.verdict == "ahead"


def test_the_summary_counts_and_names_problems():
    comparisons = [
        Comparison("a", 2.0, 1.0, 1.1, Interval(10.0, 1.0)),
        Comparison("b", 2.0, 1.0, 1.1, Interval(10.0, 20.0)),
        Comparison("c", 2.0, 1.0, 0.9, Interval(-10.0, 1.0)),
        Comparison("d", 2.0, 1.0, 1.0, Interval(0.0, 1.0)),
    ]
    assert unusual.summary(comparisons, "p") == [
        "p: not behind on 2 of 4", "  unclear on 1: b", "  behind on 1: a",
        "  ahead on 1: c",
    ]  # fmt: skip
    line = unusual.table(comparisons, "p")[1].split()
    assert line == ["a", "2", "1", "1.1", "+10.0", "±1.0", "behind"]


def test_the_program_prints_a_table_and_writes_all_runs(tmp_path, monkeypatch, capsys):
    file = tmp_path / "unusual.json"
    command = ["unusual.py", "--problems", "twenty-steps", "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", [*command, "--policy", "adam", "--json", str(file)])
    unusual.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[0] == "twenty-steps" and "of 1" in lines[3]
    written = json.loads(file.read_text())
    assert {(run["arm"], run["seed"]) for run in written["runs"]} == {
        (arm, seed) for arm in (ADAMW, "adam") for seed in (0, 1)
    }
    assert written["comparisons"]["adam"][0]["problem"] == "twenty-steps"
