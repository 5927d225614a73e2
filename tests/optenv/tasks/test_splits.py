"""Names of families and their splits, as the argument ``tasks`` takes them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from optenv import tasks
from optenv.tasks.data import TABLES
from tests.helpers.families import axes_of, check_environment

DRAWS = 300
ALL = (*tasks.FAMILIES, *tasks.MORE_FAMILIES)
every_family = pytest.mark.parametrize("family", ALL)
SHORT: dict[str, Any] = {"horizon": 3, "updates_per_step": 2}


def drawn(family: str) -> dict[str, list[tasks.Task]]:
    """Structures of each split of a family."""
    return {
        split: [
            tasks.make(f"{family}/{split}").draw(np.random.default_rng(seed))
            for seed in range(DRAWS)
        ]
        for split in tasks.families()[family]
    }


def disjoint_axes(ours: Sequence[tasks.Task], theirs: Sequence[tasks.Task]) -> set[str]:
    """Names of the fields whose values in two splits have none in common."""
    rows = [[{"type": type(t), **axes_of(t)} for t in part] for part in (ours, theirs)]
    common = set.intersection(*(set(row) for part in rows for row in part))
    return {
        axis
        for axis in common
        if not set.intersection(*({row[axis] for row in part} for part in rows))
    }


@every_family
def test_every_split_of_a_family_can_be_named(family: str) -> None:
    assert tasks.families()[family] == tasks.SPLITS == ("train", "test", "ood")
    for name in (family, f"{family}/train", f"{family}/test", f"{family}/ood"):
        task = tasks.make(name).draw(np.random.default_rng(0))
        assert isinstance(task, tasks.Task)
    with pytest.raises(ValueError, match=f"unknown task '{family}/exam'; valid: train, "):
        tasks.make(f"{family}/exam")


@every_family
def test_splits_have_no_structure_in_common_and_differ_in_an_axis(family: str) -> None:
    for ours, theirs in itertools.combinations(drawn(family).values(), 2):
        found = [{(type(t), *axes_of(t).items()) for t in part} for part in (ours, theirs)]
        assert not found[0] & found[1]
        assert disjoint_axes(ours, theirs)


#: Axes in which structures out of distribution differ from all others in more than sizes.
#: Those of the digits are deeper.
KINDS = {
    "quadratic": "type", "language": "type", "logistic": "source",
    "mlp-classification": "source", "mlp-regression": "source", "digits": "depth",
    "functions": "function", "physics": "equation", "cnn": "source",
    "autoencoder": "source", "vae": "source", "contrastive": "source", "rnn": "cell",
    "transformer": "depth", "policy-gradient": "system", "few-shot": "variant",
}  # fmt: skip


@every_family
def test_structures_out_of_distribution_differ_in_more_than_sizes(family: str) -> None:
    splits = drawn(family)
    for split in ("train", "test"):
        assert KINDS[family] in disjoint_axes(splits["ood"], splits[split])


@pytest.mark.parametrize("family", tasks.FAMILIES)
def test_real_tables_are_in_no_train_or_test_split(family: str) -> None:
    splits = drawn(family)
    for split in ("train", "test"):
        assert not {getattr(t, "source", None) for t in splits[split]} & set(TABLES)


def test_structures_out_of_distribution_use_no_digits_of_the_train_split() -> None:
    assert {getattr(task, "split", None) for task in drawn("digits")["ood"]} == {"test"}


@every_family
def test_environments_out_of_distribution_pass_gymnasiums_checker(family: str) -> None:
    check_environment(f"{family}/ood")
    env = gym.make("optenv/LearningRate-v0", tasks=f"{family}/ood", **SHORT)
    _, info = env.reset(seed=0)
    assert (info["family"], info["split"]) == (family, "ood")
    ended = False
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert np.isfinite(observation).all() and np.isfinite(reward)
        ended = terminated or truncated


def test_a_split_alone_stands_for_the_families_that_policies_were_trained_on() -> None:
    for split in tasks.SPLITS:
        sources = tasks.make(split).sources
        assert sources == tuple((family, split) for family in tasks.FAMILIES)
    with pytest.raises(ValueError, match="unknown task 'exam'; valid: train, test, ood, q"):
        tasks.make("exam")


def test_families_can_be_mixed_in_one_environment() -> None:
    sampler = tasks.make(["cnn", "functions/test", "digits"])
    rng = np.random.default_rng(0)
    kinds = {type(sampler.draw(rng)).__name__ for _ in range(40)}
    assert kinds == {"CNN", "Function", "MLP"}
