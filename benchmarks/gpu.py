"""Cost of ``LearnedOptimizer`` on a CUDA device: steps, updates, graphs and memory.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --model transformer-30m --policy default --refresh 10
    python benchmarks/gpu.py --device cpu --model perceptron     # to try the program

For a perceptron of a million parameters, a transformer of 133 tensors and one of thirty
million parameters, it times AdamW (foreach, then fused), the learned optimizer and, if the
device has CUDA graphs, the learned optimizer with updates replayed from a graph
(``guard="probe", capturable=True``). Each arm trains a copy of the same model on the same
random tokens, in turns, in blocks of steps that end with a wait for the device.

How to read it: *step* is the time of ``step`` alone, from one wait for the device to the
next; *update* is the time of forward pass, backward pass and step. Both are medians over
the blocks, with their ratio to AdamW's (foreach) in brackets. *memory* is the most that was
allocated on the device during a block, in excess of the parameters and gradients of all
arms. A decision falls into some blocks, which the median leaves out; *total* is the time of
all steps.

It has been run only on a CPU (``--device cpu``), as no CUDA device was available.
Therefore the documentation has no numbers for one.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from step_cost import perceptron, transformer
from torch import Tensor, nn

from agents import LearnedOptimizer

__all__ = ["MODELS", "Arm", "Result", "compare", "table"]

#: Steps of a block, between two waits for the device.
BLOCK_STEPS = 20

#: Tokens that the large transformer knows.
TOKENS = 8192


def large_transformer() -> nn.Module:
    """Make a transformer of 8 layers of width 512, 30 million parameters."""

    def layer() -> nn.Module:
        return nn.TransformerEncoderLayer(512, 8, 2048, dropout=0.0, batch_first=True)

    return nn.Sequential(nn.Embedding(TOKENS, 512), *(layer() for _ in range(8)))


#: Functions that make a model, and draw its inputs.
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "perceptron": (perceptron, lambda: torch.randn(64, 784)),
    "transformer": (transformer, lambda: torch.randint(64, (8, 32))),
    "transformer-30m": (large_transformer, lambda: torch.randint(TOKENS, (8, 128))),
}


class Arm(NamedTuple):
    """An optimizer to time.

    Attributes:
        name: name in the table.
        make: makes it from parameters and the number of steps.
        learned: whether it is a :class:`~agents.LearnedOptimizer`, which takes the loss.
        graphs: whether its updates are replayed from a CUDA graph.
    """

    name: str
    make: Callable[[list[nn.Parameter], int], torch.optim.Optimizer]
    learned: bool = False
    graphs: bool = False


class Result(NamedTuple):
    """Times of an arm, in seconds, and its memory.

    Attributes:
        step: of a step, median over blocks.
        update: of forward and backward pass and step, likewise.
        total: of all steps.
        memory: most bytes allocated on the device above parameters and gradients; None on
            a CPU.
    """

    step: float
    update: float
    total: float
    memory: int | None


def arms(policy: str, refresh: int | None, graphs: bool) -> list[Arm]:
    """List the arms.

    Args:
        policy: name or path of a policy.
        refresh: argument of :class:`~agents.LearnedOptimizer`.
        graphs: whether the device has CUDA graphs.
    """

    def learned(**arguments: Any) -> Callable[..., torch.optim.Optimizer]:
        return lambda params, steps: LearnedOptimizer(
            params, policy, total_steps=steps, refresh=refresh, **arguments
        )

    adamw = torch.optim.AdamW
    found = [
        Arm("AdamW, foreach", lambda params, _: adamw(params, foreach=True)),
        Arm("AdamW, fused", lambda params, _: adamw(params, fused=True)),
        Arm(policy, learned(), True),
        Arm(f"{policy}, guard='probe'", learned(guard="probe"), True),
    ]
    if graphs:
        make = learned(guard="probe", capturable=True)
        found.append(Arm(f"{policy}, graphs", make, True, True))
    return found


class Run:
    """Training of a copy of a model by an arm."""

    def __init__(self, arm: Arm, model: nn.Module, steps: int) -> None:
        self.arm, self.model = arm, copy.deepcopy(model)
        self.optimizer = arm.make(list(self.model.parameters()), steps)
        self.device = next(self.model.parameters()).device
        self.graph: Any = None
        self.steps: list[float] = []
        self.updates: list[float] = []
        self.memory: int | None = None

    def block(self, inputs: list[Tensor], targets: list[Tensor]) -> None:
        """Train on some batches, and note the times of this block."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
        of_steps, begin = 0.0, self._now()
        for batch, target in zip(inputs, targets, strict=True):
            self.optimizer.zero_grad(set_to_none=not self.arm.graphs)
            outputs = self.model(batch).flatten(0, -2)
            loss = nn.functional.cross_entropy(outputs, target)
            loss.backward()
            started = self._now()
            self._step(loss.detach())
            of_steps += self._now() - started
        self.updates.append((self._now() - begin) / len(inputs))
        self.steps.append(of_steps / len(inputs))
        if self.device.type == "cuda":
            most = torch.cuda.max_memory_allocated(self.device) - before
            self.memory = max(self.memory or 0, most)

    def _step(self, loss: Tensor) -> None:
        optimizer: Any = self.optimizer
        if not self.arm.learned:
            optimizer.step()
        elif self.arm.graphs and optimizer.can_replay():
            if self.graph is None:
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph):
                    optimizer.step()
            optimizer.replay(self.graph, loss=loss)
        else:
            optimizer.step(loss=loss)

    def _now(self) -> float:
        """Return the time once the device has done what it was asked to."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def compare(
    name: str, policy: str, steps: int, device: str, refresh: int | None = None
) -> dict[str, Result]:
    """Time all arms on one model.

    Args:
        name: key of :data:`MODELS`.
        policy: name or path of a policy.
        steps: length of the run, at least two blocks.
        device: of the model, such as ``"cuda"``.
        refresh: argument of :class:`~agents.LearnedOptimizer`.

    Returns:
        Results by the names of the arms.
    """
    make, draw = MODELS[name]
    torch.manual_seed(0)
    model = make().to(device)
    on_cuda = torch.device(device).type == "cuda"
    runs = [Run(arm, model, steps) for arm in arms(policy, refresh, on_cuda)]
    for _ in range(steps // BLOCK_STEPS):
        inputs = [draw().to(device) for _ in range(BLOCK_STEPS)]
        with torch.no_grad():
            outputs = model(inputs[0]).flatten(0, -2)
        classes, rows = outputs.shape[1], outputs.shape[0]
        targets = [torch.randint(classes, (rows,)).to(device) for _ in inputs]
        for run in runs:
            run.block(inputs, targets)
    # The first block has the memory of the optimizers' states to allocate.
    return {
        run.arm.name: Result(
            statistics.median(run.steps[1:]), statistics.median(run.updates[1:]),
            BLOCK_STEPS * sum(run.steps), run.memory,
        )
        for run in runs
    }  # fmt: skip


def table(results: dict[str, Result]) -> list[str]:
    """Format results, with ratios to those of the first arm."""
    base = next(iter(results.values()))
    lines = [f"{'':28s} {'step':>18s} {'update':>18s} {'total':>16s} {'memory':>10s}"]
    for name, result in results.items():
        cells = [
            f"{1e3 * value:.3f} ms ({value / reference:.2f})"
            for value, reference in ((result.step, base.step), (result.update, base.update))
        ]
        total = f"{result.total:.2f} s ({result.total / base.total:.2f})"
        memory = "" if result.memory is None else f"{result.memory / 2**20:.0f} MiB"
        lines.append(
            f"{name:28s} {cells[0]:>18s} {cells[1]:>18s} {total:>16s} {memory:>10s}"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="default", help="name or path of a policy")
    parser.add_argument("--model", choices=MODELS, help="default: all")
    parser.add_argument("--steps", type=int, default=400, help="steps of each run")
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--refresh", type=int, help="updates that factors are kept for")
    arguments = parser.parse_args()
    if arguments.steps < 2 * BLOCK_STEPS:
        parser.error(f"--steps must be at least {2 * BLOCK_STEPS}, got {arguments.steps}")
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --device cpu tries the program")
    on_cuda = device.type == "cuda"
    print(f"torch {torch.__version__}")
    print(torch.cuda.get_device_name(device) if on_cuda else "CPU: no CUDA device was run")
    for name in [arguments.model] if arguments.model else MODELS:
        model = MODELS[name][0]()
        sizes = [p.numel() for p in model.parameters()]
        print(f"\n{name}: {len(sizes)} tensors, {sum(sizes) / 1e6:.1f} million parameters")
        results = compare(
            name, arguments.policy, arguments.steps, arguments.device, arguments.refresh
        )
        print("\n".join(table(results)))


if __name__ == "__main__":
    main()
