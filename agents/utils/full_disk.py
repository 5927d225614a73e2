"""Full disks, explained in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from optenv.atomic import is_full

__all__ = ["full_disk_explained"]


@contextlib.contextmanager
def full_disk_explained(folder: Path, then: str) -> Iterator[None]:
    """End the program with a one-line message if the disk is full.

    Args:
        folder: folder of the results.
        then: advice for when there is space again, for the message.

    Raises:
        click.ClickException: the disk is full; the message names the file.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise click.ClickException(
            f"{error.filename or folder} cannot be written: {error.strerror}; the files in "
            f"{folder} are the last that were written as a whole; {then}"
        ) from error
