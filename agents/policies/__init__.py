"""Policies that come with the package, by name: data, which :mod:`agents.policy` reads.

Each is the two files that ``agents.policy.files.save_policy`` writes. README.md beside this
file describes what each is for, and their descriptions hold the commands that made them.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["ANYTIME", "DEFAULT", "EARLIER", "SHIPPED"]

#: Policies that an optimizer runs unless it is given one: with a number of steps, and
#: without.
DEFAULT, ANYTIME = "default", "anytime"

_FOLDER = Path(__file__).parent

#: Paths of the shipped policies, without suffix, by name.
SHIPPED: dict[str, Path] = {
    path.stem: path.with_suffix("") for path in sorted(_FOLDER.glob("*.safetensors"))
}


def _earlier(path: Path) -> str:
    """Return the name of a policy in the folder of an earlier version, like ``v0_1``."""
    version = path.parent.name.removeprefix("v").replace("_", ".")
    return f"{path.stem}@{version}"


#: Paths of the policies of earlier versions that others have replaced, without suffix, by
#: name and version such as ``default@0.1``: for states that were saved with them.
EARLIER: dict[str, Path] = {
    _earlier(path): path.with_suffix("")
    for path in sorted(_FOLDER.glob("v*/*.safetensors"))
}
