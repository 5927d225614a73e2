"""Docstrings are in the field's English: a verb or a noun phrase first, no riddles."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

FOLDERS = ("agents", "optenv", "benchmarks", "examples", "docs")
FILES = [ROOT / "train_agent.py"] + [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "_build" not in path.parts
]

#: First words that announce a riddle where a verb or a noun of the field exists.
FIRST_WORDS = re.compile(
    r"(What|Whatever|Whether|That|Those|These|This|Where|Wherever|How|When|Which|Who|Whose"
    r"|If|Of|The same|It|They)\b"
)

#: Circumlocutions for a noun.
RIDDLES = re.compile(
    r"\bwhat (is|are|was|were) \w+( \w+)? of\b|\bwhat waits\b|\bthat there (is|are)\b"
    r"|\bas it has it\b|\bwhat it says\b|\bis told of\b",
    re.IGNORECASE,
)


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and docstring of a module, and of its classes and functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "name", path.name), text


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=named)
def test_docstrings_begin_with_a_verb_or_a_noun(path: Path) -> None:
    bad = [f"{name}: {text.splitlines()[0]}" for name, text in docstrings(path)]
    bad = [line for line in bad if FIRST_WORDS.match(line.split(": ", 1)[1])]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("path", FILES, ids=named)
def test_docstrings_name_things_instead_of_describing_them(path: Path) -> None:
    bad = [f"{name}: {found.group()}" for name, text in docstrings(path)
           if (found := RIDDLES.search(text))]  # fmt: skip
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_module_says_what_it_holds(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
