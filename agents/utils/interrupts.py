"""SIGTERM, by which schedulers and ``kill`` end a process, treated like Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

__all__ = ["terminated_as_interrupted"]


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM within; restore the former handler afterwards.

    Python handles signals only in its main thread. In other threads this does nothing.

    Example::

        with terminated_as_interrupted():
            train()  # SIGTERM raises KeyboardInterrupt here

        print("the former handler is in place")
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        # None stands for a handler that was not installed from Python
        signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
