"""The benchmark and ``save_policy``, killed at random moments.

    python benchmarks/kills_of_files.py                 # 20 kills each, 100 of save_policy
    python benchmarks/kills_of_files.py --of save_policy --kills 1000 --seed 1

The counterpart of ``kills.py``, which kills trainings.

**The benchmark**, ``python -m agents.evaluation``, runs once without a break. Then it runs
again, and is killed (SIGKILL, with its worker processes, as if the machine died) at a
random moment; the same command continues it, is killed, and so on; it is restarted until
there were enough kills. Moments are uniform over half of the time of the benchmark without
a break. After a kill, no stored run may be missing or be there twice. At the end, all rows,
choices, tables and pictures must equal those of the benchmark without a break, bit for bit
except CPU times.

**save_policy** saves two policies in turn under one name, as fast as it can, and is killed
within a fiftieth of a second. Each time, one of the two policies must load completely.

The program ends with an error otherwise. About seven minutes. It needs a system that can
fork.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from agents import Policy, load_policy
from agents.evaluation.runs.store import FILE
from agents.policy.files import save_policy
from agents.utils.progress import echo
from optenv.atomic import unfinished

ROOT = Path(__file__).parents[1]

#: The benchmark that is killed.
COMMAND = [
    sys.executable, "-m", "agents.evaluation", "--task", "cancer", "--task",
    "module-classifier", "--length", "0.2", "--seeds", "2", "--tuning-seeds", "1", "--arm",
    "PILOT", "--policy", "anytime", "--lr", "1e-3", "--no-progress",
]  # fmt: skip

#: Files of it that hold no CPU times.
SAME = ("choices.json", "curves.png", "losses.png", "profiles.png")
#: Entries of a row that are CPU times, and columns of ``summary.csv`` that come of them.
TIMES = ("cpu_seconds", "adamw_seconds", "cpu", "cpu_speedup")

#: Largest time, in seconds, after which a process that saves policies is killed.
SAVING = 0.02


@dataclass
class Counts:
    """Numbers of what happened to the processes that were killed."""

    kills: int = 0
    begun: int = 0
    before_first: int = 0
    in_writing: int = 0
    between: int = 0
    faults: list[str] = field(default_factory=list)


@contextlib.contextmanager
def benchmark(folder: Path, workers: int) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a benchmark that is running; kill it and its workers at the end."""
    command = [*COMMAND, "--workers", str(workers), "--out", str(folder)]
    with (folder.parent / f"{folder.name}.txt").open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=ROOT, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def complete_lines(folder: Path) -> tuple[bytes, bool]:
    """Return the complete lines of the file of runs, and whether there is half of one."""
    file = folder / FILE
    content = file.read_bytes() if file.exists() else b""
    lines = content[: content.rfind(b"\n") + 1]
    return lines, lines != content


def results(folder: Path) -> dict[str, Any]:
    """Return what a benchmark leaves, without CPU times; its runs by their keys."""
    found: dict[str, Any] = {}
    for line in complete_lines(folder)[0].splitlines():
        run = json.loads(line)
        key = json.dumps(run.pop("key"), sort_keys=True)
        if key in found:
            raise ValueError(f"a run is there twice: {key}")
        found[key] = {name: value for name, value in run.items() if name not in TIMES}
    with (folder / "summary.csv").open() as file:
        for row in csv.DictReader(file):
            arm = f"summary of {row['arm']}"
            found[arm] = {name: v for name, v in row.items() if name not in TIMES}
    return found | {name: (folder / name).read_bytes() for name in SAME}


def kill_benchmarks(workers: int, kills: int, seed: int, folder: Path) -> Counts:
    """Run the benchmark without a break, and with kills; compare the results."""
    counts, rng = Counts(), random.Random(seed)
    # 1. Without a break
    begun = time.monotonic()
    with benchmark(folder / "whole", workers) as process:
        process.wait()
    seconds, expected = time.monotonic() - begun, results(folder / "whole")
    # 2. With kills
    while counts.kills < kills:
        counts.begun += 1
        broken = folder / f"killed-{counts.begun}"
        ended, before = False, b""
        while not ended:
            with benchmark(broken, workers) as process:
                last = counts.kills >= kills
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(None if last else rng.uniform(0.0, seconds / 2))
                ended = process.returncode == 0
                if process.returncode is not None and not ended:
                    output = (folder / f"{broken.name}.txt").read_text()
                    counts.faults.append(f"{broken.name} has failed: {output[-500:]}")
                    return counts
            now, is_half = complete_lines(broken)
            if not now.startswith(before):
                counts.faults.append(f"{broken.name}: runs are lost")
            before = now
            counts.kills += not ended
            counts.in_writing += is_half or bool(unfinished(broken))
            counts.before_first += not now
        with contextlib.suppress(ValueError):
            found = results(broken)
            wrong = [key for key in {**expected, **found} if not same(key, expected, found)]
            counts.faults += [f"{broken.name}: {key} differs" for key in wrong]
            continue
        counts.faults.append(f"{broken.name}: a run is there twice")
    return counts


def same(key: str, first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Return whether two results have the same entry."""
    return key in first and key in second and bool(first[key] == second[key])


def two_policies() -> list[Policy]:
    """Return policies of other layers and other weights."""
    policies = []
    for seed, units in enumerate((200, 900)):
        torch.manual_seed(seed)
        description = load_policy("anytime").description
        first, *_, last = description["layers"]
        policies.append(Policy({**description, "layers": [first, units, last]}))
        for parameter in policies[-1].parameters():
            torch.nn.init.normal_(parameter)
    return policies


def save_in_turn(policies: Sequence[Policy], stem: Path, begun: Any) -> None:
    """Save policies over each other until the process is killed."""
    begun.set()
    for policy in itertools.cycle(policies):
        save_policy(policy, stem)


def belong_together(stem: Path) -> bool:
    """Return whether the description of a policy is that of the weights beside it."""
    described = json.loads(stem.with_suffix(".json").read_text())["sha256"]
    weights = stem.with_suffix(".safetensors").read_bytes()
    return bool(described == hashlib.sha256(weights).hexdigest())


def kill_saves(kills: int, seed: int, folder: Path) -> Counts:
    """Kill a process that saves policies; load what it leaves."""
    counts, rng = Counts(), random.Random(seed)
    policies, stem = two_policies(), folder / "policy"
    expected = [policy.fingerprint() for policy in policies]
    context, is_there = multiprocessing.get_context("fork"), False
    while counts.kills < kills:
        begun = context.Event()
        process = context.Process(target=save_in_turn, args=(policies, stem, begun))
        process.start()
        begun.wait()
        time.sleep(rng.uniform(0.0, SAVING))
        process.kill()
        process.join()
        counts.kills += 1
        left = unfinished(folder)
        counts.in_writing += bool(left) or stem.with_name("policy.json.new").exists()
        for path in left:
            path.unlink()
        try:
            counts.between += not belong_together(stem)
            found = load_policy(stem).fingerprint()
        except FileNotFoundError as error:
            counts.before_first += 1
            if is_there:
                counts.faults.append(str(error))
        except Exception as error:
            counts.faults.append(str(error))
        else:
            is_there = True
            if found not in expected:
                counts.faults.append(f"after {counts.kills} kills another policy loads")
    return counts


def report(what: str, counts: Counts) -> str:
    """Format a line of the table."""
    numbers = (
        counts.kills, counts.begun or "–", counts.before_first, counts.in_writing,
        counts.between, len(counts.faults) or "none",
    )  # fmt: skip
    return f"| {what} | {' | '.join(map(str, numbers))} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--of", choices=("benchmark", "save_policy"), help="[all]")
    parser.add_argument("--kills", type=int, help="[20 of a benchmark, 100 of saves]")
    parser.add_argument("--workers", type=int, help="of the benchmark [2 and then 1]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    columns = (
        "", "kills", "benchmarks", "before the first file", "in writing",
        "between two files", "faults",
    )  # fmt: skip
    echo(f"| {' | '.join(columns)} |")
    echo(f"|{'---|' * len(columns)}")
    folder, failed = Path(tempfile.mkdtemp()), False

    def tell(what: str, counts: Counts) -> None:
        nonlocal failed
        echo(report(what, counts))
        for fault in counts.faults:
            echo(f"{what}: {fault}")
            failed = True

    if options.of != "save_policy":
        for workers in (2, 1) if options.workers is None else (options.workers,):
            place = folder / f"workers-{workers}"
            place.mkdir()
            name = f"benchmark, `--workers {workers}`"
            tell(name, kill_benchmarks(workers, options.kills or 20, options.seed, place))
    if options.of != "benchmark":
        tell("`save_policy`", kill_saves(options.kills or 100, options.seed, folder))
    if failed:
        sys.exit(f"the files are in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
