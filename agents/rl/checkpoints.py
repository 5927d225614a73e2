"""Checkpoint of a training: all that is needed to continue as if it had never stopped.

It is part of ``model.zip``: besides the members of Stable-Baselines3, the file has
``training.json`` with numbers and ``training/*.npy`` with arrays. Neither can contain code.
Model and checkpoint are one file, which is replaced in one step, so that they always belong
together. ``model.zip`` of a learner that unrolls has only these members.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from optenv.checks import parsed_json

__all__ = ["MODEL", "Checkpoint", "pack", "read"]

#: File name of a training's model.
MODEL = "model.zip"

#: Members of the file that form a checkpoint.
NUMBERS, ARRAYS = "training.json", "training/"

#: Version of the format of these members.
VERSION = 1


class Checkpoint(NamedTuple):
    """State of a training.

    Attributes:
        numbers: JSON values by name. ``"finished"`` is True at the end of a training, and
            ``"exact"`` is True if it can continue as if it had not stopped.
        arrays: arrays by name.
    """

    numbers: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def finished(self) -> bool:
        """True if the training was complete."""
        return bool(self.numbers["finished"])

    def under(self, name: str) -> Checkpoint:
        """Return the part of the checkpoint that was joined under a name."""
        prefix = f"{name}/"
        arrays = {
            key.removeprefix(prefix): array
            for key, array in self.arrays.items()
            if key.startswith(prefix)
        }
        return Checkpoint(self.numbers[name], arrays)

    @property
    def exact(self) -> bool:
        """True if the training can continue as if it had not stopped."""
        return bool(self.numbers["exact"])

    @staticmethod
    def join(
        parts: Mapping[str, Checkpoint],
        *,
        timesteps: int,
        done: int,
        finished: bool = False,
        exact: bool = False,
    ) -> Checkpoint:
        """Join parts of a checkpoint under their names.

        Args:
            parts: parts by name.
            timesteps: number of control steps of the whole training, over all runs.
            done: number of control steps that the model has made, in all its trainings.
            finished: see the class.
            exact: see the class.
        """
        whole = {
            "timesteps": timesteps, "done": done, "finished": finished, "exact": exact
        }  # fmt: skip
        arrays = {
            f"{name}/{key}": array
            for name, part in parts.items()
            for key, array in part.arrays.items()
        }
        numbers = {name: part.numbers for name, part in parts.items()}
        return Checkpoint({**whole, **numbers}, arrays)


def pack(file: io.BytesIO, checkpoint: Checkpoint) -> bytes:
    """Add a checkpoint to a file.

    Args:
        file: file that Stable-Baselines3 has written, or an empty one.
        checkpoint: checkpoint to add.

    Returns:
        Content of the file.
    """
    with zipfile.ZipFile(file, "a") as archive:
        numbers = {"version": VERSION, **checkpoint.numbers}
        archive.writestr(NUMBERS, json.dumps(numbers))
        for name, array in checkpoint.arrays.items():
            member = archive.open(f"{ARRAYS}{name}.npy", "w", force_zip64=True)
            with member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return file.getvalue()


def read(path: Path) -> Checkpoint | None:
    """Read the checkpoint in a file.

    Args:
        path: ``model.zip`` of a training.

    Returns:
        The checkpoint; None if there is no file, or a model without a checkpoint, as from
        an earlier version.

    Raises:
        ValueError: the file is not a model, is damaged, or of a later version.
    """
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if NUMBERS not in archive.namelist():
                if "data" in archive.namelist():
                    return None
                # A truncated file can end with the directory of a member that is a ZIP file
                raise ValueError("it is no model, or damaged")
            numbers = parsed_json(archive.read(NUMBERS))
            if numbers["version"] > VERSION:
                raise ValueError("it was written by a later version of optenv")
            arrays = {}
            for name in archive.namelist():
                if name.startswith(ARRAYS):
                    member = io.BytesIO(archive.read(name))  # zipfile checks the CRC
                    array = np.lib.format.read_array(member, allow_pickle=False)
                    arrays[name.removeprefix(ARRAYS).removesuffix(".npy")] = array
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot go on with {str(path)!r}: {error}") from error
    return Checkpoint(numbers, arrays)
