"""The benchmark of policies that are told validation losses."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
import validated
from few_examples import FEW_EXAMPLES
from torch import nn
from validated import Finals

from agents import LearnedOptimizer, Policy
from optenv.telemetry import observed_features
from tests.helpers.policies import random_policy

TASK = replace(FEW_EXAMPLES[0], updates=40)


def telling_policy() -> Policy:
    return random_policy(features=list(observed_features("invariant", True)))


def learned(policy: Policy, module: nn.Module, steps: int) -> LearnedOptimizer:
    return LearnedOptimizer(module.parameters(), policy, total_steps=steps)


def test_losses_are_told_on_one_half_and_compared_on_the_other(monkeypatch) -> None:
    told: list[float] = []
    monkeypatch.setattr(LearnedOptimizer, "validated", lambda _, loss: told.append(loss))
    make = partial(learned, telling_policy())
    losses = validated.train(TASK, 0, make, told=True)
    assert len(told) == validated.TOLD and len(losses) == validated.TOLD + 1
    problem = TASK.build(0)
    inputs, targets = problem.validation
    problem.module.eval()
    with torch.no_grad():
        untold = TASK.objective(problem.module(inputs[1::2]), targets[1::2]).item()
    assert losses[0] == pytest.approx(untold)
    assert not set(told) & set(losses)


def test_a_policy_acts_by_what_it_is_told() -> None:
    make = partial(learned, telling_policy())
    blind, told = (validated.train(TASK, 0, make, told=told) for told in (False, True))
    assert blind[0] == told[0] and blind[-1] != told[-1]


def test_differences_are_relative_to_the_way_to_adamws_lowest_loss() -> None:
    found = [Finals(2.0, 1.5, 1.0, 1.5, 0.9), Finals(3.0, 2.0, 1.0, 2.0, 0.8)]
    line = validated.compare(TASK, found)
    assert line.split()[1:6] == ["2.5", "1.75", "1", "1.75", "0.85"]
    # 50 and 50, -10 and -10, -60 and -60 %
    assert line.split()[6:] == ["+50.0", "±0.0", "-10.0", "±0.0", "-60.0", "±0.0"]
