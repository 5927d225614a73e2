"""CPU time of one ``LearnedOptimizer`` step against one of ``torch.optim.AdamW``.

Both use the same implementation, on a perceptron of a million parameters (8 tensors) and on
a transformer of 133 tensors. The two are timed in turns, in one process and one thread, in
blocks of 25 steps, over a whole run; printed are the ratio of the totals, which holds all
that a run costs, and the median ratio of the blocks.

    python benchmarks/step_cost.py --policy adam
    python benchmarks/step_cost.py --policy adam --guard probe --implementation fused
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from agents import LearnedOptimizer

BLOCK = 25


def perceptron() -> nn.Module:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise((784, 784, 448, 64, 10)):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def transformer() -> nn.Module:
    def layer() -> nn.Module:
        return nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)

    return nn.Sequential(nn.Embedding(64, 64), *(layer() for _ in range(11)))


#: Models, and what draws their inputs.
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "perceptron": (perceptron, lambda: torch.randn(16, 784)),
    "transformer": (transformer, lambda: torch.randint(64, (2, 8))),
}


def compare(name: str, policy: str, steps: int, guard: str, how: dict[str, bool]) -> None:
    make, draw = MODELS[name]
    torch.manual_seed(0)
    first = make()
    models = {"adamw": first, "learned": copy.deepcopy(first)}
    optimizers: dict[str, torch.optim.Optimizer] = {
        "adamw": torch.optim.AdamW(models["adamw"].parameters(), **how),
        "learned": LearnedOptimizer(
            models["learned"].parameters(), policy, total_steps=steps, guard=guard, **how
        ),
    }
    blocks: dict[str, list[float]] = {who: [] for who in models}
    for _ in range(steps // BLOCK):
        for who, model in models.items():
            optimizer, spent = optimizers[who], 0.0
            for _ in range(BLOCK):
                # Fresh noise, so that nothing is learned: numbers that vanish are slow, as
                # those of dead units are, which Tanh does not have.
                outputs = model(draw()).flatten(0, -2)
                targets = torch.randint(outputs.shape[-1], outputs.shape[:1])
                loss = nn.functional.cross_entropy(outputs, targets)
                optimizer.zero_grad()
                loss.backward()
                extra = {"loss": loss.detach()} if who == "learned" else {}
                begin = time.process_time()
                optimizer.step(**extra)
                spent += time.process_time() - begin
            blocks[who].append(spent / BLOCK)
    sizes = [p.numel() for p in models["adamw"].parameters()]
    print(
        f"{name}, {len(sizes)} tensors, {sum(sizes) / 1e6:.3f} million parameters, "
        f"{steps} steps, 1 thread"
    )
    for who, times in blocks.items():
        print(f"  {who:8s} {1e3 * statistics.median(times):.3f} ms a step (median)")
    ratios = [b / a for a, b in zip(blocks["adamw"], blocks["learned"], strict=True)]
    total = sum(blocks["learned"]) / sum(blocks["adamw"])
    print(f"  ratio    {total:.3f} of the totals, {statistics.median(ratios):.3f} median")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", required=True, help="name or path of a policy")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each run")
    parser.add_argument("--guard", choices=("step", "probe"), default="step")
    parser.add_argument("--implementation", choices=("foreach", "fused"), default="foreach")
    parser.add_argument("--model", choices=MODELS, help="default: both")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in [arguments.model] if arguments.model else MODELS:
        how = {arguments.implementation: True}
        compare(name, arguments.policy, arguments.steps, arguments.guard, how)


if __name__ == "__main__":
    main()
