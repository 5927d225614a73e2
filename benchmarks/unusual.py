"""Unusual training problems: ``LearnedOptimizer`` and AdamW, both at their defaults.

    python benchmarks/unusual.py
    python benchmarks/unusual.py --policy default --policy gradient-only --seeds 5

Trains small networks on which no policy is trained, selected or reported, each for at most
a thousand updates: with other losses than regression and cross-entropy, of other kinds than
perceptrons, and in loops whose data, batches or parameters change
(``benchmarks/unusual_problems``). Compares the final values, on held-out data if there are
any, of the optimizer with each policy and of AdamW. Both have the default learning rate,
the same initial parameters and the same random draws. Ten minutes of CPU time for two
policies and three seeds.

How to read it: lower values are better. ``difference`` is the difference of the final
values, policy minus AdamW, in % of AdamW's decrease from the initial to its final value;
mean over seeds. ± is the half-width of its 95 % t interval over the paired seeds.

- *behind*: worse by more than 2 %, and the interval excludes 0, or a value is not finite;
- *unclear*: worse by more than 2 %, but the interval includes 0, or there is only one seed;
- *not behind*: all others; they are *ahead* if they are better by more than 2 %, with an
  interval that excludes 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer
from unusual_problems import PROBLEMS, Problem, Run

from agents import LearnedOptimizer, load_policy
from agents.utils.progress import progress_bar
from agents.utils.workers import Workers
from optenv.atomic import write_text
from optenv.intervals import Interval, interval

__all__ = ["ADAMW", "Comparison", "Job", "Row", "compare", "run_job", "summary", "table"]

ADAMW = "AdamW"
#: Difference, in % of AdamW's way, from which a policy is behind or ahead.
TOLERANCE = 2.0
#: Shortest way, relative to the initial value, of which differences are taken.
SHORTEST = 1e-6


class Job(NamedTuple):
    """Run of a problem.

    Attributes:
        problem: name of the problem.
        arm: ``AdamW``, or name or path of a policy.
        seed: seed of initial parameters and data.
    """

    problem: str
    arm: str
    seed: int


class Row(NamedTuple):
    """Result of a run.

    Attributes:
        initial: value before training.
        final: value after training.
        seconds: CPU time of training.
    """

    initial: float
    final: float
    seconds: float


class Comparison(NamedTuple):
    """Comparison of a policy with AdamW on a problem.

    Attributes:
        problem: name of the problem.
        initial: initial value, mean over seeds.
        adamw: final value of AdamW, mean over seeds.
        policy: final value of the policy, mean over seeds.
        difference: final values, policy minus AdamW, in % of AdamW's way.
    """

    problem: str
    initial: float
    adamw: float
    policy: float
    difference: Interval

    @property
    def verdict(self) -> str:
        """``"behind"``, ``"unclear"``, ``"not behind"`` or ``"ahead"``."""
        mean = self.difference.mean
        if not math.isfinite(mean):
            return "behind"
        if mean > TOLERANCE:
            return "behind" if self.difference.decided else "unclear"
        return "ahead" if mean < -TOLERANCE and self.difference.decided else "not behind"


def optimizer_of(run: Run, arm: str, updates: int) -> Optimizer:
    """Make AdamW, or the optimizer with a policy, at its defaults."""
    parameters = run.parameters()
    if arm == ADAMW:
        return torch.optim.AdamW(parameters)
    with warnings.catch_warnings():  # some runs are short, which is their subject
        warnings.filterwarnings("ignore", "total_steps=.* is far below", UserWarning)
        return LearnedOptimizer(parameters, arm, total_steps=updates)


def train(problem: Problem, run: Run, optimizer: Optimizer) -> None:
    for step in range(problem.updates):
        run.before_step(step, optimizer)
        optimizer.zero_grad()
        loss = run.loss(step)
        loss.backward()
        if isinstance(optimizer, LearnedOptimizer):
            optimizer.step(loss=loss)
        else:
            optimizer.step()


def run_job(job: Job) -> Row:
    """Train once; a run that ends in an error of numbers has the value nan."""
    problem = PROBLEMS[job.problem]
    run = problem.make(job.seed)
    optimizer = optimizer_of(run, job.arm, problem.updates)
    initial, begin = run.evaluate(), time.process_time()
    try:
        train(problem, run, optimizer)
        seconds = time.process_time() - begin
        return Row(initial, run.evaluate(), seconds)
    except torch.linalg.LinAlgError:  # torch's linear algebra refuses nan
        return Row(initial, math.nan, time.process_time() - begin)


def compare(problem: str, adamw: Sequence[Row], policy: Sequence[Row]) -> Comparison:
    """Compare the runs of two optimizers on a problem, which are paired by seed."""
    initial = statistics.fmean(row.initial for row in adamw)
    final = statistics.fmean(row.final for row in adamw)
    way = max(initial - final, SHORTEST * abs(initial), 1e-12)
    differences = [
        100 * (ours.final - theirs.final) / way
        for ours, theirs in zip(policy, adamw, strict=True)
    ]
    mean = statistics.fmean(row.final for row in policy)
    return Comparison(problem, initial, final, mean, interval(differences))


def table(comparisons: Sequence[Comparison], policy: str) -> list[str]:
    """Return the lines of a policy's table."""
    width = max(len("problem"), *(len(each.problem) for each in comparisons))
    column = max(10, len(policy))
    lines = [
        f"{'problem':{width}}  {'initial':>10}  {ADAMW:>10}  {policy:>{column}}"
        f"  {'difference in %':>18}  verdict"
    ]
    for each in comparisons:
        difference = f"{each.difference.mean:+.1f} ±{each.difference.half:.1f}"
        lines.append(
            f"{each.problem:{width}}  {each.initial:10.4g}  {each.adamw:10.4g}"
            f"  {each.policy:{column}.4g}  {difference:>18}  {each.verdict}"
        )
    return lines


def summary(comparisons: Sequence[Comparison], policy: str) -> list[str]:
    """Return lines that count the verdicts on a policy, and name the problems."""
    named: dict[str, list[str]] = {}
    for each in comparisons:
        named.setdefault(each.verdict, []).append(each.problem)
    fine = len(named.get("not behind", [])) + len(named.get("ahead", []))
    lines = [f"{policy}: not behind on {fine} of {len(comparisons)}"]
    for verdict in ("unclear", "behind", "ahead"):
        names = named.get(verdict, [])
        lines.append(f"  {verdict} on {len(names)}: {', '.join(names)}".rstrip(": "))
    return lines


def run_all(jobs: Sequence[Job], workers: int) -> dict[Job, Row]:
    """Run the jobs, in this process or in worker processes."""
    with progress_bar(len(jobs), "unusual problems") as advance:
        if workers == 1:
            rows = []
            for job in jobs:
                rows.append(run_job(job))
                advance()
            return dict(zip(jobs, rows, strict=True))
        with contextlib.closing(Workers(workers)) as pool:
            return dict(
                zip(jobs, pool.map(run_job, jobs, lambda job, row: advance()), strict=True)
            )


def as_json(rows: dict[Job, Row], comparisons: dict[str, list[Comparison]]) -> str:
    """Return all runs, and the comparisons of each policy, as JSON."""
    content: dict[str, Any] = {
        "runs": [{**job._asdict(), **row._asdict()} for job, row in rows.items()],
        "comparisons": {
            policy: [
                {
                    **each._asdict(),
                    "difference": each.difference._asdict(),
                    "verdict": each.verdict,
                }
                for each in found
            ]
            for policy, found in comparisons.items()
        },
    }
    return json.dumps(content, indent=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", nargs="+", action="extend", metavar="POLICY",
                        help="names or paths; default: default")  # fmt: skip
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, metavar="NAME",
                        default=list(PROBLEMS), help="default: all")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--workers", type=int, default=1, help="number of processes")
    parser.add_argument("--json", type=Path, help="file for runs and comparisons")
    parser.add_argument("--list", action="store_true", help="list the problems, and exit")
    arguments = parser.parse_args()
    for name in ("seeds", "workers"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    if arguments.list:
        for problem in PROBLEMS.values():
            print(f"{problem.name:22} {problem.updates:5}  {problem.description}")
        return
    torch.set_num_threads(1)
    policies = list(dict.fromkeys(arguments.policy or ["default"]))
    for policy in policies:
        load_policy(policy)  # before the first run, should there be none
    names = list(dict.fromkeys(arguments.problems))
    seeds = range(arguments.seeds)
    jobs = [
        Job(name, arm, seed)
        for name in names
        for seed in seeds
        for arm in (ADAMW, *policies)
    ]
    rows = run_all(jobs, arguments.workers)
    found = {
        (name, arm): [rows[Job(name, arm, seed)] for seed in seeds]
        for name in names
        for arm in (ADAMW, *policies)
    }
    comparisons = {}
    for policy in policies:
        comparisons[policy] = [
            compare(name, found[name, ADAMW], found[name, policy]) for name in names
        ]
        print(*table(comparisons[policy], policy), "", sep="\n")
    seconds = {
        arm: sum(row.seconds for job, row in rows.items() if job.arm == arm)
        for arm in (ADAMW, *policies)
    }
    for policy in policies:
        print(*summary(comparisons[policy], policy), sep="\n")
        ratio = seconds[policy] / seconds[ADAMW]
        print(f"  CPU time of training: {ratio:.2f} times that with AdamW")
    if arguments.json is not None:
        write_text(arguments.json, as_json(rows, comparisons) + "\n")


if __name__ == "__main__":
    main()
