"""Progress is a bar on a terminal, and a line now and then in a log."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from agents.utils import progress
from agents.utils.progress import echo, progress_bar, progress_range
from tests.helpers.paths import ROOT


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.mark.parametrize(("minutes", "lines"), [(0.4, 0), (2, 4), (60, 10), (6000, 10)])
def test_a_log_gets_few_whole_lines_however_long_the_work(minutes, lines, clock, capsys):
    with progress_bar(1000, "evaluation") as advance:
        for _ in range(1000):
            clock.now += 60 * minutes / 1000
            advance()
    written = capsys.readouterr().err
    assert written.count("\n") == lines and "\r" not in written
    if lines:
        last = written.splitlines()[-1]
        assert last == f"evaluation: 1,000 of 1,000 runs, {minutes:.1f} minutes"


def test_lines_are_half_a_minute_and_a_tenth_apart(clock, capsys):
    with progress_bar(100, "training", unit="step") as advance:
        clock.now = 29.0
        advance(50)
        assert not capsys.readouterr().err
        clock.now = 31.0
        advance()
        assert capsys.readouterr().err == "training: 51 of 100 steps, 0.5 minutes\n"
        clock.now = 90.0
        advance(9)
        assert not capsys.readouterr().err
        advance()
        assert capsys.readouterr().err == "training: 61 of 100 steps, 1.5 minutes\n"


def test_hidden_progress_writes_nothing(clock, capsys):
    with progress_bar(2, "training", False) as advance:
        clock.now = 100.0
        advance()
        advance(1)
    assert list(progress_range(3, False)) == [0, 1, 2]
    assert not capsys.readouterr().err


def test_an_error_in_the_work_is_passed_on(clock, capsys):
    with pytest.raises(ZeroDivisionError), progress_bar(2, "training"):
        raise ZeroDivisionError
    assert not capsys.readouterr().err


WORK = """
from agents.utils.progress import echo, progress_bar
with progress_bar(3, "training", unit="step") as advance:
    advance()
    echo("a line of a result")
    advance(2)
"""


def on_terminal(code):
    """Run code with a terminal as its output streams; return all that it wrote."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=child, stderr=child, cwd=ROOT
    )
    os.close(child)
    written = b""
    try:
        while chunk := os.read(parent, 4096):
            written += chunk
    except OSError:  # how Linux reports that the other end is closed
        pass
    finally:
        os.close(parent)
    assert process.wait(30) == 0, written
    return written.decode()


def test_a_terminal_gets_a_bar_with_results_above_it():
    pytest.importorskip("tqdm")
    written = on_terminal(WORK)
    assert "training: 100%" in written.replace("\xa0", " ") and "3/3" in written
    assert "\r" in written.replace("\r\n", "\n")
    drawn = [part for line in written.split("\n") for part in line.split("\r")]
    assert "a line of a result" in drawn, "nothing of the bar may be left on its line"


def test_a_terminal_without_tqdm_gets_lines(monkeypatch, capsys):
    monkeypatch.setattr(progress, "tqdm", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bar(1, "training") as advance:
        advance()
    echo("done")
    assert capsys.readouterr() == ("done\n", "")
