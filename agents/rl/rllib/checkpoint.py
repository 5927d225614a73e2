"""``model.zip`` of a training by RLlib: its checkpoint, and how far the training was."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optenv.atomic import write_bytes
from optenv.checks import parsed_json

__all__ = ["restore", "save", "steps_of"]

#: Name in the archive of RLlib's checkpoint, a folder.
CHECKPOINT = "checkpoint"
#: Name in the archive of the description of the training.
NOTE = "optenv.json"


def save(algorithm: Any, path: Path, *, name: str, num_timesteps: int) -> None:
    """Write ``model.zip`` in one step, or leave it as it is.

    Args:
        algorithm: algorithm of RLlib.
        path: path of the file.
        name: ``"class"`` of the preset.
        num_timesteps: control steps made so far, over all runs.

    Raises:
        OSError: it cannot be written.
    """
    note = {"engine": "rllib", "class": name, "num_timesteps": num_timesteps}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        algorithm.save_to_path(str(folder / CHECKPOINT))
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(NOTE, json.dumps(note))
            for each in sorted(folder.rglob("*")):
                archive.write(each, each.relative_to(folder))
    write_bytes(path, file.getvalue())


def restore(algorithm: Any, path: Path) -> None:
    """Give an algorithm the state of a ``model.zip``. It runs code in the file."""
    with _unpacked(path) as folder:
        algorithm.restore_from_path(str(folder / CHECKPOINT))


def steps_of(path: Path, name: str) -> int:
    """Return the number of control steps after which a ``model.zip`` was written.

    Args:
        path: path of the file.
        name: ``"class"`` of the preset that is to go on.

    Raises:
        ValueError: the file is not a model of RLlib, or one of another class.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            note = parsed_json(archive.read(NOTE))
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"cannot go on with {str(path)!r}: it is no model of the engine rllib"
        ) from error
    if note["class"] != name:
        raise ValueError(
            f"cannot go on with {str(path)!r}: it is a model of {note['class']}, not {name}"
        )
    return int(note["num_timesteps"])


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """Unpack an archive for the time within."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
        yield Path(folder)
