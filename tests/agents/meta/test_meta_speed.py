"""Benchmark of MAML's speed: all learn the same, ours is fast, and nothing leaks."""

from __future__ import annotations

import sys

import maml_by_hand
import meta_speed
import pytest

OTHERS = [
    name
    for name, entry in meta_speed.ENTRIES.items()
    if entry.second_order and name != meta_speed.OURS
]


@pytest.mark.parametrize("name", OTHERS)
def test_implementations_have_the_same_losses(name):
    if reason := meta_speed.missing(name):
        pytest.skip(reason)
    made = {key: meta_speed.ENTRIES[key].make(2) for key in (meta_speed.OURS, name)}
    meta_speed.check({key: each.run(4) for key, each in made.items()})


def test_different_gradient_is_detected():
    names = meta_speed.OURS, "ours, first order"
    losses = {name: meta_speed.ENTRIES[name].make(2).run(4) for name in names}
    with pytest.raises(RuntimeError, match="'ours, first order' is not the same as 'ours'"):
        meta_speed.check(losses)


def test_interval_of_a_ratio_contains_its_median():
    times = [float(i) for i in range(1, 31)]
    assert meta_speed.ratio(times, [2.0] * 30) == (7.75, 5.0, 10.5)  # 10th and 21st


#: Minimal ratio of each one's CPU time to ours, well below the measured ratio.
MIN_RATIOS = {"autograd.grad, loop": 2.5, "TorchOpt MetaSGD": 3.0, "higher": 5.0}


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 5])
def test_ours_is_faster_than_a_loop_over_tasks(steps):
    reasons = {name: meta_speed.missing(name) for name in MIN_RATIOS}
    for reason in filter(None, reasons.values()):
        print(reason)
    names = [meta_speed.OURS, *(name for name in MIN_RATIOS if reasons[name] is None)]
    times = meta_speed.measure(steps, 20, names)
    found = {name: meta_speed.ratio(times[name], times[names[0]])[0] for name in names}
    print({name: round(value, 2) for name, value in found.items()})
    for name in names[1:]:
        assert found[name] > MIN_RATIOS[name]


class Leaking(maml_by_hand.Ours):
    """Implementation that stores a copy of the parameters in each iteration.

    It makes 1 inner step, which is faster.
    """

    def __init__(self, steps):
        super().__init__(1)
        self.copies = []

    def run(self, iterations):
        initial = self.learner.initial
        self.learner.learn(
            iterations, lambda *_: self.copies.append(initial.detach().clone())
        )
        return []


#: Growth in MB that counts as none. 1,800 copies of the parameters, 7 kB each, are 13 MB.
MAX_GROWTH = 4.0
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")


@linux
@pytest.mark.slow
def test_memory_does_not_grow():
    assert meta_speed.growth(maml_by_hand.Ours, 2000) < MAX_GROWTH


@linux
@pytest.mark.slow
def test_leak_is_detected():
    assert meta_speed.growth(Leaking, 2000) > 2 * MAX_GROWTH
