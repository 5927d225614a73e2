"""Number of bytes that ``LearnedOptimizer`` exchanges between processes under FSDP2.

``python benchmarks/scaling.py --decision`` prints it. Two processes train a sharded
perceptron on the CPU (gloo), and every collective operation within ``step`` is counted
with the size of its input.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections import Counter
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from agents import LearnedOptimizer

__all__ = ["Exchanged", "count_bytes"]

#: Processes, and updates that are counted.
WORLD, STEPS = 2, 80

#: Operations among them that exchange nothing.
IDLE = ("wait", "wrap")
#: Namespaces of collective operations.
NAMESPACES = ("c10d", "_c10d_functional")


class Exchanged(NamedTuple):
    """Bytes that a process gives to collective operations.

    Attributes:
        parameters: number of the model's parameters.
        update: bytes of an update without a decision, by operation.
        decision: bytes of an update with one, the most there were, by operation.
    """

    parameters: int
    update: dict[str, int]
    decision: dict[str, int]


class _Counter(TorchDispatchMode):
    """Count the bytes of collective operations within."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.name().split("::")
        if name[0] in NAMESPACES and not name[1].startswith(IDLE):
            given = args[0] if isinstance(args[0], list | tuple) else [args[0]]
            if name[1].startswith("_allgather_base"):
                given = [args[1]]  # the first is the output
            size = sum(each.nbytes for each in given if isinstance(each, torch.Tensor))
            self.bytes[name[1].split(".")[0].strip("_")] += size
        return function(*args, **(kwargs or {}))


def _work(rank: int, folder: str, width: int, policy: str, results: Any) -> None:
    """Train in one process; the first one hands over what it has counted."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD
    )
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
    parameters = sum(p.numel() for p in model.parameters())
    fully_shard(model, mesh=init_device_mesh("cpu", (WORLD,)))
    optimizer = LearnedOptimizer(model.parameters(), policy, total_steps=STEPS)
    counts = []
    for _ in range(STEPS):
        loss = model(torch.randn(4, width)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        with _Counter() as counter:
            optimizer.step(loss=loss.detach())
        counts.append(dict(counter.bytes))
    if rank == 0:
        sizes = [sum(each.values()) for each in counts]
        least, most = (
            min(range(STEPS), key=sizes.__getitem__),
            max(range(STEPS), key=sizes.__getitem__),
        )
        results.put((parameters, counts[least], counts[most]))
    dist.barrier()
    dist.destroy_process_group()


def count_bytes(width: int, policy: str) -> Exchanged:
    """Train a perceptron of two layers, and count.

    Args:
        width: of its layers.
        policy: name or path of a policy.
    """
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            context.Process(
                target=_work, args=(rank, folder, width, policy, results), daemon=True
            )
            for rank in range(WORLD)
        ]
        for worker in workers:
            worker.start()
        found = Exchanged(*results.get(timeout=100))
        for worker in workers:
            worker.join()
    return found


if __name__ == "__main__":
    for policy in ("adam", "default"):
        for width in (32, 256):
            print(policy, count_bytes(width, policy))
