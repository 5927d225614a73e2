"""The benchmark's tasks: many, real, and disjoint from the selection tasks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from agents.evaluation.runs.run import train
from agents.evaluation.tasks.benchmark import BENCHMARK
from agents.evaluation.tasks.heldout import HELDOUT
from agents.evaluation.tasks.large import LARGE
from agents.evaluation.tasks.selection import SELECTION
from tests.helpers.benchmark_rows import ADAMW_ARM

pytest.importorskip("sklearn")


def test_the_benchmark_is_large_real_and_disjoint_from_the_selection():
    assert len(BENCHMARK) >= 16 and BENCHMARK[: len(HELDOUT)] == HELDOUT
    assert sum(task.kind == "real" for task in BENCHMARK) >= 12
    names = [task.name for task in BENCHMARK + LARGE + SELECTION]
    assert len(set(names)) == len(names)
    seen = []
    for tasks in (BENCHMARK + LARGE, SELECTION):
        samplers = [getattr(task.sample, "func", task.sample) for task in tasks]
        seen.append({sampler.__module__ for sampler in samplers})
    assert seen[0] & seen[1] == {"agents.evaluation.tasks.tabular"}  # other tables of it


def test_networks_of_the_large_tasks_have_a_million_parameters():
    assert len(LARGE) >= 5
    for task in LARGE:
        module = task.build(0).module
        assert sum(p.numel() for p in module.parameters()) >= 1e6


@pytest.mark.slow
@pytest.mark.parametrize("task", BENCHMARK + LARGE, ids=lambda task: task.name)
def test_every_benchmark_task_trains(task):
    state = torch.get_rng_state()
    result = train(ADAMW_ARM, replace(task, updates=2), 0, curve_points=0)
    losses = result["initial_validation_loss"], result["validation_loss"]
    assert all(map(math.isfinite, losses)) and losses[0] != losses[1]
    assert torch.equal(torch.get_rng_state(), state)
