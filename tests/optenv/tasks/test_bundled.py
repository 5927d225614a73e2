"""Files of scikit-learn are read as it reads them, without its import."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_sample_images,
    load_wine,
)

from optenv.tasks import bundled, data


def test_files_are_what_scikit_learn_reads() -> None:
    images, labels = bundled.read_digits()
    expected, classes = load_digits(return_X_y=True)
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(labels, classes)
    for name, load in (
        ("breast-cancer", load_breast_cancer),
        ("wine", load_wine),
        ("diabetes", partial(load_diabetes, scaled=False)),
    ):
        for part, theirs in zip(
            bundled.read_table(name), load(return_X_y=True), strict=True
        ):
            np.testing.assert_array_equal(part, theirs)
            assert part.dtype.kind == theirs.dtype.kind
    pictures = load_sample_images().images
    for picture, theirs in zip(bundled.read_photographs(), pictures, strict=True):
        np.testing.assert_array_equal(picture, theirs)


def test_scikit_learn_is_not_imported_for_its_files() -> None:
    # Without optenv itself, whose import of torch takes seconds.
    program = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('bundled', {bundled.__file__!r})\n"
        "bundled = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(bundled)\n"
        "bundled.read_digits(), bundled.read_photographs()\n"
        "[bundled.read_table(name) for name in ('breast-cancer', 'wine', 'diabetes')]\n"
        "print('sklearn' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.check_output(command, text=True).strip() == "False"


def test_missing_packages_and_files_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImportError, match=r"installed has no wine\.csv"):
        bundled._file("data", "wine.csv", "tasks on wine", "scikit-learn")
    monkeypatch.setattr(bundled, "find_spec", lambda name: None)
    monkeypatch.setattr(data, "load_digits", data.load_digits.__wrapped__)
    with pytest.raises(ImportError, match="digits need scikit-learn: pip install scikit-l"):
        data.load_digits("train")
    monkeypatch.setattr(data, "load_table", data.load_table.__wrapped__)
    for name in data.TABLES:
        with pytest.raises(ImportError, match=f"on {name} need scikit-learn: pip install"):
            data.load_table(name)
    with pytest.raises(ImportError, match=r"Pillow: pip install scikit-learn pillow$"):
        bundled.read_photographs()
