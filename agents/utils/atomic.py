"""Atomic writes: a file is the old one or the new one, whenever the process is killed."""

from __future__ import annotations

import os
import shutil
from itertools import count
from pathlib import Path

__all__ = ["write_bytes", "write_text"]

#: Numbers of the temporary files of this process.
_NUMBERS = count()


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file, or replace it, at once.

    The data go to a temporary file in the same folder (``.NAME.PID-N.tmp``), which is
    flushed to the disk and then renamed. If that fails, it is removed, and a file that was
    there before is unchanged; a process that is killed may leave it behind. A file that is
    replaced keeps its permissions, and a symbolic link its target.

    Args:
        path: path of the file, in a folder that exists.
        data: content.

    Raises:
        OSError: the file cannot be written.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{next(_NUMBERS)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(target.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write a file of text in UTF-8, or replace it, at once; see :func:`write_bytes`.

    Raises:
        OSError: the file cannot be written.
    """
    write_bytes(path, text.encode())


def _flush_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, on systems that can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems refuse it for folders
        pass
    finally:
        os.close(descriptor)
