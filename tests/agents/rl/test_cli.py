"""Arguments on the command line become values."""

from __future__ import annotations

from typing import Any

import pytest

from agents.rl.cli import parse_assignments
from optenv.settings import Settings


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("false", False), ("True", True), ("None", None), ("3", 3),
        ("1,4", (1, 4)), ("0.5", 0.5), ("digits", "digits"), ("True story", "True story"),
    ],
)  # fmt: skip
def test_values_are_python_literals_or_strings(text: str, value: Any) -> None:
    (parsed,) = parse_assignments(None, None, (f"name={text}",)).values()
    assert parsed == value and type(parsed) is type(value)


def test_validation_losses_are_asked_for_on_the_command_line() -> None:
    given = ("observe_validation=true", "validation_every=1,4", "validation_dropout=0.2")
    settings = Settings(**parse_assignments(None, None, given))
    assert settings.observe_validation and settings.validation_every == (1, 4)
