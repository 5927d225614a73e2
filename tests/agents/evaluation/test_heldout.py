"""The held-out tasks: reproducible, with disjoint splits, and learnable."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from agents.evaluation.runs.run import train
from agents.evaluation.tasks import photos, text, tiles
from agents.evaluation.tasks.heldout import HELDOUT, task_named
from agents.evaluation.tasks.selection import SELECTION
from tests.helpers.benchmark_rows import ADAMW_ARM

pytest.importorskip("sklearn")

TASKS = pytest.mark.parametrize("task", HELDOUT + SELECTION, ids=lambda task: task.name)


def global_state():
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), name, keys.tolist(), rest


def test_six_tasks_of_which_five_are_real():
    assert len({task.name for task in HELDOUT}) == len(HELDOUT) == 6
    assert sum(task.kind == "real" for task in HELDOUT) == 5
    with pytest.raises(ValueError, match=r"'digits'.*photo-cnn"):
        task_named("digits")


def test_the_selection_shares_no_name_and_no_data_with_the_held_out_tasks():
    names = [task.name for task in HELDOUT + SELECTION]
    assert len(set(names)) == len(names)
    seen = {}
    for tasks in (HELDOUT, SELECTION):
        samplers = [getattr(task.sample, "func", task.sample) for task in tasks]
        seen[tasks] = {sampler.__module__ for sampler in samplers}
    both = seen[HELDOUT] & seen[SELECTION]
    assert both == {"agents.evaluation.tasks.tabular"}  # friedman's function, wines


def test_a_task_can_last_longer_or_shorter():
    task = HELDOUT[0]
    assert [task.lasting(f).updates for f in (1, 10, 0.5, 1e-9)] == [500, 5000, 250, 1]
    assert dataclasses.replace(task.lasting(2), updates=500) == task
    for factor in (0, -1, float("inf"), float("nan"), True, "2"):
        with pytest.raises(ValueError, match=f"positive number, got {factor!r}"):
            task.lasting(factor)


@TASKS
def test_tasks_depend_on_the_seed_alone(task):
    before = global_state()
    first, again, other = task.build(3), task.build(3), task.build(4)
    again.batch(0)  # what was asked for before does not matter
    for t in (7, 2):
        batches = [problem.batch(t) for problem in (first, again, other)]
        assert all(map(torch.equal, batches[0], batches[1]))
        assert not torch.equal(batches[0][0], batches[2][0])
    assert not torch.equal(first.batch(1)[0], first.batch(2)[0])
    assert all(map(torch.equal, first.validation, again.validation))
    states = [list(problem.module.state_dict().values()) for problem in (first, again)]
    assert all(map(torch.equal, *states))
    assert any(
        not torch.equal(*pair)
        for pair in zip(first.module.parameters(), other.module.parameters(), strict=True)
    )
    train(ADAMW_ARM, dataclasses.replace(task, updates=2), 0)
    assert global_state() == before


@TASKS
def test_loss_decreases(task):
    result = train(ADAMW_ARM, dataclasses.replace(task, updates=60), 0, curve_points=0)
    assert result["validation_loss"] < 0.95 * result["initial_validation_loss"]
    assert result["curve"] == [
        (0, result["initial_validation_loss"]),
        (60, result["validation_loss"]),
    ]


def test_validation_loss_restores_mode_and_statistics():
    problem = task_named("photo-cnn").build(0)
    before = [value.clone() for value in problem.module.state_dict().values()]
    for training in (True, False):
        problem.module.train(training)
        problem.validation_loss(problem.module)
        assert problem.module.training is training
    assert all(map(torch.equal, before, problem.module.state_dict().values()))


@pytest.mark.parametrize("side", [8, 12])
def test_splits_of_the_photographs_share_no_pixel(side):
    shape = photos.photographs().shape
    height, width = shape[1:]
    seen = {}
    for split in ("train", "validation"):
        span = np.arange(side)
        corners = tiles.corners(shape, split, side)[:, None, None]
        pixels = np.unique(corners + span[:, None] * width + span)
        seen[split] = pixels
        rows, columns = corners // width % height, corners % width
        assert (rows + side <= height).all() and (columns + side <= width).all()
    assert not np.intersect1d(seen["train"], seen["validation"]).size
    assert len(seen["validation"]) > 0.15 * len(seen["train"])


def test_splits_of_the_text_share_no_file_and_snippets_no_character():
    assert not set(text.TRAIN_FILES) & set(text.VALIDATION_FILES)
    rng = np.random.default_rng(0)
    labels = rng.integers(len(text.MODULES), size=50_000)
    seen = {}
    for split in ("train", "validation"):
        starts = text.snippet_starts(split, rng, labels)
        begin = text._modules()[1]
        assert (starts >= begin[labels]).all()
        assert (starts + text.SNIPPET <= begin[labels + 1]).all()
        seen[split] = np.unique(starts[:, None] + np.arange(text.SNIPPET))
    assert not np.intersect1d(seen["train"], seen["validation"]).size


def test_language_models_predict_the_next_character_and_are_causal():
    inputs, targets = text.sentences("train", np.random.default_rng(0), 4, 24)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert 0 <= inputs.min() and inputs.max() < text.CHARACTERS
    changed = inputs.clone()
    changed[:, 12:] = 0
    for name in ("code-lstm", "code-transformer"):
        module = task_named(name).build(0).module
        torch.testing.assert_close(module(inputs)[:, :12], module(changed)[:, :12])


def test_a_missing_file_of_the_standard_library_is_named():
    with pytest.raises(FileNotFoundError, match="nothing_here"):
        text.source("nothing_here.py")
