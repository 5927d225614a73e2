"""What messages say about installing an extra."""

from __future__ import annotations

import re
import tomllib

from optenv.extras import install_hint
from tests.helpers.paths import ROOT

FILES = [
    path
    for folder in ("agents", "optenv", "benchmarks", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def test_a_hint_names_a_checkout_and_the_extra() -> None:
    assert install_hint("render") == 'in a checkout of optenv: pip install ".[render]"'


def test_messages_name_extras_that_there_are() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [
        name
        for path in FILES
        for name in re.findall(r"install_hint\(['\"]([\w-]+)['\"]\)", path.read_text())
    ]
    assert len(named) >= 8 and {*named} <= {*project["optional-dependencies"]}


def test_no_message_has_the_extra_of_a_package_to_download() -> None:
    bad = [str(path) for path in FILES if re.search(r"\boptenv\[", path.read_text())]
    assert not bad
