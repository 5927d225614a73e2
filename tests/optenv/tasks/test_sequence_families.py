"""Environments of networks on text, and of policies, keep what all environments promise."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from optenv import core, rules, tasks
from optenv.tasks import RNN, PolicyGradient, Task, Transformer
from tests.helpers.families import check_environment, check_single_equals_batch
from tests.helpers.small_runs import assert_identical, generators, sample_runs

TEXT = {"width": 8, "length": 6, "batch_size": 4, "num_train": 32, "num_validation": 16}
POLICY = {"steps": 12, "width": 8, "batch_size": 4, "num_train": 16, "num_validation": 16}

TASKS: dict[str, Task] = {
    **{cell: RNN(cell=cell, embedding=6, **TEXT) for cell in ("elman", "gru", "lstm")},
    "transformer": Transformer(depth=2, **TEXT),
    "cart-pole": PolicyGradient(**POLICY),
    "reaching": PolicyGradient(system="reaching", **POLICY),
    "pathwise": PolicyGradient(system="reaching", gradient="pathwise", **POLICY),
    "pendulum": PolicyGradient(system="pendulum", **POLICY),
}
every_task = pytest.mark.parametrize("name", TASKS)
SHORT = {"horizon": 4, "updates_per_step": 2, "base_lr": 1e-2}

FAMILIES = ("rnn", "transformer", "policy-gradient")
every_family = pytest.mark.parametrize("family", FAMILIES)
SPLITS = ("train", "test", "ood")


def structures(family: str, split: str, count: int = 200) -> list[Task]:
    rng = np.random.default_rng(0)
    return [tasks.MORE_FAMILIES[family](rng, split) for _ in range(count)]


@every_task
def test_an_environment_passes_gymnasiums_check_and_repeats_by_seed(name: str) -> None:
    check_environment(TASKS[name])


@every_task
def test_single_and_batched_runs_are_the_same(name: str) -> None:
    check_single_equals_batch(TASKS[name])


@every_task
def test_runs_repeat_by_key_and_differ(name: str) -> None:
    task = TASKS[name]
    first, again = sample_runs(task, 3), sample_runs(task, 3)
    assert_identical((first[0][:4], first[1]), (again[0][:4], again[1]))
    data, params = first
    inputs = data.train(32)[0].flatten(1)
    for part in (inputs, params, data.order.unsqueeze(1)):
        assert len(part.unique(dim=0)) == 3
    together, alone = task.init(generators(3)), task.init(generators(1, seed=1))
    assert_identical(together[1:2], alone)


#: Ratio to the initial loss that is reached. Costs of control stay above zero.
ENOUGH = {"reaching": 0.5, "pathwise": 0.5, "pendulum": 0.98}


@every_task
def test_adam_makes_progress_in_a_few_dozen_updates(name: str) -> None:
    larger = {"steps": 30} if isinstance(TASKS[name], PolicyGradient) else {"width": 16}
    task = dataclasses.replace(TASKS[name], batch_size=16, num_train=256, **larger)
    data, params = sample_runs(task, 4, dtype=torch.float32)
    rule = rules.get("adam")
    state = core.start(task, rule, data, params)
    before = core.evaluate(task, params, data.validation(), data)
    state = core.advance(task, rule, data, state, torch.full((40, 4), 2e-2))
    after = core.evaluate(task, state.params, data.validation(), data)
    if name == "cart-pole":
        assert (before > -0.9).all() and (after < -0.95).all()
    else:
        assert (after < ENOUGH.get(name, 0.75) * before).all()


@pytest.mark.parametrize("name", ["elman", "gru", "lstm", "transformer", "pathwise"])
def test_gradients_can_be_differentiated_again(name: str) -> None:
    task = TASKS[name]
    data, params = sample_runs(task, 2)
    noise = torch.Generator().manual_seed(0)
    direction = torch.randn(params.shape, generator=noise, dtype=torch.float64)
    rule, step = rules.get("sgd"), 1e-6

    def slopes(shift: float) -> torch.Tensor:
        return core.start(task, rule, data, params + shift * direction).grad

    numeric = (slopes(step) - slopes(-step)) / (2 * step)
    params.requires_grad_()
    grad = core.start(task, rule, data, params, differentiable=True).grad
    (second,) = torch.autograd.grad((grad * direction).sum(), params)
    torch.testing.assert_close(second, numeric, rtol=1e-5, atol=1e-6)


@every_task
def test_a_learning_rate_can_be_learned_through_the_updates(name: str) -> None:
    task = TASKS[name]
    data, params = sample_runs(task, 2)
    rule = rules.get("sgd")
    rates = torch.full((3, 2), 1e-2, dtype=torch.float64, requires_grad=True)
    state = core.start(task, rule, data, params)
    state = core.advance(task, rule, data, state, rates, differentiable=True)
    batch = data.validation()
    buffers = state.buffers
    loss = core.evaluate(task, state.params, batch, data, buffers, differentiable=True)
    (grad,) = torch.autograd.grad(loss.sum(), rates)
    assert grad.isfinite().all()
    assert name == "cart-pole" or (grad != 0).all()


@every_task
def test_work_is_the_number_of_multiplications_of_a_forward_pass(name: str) -> None:
    task = TASKS[name]
    data, params = sample_runs(task, 1, dtype=torch.float32)
    data = data._replace(rows=data.rows[:, : task.batch_size], num_train=task.batch_size)
    noise = data.noise(torch.zeros(1, dtype=torch.int64), task.batch_size, task.noise)
    batch = tasks.examples.Batch(*data.train(task.batch_size), noise)
    with FlopCounterMode(display=False) as counter:
        task.training_loss(task.unflatten(params), batch, torch.empty(1, 0))
    # An Elman network spares the recurrence at the first position.
    assert task.work == pytest.approx(counter.get_total_flops() / 2, rel=0.02)


def test_rewards_on_text_are_of_the_first_passages() -> None:
    task = RNN(width=8, embedding=6, length=6, batch_size=4, num_train=64)
    env = gym.make_vec("optenv/LearningRate-v0", 2, tasks=task, dtype="float64", **SHORT)
    env.reset(seed=0)
    group = env.groups[0][1]
    rows = group.data.rows[:, :32]
    inputs, targets = group.data.inputs[rows], group.data.targets[rows]
    expected = task.loss(task.unflatten(group.state.run.params), inputs, targets)
    torch.testing.assert_close(group.state.loss[:, 0], expected)


@every_task
def test_every_parameter_has_a_role(name: str) -> None:
    task = TASKS[name]
    found = dict.fromkeys(("matrices", "output", "embeddings", "vectors"), 0)
    for role, shape in zip(task.roles, task.shapes, strict=True):
        assert (role == "vectors") == (len(shape) < 2)
        found[role] += 1
    tables = {"rnn": 1, "transformer": 2, "policygradient": 0}
    assert found["embeddings"] == tables[type(task).__name__.lower()]
    assert found["output"] == 1 and found["matrices"] >= 1
    assert task.roles[: found["embeddings"]] == ("embeddings",) * found["embeddings"]


@every_family
def test_splits_differ_in_structure_and_data(family: str) -> None:
    drawn = {split: structures(family, split) for split in SPLITS}
    shapes = [{task.shapes for task in drawn[split]} for split in SPLITS]
    assert min(map(len, shapes)) >= 3
    assert not (shapes[0] & shapes[1] or shapes[0] & shapes[2] or shapes[1] & shapes[2])
    for split in SPLITS:  # texts and physics, which other tests hold to be disjoint
        assert {task.split for task in drawn[split]} == {split}
    kinds = {
        "rnn": lambda task: task.cell,
        "transformer": lambda task: task.depth,
        "policy-gradient": lambda task: task.system,
    }
    usual, other = (
        {kinds[family](task) for split in splits for task in drawn[split]}
        for splits in (("train", "test"), ("ood",))
    )
    assert len(usual) == 2 and not usual & other


@every_family
@pytest.mark.parametrize("split", ["train", "test"])
def test_families_are_known_by_name_and_not_part_of_train(family: str, split: str) -> None:
    name = family if split == "train" else f"{family}/{split}"
    assert tasks.make(name).sources == ((family, split),)
    assert (family, split) not in tasks.make(split).sources
    drawn = tasks.make(name).draw(np.random.default_rng(0))
    assert drawn == tasks.MORE_FAMILIES[family](_after_choice(), split)


def _after_choice() -> np.random.Generator:
    """Return a generator from which a sampler of one source has drawn its source."""
    rng = np.random.default_rng(0)
    rng.integers(1)
    return rng
