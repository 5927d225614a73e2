"""Scores of continual learners on all tasks after the last, and their forgetting.

    python benchmarks/continual.py                        # all streams, all learners
    python benchmarks/continual.py --stream sines --learner OML --iterations 5000

Streams are five tasks of rotated digits, five of digits with permuted pixels, and ten sine
waves (Javed & White, 2019). Every example comes once, in batches of ten, the same for all
learners. Scores are on the tests of all tasks, with 95 % intervals over streams.
Differences are paired: all learners have the same streams, and on each stream, all learners
from scratch have the same initial network, a new one for each stream. The digits of the
test split are used neither for learning nor for tuning. Everything takes 15 minutes of CPU
time.

Fairness of the comparison:

- Each learner is tuned over the same number of configurations, on the same streams of the
  train split; the table names the best one. Baselines have all numbers of glances (steps on
  a batch) that La-MAML has. A glance of online SGD takes gradients on 10 examples, one of
  replay on 20, and one of La-MAML on 210: for each example, on itself and 20 others. The
  table has the CPU time of a stream.
- Replay and La-MAML store a tenth of the stream, the others nothing.
- OML and the pretrained network have learned on many streams of the train split; online
  SGD, replay and La-MAML on none. Pretraining has the examples of OML's streams in random
  order, and both learn the same parameters online. The learning rate 0, which ignores the
  stream, is in the grid. OML's own hyperparameters are from a first look at the train
  split, with at most two inner learning rates, three outer ones and two choices of the
  parameters that adapt; so are the ends of the grids.
- Each stream of digits has random labels, so that earlier knowledge is never enough: the
  pretrained network, which has learned the digits' own labels, has to learn the new ones
  with its last layer. Permutations and waves are new in each stream, too.
- Intervals are over streams and, for learners from scratch, over networks. Learners trained
  beforehand have one training, with ``--seed``.
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
    follow_streams,
    from_scratch,
    sample_streams,
    search,
)

from agents.evaluation.stats.intervals import Interval, interval

SCRATCH = ("online SGD", "replay", "La-MAML")
LEARNERS = (*SCRATCH, "pretrained", "OML")

#: All learners are compared with the best of these.
BASELINES = ("online SGD", "replay")


class Result(NamedTuple):
    """Results of a learner.

    Attributes:
        config: best configuration of the search.
        scores: ``[streams]`` mean score on all tasks after the last.
        forgetting: ``[streams]`` mean decrease of the score on a task since it was learned.
        seconds: CPU time for one stream.
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
        name: one of :data:`LEARNERS`.
        setting: kind of stream.
        streams: number of streams to test on.
        searched: number of streams to tune on.
        seed: seed of everything that is random.
        iterations: outer steps of OML, or streams to pretrain on.
    """
    # 1. Learn beforehand, if the learner does.
    if name in SCRATCH:
        contender = from_scratch(name, setting)
    else:
        contender = beforehand(name, setting, iterations, seed)
    # 2. Tune on streams of the train split.
    first = 1_000 * seed
    config = search(
        contender, sample_streams(setting.train, searched, seed, 0), first + 500
    )
    # 3. Test on others.
    tests = sample_streams(setting.stream, streams, seed, 1)
    began = time.process_time()
    retentions = follow_streams(contender, config, tests, first)
    return Result(
        config,
        np.array([retention.average for retention in retentions]),
        np.array([retention.forgetting for retention in retentions]),
        (time.process_time() - began) / streams,
    )


def table(results: dict[str, Result], classifies: bool) -> str:
    """Return a table of results, with differences to the best baseline among them."""
    baselines = [name for name in BASELINES if name in results]
    best = max(baselines, key=lambda name: _rank(results[name]), default=None)
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
            f"| {name} | {config} | {unsigned(interval(sign * result.scores))} | {less} "
            f"| {interval(result.forgetting)} | {result.seconds:.2f} |"
        )
    return "\n".join(lines)


def _rank(result: Result) -> float:
    return float(np.nan_to_num(result.scores, nan=-np.inf).mean())


def unsigned(value: Interval) -> str:
    """Return an interval of a quantity without a sign."""
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
