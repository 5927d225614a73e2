"""Mean squared errors of meta-learners on sine waves, by the published protocols.

Trains each learner by its recipe in this file, and prints mean squared errors on fresh
tasks with 95 % intervals over tasks, beside the published ones. All learners together take
17 minutes of CPU time.

    python benchmarks/sinusoids.py                        # all learners
    python benchmarks/sinusoids.py --learner MAML --iterations 5000
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from agents import meta
from agents.evaluation.stats.intervals import interval
from agents.utils.progress import progress_bar


def perceptron() -> nn.Module:
    """Make a network with two hidden layers of 40 units and torch's initial weights.

    With the initial weights of MAML's code (standard deviation 0.01), 20,000 outer steps
    are not enough.
    """
    layers = nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)
    return nn.Sequential(*layers)


def smooth() -> nn.Module:
    """Make a network with two hidden layers of 64 units, as in Reptile's script."""
    layers = nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
    return nn.Sequential(*layers)


class Recipe(NamedTuple):
    """Training and tests of a learner.

    Attributes:
        learner: class of the learner.
        arguments: arguments of the class.
        iterations: number of outer steps.
        tests: for each test the shots, the inner steps (0 for an amortized learner), and
            the published error, if there is one.
        train: arguments of the family to learn on.
        module: function that makes the network.
    """

    learner: Callable[..., Any]
    arguments: dict[str, Any]
    iterations: int
    tests: tuple[tuple[int, int, float | None], ...]
    train: dict[str, Any] = {}
    module: Callable[[], nn.Module] = perceptron


#: Published numbers are from Finn et al. (2017), table 2 of the appendix, and Park & Oliva
#: (2019) for Meta-SGD. Reptile's script shows only curves; for the others, none are known.
RECIPES: dict[str, Recipe] = {
    "MAML": Recipe(
        meta.MAML,
        {},
        20_000,
        ((5, 1, 0.67), (5, 5, 0.38), (5, 10, 0.35), (10, 1, 0.435), (10, 5, None)),
    ),
    "FOMAML": Recipe(meta.FOMAML, {}, 20_000, ((5, 1, None), (5, 5, None), (10, 5, None))),
    "ANIL": Recipe(meta.ANIL, {}, 20_000, ((5, 1, None), (5, 5, None), (10, 5, None))),
    "MetaSGD": Recipe(meta.MetaSGD, {}, 20_000, ((10, 1, 0.258),)),
    "MAML, 10k": Recipe(meta.MAML, {}, 10_000, ((10, 5, None),)),
    "LSLR": Recipe(meta.LSLR, {}, 10_000, ((10, 5, None), (5, 5, None))),
    # Later or without clipping, a few tasks diverge: their rates grow without bound.
    "HypergradientLR": Recipe(
        meta.HypergradientLR, {"grad_clip": 1.0}, 6_000, ((10, 5, None),)
    ),
    "Reptile": Recipe(
        meta.Reptile, {}, 30_000, ((10, 5, None), (10, 32, None)),
        {"variant": "reptile", "shots": 50}, smooth,
    ),
    "MetaLSTM": Recipe(meta.MetaLSTM, {}, 2_000, ((10, 5, None),)),
    "NeuralProcess": Recipe(
        meta.NeuralProcess, {}, 20_000, ((10, 0, None), (5, 0, None)),
        module=partial(meta.ProcessNetwork, width=20),  # 1,802 parameters, as MAML's 1,761
    ),
    "NeuralProcess, wide": Recipe(
        meta.NeuralProcess, {}, 20_000, ((10, 0, None), (5, 0, None)),
        module=meta.ProcessNetwork,
    ),
}  # fmt: skip

#: Learning rates of gradient descent from random initial parameters; the best is reported.
CONSTANT_RATES = tuple(float(rate) for rate in np.geomspace(1e-3, 1.0, 13))


def train(name: str, iterations: int | None = None, seed: int = 0, **changed: Any) -> Any:
    """Train a learner of :data:`RECIPES`.

    Args:
        name: key of the recipe.
        iterations: number of outer steps, by default the recipe's.
        seed: seed of the initial weights and of the tasks.
        **changed: arguments of the class, in place of the recipe's.
    """
    recipe = RECIPES[name]
    torch.manual_seed(seed)
    family = meta.Sinusoids(**recipe.train)
    arguments = {**recipe.arguments, **changed}
    learner = recipe.learner(recipe.module(), family, seed=seed, **arguments)
    total = iterations or recipe.iterations
    with progress_bar(total, name, unit="iteration") as advance:
        learner.learn(total, lambda learner, loss: advance() or True)
    return learner


def test(learner: Any, shots: int, steps: int, tasks: int) -> np.ndarray:
    """Return the errors ``[tasks]`` after inner steps on the shots of fresh tasks."""
    family = meta.Sinusoids(shots=shots, variant=learner.family.variant)
    if not steps:
        return learner.evaluate(family, tasks).losses[0]
    return learner.evaluate(family, tasks, (steps,)).losses[0]


def descent(shots: int, steps: int, tasks: int) -> np.ndarray:
    """Return the errors ``[tasks]`` of gradient descent with the best constant rate."""
    torch.manual_seed(0)
    module, family = smooth(), meta.Sinusoids(shots=shots)
    errors_by_rate = []
    for rate in CONSTANT_RATES:
        learner = meta.MAML(module, family, inner_lr=rate)
        errors_by_rate.append(learner.evaluate(family, tasks, (steps,)).losses[0])

    def mean(errors: np.ndarray) -> float:
        return float(np.nan_to_num(errors, nan=np.inf).mean())

    return min(errors_by_rate, key=mean)


def rows(names: list[str], tasks: int, iterations: int | None, seed: int) -> Iterator[str]:
    """Yield the rows of the table, each after its training."""
    for name in names:
        began = time.process_time()
        learner = train(name, iterations, seed)
        seconds = time.process_time() - began
        for shots, steps, published in RECIPES[name].tests:
            errors = test(learner, shots, steps, tasks)
            yield (
                f"| {name} | {learner.iterations:,} | {seconds:.0f} | {shots} | {steps} "
                f"| {interval(errors)} | {published or ''} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learner", action="append", choices=RECIPES)
    parser.add_argument("--iterations", type=int, help="instead of the recipes'")
    parser.add_argument("--tasks", type=int, default=3000, help="of each test")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| learner | outer steps | CPU s | shots | steps | error | published |")
    print("|---" * 7 + "|")
    best = interval(descent(10, 5, arguments.tasks))
    print(f"| best constant rate | 0 | | 10 | 5 | {best} | |", flush=True)
    names = arguments.learner or list(RECIPES)
    for row in rows(names, arguments.tasks, arguments.iterations, arguments.seed):
        print(row, flush=True)


if __name__ == "__main__":
    main()
