"""The policies that come with the package, by name.

Each is the two files that ``agents.policy.files.save_policy`` writes. README.md beside this
file says what each is for; their descriptions say which commands made them.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["ANYTIME", "DEFAULT", "SHIPPED"]

#: What an optimizer runs on unless it is given a policy: with a number of steps, or
#: without.
DEFAULT, ANYTIME = "default", "anytime"

#: Paths of the policies, without suffix, by name.
SHIPPED: dict[str, Path] = {
    path.stem: path.with_suffix("")
    for path in sorted(Path(__file__).parent.glob("*.safetensors"))
}
