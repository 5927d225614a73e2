"""What few-shot learners come to on classes that they have not seen, within ranges.

A selection of what ``benchmarks/few_shot.py`` prints, minutes of CPU time.
"""

from __future__ import annotations

import few_shot
import pytest

from agents import meta
from tests.helpers.paths import DATA

pytestmark = [pytest.mark.slow, pytest.mark.training]
OMNIGLOT = DATA / "omniglot-small"
PATHS = sorted(str(path) for path in OMNIGLOT.glob("*.zip"))
TASKS = 300


def accuracies(names, data, shots, ways=5, paths=()):
    """Mean accuracies of learners after the benchmark's own training, in percent."""
    learned, held_out = few_shot.classes(data, list(paths))
    family = meta.FewShot(learned, ways=ways, shots=shots, queries=5)
    test = meta.FewShot(held_out, ways=ways, shots=shots, queries=15)
    found = []
    for name in names:
        learner = few_shot.train(name, family, 500, 8, 0)
        found.append(float(few_shot.accuracy(learner, test, TASKS).mean()))
    print(data, shots, dict(zip(names, found, strict=True)))
    return found


@pytest.mark.skipif(not PATHS, reason=f"no Omniglot in {OMNIGLOT}")
def test_maml_tells_characters_of_held_out_alphabets_apart():
    maml, matching = accuracies(("MAML", "Matching"), "omniglot", 5, paths=PATHS)
    assert 90 < maml < matching
    assert 93 < matching < 96


@pytest.mark.skipif(not PATHS, reason=f"no Omniglot in {OMNIGLOT}")
def test_one_example_of_each_is_harder():
    prototypical, matching, maml, reptile = accuracies(
        ("Prototypical", "Matching", "MAML", "Reptile"), "omniglot", 1, paths=PATHS
    )
    assert 80 < prototypical < 85 < matching < 89
    assert 79 < maml < 85
    assert 55 < reptile < 66


@pytest.mark.parametrize(("shots", "ranges"), [(5, (98, 96.5)), (1, (96, 92))])
def test_characters_of_held_out_fonts_are_told_apart(shots, ranges):
    pytest.importorskip("HersheyFonts")
    found = accuracies(("Matching", "MAML"), "glyphs", shots)
    assert all(low < value < 99.9 for low, value in zip(ranges, found, strict=True))
    assert found[0] > found[1]


def test_digits_of_held_out_classes_are_told_apart_by_those_that_adapt():
    pytest.importorskip("sklearn")
    adapted = accuracies(("MAML", "FOMAML", "LSLR", "Reptile"), "digits", 5, ways=4)
    compared = accuracies(("Prototypical", "Matching"), "digits", 5, ways=4)
    assert 86 < min(adapted) and max(adapted) < 95
    assert 70 < min(compared) and max(compared) < 80
