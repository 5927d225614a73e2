"""Trainings that are killed at random moments and resumed exactly, again and again.

    python benchmarks/kills.py                                  # all agents, 20 kills each
    python benchmarks/kills.py --agent ppo --kills 100 --seed 1

Trains a small agent once without a break. Then it trains it again, kills the process
(SIGKILL) at a random moment, resumes with ``train_agent.py --resume``, kills that process,
and so on to the end of the training; it starts further trainings until there were enough
kills. Moments are uniform over a fourth of the CPU time of a training. Files are written
after every rollout or so, so that some kills happen during a write. About ten minutes.

After every kill, ``model.zip`` and the policy must be readable. At the end of each
training, the policy's two files and the model's networks must equal those of the training
without a break, bit for bit. The program ends with an error otherwise.

How to read it: *in writing* counts the kills that left an unfinished temporary file,
*steps lost* are the control steps that the killed process had made after its last
checkpoint, of *interval* steps (``--save-every``). It needs a system that can fork.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import math
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.utils.tensorboard

from agents import load_policy
from agents.rl import checkpoints, training
from agents.utils.progress import echo

ROOT = Path(__file__).parents[1]

#: Arguments of every training.
COMMON = [
    "--num-envs", "8", "--no-evaluate", "--no-progress", "--out", "run",
    "--env-arg", "updates_per_step=2",
]  # fmt: skip
DQN = [
    "--timesteps", "2400", "--save-every", "80", "--candidates", "1", "--members", "1",
    "--env-arg", "horizon=6", "--set", "learning_starts=80", "--set", "gradient_steps=1",
    "--set", "batch_size=32",
]  # fmt: skip
#: Arguments of the agents' trainings.
AGENTS = {
    "ppo": [
        "--timesteps", "2400", "--save-every", "48", "--env-arg", "horizon=6",
        "--set", "n_steps=6", "--set", "n_epochs=2",
    ],
    "dqn": DQN,
    "dqn-rules": DQN,
    "rl2": [
        "--timesteps", "2880", "--save-every", "96", "--env-arg", "horizon=4",
        "--env-arg", "runs=3", "--set", "n_steps=12", "--set", "n_epochs=2",
    ],
    "unrolled-lr": [
        "--timesteps", "1920", "--save-every", "48", "--env-arg", "horizon=6",
        "--env-arg", "tasks=quadratic", "--copies", "4",
    ],
    "unrolled-rule": [
        "--timesteps", "1920", "--save-every", "48", "--env-arg", "horizon=6",
        "--env-arg", "tasks=quadratic", "--copies", "4",
    ],
}  # fmt: skip
for name in ("ppo", "dqn", "dqn-rules"):
    AGENTS[name] += ["--env-arg", "tasks=logistic"]
AGENTS["rl2"] += ["--env-arg", "tasks=quadratic"]


@dataclass
class Counts:
    """Numbers of what happened to the trainings of an agent."""

    interval: int
    kills: int = 0
    trainings: int = 0
    in_writing: int = 0
    before_first: int = 0
    lost: list[int] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)


def train(main: Any, arguments: list[str], folder: Path, shared: Any) -> None:
    """Train in this process, in a folder.

    Share how many control steps the model has made, and the seconds of CPU time.
    """
    os.chdir(folder)
    with (folder / "output.txt").open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    learn, models = training.learn, []

    def noted(model: Any, *args: Any, **kwargs: Any) -> bool:
        models.append(model)
        return learn(model, *args, **kwargs)

    def watch() -> None:
        while True:
            shared[:] = [models[0].num_timesteps if models else 0, time.process_time()]
            time.sleep(0.001)

    training.learn = noted
    threading.Thread(target=watch, daemon=True).start()
    sys.argv = ["train_agent.py", *arguments]
    main(arguments, standalone_mode=False)


@functools.cache
def program() -> Any:
    """Return the command of ``train_agent.py``."""
    spec = importlib.util.spec_from_file_location("train_agent", ROOT / "train_agent.py")
    assert spec is not None and spec.loader is not None
    # What is imported here is not imported in each of the processes
    torch.optim.Adam([torch.zeros(1)])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@contextlib.contextmanager
def running(arguments: list[str], folder: Path) -> Iterator[tuple[Any, Any]]:
    """Yield a process that trains in a folder, and what :func:`train` shares."""
    context = multiprocessing.get_context("fork")
    shared = context.Array("d", 2, lock=False)
    process = context.Process(target=train, args=(program(), arguments, folder, shared))
    process.start()
    try:
        yield process, shared
    finally:
        process.kill()
        process.join()


def content(run: Path) -> dict[str, bytes]:
    """Return what a training leaves: the policy's files, and the networks of the model."""
    files = [run / "policy.safetensors", run / "policy.json"]
    found = {file.name: file.read_bytes() for file in files}
    with zipfile.ZipFile(run / checkpoints.MODEL) as archive:
        members = [name for name in archive.namelist() if name.endswith((".pth", ".npy"))]
        return found | {name: archive.read(name) for name in members}


def examine(run: Path, reached: int, counts: Counts) -> None:
    """Check the files that a killed training has left, and count."""
    counts.in_writing += bool(list(run.glob(".*.part*")))
    try:
        checkpoint = checkpoints.read(run / checkpoints.MODEL)
        if (run / "policy.json").exists():
            load_policy(run / "policy")
    except Exception as error:
        counts.unusable.append(str(error))
        return
    counts.before_first += checkpoint is None
    done = 0 if checkpoint is None else checkpoint.numbers["done"]
    # The number of a process that had not yet begun to train says nothing
    if reached >= done:
        counts.lost.append(reached - done)


def kill_trainings(agent: str, kills: int, seed: int, folder: Path) -> Counts:
    """Train an agent without a break, and with ``kills`` kills; compare the results."""
    arguments = ["--agent", agent, *COMMON, *AGENTS[agent]]
    counts = Counts(int(arguments[arguments.index("--save-every") + 1]))
    rng = random.Random(seed)
    # 1. Without a break
    whole = folder / agent / "whole"
    whole.mkdir(parents=True)
    with running(arguments, whole) as (process, shared):
        process.join()
        seconds = shared[1]
    expected = content(whole / "run")
    # 2. With kills
    while counts.kills < kills:
        counts.trainings += 1
        broken = folder / agent / f"killed-{counts.trainings}"
        broken.mkdir()
        ended = False
        while not ended:
            has_begun = (broken / "run" / "config.json").exists()
            now = ["--resume", "run", "--no-progress"] if has_begun else arguments
            with running(now, broken) as (process, shared):
                left = rng.uniform(0.0, seconds / 4) if counts.kills < kills else math.inf
                while process.exitcode is None and shared[1] < left:
                    process.join(0.001)
                ended = process.exitcode == 0
                if process.exitcode is not None and not ended:
                    counts.unusable.append((broken / "output.txt").read_text()[-500:])
                    return counts
            if not ended:
                counts.kills += 1
                examine(broken / "run", int(shared[0]), counts)
        found = content(broken / "run")
        counts.different += [
            f"{broken.name}/{name}" for name, value in expected.items()
            if found.get(name) != value
        ]  # fmt: skip
    return counts


def report(agent: str, counts: Counts) -> str:
    """Format a line of the table."""
    lost = counts.lost or [0]
    return (
        f"| {agent} | {counts.kills} | {counts.trainings} | {counts.before_first} | "
        f"{counts.in_writing} | {len(counts.unusable)} | {counts.interval} | "
        f"{sum(lost) / len(lost):.0f} | {max(lost)} | "
        f"{len(counts.different) or 'none'} |"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agent", action="append", choices=AGENTS, help="repeatable")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    columns = (
        "agent", "kills", "trainings", "before the first file", "in writing",
        "unusable files", "interval", "steps lost, mean", "most", "different files",
    )  # fmt: skip
    echo(f"| {' | '.join(columns)} |")
    echo(f"|{'---|' * len(columns)}")
    folder, failed = Path(tempfile.mkdtemp()), False
    for agent in options.agent or AGENTS:
        counts = kill_trainings(agent, options.kills, options.seed, folder)
        echo(report(agent, counts))
        for problem in (*counts.different, *counts.unusable):
            echo(f"{agent}: {problem}")
            failed = True
    if failed:
        sys.exit(f"the files are in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
