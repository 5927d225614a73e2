"""``model.zip`` of a training by RLlib: RLlib's checkpoint, and the control steps made."""

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

#: Name of the folder in the archive with RLlib's checkpoint.
CHECKPOINT = "checkpoint"
#: Name of the file in the archive that describes the training.
NOTE = "optenv.json"


def save(algorithm: Any, path: Path, *, name: str, num_timesteps: int) -> None:
    """Write ``model.zip`` in one step; if that fails, the old file remains.

    Args:
        algorithm: algorithm of RLlib.
        path: path of the file.
        name: ``"class"`` of the preset.
        num_timesteps: number of control steps made so far, over all runs.

    Raises:
        OSError: the file cannot be written.
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
    """Load a ``model.zip`` into an algorithm. This can run code in the file."""
    with _unpacked(path) as folder:
        algorithm.restore_from_path(str(folder / CHECKPOINT))


def steps_of(path: Path, name: str) -> int:
    """Return the number of control steps after which a ``model.zip`` was written.

    Args:
        path: path of the file.
        name: ``"class"`` of the preset to continue with.

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
    """Unpack an archive to a temporary folder within the context."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
        yield Path(folder)
