"""RL² on the bandits and the tabular MDPs of its publication (Duan et al., 2016).

    python benchmarks/known_ground.py --problem bandit-10
    python benchmarks/known_ground.py --problem mdp-10 --timesteps 1000000 --seed 1

Trains ``agents.rl.rl2.RL2`` by a recipe of this file, and measures its total reward per
trial on held-out instances, against other learners on the same instances. It takes 7 to 10
minutes of CPU time for each problem; ``--timesteps`` makes it shorter.

How to read it: during training, a line gives the mean reward of recent trials. In the
table, *mean* is the total reward of a trial with its 95 % interval over instances, higher
is better; *RL² ahead by* is the paired difference to the learner of the line; *published*
is the paper's value, on other instances.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from known_envs import Bandits, RandomMDPs, Trials
from known_learners import PSRL, UCB1, Learner, Planning, Random, Recurrent, Thompson, play
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule

from agents.rl.rl2 import RL2, LstmPolicy

#: Function that makes a learner for a batch of trials.
Maker = Callable[[Trials], Learner]

#: Seeds of the instances on which settings are chosen, and of those that are reported.
SELECTION_SEED, REPORT_SEED = 10**6, 2 * 10**6

PROBLEMS: dict[str, Any] = {
    "bandit-10": partial(Bandits, pulls=10),
    "bandit-100": partial(Bandits, pulls=100),
    "mdp-10": partial(RandomMDPs, episodes=10),
}

#: Mean total reward of a trial in tables 1 and 2 of the paper.
PUBLISHED: dict[str, dict[str, float]] = {
    "bandit-10": {
        "random": 5.0, "Thompson": 5.7, "UCB1": 6.7, "Gittins": 6.6, "RL²": 6.7,
    },
    "bandit-100": {
        "random": 49.9, "Thompson": 74.7, "UCB1": 78.0, "Gittins": 78.3, "RL²": 78.7,
    },
    "mdp-10": {"random": 100.1, "PSRL": 138.1, "UCRL2": 146.6, "RL²": 156.2},
}  # fmt: skip

#: Settings of the training. Batches are of whole ``trials``. The learning rate falls
#: linearly to a twentieth of ``lr``, the entropy coefficient from ``ent_coef`` to 0.
#: ``scaled`` rewards are divided by the standard deviation of returns.
RECIPES: dict[str, dict[str, Any]] = {
    "bandit-10": {
        "timesteps": 3_000_000, "envs": 1024, "trials": 256, "n_epochs": 8, "lr": 2e-3,
        "gamma": 0.99, "gae_lambda": 0.3, "ent_coef": 0.0, "hidden": 48, "scaled": False,
    },
    "bandit-100": {
        "timesteps": 8_000_000, "envs": 512, "trials": 128, "n_epochs": 6, "lr": 3e-3,
        "gamma": 0.95, "gae_lambda": 0.95, "ent_coef": 0.01, "hidden": 64, "scaled": False,
    },
    "mdp-10": {
        "timesteps": 7_000_000, "envs": 128, "trials": 16, "n_epochs": 4, "lr": 4e-3,
        "gamma": 0.95, "gae_lambda": 0.3, "ent_coef": 0.02, "hidden": 96, "scaled": True,
    },
}  # fmt: skip


class AnnealAndReport(BaseCallback):
    """Anneal the entropy coefficient to 0, and print a line for each 40th of a training.

    Args:
        recipe: settings of the training.
    """

    def __init__(self, recipe: dict[str, Any]) -> None:
        super().__init__()
        self.recipe, self.total, self.rollouts, self.lines = recipe, 0.0, 0, 0

    def _on_rollout_start(self) -> None:
        done = self.num_timesteps / self.recipe["timesteps"]
        self.model.ent_coef = self.recipe["ent_coef"] * max(0.0, 1 - done)

    def _on_step(self) -> bool:
        self.total += float(self.locals["rewards"].mean())
        return True

    def _on_rollout_end(self) -> None:
        self.rollouts += 1
        lines = 40 * self.num_timesteps // self.recipe["timesteps"]
        if lines > self.lines:
            print(
                f"{self.num_timesteps:>9} steps, {time.process_time():5.0f} s of CPU time: "
                f"{self.total / self.rollouts:.2f} a trial",
                flush=True,
            )
            self.total, self.rollouts, self.lines = 0.0, 0, lines


def train(env: Trials, recipe: dict[str, Any], seed: int) -> RL2:
    """Train RL² for ``recipe["timesteps"]``; a rollout is one trial of each run."""
    model = RL2(
        LstmPolicy, env, n_steps=env.horizon, seed=seed, device="cpu",
        batch_size=recipe["trials"] * env.horizon, n_epochs=recipe["n_epochs"],
        learning_rate=LinearSchedule(recipe["lr"], recipe["lr"] / 20, 1.0),
        gamma=recipe["gamma"], gae_lambda=recipe["gae_lambda"],
        ent_coef=recipe["ent_coef"], max_grad_norm=2.0,
        group=env.num_envs if recipe["scaled"] else None,
        policy_kwargs={
            "lstm_hidden_size": recipe["hidden"], "net_arch": [64], "memory": env.horizon,
        },
    )  # fmt: skip
    return model.learn(recipe["timesteps"], callback=AnnealAndReport(recipe))


def best_of(problem: str, candidates: dict[str, Maker], trials: int) -> dict[str, Maker]:
    """Return the candidate that is best on instances that are not reported."""
    env = PROBLEMS[problem](trials)
    means = {
        name: play(env, make, SELECTION_SEED).mean() for name, make in candidates.items()
    }
    best = max(means, key=means.__getitem__)
    return {best: candidates[best]}


def learners(problem: str, model: RL2, trials: int) -> dict[str, Maker]:
    """Return all learners to compare by name, RL² last."""
    others: dict[str, Maker] = {"random": Random, "optimum, told the instance": Planning}
    if isinstance(PROBLEMS[problem](1), Bandits):
        rates = {
            f"UCB1, c = {c}": partial(UCB1, c=c) for c in (0.05, 0.1, 0.2, 0.3, 0.5, 1)
        }
        others |= {"Thompson": Thompson, "greedy": partial(UCB1, c=0)}
        others |= best_of(problem, rates, trials)
    else:
        others["PSRL"] = PSRL
    rl2 = {
        f"RL², {name}": partial(Recurrent, model=model, deterministic=name == "likeliest")
        for name in ("likeliest", "drawn")
    }
    return others | best_of(problem, rl2, trials)


def report(problem: str, model: RL2, trials: int) -> dict[str, np.ndarray]:
    """Print the table, and return the rewards of each learner ``[trials]``."""
    env = PROBLEMS[problem](trials)
    makers = learners(problem, model, trials)
    by_learner = {name: play(env, make, REPORT_SEED) for name, make in makers.items()}
    ours = list(by_learner.values())[-1]
    print(f"\n{problem}: total reward of a trial, {trials} instances, 95 % intervals")
    print(f"{'':28}{'mean':>16}{'RL² ahead by':>18}{'published':>12}")
    published = dict(PUBLISHED[problem])
    for name, returns in by_learner.items():
        figure = published.pop(name.split(",")[0], None)
        lead = "" if returns is ours else interval(ours - returns, "+")
        print(f"{name:28}{interval(returns):>16}{lead:>18}{figure or '':>12}")
    for name, figure in published.items():
        print(f"{name:28}{'':34}{figure:>12}")
    return by_learner


def interval(values: np.ndarray, sign: str = "") -> str:
    """Format the mean with its 95 % interval, by the normal distribution."""
    error = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():{sign}.2f} ±{error:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", choices=PROBLEMS, default="bandit-10")
    parser.add_argument(
        "--timesteps",
        type=int,
        help="instead of the recipe's; whole trials are played to the end",
    )
    parser.add_argument("--trials", type=int, default=10_000, help="number of instances")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.trials < 2:
        parser.error(f"--trials must be at least 2, got {arguments.trials}")
    recipe = dict(RECIPES[arguments.problem])
    if arguments.timesteps is not None:
        recipe["timesteps"] = arguments.timesteps
    print(f"{arguments.problem}: {recipe}", flush=True)
    env = PROBLEMS[arguments.problem](recipe["envs"])
    model = train(env, recipe, arguments.seed)
    report(arguments.problem, model, arguments.trials)


if __name__ == "__main__":
    main()
