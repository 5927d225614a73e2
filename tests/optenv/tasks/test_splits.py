"""Names of families and their splits, as the argument ``tasks`` takes them."""

from __future__ import annotations

import numpy as np
import pytest

from optenv import tasks


@pytest.mark.parametrize("family", tasks.MORE_FAMILIES)
def test_every_split_of_a_further_family_can_be_named(family: str) -> None:
    for name in (family, f"{family}/train", f"{family}/test", f"{family}/ood"):
        task = tasks.make(name).draw(np.random.default_rng(0))
        assert isinstance(task, tasks.Task)
    drawn = [
        {
            repr(tasks.make(f"{family}/{split}").draw(np.random.default_rng(seed)))
            for seed in range(20)
        }
        for split in ("train", "test", "ood")
    ]
    assert all(not a & b for i, a in enumerate(drawn) for b in drawn[i + 1 :])


@pytest.mark.parametrize("family", tasks.FAMILIES)
def test_families_that_policies_were_trained_on_have_two_splits(family: str) -> None:
    tasks.make(f"{family}/test")
    with pytest.raises(ValueError, match=f"unknown task '{family}/ood'; valid: train, "):
        tasks.make(f"{family}/ood")


def test_train_and_test_stand_for_the_families_that_policies_were_trained_on() -> None:
    for split in tasks.SPLITS:
        sources = tasks.make(split).sources
        assert sources == tuple((family, split) for family in tasks.FAMILIES)
    with pytest.raises(ValueError, match="unknown task 'ood'; valid: train, test, quad"):
        tasks.make("ood")


def test_families_can_be_mixed_in_one_environment() -> None:
    sampler = tasks.make(["cnn", "functions/test", "digits"])
    rng = np.random.default_rng(0)
    kinds = {type(sampler.draw(rng)).__name__ for _ in range(40)}
    assert kinds == {"CNN", "Function", "MLP"}
