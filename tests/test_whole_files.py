"""Files of the project are written beside their place and renamed, none directly."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.helpers.paths import ROOT

CHECKED = (
    "*.py", "agents/**/*.py", "benchmarks/**/*.py", "docs/**/*.py", "examples/*.py",
    "optenv/**/*.py",
)  # fmt: skip

#: The module that writes whole files, for all others.
ATOMIC = "optenv/atomic.py"

#: Direct writes by file, and why a process that dies there spoils nothing.
STATED = {
    "agents/evaluation/runs/store.py": "rows are appended; half a row is cut off",
    "benchmarks/dacbench_case.py": "a temporary folder",
    "benchmarks/kills.py": "the output of a process is appended as it comes",
    "benchmarks/kills_of_files.py": "the output of a process is appended as it comes",
    "benchmarks/throughput.py": "a file of /proc",
}

#: Methods and functions that write a file, whose first argument is its path.
WRITERS = {"imsave", "savefig", "savetxt", "savez", "savez_compressed", "to_csv"}

#: Modules whose ``open`` takes a path; that of a path does not.
OPENING = {"bz2", "codecs", "gzip", "io", "lzma"}

#: Names of what is written to: a path of ``replacing``, and a file in memory.
BESIDE = {"part", "file"}


def direct_writes(source: str) -> list[str]:
    """Return the calls that write to a path which ``replacing`` has not given."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        f"line {call.lineno}: {ast.unparse(call)}"
        for call in calls
        for target in targets(call)
        if not (isinstance(target, ast.Name) and target.id in BESIDE)
    ]


def targets(call: ast.Call) -> Iterator[ast.expr | None]:
    """Yield what a call writes to, if it writes."""
    function, first = call.func, call.args[0] if call.args else None
    if isinstance(function, ast.Attribute):
        name, of = function.attr, function.value
        module = of.id if isinstance(of, ast.Name) else None
        if name in ("write_text", "write_bytes"):
            yield of
        elif name in WRITERS or (name == "save" and module in ("np", "numpy")):
            yield first
        elif name == "save" and module == "torch":
            yield call.args[1] if len(call.args) > 1 else None
        elif name == "open" and module not in (*OPENING, "os") and writes(call, 0):
            yield of
        elif name in ("open", "ZipFile") and module in (*OPENING, "zipfile"):
            if writes(call, 1):
                yield first
    elif isinstance(function, ast.Name) and function.id in ("open", "ZipFile"):
        if writes(call, 1):
            yield first


def writes(call: ast.Call, place: int) -> bool:
    """Return whether the mode of a call that opens a file lets it write."""
    modes = [word.value for word in call.keywords if word.arg == "mode"]
    mode = [*call.args[place : place + 1], *modes]
    value = mode[0].value if mode and isinstance(mode[0], ast.Constant) else "r"
    return isinstance(value, str) and bool(set(value) & set("wax+"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("path.write_text('a')", 1),
        ("(folder / 'a').write_bytes(b'a')", 1),
        ("open(path, 'w')", 1),
        ("open(path, mode='ab')", 1),
        ("path.open('r+b')", 1),
        ("lzma.open(path, 'wt')", 1),
        ("zipfile.ZipFile(path, 'w')", 1),
        ("figure.savefig(path)", 1),
        ("torch.save(state, path)", 1),
        ("figure.savefig(part)", 0),
        ("open(part, 'w')", 0),
        ("write_text(path, 'a')", 0),
        ("open(path)", 0),
        ("path.open('rb')", 0),
        ("os.open(folder, os.O_RDONLY)", 0),
        ("zipfile.ZipFile(path)", 0),
        ("model.save(folder / 'policy')", 0),
    ],
)
def test_a_direct_write_is_found(source: str, expected: int) -> None:
    assert len(direct_writes(source)) == expected


def test_files_are_written_as_a_whole_or_not_at_all() -> None:
    paths = [path for pattern in CHECKED for path in ROOT.glob(pattern)]
    names = [path.relative_to(ROOT).as_posix() for path in paths]
    found = {name: direct_writes((ROOT / name).read_text()) for name in names}
    named = [name for name in found if name not in (ATOMIC, *STATED)]
    shown = [f"{name}, {each}" for name in named for each in found[name]]
    assert not shown, "write through optenv.atomic:\n" + "\n".join(shown)
    assert all(found[name] for name in STATED)
