"""Few-shot tasks learn from their support, and are judged by queries."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium.utils.env_checker import check_env
from torch import nn

from optenv import core, rules, tasks
from optenv.tasks import FewShot, few_shot, stroke_fonts
from tests.helpers.small_runs import generators, neutral_action, sample_runs

WAVES = FewShot(shots=5, queries=6, width=7, activation="tanh")
GLYPHS = FewShot(problem="glyphs", shots=2, queries=3, ways=4, width=7, depth=1)
DIGITS = FewShot(problem="digits", shots=2, queries=3, ways=4, width=7)
TASKS = {"sinusoids": WAVES, "glyphs": GLYPHS, "digits": DIGITS}
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.parametrize("name", TASKS)
def test_loss_and_gradient_are_those_of_the_module_on_support_and_queries(
    name: str,
) -> None:
    task, support = TASKS[name], TASKS[name].support
    data, params = sample_runs(task, 3)
    state = core.start(task, rules.get("sgd"), data, params)
    inputs, targets = data.train(1)
    for source, examples in (("train", data.train(1)), ("validation", data.validation())):
        evaluated = core.evaluate(task, params, examples, data, source=source)
        for run in range(3):
            sizes = (
                inputs.shape[-1], *[7] * task.depth, 1 if name == "sinusoids" else 4,
            )  # fmt: skip
            layers: list[nn.Module] = []
            for ins, outs in pairwise(sizes):
                layers += [nn.Linear(ins, outs), nn.Tanh() if task is WAVES else nn.ReLU()]
            module = nn.Sequential(*layers[:-1]).double()
            nn.utils.vector_to_parameters(params[run], module.parameters())
            loss: Any = F.mse_loss if name == "sinusoids" else F.cross_entropy
            x, y = (part[run, 0] for part in examples)
            queried = loss(module(x[support:]), y[support:])
            torch.testing.assert_close(evaluated[run], queried.detach(), **TOLERANCE)
            trained = loss(module(inputs[run, 0, :support]), targets[run, 0, :support])
            grads = torch.autograd.grad(trained, list(module.parameters()))
            torch.testing.assert_close(state.latest[run], trained.detach(), **TOLERANCE)
            flat = torch.cat([g.flatten() for g in grads])
            torch.testing.assert_close(state.grad[run], flat, **TOLERANCE)


def test_waves_are_waves_and_differ_between_runs() -> None:
    for variant, queries in (("maml", 6), ("meta-sgd", 100), ("reptile", 50)):
        task = FewShot(shots=5, queries=6, variant=variant)
        inputs, targets = task.examples(np.random.default_rng(0))
        assert inputs.shape == targets.shape == (2, 5 + queries, 1)
        np.testing.assert_array_equal(inputs[0, :5], inputs[1, :5])
        x, y = inputs.reshape(-1).astype(float), targets.reshape(-1).astype(float)
        if variant != "meta-sgd":  # frequency 1: a linear model of sine and cosine
            waves = np.stack([np.sin(x), np.cos(x)], 1)
            residual = np.linalg.lstsq(waves, y, rcond=None)[1]
            np.testing.assert_allclose(residual, 0.0, atol=1e-9)
    data, _ = sample_runs(WAVES, 3)
    assert len(data.train(1)[1].flatten(1).unique(dim=0)) == 3


@pytest.mark.parametrize("task", [GLYPHS, DIGITS])
def test_no_picture_is_in_two_of_support_and_queries(task: FewShot) -> None:
    inputs, targets = task.examples(np.random.default_rng(3))
    support = task.support
    together = np.concatenate([inputs[0], inputs[1, support:]])
    assert len(np.unique(together, axis=0)) == len(together) == 4 * (2 + 3 + 3)
    assert np.bincount(targets[0, :support]).tolist() == [2] * 4
    assert np.bincount(targets[0, support:]).tolist() == [3] * 4


@pytest.mark.parametrize("name", TASKS)
def test_training_on_the_support_helps_on_queries(name: str) -> None:
    task = FewShot(problem=name, shots=10 if name == "sinusoids" else 5, queries=5, ways=3)
    env = gym.make_vec(
        "optenv/LearningRate-v0", 8, tasks=task, base_lr=0.01, horizon=4,
        updates_per_step=10, dtype="float64",
    )  # fmt: skip
    first, _ = env.reset(seed=0)
    total = np.zeros(8)
    for _ in range(4):
        total += env.step(neutral_action(env))[1]
    assert total.mean() > 0.3
    single = gym.make(
        "optenv/LearningRate-v0", tasks=task, base_lr=0.01, horizon=4,
        updates_per_step=10, dtype="float64",
    )  # fmt: skip
    observation, _ = single.reset(seed=5)
    np.testing.assert_allclose(observation, first[5], rtol=1e-6)
    alone = sum(float(single.step(neutral_action(single))[1]) for _ in range(4))
    np.testing.assert_allclose(alone, total[5], rtol=1e-6)


def test_the_environment_passes_gymnasiums_check() -> None:
    env = gym.make("optenv/LearningRate-v0", tasks="few-shot", horizon=3)
    check_env(env.unwrapped, skip_render_check=True)


def test_splits_differ_in_widths_characters_and_problems() -> None:
    drawn = {
        split: [few_shot.sample_structure(g, split) for g in generators(40)]
        for split in ("train", "test", "ood")
    }
    widths = [{task.width for task in group} for group in drawn.values()]
    assert all(not a & b for i, a in enumerate(widths) for b in widths[i + 1 :])
    assert {task.problem for task in drawn["test"]} == {"sinusoids", "glyphs"}
    assert {task.problem for task in drawn["ood"]} == {"sinusoids", "digits"}
    assert {task.variant for task in drawn["ood"]} == {"meta-sgd"}
    forms = [
        {stroke_fonts.canonical_form(c.strokes) for c in few_shot._Glyphs(s)._characters}
        for s in ("train", "test")
    ]
    assert not forms[0] & forms[1] and min(map(len, forms)) > 100
    assert set(few_shot.FONTS["train"]) <= set(stroke_fonts.TRAINING)
    assert set(few_shot.FONTS["test"]) <= set(stroke_fonts.TEST)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"problem": "waves"}, "unknown problem 'waves'; valid: sinusoids, glyphs, dig"),
        ({"variant": "mml"}, "unknown variant 'mml'; valid: maml, meta-sgd, reptile"),
        ({"split": "ood"}, "unknown split 'ood'; valid: train, test"),
        ({"shots": 0}, "shots must be a positive integer, got 0"),
        ({"variant": "reptile", "shots": 51}, "at most 50 of variant 'reptile', got 51"),
        ({"problem": "glyphs", "shots": 5}, "at most 20 together.* got 5 and 10"),
        (
            {"problem": "digits", "ways": 11},
            r"ways must be in \[2, 10\] .*got 11",
        ),
        ({"init_spread": -1.0}, "init_spread must be .* got -1.0"),
    ],
)
def test_values_that_are_not_valid_are_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        FewShot(**fields)


def test_the_family_is_registered() -> None:
    assert tasks.MORE_FAMILIES["few-shot"] is few_shot.sample_structure
