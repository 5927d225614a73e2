"""Two programs do not write to one folder of results at a time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agents.utils import folder_lock
from agents.utils.folder_lock import exclusive

fcntl = pytest.importorskip("fcntl")

HOLD = """
import sys, pathlib
from agents.utils.folder_lock import exclusive
with exclusive(pathlib.Path(sys.argv[1]), "training"):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_program_is_refused_with_folder_and_process(tmp_path: Path) -> None:
    with exclusive(tmp_path, "benchmark"):
        with pytest.raises(ValueError, match="another benchmark is running") as error:
            exclusive(tmp_path, "benchmark").__enter__()
        assert str(tmp_path) in str(error.value) and "--out" in str(error.value)
        if Path("/proc/locks").exists():
            assert f"(process {os.getpid()})" in str(error.value)
    with exclusive(tmp_path, "benchmark"):
        pass
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match=f"training is running.*{process.pid}"):
            exclusive(tmp_path, "training").__enter__()
        process.kill()
        process.wait()
        with exclusive(tmp_path, "training"):
            pass


def test_a_file_system_without_locks_is_not_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with exclusive(tmp_path, "training"), exclusive(tmp_path, "training"):
        pass


def test_without_the_list_of_locks_the_process_is_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_lock, "_LOCKS", tmp_path / "none")
    with (
        exclusive(tmp_path, "training"),
        pytest.raises(ValueError, match=r"' *; wait for it to end, or give another --out"),
    ):
        exclusive(tmp_path, "training").__enter__()
