"""Measure what an update of each rule costs, in multiplications of a forward pass.

    python benchmarks/rule_costs.py

Prints the time of an update of one parameter, in units of the time that one multiplication
takes in the forward pass of a stack of linear layers. The rules update the layers of 64
runs, as in the environments. ``optenv.rules.COSTS`` has these numbers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from optenv import rules

RUNS, BATCH = 64, 32


def cpu_seconds(function: Callable[[], object]) -> float:
    """Return the CPU time of one call."""
    begin = time.process_time()
    function()
    return time.process_time() - begin


def measure(width: int, repeats: int) -> dict[str, float]:
    """Return the cost of each rule on layers of ``width`` inputs and outputs."""
    shapes = [(width, width)] * 3 + [(width,)] * 3
    size = sum(torch.Size(shape).numel() for shape in shapes)
    weights = torch.randn(3, RUNS, width, width) / width**0.5
    inputs = torch.randn(RUNS, BATCH, width)

    def forward() -> None:
        hidden = inputs
        for weight in weights:
            hidden = torch.bmm(hidden, weight)

    updates = {}
    for name in (*rules.RULES,):
        rule = rules.get(name).bind(shapes)
        params, grad = torch.randn(RUNS, size), torch.randn(RUNS, size)
        state, lr = [rule.init(params)], torch.full((RUNS, 1), 1e-3)

        def update(rule=rule, params=params, grad=grad, state=state, lr=lr) -> None:  # type: ignore[no-untyped-def]
            state[0] = rule.update(params, grad, state[0], lr, True)[1]

        updates[name] = update
    ratios: dict[str, list[float]] = {name: [] for name in updates}
    for repeat in range(repeats + 1):
        once = statistics.median(cpu_seconds(forward) for _ in range(5))
        per_multiplication = once / (3 * RUNS * BATCH * width**2)
        for name, update in updates.items():
            seconds = min(cpu_seconds(update) for _ in range(3))
            if repeat:  # the first round warms up
                ratios[name].append(seconds / (RUNS * size) / per_multiplication)
    return {name: statistics.median(values) for name, values in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, nargs="+", default=(32, 64, 128))
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    columns = {width: measure(width, arguments.repeats) for width in arguments.width}
    print(f"{'rule':18s}" + "".join(f"{width:>8d}" for width in columns))
    for name in columns[arguments.width[0]]:
        print(f"{name:18s}" + "".join(f"{each[name]:8.1f}" for each in columns.values()))


if __name__ == "__main__":
    main()
