"""List, print and write sets of instances: ``python -m optenv.instances --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from .. import tasks
from . import pins
from .sets import STANDARD_COUNT, InstanceSet, make

DESCRIPTION = (
    """List the standard sets of instances, print a set, or write one to a file."""
)

EPILOG = """examples:
  python -m optenv.instances list
  python -m optenv.instances show cnn/test --count 5
  python -m optenv.instances write cnn/train cnn.jsonl --count 20 --base-lr 1e-4 1e-2
  python -m optenv.instances show cnn.jsonl
  python -m optenv.instances check
"""


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m optenv.instances",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list families and splits")
    check = commands.add_parser(
        "check", help="compare the standard sets with their digests in the package"
    )
    check.add_argument("--write", action="store_true", help="write new digests instead")
    show = commands.add_parser("show", help="print a set as a table")
    write = commands.add_parser("write", help="write a set to a file of JSON lines")
    for command in (show, write):
        command.add_argument(
            "set", help="family and split ('cnn/test'), or a file that ends in .jsonl"
        )
    write.add_argument("file", help="path of the new file, which should end in .jsonl")
    for command in (show, write):
        command.add_argument(
            "--count", type=int, help=f"instances of each family (default {STANDARD_COUNT})"
        )
        command.add_argument("--seed", type=int, default=0, help="of the set (default 0)")
        command.add_argument(
            "--base-lr", type=float, nargs="+", help="base learning rate, or two of a range"
        )
        command.add_argument(
            "--updates", type=int, nargs="+", help="length of the runs, or two of a range"
        )
        command.add_argument(
            "--reparametrize", type=float, help="spread of factors of parameter tensors"
        )
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    given = parser().parse_args(arguments)
    if given.command == "list":
        print(_families())
        return 0
    if given.command == "check":
        return _check(given.write)
    try:
        instances = _chosen(given)
        if given.command == "write":
            instances.save(given.file)
            print(f"wrote {len(instances)} instances to {given.file}")
        else:
            print(instances)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _families() -> str:
    """Return a line for each family, with its splits."""
    names = tasks.families()
    width = max(map(len, names))
    return "\n".join(
        f"{name.ljust(width)}  " + "  ".join(f"{name}/{split}" for split in splits)
        for name, splits in names.items()
    )


def _check(write: bool) -> int:
    """Compare the standard sets with their digests, or write new ones; return a status."""
    if write:
        pins.write()
        print(f"wrote the digests of version {pins.STANDARD_VERSION} to {pins.TABLE}")
        return 0
    messages = [*filter(None, map(pins.changed, pins.pinned()))]
    print("\n".join(messages) or f"all sets are those of version {pins.STANDARD_VERSION}")
    return 1 if messages else 0


def _chosen(given: argparse.Namespace) -> InstanceSet:
    """Return the set that a command refers to."""
    if given.set.endswith(".jsonl"):
        loaded = make(given.set)
        return loaded if given.count is None else loaded[: given.count]
    ranges: dict[str, Any] = {}
    for name in ("base_lr", "updates"):
        values = getattr(given, name)
        if values is not None:
            ranges[name] = values[0] if len(values) == 1 else tuple(values)
    return InstanceSet.sample(
        given.set,
        STANDARD_COUNT if given.count is None else given.count,
        seed=given.seed,
        reparametrize=given.reparametrize,
        **ranges,
    )


if __name__ == "__main__":
    sys.exit(main())
