"""Growth of costs: with models, batches, processes, and the machines of a cluster.

    python benchmarks/scaling.py --costs        # a control step and an update, by size
    python benchmarks/scaling.py --decision     # bytes that processes exchange under FSDP2
    python benchmarks/scaling.py --rllib        # RLlib with 1 and 2 processes, and SB3
    python benchmarks/scaling.py --ray          # the benchmark on Ray, and without
    python benchmarks/scaling.py --cluster      # a model of 64 machines, of the others
    python benchmarks/scaling.py --all --write  # everything, into docs/scaling.md

Prints tables in Markdown. Measurements are kept in benchmarks/scaling.json, which
``--cluster`` uses; with ``--write``, tables replace those between the marks of their names
in docs/scaling.md. ``--rllib`` and ``--ray`` need the extra ``ray``. Each takes some
minutes on an idle machine.

How to read it: engines are timed in turns, and medians over rounds are compared. CPU times
hardly depend on other work on the machine; wall-clock times do.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from throughput import Memory

import optenv
from optenv.atomic import write_text

HOME = Path(__file__).parents[1]
#: Numbers that were measured, by section.
MEASURED = HOME / "benchmarks" / "scaling.json"
PAGE = HOME / "docs" / "scaling.md"

#: Widths of a perceptron 64-width-10, sizes of its batches, and runs at once.
WIDTHS, BATCH_SIZES, RUNS = (32, 256, 1024), (32, 128), (1, 16, 64, 256)
#: Updates of a control step, of which the slope is the cost of an update.
FEW, MANY = 1, 9

#: Machines of the model of a cluster, and cores of each.
MACHINES, CORES = 64, 32
#: Bits per second that a machine receives at most.
NETWORK = 10e9


def make_env(width: int, batch_size: int, runs: int, updates: int) -> Any:
    """Make a batch of runs of one perceptron."""
    task = optenv.tasks.MLP(
        batch_size=batch_size, num_train=1024, inputs=64, outputs=10, width=width, depth=1
    )
    env = optenv.LearningRateVectorEnv(
        runs, tasks=task, updates_per_step=updates, horizon=400, rule="adam",
        on_divergence="absorb", autoreset_mode=AutoresetMode.NEXT_STEP,
    )  # fmt: skip
    env.reset(seed=0)
    return env


def step_seconds(env: Any, seconds: float) -> float:
    """Return the CPU time of a control step, over about so many seconds of them."""
    actions, steps, begin = np.zeros((env.num_envs, 1), np.float32), 0, time.process_time()
    while steps < 2 or time.process_time() - begin < seconds:
        env.step(actions)
        steps += 1
    return (time.process_time() - begin) / steps


def measure_costs(rounds: int) -> list[dict[str, float]]:
    """Measure control steps of few and of many updates, in turns."""
    found = []
    for width in WIDTHS:
        for batch_size in BATCH_SIZES:
            for runs in RUNS:
                taken = Memory()
                few = make_env(width, batch_size, runs, FEW)
                step_seconds(few, 0.0)
                grown = taken.peak()
                many = make_env(width, batch_size, runs, MANY)
                step_seconds(many, 0.0)
                pairs = [
                    (step_seconds(few, 0.05), step_seconds(many, 0.05))
                    for _ in range(rounds)
                ]
                update = statistics.median(
                    max(0.0, (b - a) / (MANY - FEW)) for a, b in pairs
                )
                step = statistics.median(a for a, _ in pairs) - FEW * update
                found.append(
                    {
                        "parameters": 75 * width + 10, "batch_size": batch_size,
                        "runs": runs, "step_ms": 1e3 * step, "update_ms": 1e3 * update,
                        "mb": grown,
                    }
                )  # fmt: skip
                few.close(), many.close()
    return found


def costs_table(found: list[dict[str, float]]) -> str:
    """Format the costs: by runs at once, of a control step, an update, and memory."""
    lines = [
        "| parameters, batch size | " + " | ".join(f"{r} runs" for r in RUNS) + " |",
        "|---|" + "---|" * len(RUNS),
    ]
    for width in WIDTHS:
        for batch_size in BATCH_SIZES:
            cells = [
                f"{each['step_ms']:.3g} + {each['update_ms']:.3g} ms, {each['mb']:,.0f} MB"
                for each in found
                if (each["parameters"], each["batch_size"]) == (75 * width + 10, batch_size)
            ]
            lines.append(
                f"| {75 * width + 10:,}, {batch_size} | " + " | ".join(cells) + " |"
            )
    return "\n".join(lines)


def measure_decision(rounds: int) -> list[dict[str, Any]]:
    """Count the bytes that two processes exchange, for two sizes of model and policy."""
    from scaling_decision import count_bytes

    return [
        {"policy": policy, **count_bytes(width, policy)._asdict()}
        for policy in ("adam", "default")
        for width in (32, 256)
    ]


def decision_table(found: list[dict[str, Any]]) -> str:
    """Format the bytes, by policy and size."""
    lines = [
        "| policy | parameters | an update | an update with a decision |",
        "|---|---|---|---|",
    ]
    for each in found:
        cells = [
            ", ".join(f"{name} {size:,}" for name, size in each[kind].items()) or "nothing"
            for kind in ("update", "decision")
        ]
        lines.append(
            f"| `{each['policy']}` | {each['parameters']:,} | {cells[0]} | {cells[1]} |"
        )
    return "\n".join(lines)


def measure_rllib(rounds: int) -> dict[str, Any]:
    """Time the engines of a training in turns."""
    import scaling_processes

    return {
        str(updates): {
            name: {**arm._asdict(), "rate": arm.rate()}
            for name, arm in scaling_processes.measure_rllib(rounds, updates).items()
        }
        for updates in scaling_processes.UPDATES
    }


def rllib_table(found: dict[str, Any]) -> str:
    """Format rates, and CPU times by control step."""
    lines = [
        "| updates of a control step | engine | control steps per second | CPU time of a "
        "control step: sampling, learning |",
        "|---|---|---|---|",
    ]
    texts = []
    for updates, arms in found.items():
        for name, each in arms.items():
            parts = f"{1e6 * each['sampling']:.0f} + {1e6 * each['learning']:.0f} µs"
            if name == "SB3":
                parts = f"{1e6 * each['learning']:.0f} µs in all"
            label = name if name == "SB3" else f"{name} process{'es' * (name[-1] != '1')}"
            lines.append(f"| {updates} | {label} | {each['rate']:,.0f} | {parts} |")
        one, two, plain = arms["RLlib, 1"], arms["RLlib, 2"], arms["SB3"]
        ratios = [a / b for a, b in zip(one["seconds"], two["seconds"], strict=True)]
        total = one["sampling"] + one["learning"]
        alone = total / (two["sampling"] / 2 + two["learning"])
        texts.append(
            f"With {updates} updates, two processes make {statistics.median(ratios):.2f} "
            f"times the control steps of one in the same time (median of {len(ratios)} "
            f"pairs of rollouts); CPU times give {alone:.2f} times, with a core free for "
            f"each. A control step by RLlib takes {total / plain['learning']:.2f} times "
            f"the CPU time of one by Stable-Baselines3, and sends {one['bytes']:,.0f} "
            "bytes to the process that learns."
        )
    return "\n".join([*lines, "", *texts])


def measure_ray(rounds: int) -> dict[str, Any]:
    """Time the benchmark with and without Ray in turns."""
    import scaling_processes

    seconds, starts, runs = scaling_processes.measure_ray(rounds)
    return {"seconds": seconds, "starts": starts, "runs": runs}


def ray_table(found: dict[str, Any]) -> str:
    """Format wall-clock times and their ratio."""
    seconds, starts = found["seconds"], found["starts"]
    lines = ["| engine | wall-clock time | start |", "|---|---|---|"]
    lines += [
        f"| `{name}` | {statistics.median(each):.1f} s | {starts[name]:.1f} s |"
        for name, each in seconds.items()
    ]
    ratios = [b / a for a, b in zip(seconds["processes"], seconds["ray"], strict=True)]
    return "\n".join(
        [
            *lines,
            "",
            f"{found['runs']} runs in two processes take {statistics.median(ratios):.2f} "
            f"times the wall-clock time on Ray (median of {len(ratios)} pairs of rounds, "
            f"{min(ratios):.2f} to {max(ratios):.2f}), without the start.",
        ]
    )


def cluster_table(measured: dict[str, Any]) -> str:
    """Compute what a cluster would give, of what was measured on one machine."""
    # 1. RLlib: processes that sample at the same time, and one that learns after them
    updates, arms = max(measured["rllib"].items(), key=lambda item: int(item[0]))
    one = arms["RLlib, 1"]
    sampling, learning, size = one["sampling"], one["learning"], one["bytes"]
    lines = [
        f"Of RLlib: a control step of {updates} updates takes {1e6 * sampling:.0f} µs of "
        "a process that samples, of which N work at the same time, and "
        f"{1e6 * learning:.0f} µs of the one that learns, which waits for them; "
        f"{size:,.0f} bytes.",
        "",
        "| processes | control steps per second | of one | received by the learner |",
        "|---|---|---|---|",
    ]
    first = 1 / (sampling + learning)
    for count in (1, 2, CORES, MACHINES * CORES):
        rate = 1 / (sampling / count + learning)
        lines.append(
            f"| {count:,} | {rate:,.0f} | {rate / first:.1f} times | "
            f"{rate * size / 1e6:,.1f} MB/s of {NETWORK / 8e6:,.0f} |"
        )
    # 2. The benchmark: runs that share nothing
    with lzma.open(HOME / "benchmarks" / "rows.jsonl.xz") as file:
        seconds = [json.loads(line)["cpu_seconds"] for line in file]
    total, longest = sum(seconds), max(seconds)
    lines += [
        "",
        f"Of the benchmark: {len(seconds):,} runs take {total / 3600:.1f} hours of CPU "
        f"time, the longest {longest:.0f} s. The runs of tuning, of comparison and of "
        "controls come after each other, so that N processes take at least three times as "
        "long as the longest run, and at best 1/N of the total.",
        "",
        "| processes | at best | bound by the longest runs |",
        "|---|---|---|",
    ]
    for count in (1, 2, CORES, MACHINES * CORES):
        at_best, bound = total / count, 3 * longest
        lines.append(
            f"| {count:,} | {max(at_best, bound) / 60:,.1f} minutes | "
            f"{'yes' if bound > at_best else 'no'} |"
        )
    return "\n".join(lines)


#: What measures, and what formats, by section.
SECTIONS: dict[str, tuple[Callable[[int], Any] | None, Callable[[Any], str]]] = {
    "costs": (measure_costs, costs_table),
    "decision": (measure_decision, decision_table),
    "rllib": (measure_rllib, rllib_table),
    "ray": (measure_ray, ray_table),
    "cluster": (None, cluster_table),
}


def replaced(page: str, name: str, text: str) -> str:
    """Return a page with another text between the marks of a section.

    Raises:
        ValueError: the page lacks the marks.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"{PAGE} has no marks {begin.strip()!r} and {end!r}")
    return f"{before}{begin}\n{text}\n\n{end}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in SECTIONS:
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--all", action="store_true", help="all of them")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each")
    parser.add_argument("--stored", action="store_true", help="print what was measured")
    parser.add_argument("--write", action="store_true", help="into docs/scaling.md")
    arguments = parser.parse_args()
    chosen = [name for name in SECTIONS if arguments.all or getattr(arguments, name)]
    if not chosen:
        parser.error(f"choose among {', '.join('--' + name for name in SECTIONS)}, --all")
    torch.set_num_threads(1)
    measured = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    print(f"{os.cpu_count()} cores, torch {torch.__version__}\n")
    for name in chosen:
        measure, table = SECTIONS[name]
        if measure is not None and not arguments.stored:
            measured[name] = measure(arguments.rounds)
            write_text(MEASURED, json.dumps(measured, indent=1) + "\n")
        text = table(measured if measure is None else measured[name])
        print(f"{text}\n", flush=True)
        if arguments.write:
            write_text(PAGE, replaced(PAGE.read_text(), name, text))


if __name__ == "__main__":
    main()
