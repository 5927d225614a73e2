"""CPU time of one ``LearnedOptimizer`` step against one of ``torch.optim.AdamW``.

Both use the same implementation (foreach) on a perceptron of a million parameters. The
two are timed in turns, in one process and one thread; printed is the median ratio.

    python benchmarks/step_cost.py --policy runs/ppo_seed0/policy
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise

import torch
from torch import nn

from agents import LearnedOptimizer

SIZES = (784, 784, 448, 64, 10)  # 0.996 million parameters


def make(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(SIZES):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", required=True, help="path of an exported policy")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models = {name: make(0) for name in ("adamw", "learned")}
    optimizers = {
        "adamw": torch.optim.AdamW(models["adamw"].parameters(), foreach=True),
        "learned": LearnedOptimizer(
            models["learned"].parameters(),
            arguments.policy,
            total_steps=arguments.steps,
            foreach=True,
        ),
    }
    inputs, targets = torch.randn(64, SIZES[0]), torch.randint(10, (64,))
    blocks: dict[str, list[float]] = {name: [] for name in models}
    block = 25  # a block holds decisions in their true proportion
    for _ in range(arguments.steps // block):
        for name, model in models.items():
            optimizer, spent = optimizers[name], 0.0
            for _ in range(block):
                loss = nn.functional.cross_entropy(model(inputs), targets)
                optimizer.zero_grad()
                loss.backward()
                extra = {"loss": loss.detach()} if name == "learned" else {}
                begin = time.process_time()
                optimizer.step(**extra)
                spent += time.process_time() - begin
            blocks[name].append(spent / block)
    total = sum(p.numel() for p in models["adamw"].parameters())
    print(f"{total / 1e6:.3f} million parameters, {arguments.steps} steps, 1 thread")
    for name, times in blocks.items():
        print(f"{name:8s} {1e3 * statistics.median(times):.3f} ms a step (median)")
    ratios = [b / a for a, b in zip(blocks["adamw"], blocks["learned"], strict=True)]
    mean = sum(blocks["learned"]) / sum(blocks["adamw"])
    print(f"ratio    {statistics.median(ratios):.3f} (median), {mean:.3f} (of the totals)")


if __name__ == "__main__":
    main()
