"""Atomic writes leave the old file or the new one, and nothing beside it."""

from __future__ import annotations

import errno
import os

import pytest

from optenv import atomic
from tests.helpers.damage import full_at


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


def test_bytes_are_appended_wholly_or_not_at_all(tmp_path):
    file = tmp_path / "file"
    atomic.append_bytes(file, b"one\n")
    with full_at(10), pytest.raises(OSError, match="too large") as caught:
        atomic.append_bytes(file, b"two, and more\n")
    assert caught.value.filename == str(file) and atomic.is_full(caught.value)
    assert file.read_bytes() == b"one\n"
    atomic.append_bytes(file, b"two\n")
    assert file.read_bytes() == b"one\ntwo\n" and os.listdir(tmp_path) == ["file"]


def test_a_file_that_outgrows_the_disk_leaves_the_old_one(tmp_path):
    file = tmp_path / "file"
    atomic.write_bytes(file, b"old")
    with full_at(1000), pytest.raises(OSError, match="too large") as caught:
        atomic.write_bytes(file, bytes(2000))
    assert caught.value.filename == str(file) and atomic.is_full(caught.value)
    assert file.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EFBIG"])
def test_a_full_disk_a_quota_and_a_limit_count_as_full(name):
    assert atomic.is_full(OSError(getattr(errno, name), "no space"))
    assert not atomic.is_full(OSError(errno.EACCES, "not allowed"))
