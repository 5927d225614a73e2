"""Atomic writing of files: a new file is written beside the old one, and then renamed.

If the process is killed or the disk is full, the previous file stays as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "append_bytes",
    "is_full",
    "remove_unfinished",
    "replacing",
    "unfinished",
    "write_bytes",
    "write_text",
]


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Replace a file by one that is written in the context, or leave it unchanged.

    The new file replaces the old one in one step, after its bytes are on the disk, and with
    the old one's permissions. The target of a symbolic link is replaced, not the link. A
    path that is no regular file, such as ``/dev/stdout``, is written directly.

    Args:
        path: file to replace or to create.

    Yields:
        Path in the same folder, with the same suffix, at which to write the new file.

    Raises:
        OSError: the file cannot be written; the error names ``path``, which is unchanged.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        yield target
        return
    part = target.with_name(f".{target.stem}-{secrets.token_hex(4)}.part{target.suffix}")
    try:
        yield part
        if target.exists():
            shutil.copymode(target, part)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(part), part):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(target.parent)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file in one step, see :func:`replacing`."""
    with replacing(path) as part:
        part.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a file of text in UTF-8 in one step, see :func:`replacing`."""
    write_bytes(path, text.encode())


def append_bytes(path: str | Path, data: bytes) -> None:
    """Append all of the data to a file or nothing; create the file if it is missing.

    The data is on the disk when this returns. Only a process that is killed meanwhile can
    leave a part of it.

    Raises:
        OSError: the data cannot be written; the error names ``path``, which is unchanged.
    """
    with open(path, "ab", buffering=0) as file:
        length = os.fstat(file.fileno()).st_size
        try:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except BaseException as error:
            file.truncate(length)
            if isinstance(error, OSError) and error.filename is None:
                raise OSError(error.errno, error.strerror, str(path)) from error
            raise


def unfinished(folder: Path) -> list[Path]:
    """Return the temporary files, in a folder and below, that killed processes left.

    They have not replaced any file. Another process may still be writing one.
    """
    return [path for path in folder.rglob(".*-*.part*") if path.is_file()]


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files, in a folder and below, that killed processes left."""
    for path in unfinished(folder):
        path.unlink(missing_ok=True)


def is_full(error: OSError) -> bool:
    """Return whether an error is due to a full disk, a quota, or a limit of file size."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _sync_folder(folder: Path) -> None:
    """Make the renaming of a file survive a power failure, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
