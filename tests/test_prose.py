"""Docstrings are in the field's English: a verb or a noun phrase first, no riddles."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

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


@functools.cache
def docstrings() -> list[tuple[str, str, str]]:
    """Return file, name and docstring of all modules, classes and functions."""
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                name = getattr(node, "name", "the module")
                found.append((named(path), name, ast.get_docstring(node) or ""))
    return found


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    bad = [
        f"{path}, {name}: {text.splitlines()[0]}"
        for path, name, text in docstrings()
        if FIRST_WORDS.match(text)
    ]
    assert not bad, "\n".join(bad)


def test_docstrings_name_things_instead_of_describing_them() -> None:
    bad = [
        f"{path}, {name}: {found.group()}"
        for path, name, text in docstrings()
        if (found := RIDDLES.search(text))
    ]
    assert not bad, "\n".join(bad)


def test_every_module_says_what_it_holds() -> None:
    bad = [p for p, name, text in docstrings() if name == "the module" and not text]
    assert not bad, "\n".join(bad)
