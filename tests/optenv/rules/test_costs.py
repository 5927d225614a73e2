"""Costs of update rules."""

from __future__ import annotations

import pytest

from optenv import rules


def test_every_rule_of_the_package_has_a_cost() -> None:
    assert set(rules.COSTS) == set(rules.RULES)
    assert set(rules.switching.NAMES) <= set(rules.COSTS)


def test_costs_are_relative_to_sgd_and_fade_beside_long_gradients() -> None:
    assert rules.relative_cost("sgd", 100, 3200) == 1.0
    for name in {*rules.RULES} - {"sgd"}:
        short, long = (rules.relative_cost(name, 100, work) for work in (100, 1e7))
        assert short > long > 1.0
        assert long == pytest.approx(1.0, abs=0.01)


def test_unknown_and_impossible_costs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'mine' is not known.*COSTS\['mine'\] = "):
        rules.relative_cost("mine", 100, 100)
    monkeypatch.setitem(rules.COSTS, "mine", -1.0)
    with pytest.raises(ValueError, match=r"cost of rule 'mine' must be positive.*-1\.0"):
        rules.relative_cost("mine", 100, 100)
