"""Worker processes that die, and jobs that fail, cost their own job alone."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, NoReturn

import pytest

from agents.utils.outcomes import ProcessDied
from agents.utils.workers import RETRIES, Workers, stopped

pytestmark = pytest.mark.slow  # processes take seconds to start


@pytest.fixture
def workers():
    with contextlib.closing(Workers(2)) as found:
        yield found


def nothing(*_: object) -> None:
    pass


def die(_: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def die_once(marker: str) -> int:
    """Kill the process that runs the job, the first time."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        die(marker)
    return os.getpid()


def die_or_wait(marker: str) -> str:
    """Kill the process if there is no marker; otherwise count, and take a while."""
    if marker == "dies":
        die(marker)
    with open(marker, "a") as file:
        file.write("run\n")
    time.sleep(1.0)
    return marker


class Unsendable(Exception):
    """An error that can be pickled but not read again."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def refuse_odd(number: int) -> int:
    if number == 1:
        error = Unsendable(1, 2)
        error.add_note("of the job")
        raise error
    time.sleep(0.5)
    return number


def wait_until_stopped(_: object) -> NoReturn:
    begun = time.monotonic()
    while not stopped() and time.monotonic() - begun < 60.0:
        time.sleep(0.01)
    raise CancelledError


def test_jobs_return_their_results_in_order(workers):
    ended: list[tuple[int, float]] = []
    assert workers.map(float, [1, 2, 3], lambda *pair: ended.append(pair)) == [1, 2, 3]
    assert sorted(ended) == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert workers.map(float, [], nothing) == []


def test_a_job_whose_process_dies_is_begun_anew_and_ends_once(workers, tmp_path):
    markers, ended = [str(tmp_path / str(i)) for i in range(3)], []
    with pytest.warns(RuntimeWarning, match="died; its job is begun anew, 1 of 2 times"):
        workers.map(die_once, markers, lambda job, _: ended.append(job))
    assert sorted(ended) == markers
    assert workers.map(float, [4, 5], nothing) == [4, 5], "the processes are replaced"


@pytest.mark.filterwarnings("ignore:a worker process died")
def test_a_job_that_always_kills_its_process_is_named_and_costs_no_other(workers, tmp_path):
    other, ended = str(tmp_path / "other"), []
    with pytest.raises(ProcessDied, match=rf"begun {RETRIES + 1} times, and its") as caught:
        workers.map(
            die_or_wait, [other, "dies"], lambda job, _: ended.append(job),
            lambda job: f"job {Path(job).name}",
        )  # fmt: skip
    assert caught.value.__notes__ == ["job dies"]
    assert ended == [other] and Path(other).read_text() == "run\n"


@pytest.mark.filterwarnings("ignore:a worker process died")  # if it was not idle yet
def test_a_process_that_dies_while_it_is_idle_is_replaced(workers):
    for pid in set(workers.map(pid_after_a_while, range(2), nothing)):
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)
    assert workers.map(float, range(6), nothing) == [0, 1, 2, 3, 4, 5]


def pid_after_a_while(_: object) -> int:
    time.sleep(0.3)
    return os.getpid()


def test_jobs_that_run_beside_a_failing_one_end_and_no_more_are_begun(workers):
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(Unsendable(1, 2)))
    ended: list[int] = []
    with pytest.raises(RuntimeError, match="Unsendable: 1 and 2") as caught:
        workers.map(refuse_odd, [0, 1, 2, 4, 6], lambda job, _: ended.append(job), str)
    assert caught.value.__notes__ == ["of the job", "1"]
    assert 0 in ended and 6 not in ended
    assert workers.map(refuse_odd, [2], nothing) == [2]


def test_two_threads_share_the_processes(workers):
    found: dict[str, Any] = {}

    def work(name: str) -> None:
        found[name] = workers.map(float, range(8), nothing)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {"a": [*range(8)], "b": [*range(8)]}


def test_closing_abandons_running_and_waiting_jobs(workers):
    def work() -> None:
        with pytest.raises(CancelledError):
            workers.map(wait_until_stopped, range(5), nothing)

    workers.map(float, range(2), nothing)  # both have started
    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.2)
    begun = time.monotonic()
    workers.close()
    thread.join(10)
    assert not thread.is_alive() and time.monotonic() - begun < 10.0


UNGUARDED = """
import warnings
from agents.utils.workers import Workers

warnings.simplefilter("error")
Workers(1).map(float, [1], print)
"""


def test_a_program_without_a_main_guard_is_told_so(tmp_path):
    (tmp_path / "program.py").write_text(UNGUARDED)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")], capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "died before they could begin" in done.stderr
    assert 'under `if __name__ == "__main__":`' in done.stderr
