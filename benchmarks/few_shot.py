"""Accuracies of few-shot learners on held-out alphabets, fonts or digits.

    python benchmarks/few_shot.py --data glyphs --shots 5
    python benchmarks/few_shot.py --data omniglot --omniglot A.zip --omniglot B.zip
    python benchmarks/few_shot.py --data digits --ways 4

Trains each learner of this file on the training classes, and prints accuracies on tasks of
held-out classes with 95 % intervals over tasks, ranked; "less the best" is the paired
difference to the first row. All learners have the same convolutional network and the same
number of tasks. Inner learning rates are the published ones, except Reptile's, which was
chosen on three of the training alphabets. A run takes 3 to 14 minutes of CPU time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from agents import meta
from agents.evaluation.stats.intervals import interval
from agents.meta.families.digits import TEST as TEST_DIGITS
from agents.meta.families.digits import TRAINING as TRAINING_DIGITS
from agents.meta.families.stroke_fonts import TEST, TRAINING
from agents.meta.networks import convolutional
from agents.utils.progress import progress_bar

#: Held-out alphabets of the small Omniglot sets; the others are for training.
HELD_OUT = ("Japanese_(katakana)", "Korean", "Tagalog")

#: Number of inner steps in tests, for most learners.
STEPS = 3

#: For each learner its class, whether its network ends in logits, and its arguments.
LEARNERS: dict[str, tuple[Callable[..., meta.Learner], bool, dict[str, Any]]] = {
    "Prototypical": (meta.Prototypical, False, {}),
    "Matching": (meta.Matching, False, {}),
    "MAML": (meta.MAML, True, {"inner_lr": 0.4}),
    "FOMAML": (meta.FOMAML, True, {"inner_lr": 0.4}),
    "ANIL": (meta.ANIL, True, {"inner_lr": 0.4}),
    "MetaSGD": (meta.MetaSGD, True, {"inner_lr": (0.1, 0.4)}),
    "LSLR": (meta.LSLR, True, {"inner_lr": 0.4, "inner_steps": STEPS}),
    "Reptile": (
        meta.Reptile, True,
        {
            "rule": {"name": "adam", "beta1": 0.0}, "inner_lr": 3e-3, "inner_batch": 10,
            "meta_lr": 1.0,
        },
    ),
}  # fmt: skip


def classes(data: str, paths: list[str]) -> tuple[meta.Classes, meta.Classes]:
    """Return training classes, in four orientations, and held-out classes.

    Args:
        data: ``"glyphs"``, ``"digits"`` or ``"omniglot"``.
        paths: archives or folders of Omniglot.
    """
    if data == "glyphs":
        learned = meta.glyphs(TRAINING).turned()
        return learned, meta.glyphs(TEST, without=TRAINING).unlike(learned, 0.9)
    if data == "digits":
        return meta.digits(TRAINING_DIGITS).turned(), meta.digits(TEST_DIGITS)
    characters = meta.omniglot(paths)
    learned = characters.within(sorted(set(characters.groups) - set(HELD_OUT)))
    return learned.turned(), characters.within(HELD_OUT)


def train(
    name: str, family: meta.FewShot, iterations: int, batch: int, seed: int
) -> meta.Learner:
    """Train a learner of :data:`LEARNERS`.

    Args:
        name: key of the learner.
        family: tasks to learn on.
        iterations: number of outer steps.
        batch: tasks of an outer step.
        seed: seed of the initial weights and of the tasks.
    """
    make, has_head, arguments = LEARNERS[name]
    torch.manual_seed(seed)
    if make is meta.Reptile:
        # Reptile has no queries; as published, it trains on these examples too.
        shots = family.shots + family.queries
        family = meta.FewShot(family.classes, ways=family.ways, shots=shots, queries=1)
    side = family.sample(1, np.random.default_rng(0)).support.inputs.shape[-1]
    module = convolutional(family.ways if has_head else None, side=side)
    learner = make(module, family, meta_batch=batch, seed=seed, **arguments)
    with progress_bar(iterations, name, unit="iteration") as advance:
        return learner.learn(iterations, lambda learner, loss: advance() or True)


def accuracy(learner: meta.Learner, family: meta.FewShot, tasks: int) -> np.ndarray:
    """Return the accuracies ``[tasks]`` in percent, after the last inner step."""
    if isinstance(learner, meta.MetaLearner):
        steps = {"MetaSGD": 1, "Reptile": 10}.get(type(learner).__name__, STEPS)
        found = learner.evaluate(family, tasks, (steps,))
    else:
        assert isinstance(learner, meta.AmortizedLearner)
        found = learner.evaluate(family, tasks)
    assert found.accuracies is not None
    return 100 * found.accuracies[-1]


def format_mean(values: np.ndarray) -> str:
    """Return mean and interval, rounded to a tenth."""
    mean, half = interval(values)
    return f"{mean:.1f} ±{half:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", choices=("glyphs", "omniglot", "digits"), default="glyphs"
    )
    parser.add_argument("--omniglot", action="append", default=[], metavar="PATH",
                        help="archive or folder of drawings; repeatable")  # fmt: skip
    parser.add_argument("--learner", action="append", choices=LEARNERS)
    parser.add_argument("--ways", type=int, default=5)
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--queries", type=int, default=5, help="of each class, in learning")
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--batch", type=int, default=8, help="tasks of an outer step")
    parser.add_argument("--tasks", type=int, default=600, help="that are reported")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.data == "omniglot" and not arguments.omniglot:
        parser.error("--data omniglot needs --omniglot PATH")
    torch.set_num_threads(1)
    learned, held_out = classes(arguments.data, arguments.omniglot)
    make = partial(meta.FewShot, ways=arguments.ways, shots=arguments.shots)
    family = make(learned, queries=arguments.queries)
    test = make(held_out, queries=min(15, held_out.pictures.shape[1] - arguments.shots))
    print(
        f"{arguments.data}, {arguments.ways} ways, {arguments.shots} shots: "
        f"{len(learned.groups)} classes to learn on, {len(held_out.groups)} held out"
    )
    results = {}
    for name in arguments.learner or LEARNERS:
        began = time.process_time()
        learner = train(name, family, arguments.iterations, arguments.batch, arguments.seed)
        seconds = time.process_time() - began
        results[name] = accuracy(learner, test, arguments.tasks), seconds
        print(f"{name}: {format_mean(results[name][0])} %, {seconds:.0f} s", flush=True)
    print("\n| learner | accuracy, % | less the best | CPU s |\n|---|---|---|---|")
    ranked = sorted(results, key=lambda name: -results[name][0].mean())
    for name in ranked:
        values, seconds = results[name]
        less = values - results[ranked[0]][0]
        behind = "" if name == ranked[0] else format_mean(less)
        print(f"| {name} | {format_mean(values)} | {behind} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
