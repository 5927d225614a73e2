"""Decay by the hooks of ``weight_decay.py``, and its table; tasks with few examples."""

from __future__ import annotations

import argparse

import few_examples
import numpy as np
import pytest
import torch
import weight_decay
from torch import nn
from weight_decay import Setting, decayed

from agents import LearnedOptimizer
from agents.evaluation.tasks.benchmark import BENCHMARK
from agents.evaluation.tasks.selection import SELECTION

RATE = 0.5  # so large that one step shows it


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))


def stepped(decay, form, on, gradient):
    """Return parameters and effective rate after a step, by setting and gradient."""
    module = model()
    optimizer = decayed(
        module, 100, decay=decay, form=form, on=on, policy="adam", lr=0.01, max_lr=1e-3
    )
    for p in module.parameters():
        p.grad = gradient(p.detach())
    optimizer.step(loss=1.0)
    return [p.detach() for p in module.parameters()], optimizer.param_groups[0][
        "effective_lr"
    ]


@pytest.mark.parametrize("on", weight_decay.ON)
def test_cautious_decay_is_plain_decay_where_the_update_goes_along(on):
    # Adam's first update has the sign of the gradient: here, towards zero.
    plain, _ = stepped(RATE, "plain", on, torch.sign)
    cautious, _ = stepped(RATE, "cautious", on, torch.sign)
    without, _ = stepped(0.0, "plain", on, torch.sign)
    for a, b in zip(plain, cautious, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert not torch.allclose(plain[0], without[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("on", weight_decay.ON)
def test_cautious_decay_never_decays_where_the_update_opposes(on):
    def away(p):
        return -torch.sign(p)

    cautious, _ = stepped(RATE, "cautious", on, away)
    without, _ = stepped(0.0, "plain", on, away)
    for a, b in zip(cautious, without, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_cautious_decay_is_by_entry():
    def mixed(p):
        signs = torch.ones_like(p).flatten()
        signs[::2] = -1
        return torch.sign(p) * signs.view_as(p)

    start = [p.detach() for p in model().parameters()]
    cautious, rate = stepped(RATE, "cautious", "all", mixed)
    without, _ = stepped(0.0, "plain", "all", mixed)
    for p, a, b in zip(start, cautious, without, strict=True):
        goes_along = mixed(p) * p >= 0
        torch.testing.assert_close(a, b - rate * RATE * p * goes_along, rtol=0, atol=1e-7)


def test_a_skipped_step_decays_nothing():
    start = [p.detach() for p in model().parameters()]
    after, _ = stepped(RATE, "cautious", "all", lambda p: torch.full_like(p, torch.nan))
    for a, b in zip(start, after, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("on", weight_decay.ON)
def test_vectors_decay_only_where_all_parameters_do(on):
    module = model()
    optimizer = decayed(module, 100, decay=0.1, form="plain", on=on)
    assert isinstance(optimizer, LearnedOptimizer)
    decays = {group["name"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {
        "matrices": 0.1, "output": 0.1, "vectors": 0.1 if on == "all" else 0.0,
    }  # fmt: skip


def test_settings_are_parsed():
    assert weight_decay.setting("0.1,cautious,all") == Setting(0.1, "cautious", "all")


@pytest.mark.parametrize(
    "text", ["", "0.1", "0,plain,all", "-1,plain,all", "nan,plain,all", "0.1,all,plain"]
)
def test_bad_settings_are_refused_by_quoting_them(text):
    with pytest.raises(argparse.ArgumentTypeError, match="plain") as error:
        weight_decay.setting(text)
    assert repr(text) in str(error.value)


def test_the_table_shows_paired_changes_in_percent():
    base, decay = Setting(0.0), Setting(0.1)
    losses = {
        ("a", base): [1.0, 2.0], ("a", decay): [np.exp(0.1), 2 * np.exp(0.1)],
        ("b", base): [1.0, 1.0], ("b", decay): [np.exp(-0.2), np.exp(-0.4)],
    }  # fmt: skip
    lines = weight_decay.table(losses, ["a", "b"], [base, decay])
    assert lines[1].split() == ["loss", "without", "1.5000", "1.0000"]
    cells = lines[2].split()[3:]
    assert cells[:2] == ["+10.0", "±0.0*"]
    assert cells[2] == "-30.0" and cells[4] == "-10.0"


def test_tasks_with_few_examples_are_of_no_suite():
    names = {task.name for task in few_examples.FEW_EXAMPLES}
    assert len(names) == len(few_examples.FEW_EXAMPLES)
    assert not names & {task.name for task in (*BENCHMARK, *SELECTION)}


@pytest.mark.parametrize("task", few_examples.FEW_EXAMPLES, ids=lambda task: task.name)
def test_tasks_with_few_examples_repeat_them_and_validate_on_others(task):
    problem = task.build(0)
    batches = [problem.batch(t)[0] for t in range(60)]
    seen = torch.cat(batches).flatten(1)
    distinct = torch.unique(seen, dim=0)
    assert len(distinct) < 0.8 * len(seen)
    validation = problem.validation[0].flatten(1)
    if validation.is_floating_point():  # stretches of a text can be alike
        both = (validation[:, None] == distinct[None]).all(-1).any(1)
        assert both.float().mean() < 0.02  # a few names have the same trigrams
    assert problem.validation_loss(problem.module) > 0
