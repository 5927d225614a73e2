"""The benchmark of MAML's speed: the same learning by all, ours fast, and no leak."""

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
def test_implementations_learn_the_same(name):
    if reason := meta_speed.missing(name):
        pytest.skip(reason)
    made = {key: meta_speed.ENTRIES[key].make(2) for key in (meta_speed.OURS, name)}
    meta_speed.check({key: each.run(4) for key, each in made.items()})


def test_another_gradient_is_noticed():
    names = meta_speed.OURS, "ours, first order"
    losses = {name: meta_speed.ENTRIES[name].make(2).run(4) for name in names}
    with pytest.raises(RuntimeError, match="'ours, first order' is not the same as 'ours'"):
        meta_speed.check(losses)


def test_the_interval_of_a_ratio_holds_its_median():
    times = [float(i) for i in range(1, 31)]
    assert meta_speed.ratio(times, [2.0] * 30) == (7.75, 5.0, 10.5)  # 10th and 21st


#: How many times ours each must take at least, well below what is measured.
SLOWER = {"autograd.grad, loop": 2.5, "TorchOpt MetaSGD": 3.0, "higher": 5.0}


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 5])
def test_ours_is_faster_than_a_loop_over_tasks(steps):
    reasons = {name: meta_speed.missing(name) for name in SLOWER}
    for reason in filter(None, reasons.values()):
        print(reason)
    names = [meta_speed.OURS, *(name for name in SLOWER if reasons[name] is None)]
    times = meta_speed.measure(steps, 20, names)
    found = {name: meta_speed.ratio(times[name], times[names[0]])[0] for name in names}
    print({name: round(value, 2) for name, value in found.items()})
    for name in names[1:]:
        assert found[name] > SLOWER[name]


class Leaking(maml_by_hand.Ours):
    """Keeps a copy of the parameters from each iteration; 1 inner step, which is faster."""

    def __init__(self, steps):
        super().__init__(1)
        self.kept = []

    def run(self, iterations):
        initial = self.learner.initial
        self.learner.learn(
            iterations, lambda *_: self.kept.append(initial.detach().clone())
        )
        return []


#: MB; a copy of the parameters is 7 kB, and 1,800 of them are 13 MB at least.
FLAT = 4.0
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")


@linux
@pytest.mark.slow
def test_memory_stays_flat():
    assert meta_speed.growth(maml_by_hand.Ours, 2000) < FLAT


@linux
@pytest.mark.slow
def test_a_leak_of_memory_is_noticed():
    assert meta_speed.growth(Leaking, 2000) > 2 * FLAT
