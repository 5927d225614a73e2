"""CPU time of a ``LearnedOptimizer`` step, relative to ``torch.optim.AdamW``.

    python benchmarks/step_cost.py --policy adam
    python benchmarks/step_cost.py --policy adam --guard probe --implementation fused

Both optimizers use the same implementation (foreach or fused); with ``--implementation
auto``, AdamW uses foreach and the learned optimizer its own choice. The models are a
perceptron of a million parameters (8 tensors) and a transformer of 133 tensors. The
optimizers are timed alternately, in one process and one thread, in blocks of 25 steps, over
a whole run. A few minutes with the policy ``adam``; for ``default``, whose rule is slower,
``--steps 300`` is enough.

How to read it: *ratio* is the time of a learned step divided by AdamW's. The ratio of the
totals includes the whole cost of a run, with its decisions; the median over blocks leaves
out blocks with a decision and is less noisy.
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

BLOCK_STEPS = 25


def perceptron() -> nn.Module:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise((784, 784, 448, 64, 10)):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def transformer() -> nn.Module:
    def layer() -> nn.Module:
        return nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)

    return nn.Sequential(nn.Embedding(64, 64), *(layer() for _ in range(11)))


#: Functions that make a model, and draw its inputs.
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "perceptron": (perceptron, lambda: torch.randn(16, 784)),
    "transformer": (transformer, lambda: torch.randint(64, (2, 8))),
}


def compare(
    name: str,
    policy: str,
    steps: int,
    guard: str,
    implementation: str,
    refresh: int | None,
) -> None:
    """Time both optimizers on one model, and print the ratio.

    Args:
        name: key of :data:`MODELS`.
        policy: name or path of the policy.
        steps: length of the run.
        guard: argument of ``LearnedOptimizer``.
        implementation: ``"foreach"``, ``"fused"`` or ``"auto"``.
        refresh: argument of ``LearnedOptimizer``.
    """
    make, draw = MODELS[name]
    chosen = {} if implementation == "auto" else {implementation: True}
    torch.manual_seed(0)
    first = make()
    models = {"adamw": first, "learned": copy.deepcopy(first)}
    optimizers: dict[str, torch.optim.Optimizer] = {
        "adamw": torch.optim.AdamW(
            models["adamw"].parameters(), **(chosen or {"foreach": True})
        ),
        "learned": LearnedOptimizer(
            models["learned"].parameters(),
            policy,
            total_steps=steps,
            guard=guard,
            refresh=refresh,
            **chosen,
        ),
    }
    blocks: dict[str, list[float]] = {kind: [] for kind in models}
    for _ in range(steps // BLOCK_STEPS):
        for kind, model in models.items():
            optimizer, spent = optimizers[kind], 0.0
            for _ in range(BLOCK_STEPS):
                # Fresh noise, so that nothing is learned and no gradient vanishes:
                # arithmetic on subnormal numbers is slow. Dead units would have them too;
                # Tanh has none.
                outputs = model(draw()).flatten(0, -2)
                targets = torch.randint(outputs.shape[-1], outputs.shape[:1])
                loss = nn.functional.cross_entropy(outputs, targets)
                optimizer.zero_grad()
                loss.backward()
                extra = {"loss": loss.detach()} if kind == "learned" else {}
                begin = time.process_time()
                optimizer.step(**extra)
                spent += time.process_time() - begin
            blocks[kind].append(spent / BLOCK_STEPS)
    sizes = [p.numel() for p in models["adamw"].parameters()]
    print(
        f"{name}, {len(sizes)} tensors, {sum(sizes) / 1e6:.3f} million parameters, "
        f"{steps} steps, 1 thread"
    )
    for kind, times in blocks.items():
        print(f"  {kind:8s} {1e3 * statistics.median(times):.3f} ms a step (median)")
    ratios = [b / a for a, b in zip(blocks["adamw"], blocks["learned"], strict=True)]
    total = sum(blocks["learned"]) / sum(blocks["adamw"])
    print(f"  ratio    {total:.3f} of the totals, {statistics.median(ratios):.3f} median")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", required=True, help="name or path of a policy")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each run")
    parser.add_argument("--guard", choices=("step", "probe"), default="step")
    choices = ("foreach", "fused", "auto")
    parser.add_argument("--implementation", choices=choices, default="foreach")
    parser.add_argument("--refresh", type=int, help="updates that factors are kept for")
    parser.add_argument("--model", choices=MODELS, help="default: both")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in [arguments.model] if arguments.model else MODELS:
        compare(
            name,
            arguments.policy,
            arguments.steps,
            arguments.guard,
            arguments.implementation,
            arguments.refresh,
        )


if __name__ == "__main__":
    main()
