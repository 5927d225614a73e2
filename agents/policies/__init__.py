"""Policies that come with the package, by name: data, which :mod:`agents.policy` reads.

Each is the two files that ``agents.policy.files.save_policy`` writes. README.md beside this
file describes what each is for, and their descriptions hold the commands that made them.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["ANYTIME", "DEFAULT", "SHIPPED"]

#: Policies that an optimizer runs unless it is given one: with a number of steps, and
#: without.
DEFAULT, ANYTIME = "default", "anytime"

#: Paths of the shipped policies, without suffix, by name.
SHIPPED: dict[str, Path] = {
    path.stem: path.with_suffix("")
    for path in sorted(Path(__file__).parent.glob("*.safetensors"))
}
