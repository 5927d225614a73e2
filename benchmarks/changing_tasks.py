"""Loss after changes of the task, with a constant and with a decayed learning rate.

    python benchmarks/changing_tasks.py

Runs of a perceptron on Gaussian mixtures whose classes are permuted ``--changes`` times,
at times that each run draws, and the same runs without changes. Adam's learning rate is
constant, or follows a cosine from the same peak to 0. Each schedule has the peak that is
best for it, out of a grid, with and without changes. About a minute of CPU time.

How to read it: ``loss`` is the loss on the last task at the end of a run, ``mean`` the mean
loss over all its tasks at that time. These, ``return`` and ``forgetting`` are means over
runs; ``+-`` is the standard error of the loss. Without changes the cosine ends lower. With
changes its learning rate is almost 0 when the last task begins.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch

import optenv
from optenv import tasks

PEAKS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
TASK = tasks.MLP(batch_size=16, num_train=512, num_validation=64, outputs=5, width=32)


def measure(schedule: str, peak: float, arguments: argparse.Namespace, kind: str | None):
    """Run a schedule; return means over runs by name, and the error of the loss."""
    changes: dict[str, Any] | None = None
    if kind is not None:
        changes = {"kinds": [kind], "count": arguments.changes}
    env = optenv.LearningRateVectorEnv(
        arguments.runs, tasks=TASK, base_lr=peak, horizon=arguments.horizon,
        updates_per_step=arguments.updates_per_step, changes=changes,
        action={"kind": "continuous", "schedule": schedule}, on_divergence="absorb",
        autoreset_mode="Disabled",
    )  # fmt: skip
    env.reset(seed=arguments.seed)
    neutral, total = np.zeros(env.action_space.shape, np.float32), 0.0
    for _ in range(arguments.horizon):
        _, reward, _, _, info = env.step(neutral)
        total = total + reward
    loss, zero = info["loss"], np.zeros(arguments.runs)
    found = {
        "return": total,
        "loss": loss,
        "mean": info.get("mean_loss", loss),
        "forgetting": info.get("forgetting", zero),
    }
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return means, float(loss.std(ddof=1) / np.sqrt(len(loss)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", default="labels", help="a key of optenv.changes.KINDS")
    parser.add_argument("--changes", type=int, default=2, help="changes of a run")
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--horizon", type=int, default=40)
    parser.add_argument("--updates-per-step", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for kind in (None, arguments.kind):
        count = 0 if kind is None else arguments.changes
        print(f"{count} changes" + ("" if kind is None else f" of kind {kind!r}"))
        for schedule in ("constant", "cosine"):
            results = {peak: measure(schedule, peak, arguments, kind) for peak in PEAKS}
            peak = max(PEAKS, key=lambda p: results[p][0]["return"])
            means, error = results[peak]
            shown = "  ".join(f"{name} {value:6.3f}" for name, value in means.items())
            print(f"  {schedule:9} best peak {peak:<6g} {shown}  +-{error:.3f}")


if __name__ == "__main__":
    main()
