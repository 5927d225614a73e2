"""Runs and candidates on a running cluster, by its address, whose machines may die."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agents.evaluation.__main__ import main
from agents.evaluation.tasks.heldout import task_named
from agents.rl.presets import PRESETS
from agents.rl.seeds import train_candidates
from agents.utils.job_engines import PROCESSES, Engine
from agents.utils.ray_cluster import cluster

pytest.importorskip("ray", reason="ray is not installed (extra: ray)")
import ray
from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.frameworks, pytest.mark.slow]


@pytest.fixture(scope="module")
def machines() -> Iterator[Cluster]:
    """Run a cluster of one machine with two CPUs, to which tests add others."""
    running = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "include_dashboard": False},
    )
    yield running
    running.shutdown()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run commands in another folder than that of the repository."""
    monkeypatch.chdir(tmp_path)


def test_a_cluster_that_is_running_is_used_from_any_folder(machines: Cluster) -> None:
    command = [
        "--task", "cancer", "--length", "0.03", "--seeds", "2", "--tuning-seeds", "1",
        "--arm", "PILOT", "--no-controls", "--policy", "adam", "--lr", "0.01",
        "--no-progress", "--engine", "ray", "--workers", "0",
        "--address", machines.address, "--out", "results",
    ]  # fmt: skip
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert Path("results/rows.jsonl").is_file() and not ray.is_initialized()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "127.0.0.1:99999", "elsewhere"])
def test_an_address_without_a_cluster_is_refused_at_once(address: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ValueError, match=f"no Ray cluster can be reached at '{address}'"):
        with cluster(1, address):
            pass
    assert time.monotonic() - begun < 5


def _place(job: tuple[str, str]) -> str:
    """Return the machine that the job runs on, for which one machine takes for ever."""
    marker, slow = job
    place = str(ray.get_runtime_context().get_node_id())
    Path(marker).write_text(place)
    time.sleep(600 if place == slow else 1)
    return place


def test_jobs_of_a_machine_that_dies_are_made_anew(
    machines: Cluster, tmp_path: Path
) -> None:
    second = machines.add_node(num_cpus=2)
    machines.wait_for_nodes()
    markers = [tmp_path / str(i) for i in range(6)]
    jobs = [(str(marker), second.node_id) for marker in markers]
    ended: list[tuple[str, str]] = []

    def kill() -> None:
        while second.node_id not in [m.read_text() for m in markers if m.exists()]:
            time.sleep(0.05)
        machines.remove_node(second, allow_graceful=False)

    killer = threading.Thread(target=kill)
    with contextlib.closing(Engine("ray", machines.address).start(4)) as pool:
        killer.start()
        places = pool.map(_place, jobs, lambda job, _: ended.append(job))
        killer.join()
    assert sorted(ended) == jobs
    assert places == [machines.head_node.node_id] * len(jobs)


def test_a_candidate_whose_process_is_killed_goes_on_where_it_was(
    machines: Cluster, tmp_path: Path
) -> None:
    preset = PRESETS["ppo"]
    arguments = {"tasks": "quadratic", "updates_per_step": 2, "horizon": 6}
    config = {
        **preset,
        "env_arguments": {**preset["env"], **arguments},
        "num_envs": 8,
        "timesteps": 48 * 60,
        "overrides": {"n_epochs": 1, "n_steps": 6},
    }
    tasks, killed = [task_named("friedman").lasting(0.02)], []

    def train(name: str, engine: Engine) -> dict[str, bytes]:
        folder = Path(name)
        train_candidates(
            "ppo", 5, config, folder, count=2, members=2, workers=2, tasks=tasks,
            progress=False, save_every=48, engine=engine,
        )  # fmt: skip
        paths = folder.rglob("policy.*")
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}

    def kill() -> None:
        while not (tmp_path / "ray" / "candidate-0" / "model.zip").exists():
            time.sleep(0.01)
        killed.extend(jobs_of(os.getpid()))
        for process in killed:
            os.kill(process, signal.SIGKILL)

    expected = train("here", PROCESSES)
    killer = threading.Thread(target=kill)
    killer.start()
    assert train("ray", Engine("ray", machines.address)) == expected
    killer.join()
    assert killed


def jobs_of(ancestor: int) -> list[int]:
    """Return the descendants of a process that run a job of Ray."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(stat[1])
            names[int(folder.name)] = (folder / "cmdline").read_text()

    def descends(process: Any) -> bool:
        while process in parents and process != ancestor:
            process = parents[process]
        return bool(process == ancestor)

    return [
        process
        for process, name in names.items()
        if name.startswith("ray::_call") and descends(process)
    ]
