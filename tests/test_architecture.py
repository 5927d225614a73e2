"""The import graph has no cycles, stays small, and keeps to the contracts."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

MAX_ROOMS, MAX_LAYERS, MAX_EDGES = 14, 8, 45

FILES = sorted(
    path.relative_to(ROOT)
    for pattern in ("optenv/**/*.py", "agents/**/*.py", "benchmarks/*.py", "*.py")
    for path in ROOT.glob(pattern)
)
#: Files by the name under which they are imported.
MODULES = {
    ".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in FILES
}


def imported_names(path: Path) -> Iterator[str]:
    """Yield the absolute dotted name of everything that a file imports."""
    package = path.parent.parts
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = [*base, *filter(None, [node.module])]
            yield from (".".join([*module, alias.name]) for alias in node.names)


def defining_file(name: str) -> Path | None:
    """Return the file of the innermost module of a dotted name, if it is ours."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return MODULES.get(name)


def room(path: Path) -> str:
    """Return the node of a file: a folder or a flat file of agents, or the top folder."""
    return "/".join(path.parts[:2] if path.parts[0] == "agents" else path.parts[:1])


@functools.cache
def file_imports() -> dict[Path, set[Path]]:
    """Return for each file the files that it imports."""
    return {
        path: {file for file in map(defining_file, imported_names(path)) if file} - {path}
        for path in FILES
    }


@functools.cache
def room_imports() -> dict[str, set[str]]:
    """Return for each room the other rooms that it imports."""
    found: dict[str, set[str]] = {room(path): set() for path in FILES}
    for importer, imported in file_imports().items():
        found[room(importer)] |= {room(file) for file in imported} - {room(importer)}
    return found


def layers(graph):
    """Return lists of nodes that import only nodes of the lists before.

    Raises:
        CycleError: nodes import each other.
    """
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    found = []
    while sorter.is_active():
        found.append(sorter.get_ready())
        sorter.done(*found[-1])
    return found


@pytest.mark.parametrize("graph", [file_imports, room_imports], ids=["files", "rooms"])
def test_no_modules_import_each_other(graph):
    assert layers(graph())


def test_rooms_layers_and_edges_stay_few():
    graph = room_imports()
    assert len(graph) <= MAX_ROOMS, sorted(graph)
    assert len(layers(graph)) <= MAX_LAYERS, layers(graph)
    assert sum(map(len, graph.values())) <= MAX_EDGES, graph


def test_the_import_contracts_are_kept():
    lint_imports = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [lint_imports, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
