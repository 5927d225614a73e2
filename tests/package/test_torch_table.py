"""The table of torch's own tests names tests that are there."""

from __future__ import annotations

import ast
import re

from tests.helpers.paths import ROOT

PAGE = ROOT / "docs" / "notes" / "torch-contract.md"
TESTS = ROOT / "tests" / "agents" / "optim"

#: Files by their short names in the table.
FILES = {
    "contract": "test_torch_contract.py",
    "state": "test_torch_contract_state.py",
    "device": "test_on_a_device.py",
}


def functions_of(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {node.name for node in functions if node.name.startswith("test_")}


def names_in(text: str) -> set[str]:
    return set(re.findall(r"`(test_\w+)`", text))


def test_each_row_of_the_table_names_tests_that_are_there() -> None:
    covered, without = PAGE.read_text().split("Tests that do not apply:")
    rows = [
        row.split("|")[1:-1] for row in covered.splitlines() if row.startswith("| `test_")
    ]
    assert len(rows) > 25
    named: dict[str, set[str]] = {short: set() for short in FILES}
    for theirs, here, short in rows:
        assert names_in(theirs), theirs
        named[short.strip()] |= names_in(here)
    everywhere = set().union(*map(functions_of, FILES.values()))
    for short, names in named.items():
        assert names and names <= everywhere, names - everywhere
        if short != "device":
            assert functions_of(FILES[short]) - set().union(*named.values()) == set()
    mentioned = re.findall(r"`(test_\w+\.py)`", covered + without)
    assert all((TESTS / file).exists() for file in mentioned)
