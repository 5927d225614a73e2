"""Standard sets of instances are those of their version."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from optenv import instances, tasks
from optenv.instances import pins
from optenv.instances.__main__ import main

#: Hash of the table of each version. The sets of a table are never changed: what changes
#: one gets a new STANDARD_VERSION, the table of ``python -m optenv.instances check
#: --write``, and a line here. Sets of further splits or families are added to the table.
TABLES = {1: "f07580d9a25cb3e2756ebaa2e6f9e8e38ddf1f0feffb3d6db40ece37c9a22034"}

NAMES = [f"{name}/{split}" for name, splits in tasks.families().items() for split in splits]


def test_a_table_belongs_to_one_version() -> None:
    found = hashlib.sha256(pins.TABLE.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
    assert found == TABLES[instances.STANDARD_VERSION]
    assert instances.STANDARD_VERSION == max(TABLES)
    assert list(pins.pinned()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_standard_set_is_that_of_its_version(name: str) -> None:
    assert pins.changed(name) == ""


def test_another_structure_seed_or_example_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, given = "logistic/train", instances.make("logistic/train")
    assert pins.digest(given) != pins.digest([*given][:-1])
    assert pins.digest(given[:1]) != pins.digest([replace(given[0], seed=5)])
    table = {name: pins.pinned()[name]}
    monkeypatch.setattr(pins, "pinned", lambda: table)
    assert main(["check"]) == 0
    original = tasks.MLP.sample

    def other(task: tasks.MLP, generators: Any) -> Any:  # one example differs
        data = original(task, generators)
        data.inputs[3, 0] += 1.0
        return data

    monkeypatch.setattr(tasks.MLP, "sample", other)
    assert pins.changed(name) == "examples of logistic/train have changed"
    monkeypatch.undo()
    table[name] = {**table[name], "digest": "0" * 16}
    monkeypatch.setattr(pins, "pinned", lambda: table)
    assert main(["check"]) == 1
    assert "structures or seeds of logistic/train have changed" in capsys.readouterr().out


def test_a_table_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "STANDARD_VERSION", 99)
    with pytest.raises(ValueError, match=r"of version 1 of the standard sets.* version 99"):
        pins.pinned()
