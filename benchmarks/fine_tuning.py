"""Fine-tuning on few examples: learned optimizer with and without ``max_lr``, and AdamW.

    python benchmarks/fine_tuning.py

A convolutional network is trained on handwritten digits, and fine-tuned on a few digits
under noise. Measures the cross-entropy on other noisy digits, before and after.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable, Iterable, Iterator

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from agents import LearnedOptimizer

Make = Callable[[Iterable[nn.Parameter], float, int], torch.optim.Optimizer]

#: By name, functions of parameters, learning rate and number of steps.
ARMS: dict[str, Make] = {
    "AdamW": lambda p, lr, steps: torch.optim.AdamW(p, lr=lr),
    "lr": lambda p, lr, steps: LearnedOptimizer(p, lr=lr, total_steps=steps),
    "max_lr": lambda p, lr, steps: LearnedOptimizer(p, max_lr=lr, total_steps=steps),
}


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: tuple[Tensor, Tensor],
    steps: int, generator: torch.Generator,
) -> None:  # fmt: skip
    """Train on random batches of 32 for ``steps`` steps."""
    inputs, targets = data
    for _ in range(steps):
        rows = torch.randint(len(inputs), (32,), generator=generator)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[rows]), targets[rows])
        loss.backward()
        if isinstance(optimizer, LearnedOptimizer):
            optimizer.step(loss=loss)
        else:
            optimizer.step()


def held_out(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        return nn.functional.cross_entropy(model(data[0]), data[1]).item()


def measure(
    seed: int, rates: list[float], steps: int, examples: int
) -> Iterator[tuple[str, float, float]]:
    """Yield arm, learning rate and held-out loss; first that before fine-tuning."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    bunch = load_digits()
    inputs = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    targets = torch.tensor(bunch.target)
    order = torch.randperm(len(inputs), generator=generator)
    inputs, targets = inputs[order], targets[order]
    noisy = 0.5 * inputs + 0.5 * torch.rand(inputs.shape, generator=generator)
    base = network()
    pretraining = torch.optim.AdamW(base.parameters(), lr=1e-3)
    train(base, pretraining, (inputs[:900], targets[:900]), 1500, generator)
    few = noisy[900 : 900 + examples], targets[900 : 900 + examples]
    rest = noisy[900 + examples :], targets[900 + examples :]
    yield "before", 0.0, held_out(base, rest)
    for arm, make in ARMS.items():
        for lr in rates:
            model = copy.deepcopy(base)
            optimizer = make(model.parameters(), lr, steps)
            train(model, optimizer, few, steps, torch.Generator().manual_seed(seed))
            yield arm, lr, held_out(model, rest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--examples", type=int, default=60)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-5, 1e-4, 1e-3])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    losses: dict[tuple[str, float], list[float]] = {}
    for seed in range(arguments.seeds):
        for arm, lr, loss in measure(
            seed, arguments.rates, arguments.steps, arguments.examples
        ):
            losses.setdefault((arm, lr), []).append(loss)
    print(f"{'arm':12}{'lr':>8}  held-out loss, mean and standard deviation over seeds")
    for (arm, lr), values in losses.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{arm:12}{lr:8.0e}  {statistics.mean(values):.3f} ±{spread:.3f}")


if __name__ == "__main__":
    main()
