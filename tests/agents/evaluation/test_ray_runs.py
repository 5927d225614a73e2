"""The benchmark on Ray makes the same rows, and survives the death of a worker."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agents.evaluation.__main__ import main
from agents.evaluation.runs.store import FILE, Store
from agents.utils.job_engines import Engine
from agents.utils.outcomes import ProcessDied
from agents.utils.ray_cluster import cluster

ray = pytest.importorskip("ray", reason="ray is not installed (extra: ray)")

pytestmark = [pytest.mark.frameworks, pytest.mark.slow]

#: A small benchmark.
SMALL = [
    "--task", "cancer", "--task", "diabetes", "--length", "0.03", "--seeds", "2",
    "--tuning-seeds", "1", "--arm", "PILOT", "--no-controls", "--policy", "adam",
    "--lr", "0.01", "--no-progress",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_cluster() -> Iterator[None]:
    """Start one cluster for all tests of this file."""
    with cluster(2):
        yield


def benchmark(folder: Path, *arguments: str) -> str:
    """Run the small benchmark; return what it prints."""
    result = CliRunner().invoke(main, [*SMALL, *arguments, "--out", str(folder)])
    assert result.exit_code == 0, result.output
    return result.output


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the rows by key, without CPU times, after a check that none comes twice."""
    store = Store(folder / FILE)
    assert len(store) == len((folder / FILE).read_text().splitlines())
    times = ("cpu_seconds", "adamw_seconds")
    return {
        key: {name: value for name, value in row.items() if name not in times}
        for key, row in store._rows.items()
    }


def test_rows_are_those_of_processes_and_can_be_resumed(tmp_path: Path) -> None:
    benchmark(tmp_path / "ray", "--engine", "ray")
    benchmark(tmp_path / "here", "--workers", "0")
    found = rows(tmp_path / "ray")
    assert found == rows(tmp_path / "here") and len(found) > 20
    # Half of it is lost; the rest comes again, and nothing else
    path = tmp_path / "ray" / FILE
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[::2]))
    printed = benchmark(tmp_path / "ray", "--engine", "ray")
    assert f"{len(lines) // 2} runs done, {len(lines) - len(lines) // 2} reused" in printed
    assert rows(tmp_path / "ray") == found


def _dies_once(marker: str) -> int:
    """Kill the process that makes the job, the first time."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def _doubled(number: int) -> int:
    return 2 * number


def _dies(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _refuses(number: int) -> None:
    error = ValueError(f"got {number}")
    error.add_note("in a job")
    raise error


def test_a_job_whose_process_dies_is_made_anew_and_ends_once(tmp_path: Path) -> None:
    ended = []
    with contextlib.closing(Engine("ray").start(2)) as pool:
        markers = [str(tmp_path / str(i)) for i in range(2)]
        pool.map(_dies_once, markers, lambda job, _: ended.append(job))
        assert sorted(ended) == markers
        assert pool.map(_doubled, range(5), lambda *_: None) == [0, 2, 4, 6, 8]


def test_errors_of_a_job_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.utils.ray_workers.RETRIES", 1)
    with contextlib.closing(Engine("ray").start(1)) as pool:
        with pytest.raises(ValueError, match="got 3") as caught:
            pool.map(_refuses, [3], lambda *_: None)
        assert caught.value.__notes__ == ["in a job", "3"]
        with pytest.raises(ProcessDied, match="begun 2 times"):
            pool.map(_dies, [0], lambda *_: None)


def test_an_engine_is_refused_in_words(tmp_path: Path) -> None:
    for arguments, message in (
        (["--address", "auto"], "give --engine ray as well"),
        (["--engine", "ray", "--workers", "0"], "needs the address of a cluster"),
    ):
        out = tmp_path / "out"
        result = CliRunner().invoke(main, [*SMALL, *arguments, "--out", str(out)])
        assert result.exit_code == 2 and not out.exists()
        assert message in " ".join(result.output.split())
