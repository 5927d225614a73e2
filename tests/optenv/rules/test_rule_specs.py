"""Specifications of rules: a name, or a dict with hyperparameters."""

from __future__ import annotations

from typing import Any

import pytest

from optenv import rules


def test_default_hyperparameters_are_left_out_of_a_specification() -> None:
    assert rules.get({"name": "adam", "beta1": 0.9}).to_spec() == "adam"
    assert rules.get({"name": "lion", "beta2": 0.99}).to_spec() == "lion"
    assert [rules.get(name).to_spec() for name in rules.RULES] == list(rules.RULES)


@pytest.mark.parametrize(
    ("spec", "error", "match"),
    [
        (
            {"name": "adam", "beta1": 1.0},
            ValueError,
            r"beta1 must lie in \[0, 1\), got 1.0",
        ),
        ({"name": "adam", "beta2": -0.1}, ValueError, r"beta2 must lie in .* got -0.1"),
        ({"name": "adam", "eps": 0}, ValueError, "eps must be positive and finite, got 0"),
        ({"name": "adam", "power": 0.8}, TypeError, "'adam' has no hyperparameter 'power'"),
        (
            {"name": "orthogonal-adam", "power": 1},
            ValueError,
            r"power must lie in \[0, 1\), got 1",
        ),
        (
            {"name": "nadam", "momentum_decay": -0.1},
            ValueError,
            "momentum_decay must be at least 0 and finite, got -0.1",
        ),
        ({"name": "nadam", "momentum_decay": float("inf")}, ValueError, "finite, got inf"),
        ({"name": "adam", "momentum_decay": 0.1}, TypeError, "'momentum_decay'; valid: b"),
        ({"name": "lion", "eps": 1e-8}, TypeError, "'eps'; valid: beta1, beta2"),
        ({"name": "adam", "beta1": "0.8"}, TypeError, "beta1 must be a number, got '0.8'"),
        ({"name": "adam", "beta": 0.8}, TypeError, "'beta'; valid: beta1, beta2, eps"),
        ({"name": "sgd", "momentum": 0.8}, TypeError, "'momentum'; valid: none"),
        ({"beta1": 0.8}, ValueError, "unknown rule None; valid rules: sgd"),
    ],
)
def test_a_wrong_specification_is_refused(
    spec: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        rules.get(spec)


@pytest.mark.parametrize("name", ["adamw", "", "Adam", None])
def test_an_unknown_rule_is_refused_with_the_valid_names(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown rule {name!r}") as error:
        rules.get(name)
    for valid in rules.RULES:
        assert valid in str(error.value)
