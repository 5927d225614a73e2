"""CPU time of an iteration of MAML: ours, TorchOpt's, higher's, and written by hand.

An iteration samples 25 sine waves (Finn et al., 2017) with 10 examples in the support and
10 in the query, adapts a 1-40-40-1 ReLU perceptron to each by 1 or 5 steps of gradient
descent with learning rate 0.01, and makes one step of Adam along the gradient through these
steps. First, all implementations are checked to have the same losses from the same
parameters on the same tasks. Then they are timed in turns, one iteration each in random
order, in one process and one thread. The table has medians over the rounds: of the times,
and of the ratios to ours within a round, with a 95 % interval from order statistics.
Packages that are not installed are left out.

    pip install ".[meta-speed]"
    python benchmarks/meta_speed.py
    python benchmarks/meta_speed.py --memory 2000    # growth of resident memory instead
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple, Protocol

import maml_by_hand as by_hand
import numpy as np
import torch
from scipy.stats import binom

from agents import meta
from optenv.extras import install_hint

#: Iterations before memory is measured, in which allocators and caches grow.
WARM_UP = 200


class Implementation(Protocol):
    """An implementation of MAML with its parameters, optimizer and tasks."""

    def run(self, iterations: int) -> list[float]:
        """Make iterations, and return their losses."""


class Entry(NamedTuple):
    """Entry of the comparison.

    Attributes:
        make: function from the number of inner steps to an implementation.
        package: required package.
        second_order: whether it is MAML, whose losses must equal those of the others.
    """

    make: Callable[[int], Implementation]
    package: str | None = None
    second_order: bool = True


OURS = "ours"
ENTRIES: dict[str, Entry] = {
    OURS: Entry(by_hand.Ours),
    "ours, first order": Entry(partial(by_hand.Ours, learner=meta.FOMAML), None, False),
    "torch.func, vmap": Entry(by_hand.Vmapped),
    "TorchOpt sgd, vmap": Entry(by_hand.VmappedTorchOpt, "torchopt"),
    "TorchOpt MetaSGD": Entry(by_hand.TorchOpt, "torchopt"),
    "autograd.grad, loop": Entry(by_hand.Plain),
    "higher": Entry(by_hand.Higher, "higher"),
}


def missing(name: str) -> str | None:
    """Return the reason why an entry cannot be run here, or None if it can."""
    package = ENTRIES[name].package
    if package is None or importlib.util.find_spec(package) is not None:
        return None
    return f"{name} is left out: {package} is not installed; {install_hint('meta-speed')}"


def check(losses: dict[str, list[float]]) -> None:
    """Check that all implementations have the losses of the first, to a relative 1e-4.

    Args:
        losses: losses of the same iterations, by implementation.

    Raises:
        RuntimeError: one has not.
    """
    reference, expected = next(iter(losses.items()))
    for name, found in losses.items():
        if not np.allclose(found, expected, rtol=1e-4, atol=0.0):
            raise RuntimeError(
                f"{name!r} is not the same as {reference!r}: losses {found}, not {expected}"
            )


def measure(steps: int, rounds: int, names: Iterable[str]) -> dict[str, list[float]]:
    """Return the CPU seconds of an iteration in each round, by implementation.

    Args:
        steps: number of inner steps.
        rounds: number of rounds.
        names: keys of :data:`ENTRIES`.

    Raises:
        RuntimeError: losses differ, see :func:`check`.
    """
    made = {name: ENTRIES[name].make(steps) for name in names}
    losses = {name: each.run(5) for name, each in made.items()}
    check({name: found for name, found in losses.items() if ENTRIES[name].second_order})
    times: dict[str, list[float]] = {name: [] for name in made}
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        # In a fixed order, each would always run on the caches of the same predecessor.
        for name in rng.permutation(list(made)).tolist():
            begin = time.process_time()
            made[name].run(1)
            times[name].append(time.process_time() - begin)
    return times


def ratio(times: Sequence[float], ours: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of the ratios of a round, and the ends of its 95 % interval."""
    ratios = sorted(a / b for a, b in zip(times, ours, strict=True))
    below = max(int(binom.ppf(0.025, len(ratios), 0.5)) - 1, 0)
    return statistics.median(ratios), ratios[below], ratios[-1 - below]


def resident() -> float:
    """Return the resident memory of this process in MB (Linux only)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def growth(make: Callable[[int], Implementation], iterations: int) -> float:
    """Return the growth of resident memory in MB after iteration :data:`WARM_UP`.

    With 5 inner steps, in a new process: memory freed earlier would hide the growth.

    Args:
        make: see :class:`Entry`; must be picklable.
        iterations: number of iterations, more than :data:`WARM_UP`.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        return pool.submit(_growth, make, iterations).result()


def _growth(make: Callable[[int], Implementation], iterations: int) -> float:
    implementation = make(5)
    implementation.run(WARM_UP)
    before = resident()
    implementation.run(iterations - WARM_UP)
    return resident() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60, help="of the timing")
    parser.add_argument("--memory", type=int, nargs="?", const=2000, metavar="N",
                        help="print the growth of memory in N iterations of 5 inner "
                        "steps instead of times; default: 2000")  # fmt: skip
    arguments = parser.parse_args()
    if arguments.rounds < 6:  # order statistics of fewer have no 95 % interval
        parser.error(f"--rounds must be at least 6, got {arguments.rounds}")
    if arguments.memory is not None and arguments.memory <= WARM_UP:
        parser.error(f"--memory must be more than {WARM_UP}, got {arguments.memory}")
    torch.set_num_threads(1)
    reasons = {name: missing(name) for name in ENTRIES}
    for reason in filter(None, reasons.values()):
        print(reason, file=sys.stderr)
    names = [name for name, reason in reasons.items() if reason is None]
    if arguments.memory is not None:
        print("| implementation | MB more |\n|---|---|")
        for name in names:
            more = growth(ENTRIES[name].make, arguments.memory)
            print(f"| {name} | {more:+.1f} |", flush=True)
        return
    found = [measure(steps, arguments.rounds, names) for steps in (1, 5)]
    print("| implementation | 1 step, ms | times ours | 5 steps, ms | times ours |")
    print("|---" * 5 + "|")
    for name in names:
        cells = [name]
        for times in found:
            middle, low, high = ratio(times[name], times[OURS])
            cells.append(f"{1e3 * statistics.median(times[name]):.1f}")
            cells.append(f"{middle:.1f} [{low:.1f}, {high:.1f}]" if name != OURS else "1")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
