"""Atomic writes leave the old file or the new one, and nothing beside it."""

from __future__ import annotations

import os

import pytest

from optenv import atomic


def test_a_file_is_written_and_replaced(tmp_path):
    atomic.write_bytes(tmp_path / "file", b"old")
    atomic.write_text(str(tmp_path / "file"), "neu: ä")
    assert (tmp_path / "file").read_bytes() == "neu: ä".encode()
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch, step):
    def fail(*_):
        raise OSError("disk full")

    atomic.write_text(tmp_path / "file", "old")
    monkeypatch.setattr(atomic.os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        atomic.write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_replaced_file_keeps_its_permissions(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o640)
    atomic.write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_symbolic_link_keeps_its_target(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    atomic.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"
