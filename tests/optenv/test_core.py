"""The core is a pure and differentiable function of tensors."""

from __future__ import annotations

import random
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from optenv import core, rules, tasks
from tests.helpers.small_runs import (
    MLP,
    QUADRATIC,
    RULE_NAMES,
    assert_identical,
    assert_same,
    clone,
    leaves,
    module_task,
    random_actions,
    rollout,
    sample_runs,
    start_runs,
)

RUNS = 3
every_rule = pytest.mark.parametrize("rule", RULE_NAMES)
every_task = pytest.mark.parametrize(
    "task",
    [MLP, QUADRATIC, module_task()],
    ids=["mlp", "quadratic", "module"],
)


def rates(updates: int, runs: int = RUNS) -> Tensor:
    """Make learning rates ``[U, B]`` that all differ."""
    flat = torch.logspace(-3, -1.5, updates * runs, dtype=torch.float64)
    return flat.view(updates, runs)


@every_rule
@every_task
def test_advance_is_pure(rule: str, task: tasks.Task) -> None:
    data, state = start_runs(task, rule, RUNS)
    arguments = (rules.get(rule), data, state, rates(4))
    tensors = (data[:4], state, rates(4))
    before = clone(tensors)
    once = core.advance(task, *arguments)
    again = core.advance(task, *arguments)
    assert_identical(tensors, before)
    assert_identical(once, again)
    assert not once.params.equal(state.params)


@every_rule
def test_a_stored_state_is_a_snapshot(rule: str) -> None:
    data, state = start_runs(MLP, rule, RUNS)
    lr = rates(7)

    def run(state: core.RunState, lr: Tensor) -> core.RunState:
        return core.advance(MLP, rules.get(rule), data, state, lr)

    kept = run(state, lr[:3])
    end = run(kept, lr[3:])
    run(kept, 10 * lr)  # a branch from the same state
    assert_identical(run(kept, lr[3:]), end)
    whole = run(state, lr)  # windows change nothing but the recorded losses
    assert_identical(whole._replace(losses=end.losses), end)
    assert whole.losses.seen.tolist() == [7] * RUNS
    assert end.losses.seen.tolist() == [4] * RUNS


@every_rule
@every_task
def test_counts_equal_separate_runs(rule: str, task: tasks.Task) -> None:
    data, state = start_runs(task, rule, RUNS)
    counts = torch.tensor([4, 0, 2])
    lr = rates(4)
    together = core.advance(task, rules.get(rule), data, state, lr, counts=counts)
    for i, count in enumerate(counts.tolist()):
        if count == 0:
            alone = state._replace(losses=together.losses)
            assert together.losses.seen[i] == 0
        else:
            alone = core.advance(task, rules.get(rule), data, state, lr[:count])
        for ours, theirs in zip(leaves(together), leaves(alone), strict=True):
            assert_identical(ours[i], theirs[i])


@every_rule
@pytest.mark.parametrize("task", [MLP, QUADRATIC], ids=["mlp", "quadratic"])
def test_gradients_through_updates_match_finite_differences(
    rule: str, task: tasks.Task
) -> None:
    data, params = sample_runs(task, 2)

    def final_loss(lr: Tensor, params: Tensor) -> Tensor:
        state = core.start(task, rules.get(rule), data, params, differentiable=True)
        for window in lr.split(3):
            state = core.advance(
                task, rules.get(rule), data, state, window, differentiable=True
            )
        return task.loss(task.unflatten(state.params), *data.train(16))

    lr = rates(6, runs=2).requires_grad_()
    arguments = (lr, params.requires_grad_())
    assert torch.autograd.gradcheck(
        final_loss, arguments, eps=1e-6, atol=1e-6, rtol=1e-4, fast_mode=True
    )
    for gradient in torch.autograd.grad(final_loss(*arguments).sum(), arguments):
        assert (gradient.abs().amax(dim=0) > 1e-8).all()


@every_rule
def test_a_window_records_its_losses_and_probes_its_last_update(rule: str) -> None:
    data, state = start_runs(MLP, rule, RUNS)
    lr, losses = rates(5), []
    end = core.advance(MLP, rules.get(rule), data, state, lr)
    for update in range(5):
        last = state
        state = core.advance(MLP, rules.get(rule), data, state, lr[update : update + 1])
        rows = data.batch_rows(state.updates, 1, MLP.batch_size)
        losses.append(core.evaluate(MLP, state.params, data.batch(rows)))
    window = torch.stack(losses)
    torch.testing.assert_close(end.losses.mean, window.mean(0))
    torch.testing.assert_close(end.losses.deviation, 5 * window.var(0, correction=0))
    step = state.params - last.params
    expected = {
        "grad_sq": (state.grad, state.grad), "last_grad_sq": (last.grad, last.grad),
        "step_sq": (step, step), "param_sq": (state.params, state.params),
        "grad_dot_last": (state.grad, last.grad), "grad_dot_step": (state.grad, step),
        "last_grad_dot_step": (last.grad, step),
    }  # fmt: skip
    assert set(expected) == set(end.probe._fields)
    for name, (a, b) in expected.items():
        torch.testing.assert_close(getattr(end.probe, name), (a * b).sum(1))


def test_the_gradient_is_the_mean_over_the_batch() -> None:
    data, state = start_runs(QUADRATIC, "sgd", RUNS)
    rows = data.batch_rows(state.updates, 1, QUADRATIC.batch_size)
    each = [
        core.loss_and_grad(QUADRATIC, state.params, data.batch(rows[:, i : i + 1]))
        for i in range(QUADRATIC.batch_size)
    ]
    torch.testing.assert_close(state.grad, torch.stack([g for _, g in each]).mean(0))
    torch.testing.assert_close(
        state.losses.mean, torch.stack([loss for loss, _ in each]).mean(0)
    )


class HostReads(TorchDispatchMode):
    """Record operations that wait for the device to read a value or a size."""

    WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket.__name__ in self.WAITING:
            self.reads.append(str(func))
        return func(*args, **(kwargs or {}))


@every_rule
@every_task
def test_no_update_waits_for_the_device(rule: str, task: tasks.Task) -> None:
    data, state = start_runs(task, rule, RUNS)
    with HostReads() as mode:
        core.advance(task, rules.get(rule), data, state, rates(3))
        core.advance(
            task, rules.get(rule), data, state, rates(3), counts=torch.tensor([3, 1, 2])
        )
        assert mode.reads == []
        state.params.sum().item()
        assert len(mode.reads) == 1, "the count itself does not work"


def global_state() -> tuple[Any, ...]:
    return (
        torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate(),  # noqa: NPY002
        torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(), np.geterr(),
    )  # fmt: skip


@pytest.mark.parametrize(
    "spec",
    ["train", "test", module_task(), module_task(convolutional=True)],
    ids=["train", "test", "module", "cnn"],
)
def test_global_state_is_not_changed(spec: Any) -> None:
    tasks.data.load_digits("train")  # scikit-learn's import itself draws from `random`
    before = global_state()
    env = gym.make_vec(
        "optenv/LearningRate-v0", 5, tasks=spec, horizon=2, updates_per_step=2,
        dtype="float64",
    )  # fmt: skip
    rollout(env, random_actions(env.action_space, 4), seed=0)
    single = gym.make("optenv/LearningRate-v0", tasks=spec, updates_per_step=2, horizon=2)
    rollout(single, random_actions(single.action_space, 4))
    for old, new in zip(before, global_state(), strict=True):
        if isinstance(old, (Tensor, np.ndarray)):
            np.testing.assert_array_equal(np.asarray(old), np.asarray(new))
        else:
            assert old == new


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), torch.device("cpu", 0)])
def test_a_device_is_a_name_or_a_torch_device(device: str | torch.device) -> None:
    arguments = {"tasks": MLP, "horizon": 2, "updates_per_step": 2}
    env = gym.make_vec("optenv/LearningRate-v0", 2, device=device, **arguments)
    plain = gym.make_vec("optenv/LearningRate-v0", 2, **arguments)
    actions = random_actions(env.action_space, 2)
    assert_same(rollout(env, actions, seed=0), rollout(plain, actions, seed=0))
