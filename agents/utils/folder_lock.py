"""Lock on a folder of results, so that only one program at a time writes to it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["exclusive"]

#: File that lists the locks of all processes of this machine, on Linux.
_LOCKS = Path("/proc/locks")


@contextlib.contextmanager
def exclusive(folder: Path, program: str) -> Iterator[None]:
    """Lock a folder of results against other processes (on Unix).

    The kernel holds the lock for the process, and frees it however the process ends: no
    file is left over. On network file systems without such locks, the folder is not locked.

    Args:
        folder: existing folder.
        program: name of the running program, such as ``"benchmark"``, for the message.

    Raises:
        ValueError: another process holds the lock; the message names the folder and the
            process.
        OSError: the folder cannot be opened.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another {program} is running in {str(folder)!r}"
                f"{_holder(os.fstat(descriptor).st_ino)}; wait for it to end, or give "
                "another --out"
            ) from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def _holder(inode: int) -> str:
    """Name the process that holds a lock, in brackets; empty if it is unknown."""
    try:
        lines = _LOCKS.read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        parts = line.split()
        if len(parts) > 5 and parts[1] == "FLOCK" and parts[5].endswith(f":{inode}"):
            return f" (process {parts[4]})"
    return ""
