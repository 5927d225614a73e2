"""Draw a policy's behaviour over recorded runs: ``python -m optenv.report --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..atomic import write_text
from ..extras import install_hint
from .figure import draw
from .runs import GROUPINGS, Recording, load
from .tables import markdown

DESCRIPTION = """Draw the behaviour of policies over recorded runs, and print their returns.

The picture shows the return of each instance with its 95 % interval, the learning rate and
the action over the control steps of a run, and the time of a control step."""

EPILOG = """examples:
  python -m optenv.report steps.parquet
  python -m optenv.report ppo.parquet constant.parquet --by family --out comparison
"""


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m optenv.report",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "files", nargs="+", metavar="FILE", help="recordings of optenv.recording"
    )
    made.add_argument(
        "--by", choices=GROUPINGS, default="instance",
        help="group the runs by this (default instance; family for runs without one)",
    )  # fmt: skip
    made.add_argument(
        "--out", default="report", metavar="PATH",
        help="write PATH.png and PATH.md (default report)",
    )  # fmt: skip
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    given = parser().parse_args(arguments)
    try:
        recordings = _distinct([load(path, given.by) for path in given.files], given.files)
        text = markdown(recordings)
        out = Path(given.out)
        picture, table = (out.with_name(out.name + end) for end in (".png", ".md"))
        draw(recordings, picture)
        write_text(table, text)
    except ImportError as error:
        hint, message = install_hint("record"), str(error)
        said = message if hint in message else f"{message}; {hint}"
        print(f"error: {said}", file=sys.stderr)
        return 2
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    cut = sum(each.incomplete for each in recordings)
    if cut:
        print(f"{cut} runs were cut before their ends, and have no return")
    print(f"wrote {picture} and {table}")
    return 0


def _distinct(recordings: list[Recording], files: Sequence[str]) -> list[Recording]:
    """Add the file's name to labels that several recordings share."""
    labels = [each.label for each in recordings]
    return [
        replace(each, label=f"{each.label} ({file})") if labels.count(each.label) > 1
        else each
        for each, file in zip(recordings, files, strict=True)
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
