"""The recipe for a benchmark arm and a task from outside the package."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

from agents.evaluation import Arm, HeldoutTask, evaluate, format_table, summarize
from tests.helpers.paths import ROOT

RECIPE = ROOT / "docs" / "extending_benchmark.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", RECIPE.read_text(), re.MULTILINE | re.DOTALL)


def sample(split, rng, n):
    inputs = torch.from_numpy(rng.standard_normal((n, 3), dtype="float32"))
    return inputs, inputs.sum(1, keepdim=True)


def linear():
    return nn.Linear(3, 1)


def sgd(params, total_updates):
    assert total_updates == 40
    return torch.optim.SGD(params, lr=0.1)


def slow_sgd(params, total_updates):
    return torch.optim.SGD(params, lr=0.01)


TASK = HeldoutTask(
    name="sum", kind="generated", data="the sum of three normal numbers", model="linear",
    updates=20, batch_size=8, network=linear, sample=sample,
    objective=nn.functional.mse_loss, validation_size=64, horizon_factor=2.0,
)  # fmt: skip
ARMS = [Arm("SGD", sgd, schedule=math.cos), Arm("slow SGD", slow_sgd)]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_arm_and_a_task_from_outside_run(workers):
    rows = evaluate(ARMS, [TASK], seeds=[0, 1], workers=workers, progress=False)
    assert [(row["arm"], row["seed"]) for row in rows] == [
        ("SGD", 0), ("SGD", 1), ("slow SGD", 0), ("slow SGD", 1),
    ]  # fmt: skip
    assert all(row["validation_loss"] < row["initial_validation_loss"] for row in rows)
    assert rows[0]["initial_validation_loss"] == rows[2]["initial_validation_loss"]
    lr = rows[0]["lr_trace"][-1][1]
    assert lr == pytest.approx(0.1 * math.cos(19 / 40)), "the schedule got the horizon"
    assert "slow SGD" in format_table(rows)
    fast, slow = summarize(rows, reference="SGD", baselines=["SGD"])
    assert fast.reached == 1.0 and slow.records["SGD"].losses == 1


def test_the_recipe_runs_as_it_stands(capsys):
    (block,) = BLOCKS
    exec(compile(block, str(RECIPE), "exec"), {})
    text = capsys.readouterr().out
    assert "RMSprop, linear" in text and "adam (ours) minus the baseline" in text
