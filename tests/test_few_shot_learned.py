"""What few-shot learners come to on classes that they have not seen, within ranges.

Minutes of CPU time; ``benchmarks/few_shot.py`` prints the whole tables.
"""

from __future__ import annotations

from pathlib import Path

import few_shot
import pytest

from agents import meta

pytestmark = pytest.mark.slow
DATA = Path(__file__).parents[2] / "shared" / "data" / "omniglot-small"
TASKS = 300


def accuracy(name, data, shots, ways=5, paths=(), iterations=500):
    learned, held_out = few_shot.classes(data, list(paths))
    family = meta.FewShot(learned, ways=ways, shots=shots, queries=5)
    learner = few_shot.train(name, family, iterations, 8, 0)
    test = meta.FewShot(held_out, ways=ways, shots=shots, queries=15)
    found = few_shot.accuracy(learner, test, TASKS)
    print(name, data, shots, found.mean())
    return float(found.mean())


@pytest.mark.skipif(not DATA.exists(), reason=f"no Omniglot in {DATA}")
def test_maml_tells_characters_of_held_out_alphabets_apart():
    paths = sorted(str(path) for path in DATA.glob("*.zip"))
    assert accuracy("MAML", "omniglot", 5, paths=paths) > 90
