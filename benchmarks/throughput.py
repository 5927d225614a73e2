"""Updates per CPU-second of the environment, and of loops that do less.

    python benchmarks/throughput.py [--dacbench]
    python benchmarks/throughput.py --single
    python benchmarks/throughput.py --families [NAME ...] [--batch-size 32]

Measures what telemetry, rewards, batches and infos cost, in three cases. All loops of a
case are timed alternately, in one process and one thread. A few minutes.

1. 256 runs of a 64-32-10 MLP, batch size 32, Adam: the environment against a bare batched
   loop of forward, backward and in-place Adam over the same tensors; and the environment
   with its resets, which draw new tasks.
2. The model of DACBench's smallest case (784-10 linear, batch size 32, 320 images): the
   environment against an ordinary loop over one run (forward, backward, torch.optim.AdamW,
   validation on 64 examples; tensors in memory). With ``--dacbench``, DACBench's own
   environment is timed in the same process (``dacbench_case.py``), against 64 runs with 25
   updates a step, and with DACBench's 1 update a step for 64 runs and for one.
3. One run of the perceptron of case 1: ``gymnasium.make`` and a batch of one run, stepping
   with 1, 3 and 10 updates a step, against a loop written by hand: a module of
   ``torch.nn``, batches of a shuffled order, ``torch.optim.Adam``. With ``--single``, only
   these are timed.

With ``--families``, one structure of each family is timed instead, with 10 updates a step
and in batches of 1, 16 and 256 runs, and the memory of the environment is printed.
``--batch-size`` sets the number of examples of an update, which structures otherwise draw,
from 4 on; losses of up to 256 examples are evaluated at each control step, even if updates
use fewer. Freed memory is kept (``optenv.keep_freed_memory``), in all loops alike.

How to read it: speeds are medians over rounds, and depend on the machine. Ratios are
medians of ratios within a round: *ratio to the bare loop* 0.7 means that the environment
makes 0.7 of the loop's updates per second; *ratio to DACBench* 50 means 50 times as many.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.vector import AutoresetMode
from torch import nn

import optenv
from optenv.tasks.base import Task
from optenv.tasks.examples import Batch

#: Numbers of runs in the table of families.
BATCHES = (1, 16, 256)


def make_env(
    runs: int, task: optenv.tasks.Task, updates_per_step: int, horizon: int = 40
) -> optenv.LearningRateVectorEnv:
    env = optenv.LearningRateVectorEnv(
        runs,
        tasks=task,
        updates_per_step=updates_per_step,
        horizon=horizon,
        on_divergence="absorb",
        autoreset_mode=AutoresetMode.NEXT_STEP,
    )
    env.reset(seed=0)
    return env


def perceptron() -> optenv.tasks.MLP:
    """Return the task of the first and of the third case."""
    return optenv.tasks.MLP(
        batch_size=32, num_train=1024, inputs=64, outputs=10, width=32, depth=1
    )


def env_steps(env: optenv.LearningRateVectorEnv, steps: int) -> int:
    """Step, with resets, and return the number of updates made."""
    actions = np.zeros((env.num_envs, 1), np.float32)
    made = 0
    for _ in range(steps):
        before = env.groups[0][1].state.run.updates.sum()
        env.step(actions)
        made += max(0, int(env.groups[0][1].state.run.updates.sum() - before))
    return made


def bare_updates(env: optenv.LearningRateVectorEnv, updates: int) -> int:
    """Make updates without the environment, on the parameters and data of its runs.

    They are forward, backward and in-place Adam, batched over runs. Returns their number.
    """
    group = env.groups[0][1]
    task: Task = group.task
    data = group.data
    params = [p.clone().requires_grad_() for p in task.unflatten(group.state.run.params)]
    means, squares = ([torch.zeros_like(p) for p in params] for _ in range(2))
    examples = torch.randint(task.num_train, (env.num_envs, task.batch_size))
    buffers = task.init_buffers(env.num_envs)
    for step in range(1, updates + 1):
        inputs, targets = data.batch(examples)
        numbers = torch.full_like(data.order, step)
        noise = data.noise(numbers, task.batch_size, task.noise).to(inputs.device)
        keys = data.keys(numbers) if task.draws else None
        batch = Batch(inputs, targets, noise.float(), keys)
        losses, buffers = task.training_loss(tuple(params), batch, buffers)
        buffers = buffers.detach()
        grads = torch.autograd.grad(losses.sum(), params)
        with torch.no_grad():
            torch._foreach_lerp_(means, grads, 0.1)
            torch._foreach_mul_(squares, 0.999)
            torch._foreach_addcmul_(squares, grads, grads, 0.001)
            scale = torch._foreach_sqrt(squares)
            torch._foreach_div_(scale, (1 - 0.999**step) ** 0.5)
            torch._foreach_add_(scale, 1e-8)
            torch._foreach_addcdiv_(params, means, scale, -1e-3 / (1 - 0.9**step))
    return env.num_envs * updates


def single_updates(updates: int) -> int:
    """Make updates of one run in an ordinary loop, and return their number.

    It validates on all 64 examples; DACBench does on 32 of them at most updates.
    """
    model = nn.Linear(784, 10)
    optimizer = torch.optim.AdamW(model.parameters())
    inputs, targets = torch.randn(320, 784), torch.randint(10, (320,))
    for step in range(updates):
        rows = slice(step % 8 * 32, step % 8 * 32 + 32)
        loss = F.cross_entropy(model(inputs[rows]), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            F.cross_entropy(model(inputs[256:]), targets[256:]).item()
    return updates


class HandWritten:
    """The loop that one writes by hand for a run of :func:`perceptron`."""

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.inputs, self.targets = torch.randn(1024, 64), torch.randint(10, (1024,))

    def updates(self, updates: int) -> int:
        """Make updates, and return their number."""
        for update in range(updates):
            place = update * 32 % 1024
            if place == 0:
                order = torch.randperm(1024)
            rows = order[place : place + 32]
            loss = F.cross_entropy(self.model(self.inputs[rows]), self.targets[rows])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return updates


def single_steps(env: gym.Env, updates: int, steps: int) -> int:
    """Step an environment of one run, and return the number of updates made."""
    action = np.zeros(1, np.float32)
    for _ in range(steps):
        env.step(action)
    return updates * steps


def speeds(work: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Return the updates per CPU-second of each loop, timed alternately."""
    for run in work.values():
        run()  # warm up
    measured: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, run in work.items():
            begin = time.process_time()
            updates = run()
            measured[name].append(updates / (time.process_time() - begin))
    return measured


def report(measured: dict[str, list[float]]) -> None:
    """Print the median speed of each loop."""
    for name, values in measured.items():
        print(f"  {name:39s} {statistics.median(values):>10,.0f} updates per CPU-second")


def ratio(measured: dict[str, list[float]], ours: str, other: str) -> float:
    """Return the median over rounds of the ratio within a round."""
    pairs = zip(measured[ours], measured[other], strict=True)
    return statistics.median(a / b for a, b in pairs)


def compare_with_bare_loop(rounds: int) -> None:
    """Time the first case, and print it."""
    print("64-32-10 MLP, batch size 32, 256 runs, Adam, full telemetry")
    mlp = perceptron()
    bare = "bare batched loop"
    tensors = make_env(256, mlp, 10)
    work = {bare: lambda: bare_updates(tensors, 100)}
    for updates in (10, 2):
        # Stepping alone: a horizon that these rounds do not reach.
        env = make_env(256, mlp, updates, horizon=100_000)
        steps = 100 // updates
        work[f"stepping, {updates} updates a step"] = lambda e=env, n=steps: env_steps(e, n)
    env = make_env(256, mlp, 10)
    work["whole runs with reset, 10 a step"] = lambda: env_steps(env, 41)
    measured = speeds(work, rounds)
    report(measured)
    for name in list(work)[1:]:
        print(f"  ratio to the bare loop: {name:34s} {ratio(measured, name, bare):.2f}")


def compare_with_single_runs(rounds: int, dacbench: Callable[[], int] | None) -> None:
    """Time the second case, with DACBench if it is given, and print it."""
    print("784-10 linear model, batch size 32, Adam")
    linear = optenv.tasks.MLP(
        batch_size=32, num_train=256, num_validation=64, inputs=784, outputs=10, depth=0
    )
    loop, theirs = "ordinary loop, one run", "DACBench, one run, 1 update a step"

    def episode(runs: int, updates: int) -> Callable[[], int]:
        """Return a loop of one reset and 100 updates of each run, as in DACBench."""
        steps = 100 // updates
        env = make_env(runs, linear, updates, horizon=steps)
        return lambda: env_steps(env, steps + 1)

    ours = "environment, 64 runs, 25 updates a step"
    work = {ours: episode(64, 25), loop: lambda: single_updates(300)}
    if dacbench is not None:
        work["environment, 64 runs, 1 update a step"] = episode(64, 1)
        work["environment, one run, 1 update a step"] = episode(1, 1)
        work[theirs] = dacbench
    measured = speeds(work, rounds)
    report(measured)
    to_loop = ratio(measured, ours, loop)
    print(f"  ratio to the loop {to_loop:.1f}")
    if dacbench is None:
        print("  --dacbench measures the ratio to DACBench")
        return
    print("  ratio to DACBench, measured:")
    for name in work:
        if name != theirs:
            print(f"    {name:39s} {ratio(measured, name, theirs):.1f}")


def compare_with_hand_written_loop(rounds: int) -> None:
    """Time the third case, and print it."""
    print("64-32-10 MLP, batch size 32, one run, Adam, full telemetry")
    loop = HandWritten()
    by_hand = "loop by hand, torch.optim.Adam"
    work = {by_hand: lambda: loop.updates(300)}
    for updates in (1, 3, 10):
        steps = 300 // updates
        arguments = {"updates_per_step": updates, "horizon": 1_000_000}  # never reached
        env = gym.make(
            "optenv/LearningRate-v0", tasks=perceptron(), on_divergence="absorb",
            **arguments,
        )  # fmt: skip
        env.reset(seed=0)
        batch = make_env(1, perceptron(), **arguments)
        work[f"gymnasium.make, {updates} updates a step"] = (
            lambda e=env, n=updates, k=steps: single_steps(e, n, k)
        )
        work[f"batch of one run, {updates} updates a step"] = lambda e=batch, k=steps: (
            env_steps(e, k)
        )
    measured = speeds(work, rounds)
    report(measured)
    for name in list(work)[1:]:
        share = ratio(measured, name, by_hand)
        print(f"  ratio to the loop by hand: {name:37s} {share:.2f}")


def compare_families(rounds: int, names: Sequence[str], batch_size: int | None) -> None:
    """Time one structure of each family in batches of 1, 16 and 256, and print a table.

    Args:
        rounds: timed rounds of each.
        names: the families.
        batch_size: examples of an update; None for those that the structure draws.
    """
    print(
        "updates per CPU-second, 10 updates a step: bare batched loop, environment, ratio; "
        "MB of the environment\n  " + " " * 20
        + " |".join(f"{f'{runs} runs':>33s}" for runs in BATCHES)
    )  # fmt: skip
    for name in names:
        task = optenv.tasks.make(name).draw(np.random.default_rng(0))
        if batch_size is not None:
            task = dataclasses.replace(task, batch_size=batch_size)
        cells = []
        for runs in BATCHES:
            taken = Memory()
            env = make_env(runs, task, 10, horizon=100_000)
            env_steps(env, 1)
            megabytes = taken.peak()
            updates = max(10, min(200, int(1e8 / (task.work * runs)) // 10 * 10))
            work = {
                "bare": lambda e=env, n=updates: bare_updates(e, n),
                "env": lambda e=env, n=updates: env_steps(e, n // 10),
            }
            measured = speeds(work, rounds)
            bare, ours = (statistics.median(measured[key]) for key in ("bare", "env"))
            share = ratio(measured, "env", "bare")
            cells.append(f"{bare:>9,.0f} {ours:>9,.0f} {share:5.2f} {megabytes:7,.0f}")
        print(f"  {name:20s}" + " |".join(cells), flush=True)


class Memory:
    """Growth of this process's memory from now on (Linux with the GNU C library)."""

    def __init__(self) -> None:
        ctypes.CDLL(None).malloc_trim(0)  # what is free now would not be counted
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
        self.before = self._read("VmRSS")

    def peak(self) -> float:
        """Return by how many MB the memory has grown at its peak."""
        return (self._read("VmHWM") - self.before) / 1e3

    @staticmethod
    def _read(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds of each")
    parser.add_argument("--dacbench", action="store_true", help="time DACBench as well")
    parser.add_argument(
        "--single", action="store_true", help="time environments of one run alone"
    )
    parser.add_argument(
        "--families", nargs="*", metavar="NAME",
        help="time families of tasks instead, by default all, in batches of 1, 16, 256",
    )  # fmt: skip
    parser.add_argument(
        "--batch-size", type=int, metavar="N",
        help="examples of an update of each family, by default as drawn",
    )  # fmt: skip
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.families is not None:
        optenv.keep_freed_memory()
        everything = [*optenv.tasks.FAMILIES, *optenv.tasks.MORE_FAMILIES]
        names = arguments.families or everything
        compare_families(arguments.rounds, names, arguments.batch_size)
        return
    if arguments.single:
        compare_with_hand_written_loop(arguments.rounds)
        return
    dacbench = None
    if arguments.dacbench:
        from dacbench_case import Case

        dacbench = Case()
        print(f"DACBench {dacbench.version} over {dacbench.library}")
    compare_with_bare_loop(arguments.rounds)
    compare_with_single_runs(arguments.rounds, dacbench)
    compare_with_hand_written_loop(arguments.rounds)


if __name__ == "__main__":
    main()
