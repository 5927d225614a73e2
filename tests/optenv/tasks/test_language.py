"""Texts of language models out of distribution."""

from __future__ import annotations

import numpy as np
import pytest

from optenv import tasks


@pytest.mark.parametrize("network", tasks.language.NETWORKS)
def test_texts_with_topics_have_the_shapes_of_others(network: str) -> None:
    sizes = {"network": network, "vocabulary": 40, "length": 18, "num_train": 512}
    ours, theirs = (
        kind(**sizes).examples(np.random.default_rng(0))
        for kind in (tasks.TopicLanguageModel, tasks.LanguageModel)
    )
    for part, other in zip(ours, theirs, strict=True):
        assert part.shape == other.shape and part.dtype == other.dtype
        assert part.min() >= 0 and part.max() < 40


def test_topics_are_told_by_distant_tokens() -> None:
    """Distant tokens depend on each other, too, and less so than near ones."""
    task = tasks.TopicLanguageModel(vocabulary=8, length=20, num_train=50_000)
    tokens, _ = task.examples(np.random.default_rng(1))

    def information(distance: int) -> float:
        pairs = np.zeros((8, 8))
        np.add.at(pairs, (tokens[:, 0], tokens[:, distance]), 1 / len(tokens))
        independent = pairs.sum(1, keepdims=True) * pairs.sum(0)
        seen = pairs > 0
        return float((pairs[seen] * np.log(pairs[seen] / independent[seen])).sum())

    near, far = information(1), information(6)
    assert near > far > 0.1 * near > 0.0005
