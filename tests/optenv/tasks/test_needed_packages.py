"""Families that need packages say so when they are chosen, not in the middle of a run."""

from __future__ import annotations

import sys

import gymnasium as gym
import numpy as np
import pytest

from optenv import registration, tasks

#: Packages of extras that tasks can need.
PACKAGES = ("sklearn", "HersheyFonts", "PIL")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the packages, as after an installation without extras."""
    for name in list(sys.modules):
        if name.partition(".")[0] in PACKAGES:
            monkeypatch.delitem(sys.modules, name)
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    for cached in (
        tasks.data.load_digits,
        tasks.images.photographs,
        tasks.few_shot._pictures_of,
        tasks.stroke_fonts._reader,
        tasks.stroke_fonts._read_font,
    ):
        cached.cache_clear()


SOURCES = [
    f"{name}/{split}" for name, splits in tasks.families().items() for split in splits
]


def needs(source: str) -> bool:
    return source in tasks.NEEDED or source.partition("/")[0] in tasks.NEEDED


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("source", SOURCES)
def test_a_family_that_is_accepted_never_fails_for_a_package(source: str) -> None:
    if needs(source):
        with pytest.raises(ImportError, match=rf"{source}.*sklearn.*\[train\].*logistic"):
            tasks.make(source)
        return
    sampler = tasks.make(source)
    for seed in range(15):
        sampler.draw(np.random.default_rng(seed)).sample([np.random.default_rng(seed)])


def test_what_is_said_to_need_packages_is_there_and_needs_them() -> None:
    assert tasks.NEEDED.keys() <= {*SOURCES, *tasks.families()}


@pytest.mark.usefixtures("bare")
def test_ids_say_what_their_tasks_need_before_the_first_reset() -> None:
    for name, family in registration.FAMILIES.items():
        env_id = f"optenv/LearningRate-{name}-v0"
        if needs(f"{family}/train"):
            with pytest.raises(ImportError, match=rf"{family}.*not installed"):
                gym.make(env_id)
        else:
            gym.make(env_id).reset(seed=0)
    gym.make("optenv/LearningRate-v0").reset(seed=0)
    with pytest.raises(ImportError, match="digits/train need packages"):
        gym.make("optenv/LearningRate-v0", tasks="train")
