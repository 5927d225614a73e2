"""Data files that come with scikit-learn, read without importing it.

Importing it takes a second or more, reading the files a few hundredths of a second.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

__all__ = ["read_digits", "read_photographs", "read_table"]


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Read the handwritten digits.

    Returns:
        Images ``[1797, 64]`` float64 with values from 0 to 16, and labels ``[1797]`` int64.

    Raises:
        ImportError: scikit-learn is not installed, or has no such file.
    """
    path = _file("data", "digits.csv.gz", "tasks on digits", "scikit-learn")
    table = np.loadtxt(path, delimiter=",")
    return table[:, :-1], table[:, -1].astype(np.int64)


def read_table(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a table.

    Args:
        name: ``"breast-cancer"``, ``"wine"`` or ``"diabetes"``.

    Returns:
        Inputs ``[n, d]`` float64, and targets ``[n]``: classes int64, or float64 for
        ``"diabetes"``.

    Raises:
        ImportError: scikit-learn is not installed, or has no such file.
    """
    about = f"tasks on {name}", "scikit-learn"
    if name == "diabetes":
        inputs, targets = (
            np.loadtxt(_file("data", f"diabetes_{part}.csv.gz", *about))
            for part in ("data_raw", "target")
        )
        return inputs, targets
    file = {"breast-cancer": "breast_cancer.csv", "wine": "wine_data.csv"}[name]
    table = np.loadtxt(_file("data", file, *about), delimiter=",", skiprows=1)
    return table[:, :-1], table[:, -1].astype(np.int64)


def read_photographs() -> list[np.ndarray]:
    """Read the two photographs, in the order of their names.

    Returns:
        Images ``[427, 640, 3]`` uint8.

    Raises:
        ImportError: scikit-learn or Pillow is not installed, or there is no such file.
    """
    about = "tasks on photographs", "scikit-learn and Pillow"
    paths = [_file("images", name, *about) for name in ("china.jpg", "flower.jpg")]
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(_missing(*about)) from error
    images = []
    for path in paths:
        with Image.open(path) as image:
            images.append(np.asarray(image))
    return images


def _file(folder: str, name: str, what: str, needed: str) -> Path:
    """Return the path of a file of the data sets of scikit-learn.

    Args:
        folder, name: folder and name of the file.
        what, needed: tasks that need the file, and packages to install, for the message.

    Raises:
        ImportError: there is no such file.
    """
    spec = find_spec("sklearn")  # finds the package, and does not import it
    for place in (spec and spec.submodule_search_locations) or ():
        path = Path(place, "datasets", folder, name)
        if path.exists():
            return path
    found = "" if spec is None else f"; the one that is installed has no {name}"
    raise ImportError(_missing(what, needed) + found)


def _missing(what: str, needed: str) -> str:
    packages = needed.lower().replace(" and", "")
    return f"{what} need {needed}: pip install {packages}"
