"""Accuracies of few-shot learners on held-out classes are within expected ranges.

A selection of the table of ``benchmarks/few_shot.py``, minutes of CPU time.
"""

from __future__ import annotations

import few_shot
import pytest

from agents import meta
from tests.helpers.paths import DATA

pytestmark = [pytest.mark.slow, pytest.mark.training]
OMNIGLOT = DATA / "omniglot-small"
PATHS = sorted(str(path) for path in OMNIGLOT.glob("*.zip"))
TASKS = 200


def accuracies(names, data, shots, ways=5, paths=(), iterations=500, batch=8):
    """Return mean accuracies in percent, by default after the benchmark's training."""
    learned, held_out = few_shot.classes(data, list(paths))
    family = meta.FewShot(learned, ways=ways, shots=shots, queries=5)
    test = meta.FewShot(held_out, ways=ways, shots=shots, queries=15)
    found = []
    for name in names:
        learner = few_shot.train(name, family, iterations, batch, 0)
        found.append(float(few_shot.accuracy(learner, test, TASKS).mean()))
    print(data, shots, dict(zip(names, found, strict=True)))
    return found


@pytest.mark.skipif(not PATHS, reason=f"no Omniglot in {OMNIGLOT}")
def test_maml_and_matching_classify_held_out_alphabets():
    maml, matching = accuracies(("MAML", "Matching"), "omniglot", 5, paths=PATHS)
    assert 90 < maml < matching
    assert 93 < matching < 96


@pytest.mark.skipif(not PATHS, reason=f"no Omniglot in {OMNIGLOT}")
def test_one_shot_is_harder_than_five():
    prototypical, matching, maml, reptile = accuracies(
        ("Prototypical", "Matching", "MAML", "Reptile"), "omniglot", 1, paths=PATHS
    )
    assert 80 < prototypical < 85 < matching < 89
    assert 79 < maml < 85
    assert 55 < reptile < 66


@pytest.mark.parametrize(
    # One shot is learned from half the tasks of an outer step, too.
    ("shots", "batch", "ranges"), [(5, 8, (98, 96.5)), (1, 4, (96, 92))]
)  # fmt: skip
def test_held_out_fonts_are_classified(shots, batch, ranges):
    pytest.importorskip("HersheyFonts")
    found = accuracies(("Matching", "MAML"), "glyphs", shots, batch=batch)
    assert all(low < value < 99.9 for low, value in zip(ranges, found, strict=True))
    assert found[0] > found[1]


def test_adaptation_beats_comparison_on_held_out_digits():
    pytest.importorskip("sklearn")
    # With three seeds, 200 steps of 4 tasks come to what 500 steps of 8 tasks come to.
    shorter = {"iterations": 200, "batch": 4}
    adapted = accuracies(("MAML", "FOMAML", "LSLR"), "digits", 5, ways=4, **shorter)
    adapted += accuracies(("Reptile",), "digits", 5, ways=4)
    compared = accuracies(("Prototypical", "Matching"), "digits", 5, ways=4)
    assert 86 < min(adapted) and max(adapted) < 95
    assert 70 < min(compared) and max(compared) < 80
