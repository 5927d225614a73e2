"""Learners of streams: what they know of all tasks after the last, and what they forgot.

    python benchmarks/continual.py                        # all streams, all learners
    python benchmarks/continual.py --stream sines --learner OML --iterations 5000

Streams are five tasks of turned digits, five of digits with permuted pixels, and ten sine
waves (Javed & White, 2019). Examples come ten at a time and once, so all learners have
the same batches. Scores are taken on tests of every task, with 95 % intervals over
streams, and differences are paired: all learners have the same streams, and those from
scratch the same initial network for each stream, another one for each. The test split's
digits are neither learned nor searched on.

What is fair, and what is not:

- Each learner is tuned over as many configurations, on the same streams of the train
  split; the table says which was best. Baselines have all glances, or steps on a batch,
  that La-MAML has. A glance of online SGD takes gradients of 10 examples, one of replay
  of 20, and one of La-MAML of 210: for each example, of itself and of 20 others. The
  table has the CPU time of a stream.
- Replay and La-MAML keep a tenth of the stream, the others nothing.
- OML and the pretrained network saw many streams of the train split before; online SGD,
  replay and La-MAML saw none. Pretraining has OML's streams, in random order, and both
  have the same parameters learn online. Learning rate 0, which learns nothing of the
  stream, is among those searched. OML's own hyper-parameters are of a first look on the
  train split, at most two inner learning rates, three outer ones and two choices of what
  adapts; so are the ends of the grids.
- Each stream of digits has random labels, so that what is known beforehand is never
  enough; the pretrained network, which learned the digits' own labels, has to learn these
  anew with the last layer. Permutations and waves are new in each stream, too.
- Intervals are over streams and, from scratch, networks; of what learned beforehand
  there is one training, of ``--seed``.
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import numpy as np
import torch
from continual_learners import (
    SETTINGS,
    Config,
    Setting,
    beforehand,
    drawn,
    followed,
    from_scratch,
    search,
)

from agents.evaluation.stats.intervals import Interval, interval

SCRATCH = ("online SGD", "replay", "La-MAML")
LEARNERS = (*SCRATCH, "pretrained", "OML")

#: The best of them is what all are compared with.
BASELINES = ("online SGD", "replay")


class Result(NamedTuple):
    """Results of a learner.

    Attributes:
        config: that was best in the search.
        scores: ``[streams]`` on all tasks after the last.
        forgetting: ``[streams]``.
        seconds: of CPU, for a stream.
    """

    config: Config
    scores: np.ndarray
    forgetting: np.ndarray
    seconds: float


def run(
    name: str,
    setting: Setting,
    *,
    streams: int = 20,
    searched: int = 8,
    seed: int = 0,
    iterations: int = 1000,
) -> Result:
    """Train, tune and test a learner.

    Args:
        name: of :data:`LEARNERS`.
        setting: the kind of stream.
        streams: to test on.
        searched: streams to tune on.
        seed: of all that is random.
        iterations: outer steps of OML; streams to pretrain on.
    """
    if name in SCRATCH:
        contender = from_scratch(name, setting)
    else:
        contender = beforehand(name, setting, iterations, seed)
    first = 1_000 * seed
    config = search(contender, drawn(setting.train, searched, seed, 0), first + 500)
    tests = drawn(setting.stream, streams, seed, 1)
    began = time.process_time()
    found = followed(contender, config, tests, first)
    return Result(
        config,
        np.array([each.average for each in found]),
        np.array([each.forgetting for each in found]),
        (time.process_time() - began) / streams,
    )


def table(results: dict[str, Result], classifies: bool) -> str:
    """The results, with differences to the best baseline among them."""
    known = [name for name in BASELINES if name in results]
    best = max(known, key=lambda name: _rank(results[name]), default=None)
    score = "accuracy" if classifies else "squared error"
    sign = 1.0 if classifies else -1.0
    lines = [
        f"| learner | best of its configurations | {score} | "
        f"less {best or 'nothing'} | forgetting | CPU s |",
        "|---" * 6 + "|",
    ]
    for name, result in results.items():
        less = ""
        if best is not None and name != best:
            less = str(interval(sign * (result.scores - results[best].scores)))
        config = ", ".join(f"{key} {value:.3g}" for key, value in result.config.items())
        lines.append(
            f"| {name} | {config} | {plain(interval(sign * result.scores))} | {less} "
            f"| {interval(result.forgetting)} | {result.seconds:.2f} |"
        )
    return "\n".join(lines)


def _rank(result: Result) -> float:
    return float(np.nan_to_num(result.scores, nan=-np.inf).mean())


def plain(value: Interval) -> str:
    """An interval of what has no sign."""
    return str(value).removeprefix("+")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stream", action="append", choices=SETTINGS)
    parser.add_argument("--learner", action="append", choices=LEARNERS)
    parser.add_argument("--streams", type=int, default=20, help="that are reported")
    parser.add_argument("--iterations", type=int, default=1000, help="outer steps of OML")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for kind in arguments.stream or SETTINGS:
        setting, results, began = SETTINGS[kind], {}, time.process_time()
        for name in arguments.learner or LEARNERS:
            results[name] = run(
                name, setting, streams=arguments.streams, seed=arguments.seed,
                iterations=arguments.iterations,
            )  # fmt: skip
        stream = setting.stream
        print(
            f"{kind}: {stream.tasks} tasks of {stream.examples} examples, "
            f"{arguments.streams} streams, {time.process_time() - began:.0f} CPU s\n"
        )
        print(table(results, stream.loss == "cross_entropy") + "\n", flush=True)


if __name__ == "__main__":
    main()
