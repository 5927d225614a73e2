"""Continual learners beat online SGD by margins that a broken one would miss.

One or two minutes of CPU time; ``benchmarks/continual.py`` prints the whole tables.
"""

from __future__ import annotations

import continual
import numpy as np
import pytest
from continual_learners import (
    CONFIGURATIONS,
    SETTINGS,
    Contender,
    beforehand,
    follow_streams,
    from_scratch,
    sample_streams,
    search,
)

from agents.evaluation.stats.intervals import interval
from agents.meta.continual.online import Retention

#: Configurations near the best of the searches on digits, with as many glances for all.
DIGITS = {
    "online SGD": {"lr": 0.3, "glances": 5},
    "replay": {"lr": 0.3, "glances": 5},
    "La-MAML": {"lr": 0.3, "rate_lr": 2.0, "glances": 5},
}


class ConstantScore:
    """Stand-in for a learner, with the same score on every task."""

    def __init__(self, score):
        self.score = score

    def follow(self, stream):
        return Retention(np.full((2, 2), self.score))


@pytest.mark.parametrize("kind", SETTINGS)
def test_all_learners_are_tuned_over_the_same_number_of_configurations(kind):
    made = [from_scratch(name, SETTINGS[kind]) for name in continual.SCRATCH]
    made += [beforehand(name, SETTINGS[kind], 1, 0) for name in ("pretrained", "OML")]
    assert {len(contender.grid) for contender in made} == {CONFIGURATIONS}


def test_search_finds_the_best_and_ignores_divergence():
    grid = [{"score": score} for score in (0.2, np.nan, 0.7, 0.4)]
    contender = Contender(lambda number, score: ConstantScore(score), grid)
    assert search(contender, [None] * 3, 0) == {"score": 0.7}
    sines = SETTINGS["sines"]
    learner = from_scratch("online SGD", sines)._replace(grid=[{"lr": 1e6}, {"lr": 0.01}])
    assert search(learner, sample_streams(sines.stream, 1, 0), 0) == {"lr": 0.01}


def test_table_has_paired_differences_to_the_best_baseline():
    def result(*scores):
        return continual.Result({"lr": 0.1}, np.array(scores), np.zeros(3), 0.5)

    results = {
        "online SGD": result(0.1, 0.2, 0.3),
        "replay": result(0.5, 0.6, 0.7),
        "OML": result(0.6, 0.7, 0.8),
    }
    head, _, sgd, replay, ours = continual.table(results, True).splitlines()
    assert "| accuracy | less replay |" in head
    assert "| 0.600 ±0.248 |  |" in replay
    assert "| +0.100 ±0.000 |" in ours and "| -0.400 ±0.000 |" in sgd
    errors = {name: each._replace(scores=-each.scores) for name, each in results.items()}
    head, _, sgd, *_ = continual.table(errors, False).splitlines()
    assert "| squared error | less online SGD |" in head and "| 0.200 ±" in sgd


def scores(contender, config, setting, count):
    """Return average and forgetting, each ``[count]``, on streams of the test split."""
    streams = sample_streams(setting.stream, count, 7)
    found = follow_streams(contender, config, streams, 0)
    return np.array([(each.average, each.forgetting) for each in found]).T


@pytest.mark.slow
@pytest.mark.training
@pytest.mark.parametrize("kind", ["rotated", "permuted"])
def test_replay_and_la_maml_score_higher_and_forget_less_than_sgd(kind):
    setting = SETTINGS[kind]
    found = {
        name: scores(from_scratch(name, setting), config, setting, 16)
        for name, config in DIGITS.items()
    }
    average, forgetting = found.pop("online SGD")
    for name, (theirs, forgotten) in found.items():
        gain, kept = interval(theirs - average), interval(forgetting - forgotten)
        print(kind, name, gain, kept)
        assert gain.mean > gain.half
        assert kept.mean > kept.half


@pytest.mark.slow
@pytest.mark.training
@pytest.mark.parametrize(
    ("kind", "iterations", "lr", "config", "margin"),
    [
        ("rotated", 200, 0.1, DIGITS["online SGD"], 0.08),
        ("sines", 500, 0.02, {"lr": 0.03, "glances": 5}, 0.3),
    ],
)
def test_oml_scores_higher_than_sgd(kind, iterations, lr, config, margin):
    setting = SETTINGS[kind]
    theirs = scores(from_scratch("online SGD", setting), config, setting, 20)[0]
    learner = beforehand("OML", setting, iterations, 0)
    gain = interval(scores(learner, {"lr": lr}, setting, 20)[0] - theirs)
    print(kind, gain)
    assert gain.mean - gain.half > margin
