"""Passages come from the files of their split, and from no other place."""

from __future__ import annotations

import itertools
import os
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.evaluation.tasks import text as benchmark
from optenv.tasks import RNN, text
from tests.helpers.small_runs import generators


def test_no_file_is_in_two_splits_or_in_the_benchmark() -> None:
    taken = [
        *text.FILES.values(),
        (*benchmark.TRAIN_FILES, *benchmark.VALIDATION_FILES, *benchmark.MODULES),
    ]
    for one, other in itertools.combinations(map(set, taken), 2):
        assert not one & other


def test_every_file_is_there_and_of_some_length() -> None:
    folder = Path(sysconfig.get_path("stdlib"))
    for split, names in text.FILES.items():
        assert all((folder / name).is_file() for name in names)
        codes, border = text.of_split(split)
        assert 2**18 < border < len(codes) and (codes < text.CHARACTERS).all()
        assert border == pytest.approx(0.9 * len(codes), rel=1e-3)


def test_codes_are_printable_characters_newlines_and_blanks() -> None:
    codes = text.encode(b"A~ \n\t\xc3")
    assert codes.tolist() == [33, 94, 0, 95, 0, 0]


@pytest.fixture
def counted(tmp_path: Path) -> Path:
    """Return a file whose characters are all different from their neighbours."""
    path = tmp_path / "counted.txt"
    path.write_bytes(bytes(32 + i % 95 for i in range(1000)))
    return path


def test_targets_are_the_characters_after_and_validation_is_the_end(counted: Path) -> None:
    task = RNN(path=str(counted), length=7, num_train=500, num_validation=200)
    data = task.sample(generators(3))
    whole = text.encode(counted.read_bytes())
    for (inputs, targets), begin, end in (
        (data.train(500), 0, 900),
        (data.validation(), 900, 1000),
    ):
        assert inputs.shape[2:] == targets.shape[2:] == (7,)
        assert torch.equal(inputs[..., 1:], targets[..., :-1])
        assert torch.equal((inputs[..., -1] + 1) % 95, targets[..., -1])
        expected = {whole[i : i + 7].tobytes() for i in range(begin, end - 7)}
        assert {row.numpy().tobytes() for row in inputs.flatten(0, 1)} <= expected


def test_runs_draw_their_own_passages_of_one_text() -> None:
    task = RNN(num_train=64, num_validation=8)
    data = task.sample(generators(3))
    assert data.shared and len(data.rows.unique(dim=0)) == 3
    size = data.inputs.untyped_storage().nbytes()
    assert size == 8 * len(text.of_split("train")[0]), "passages are views of the text"


def test_a_file_that_has_changed_is_read_again(counted: Path) -> None:
    before, _ = text.of_file(str(counted))
    assert text.of_file(str(counted))[0] is before
    counted.write_bytes(b"x" * 1000)
    os.utime(counted, ns=(1, 1))
    assert (text.of_file(str(counted))[0] == text.encode(b"x")[0]).all()


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"path": "nowhere.txt"}, FileNotFoundError, "no text file 'nowhere.txt'"),
        ({"length": 100}, ValueError, r"too short: its first 900 .* 100 .*length \(100\)"),
        ({"split": "test"}, ValueError, "split='test' chooses files.*leave it out"),
        ({"split": "validation"}, ValueError, "'validation'; valid: train, test, ood"),
        ({"length": 0}, ValueError, "length must be a positive integer, got 0"),
        ({"width": 1.5}, ValueError, "width must be a positive integer, got 1.5"),
    ],
)
def test_texts_that_do_not_fit_are_refused(
    counted: Path, arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        RNN(**{"path": str(counted), **arguments})


def test_a_missing_file_of_the_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: "/nowhere")
    with pytest.raises(FileNotFoundError, match=r"absent\.py is missing.*own source"):
        text.source("absent.py")


def test_the_same_file_gives_the_same_codes_as_to_the_benchmark() -> None:
    assert benchmark.source is text.source
    assert np.array_equal(text.source("csv.py"), text.encode(
        Path(sysconfig.get_path("stdlib"), "csv.py").read_bytes()
    ))  # fmt: skip
