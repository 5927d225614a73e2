"""The comparison of policies and settings of the rule on the selection tasks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import selection
from selection import RuleSetting

from agents.evaluation.tasks.selection import SELECTION
from agents.rl.presets import RULE

TASK = replace(SELECTION[0], updates=30)


def test_schedules_rise_stay_and_fall_to_zero() -> None:
    setting = RuleSetting(1e-2, constant=0.5, power=2.0, rise=0.2)
    found = [setting.schedule(t) for t in (0.0, 0.1, 0.2, 0.5, 0.75, 1.0)]
    assert found == pytest.approx([0.0, 0.5, 1.0, 1.0, 0.25, 0.0])
    assert RuleSetting(1e-2).schedule(0.25) == pytest.approx(0.75)


def test_arguments_are_settings_or_policies() -> None:
    setting = selection.read_arm("lr=1e-2,output=0.3,beta1=0.8")
    assert setting == RuleSetting(1e-2, output=0.3, beta1=0.8)
    assert setting.rule() == RULE | {"beta1": 0.8}
    assert selection.read_arm("power_of_beta2=0.5").rule() == RULE | {"power": 0.5}
    assert selection.path_and_rate("adam") == ("adam", None)
    assert selection.path_and_rate("adam@2e-2") == ("adam", 2e-2)
    assert selection.path_and_rate("adam@0.1") == ("adam@0.1", None)  # that of version 0.1
    assert selection.path_and_rate("adam@0.1@2e-2") == ("adam@0.1", 2e-2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate=1", "unknown setting 'rate'; valid: lr, constant"),
        ("lr=fast", "lr must be a number, got 'fast'"),
        ("constant=1", r"constant must be in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_arguments_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selection.read_arm(text)


def test_each_setting_changes_a_run() -> None:
    def final(text: str) -> float:
        return selection.read_arm(f"lr=1e-2,{text}")(TASK, 0)[1]

    plain = selection.read_arm("lr=1e-2")(TASK, 0)
    assert plain[1] < plain[0]
    texts = [
        "constant=0.5", "power=2", "rise=0.3", "matrices=0.3", "output=0.3", "vectors=0.3",
        "weight_decay=1", "average=0.5", "beta1=0.5", "beta2=0.5,power_of_beta2=0",
    ]  # fmt: skip
    finals = {text: final(text) for text in texts}
    assert len({plain[1], *finals.values()}) == 1 + len(texts), finals


def test_a_policy_trains_at_its_own_rate_or_another() -> None:
    finals = [selection.read_arm(text)(TASK, 0) for text in ("adam", "adam@3e-2")]
    assert finals[0][0] == finals[1][0] > max(finals[0][1], finals[1][1])
    assert finals[0][1] != finals[1][1]


def test_differences_are_to_the_first_arm_in_percent_of_its_way() -> None:
    ends = {"first": (2.0, 1.0), "second": (2.0, 1.5)}
    arms = {name: lambda task, seed, ends=each: ends for name, each in ends.items()}
    found = selection.compare(arms, [TASK], seeds=2)
    assert found == {"first": {TASK.name: 0.0}, "second": {TASK.name: 50.0}}
    assert "| second | +50.00 | +50.00 |" in selection.table(found)
