"""Reparametrised runs: the same networks with other best learning rates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import optenv
from tests.helpers.small_runs import MLP

ARGUMENTS = {
    "tasks": MLP, "rule": "sgd", "base_lr": 1e-2, "horizon": 5,
    "updates_per_step": 4, "dtype": "float64", "autoreset_mode": "Disabled",
}  # fmt: skip


def start(num_envs=4, **arguments):
    env = optenv.LearningRateVectorEnv(num_envs, **{**ARGUMENTS, **arguments})
    env.reset(seed=0)
    return env, env.groups[0][1]


def factors(group):
    """Return the factor of each parameter tensor and run, ``[tensors, B]``."""
    parts = group.task.unflatten(group.data.scale)
    return torch.stack([part.flatten(1)[:, 0] for part in parts])


def test_reparametrization_changes_all_losses_but_the_initial_one():
    (plain_env, plain), (env, group) = start(), start(reparametrize=0.7)
    torch.testing.assert_close(group.state.initial_loss, plain.state.initial_loss)
    params = group.state.run.params * group.data.scale
    torch.testing.assert_close(params, plain.state.run.params)
    losses = [e.step(np.zeros((4, 1)))[-1]["loss"] for e in (plain_env, env)]
    assert not np.allclose(*losses, rtol=1e-3)


def test_every_parameter_tensor_of_every_run_has_its_own_factor():
    group = start(num_envs=200, reparametrize=0.7)[1]
    drawn = factors(group)
    for part, factor in zip(group.task.unflatten(group.data.scale), drawn, strict=True):
        assert (part.flatten(1) == factor[:, None]).all()
    assert len(drawn.unique()) == drawn.numel()
    assert abs(drawn.log().std().item() - 0.7) < 0.1
    assert abs(drawn.log().mean().item()) < 0.1


def test_under_sgd_a_factor_scales_the_learning_rate_by_its_square():
    (plain_env, plain), (env, group) = (
        start(horizon=1, updates_per_step=1, reparametrize=r) for r in (0.0, 0.7)
    )
    scale, before = group.data.scale, plain.state.run.params
    for e in (plain_env, env):
        e.step(np.zeros((4, 1)))
    moved = group.state.run.params * scale - before
    torch.testing.assert_close(moved, scale**2 * (plain.state.run.params - before))


def test_a_masked_reset_redraws_the_factors_of_the_reset_runs_only():
    env, group = start(reparametrize=0.7)
    before = group.data.scale.clone()
    mask = np.array([False, True, False, False])
    env.reset(options={"reset_mask": mask})
    kept = torch.from_numpy(~mask)
    assert torch.equal(group.data.scale[kept], before[kept])
    assert not torch.equal(group.data.scale[1], before[1])


def test_reparametrized_runs_equal_the_single_runs_of_their_seeds():
    group = start(reparametrize=0.7)[1]
    alone = optenv.LearningRateVectorEnv(1, **ARGUMENTS, reparametrize=0.7)
    alone.reset(seed=2)
    own = alone.groups[0][1]
    assert torch.equal(own.data.scale[0], group.data.scale[2])
    assert torch.equal(own.state.run.params[0], group.state.run.params[2])


@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan"), "1", True])
def test_a_reparametrize_that_is_no_number_of_at_least_0_is_refused(value):
    with pytest.raises(ValueError, match=f"reparametrize must be .* got {value!r}"):
        optenv.LearningRateVectorEnv(2, reparametrize=value)
