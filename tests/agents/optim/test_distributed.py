"""Several processes that train one model choose the same learning rates."""

from __future__ import annotations

import gc
import multiprocessing
import time
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.checkpoint import state_dict as checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from agents import LearnedLR, LearnedOptimizer
from agents.optim import subsample
from optenv import rules
from optenv.roles import roles_of_shapes
from optenv.telemetry import observed_features
from tests.helpers.loops import STEPS, batches, make_model, weights
from tests.helpers.policies import random_policy

WORLD = 2
RULES = ["adam", "orthogonal-adam", "momentum"]
#: A rule that keeps factors, which sharded parameters compute at every update.
KEEPING = {"name": "orthogonal-adam", "refresh": 4}
NETWORK = {"name": "network", "weights": [0.05 * (-1) ** (i // 3) for i in range(32)]}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.skipif(not dist.is_available(), reason="torch without torch.distributed"),
]


def fit(model, optimizer, part=None, steps=slice(None)):
    """Learn on batches of eight, or on one process's share of each."""
    for inputs, targets in list(batches())[steps]:
        if part is not None:
            inputs, targets = inputs[part::WORLD], targets[part::WORLD]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step(loss=loss)


class Forgetful:
    """An optimizer that now and then is not told a loss, in one process or in all."""

    def __init__(self, params, make):
        self.optimizer, self.steps = make(params), 0
        self.zero_grad = self.optimizer.zero_grad

    def step(self, loss):
        self.steps += 1
        told = self.steps % 7 != dist.get_rank() and self.steps % 5 != 0
        self.optimizer.step(loss=loss if told else None)


class Scheduled:
    """AdamW under LearnedLR, in the shape of LearnedOptimizer."""

    def __init__(self, params, policy, total_steps):
        self.optimizer = torch.optim.AdamW(params, lr=1e-3)
        self.scheduler = LearnedLR(self.optimizer, total_steps, policy)
        self.zero_grad = self.optimizer.zero_grad

    def step(self, loss):
        self.optimizer.step()
        self.scheduler.step(loss)


def plain(model):
    return model


def data_parallel(model):
    return DistributedDataParallel(model)


def fully_sharded(model):
    for part in (model[0], model[2], model):
        fully_shard(part, mesh=init_device_mesh("cpu", (WORLD,)))
    return model


def work(rank, folder, wrap, make, leave):
    torch.set_num_threads(1)
    method = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=WORLD)
    leave(rank, folder, wrap, make)
    gc.collect()  # what still uses the group would hang when it is gone
    dist.barrier()
    dist.destroy_process_group()


def leave_weights(rank, folder, wrap, make):
    model = make_model()
    wrapped = wrap(model)
    fit(wrapped, make(wrapped.parameters()), rank)
    save_weights(rank, folder, model)


def leave_resumed(rank, folder, wrap, make, cut=24):
    """The same with a stop on the way, from whose checkpoint others go on."""

    def state(model, optimizer):
        parts = checkpoint.get_state_dict(model, optimizer)
        return dict(zip(("model", "optimizer"), parts, strict=True))

    model = wrap(make_model())
    optimizer = make(model.parameters())
    fit(model, optimizer, rank, slice(cut))
    dcp.save(state(model, optimizer), checkpoint_id=f"{folder}/checkpoint")
    other = make_model()
    wrapped = wrap(other)
    resumed = make(wrapped.parameters())
    loaded = state(wrapped, resumed)
    dcp.load(loaded, checkpoint_id=f"{folder}/checkpoint")
    parts = {f"{name}_state_dict": part for name, part in loaded.items()}
    parts["optim_state_dict"] = parts.pop("optimizer_state_dict")
    checkpoint.set_state_dict(wrapped, resumed, **parts)
    fit(wrapped, resumed, rank, slice(cut, None))
    save_weights(rank, folder, other)


def leave_sampled(rank, folder, wrap, make):
    """The same with tensors that are measured by a sample of their numbers."""
    subsample.MAX_NUMEL, subsample.BLOCK_NUMEL = 24, 4
    leave_weights(rank, folder, wrap, make)


def save_weights(rank, folder, model):
    own = [getattr(p, "full_tensor", lambda p=p: p)() for p in model.parameters()]
    torch.save(torch.cat([p.detach().flatten() for p in own]), f"{folder}/{rank}.pt")


def ends(folder, wrap, make, leave=leave_weights):
    """Weights that each process ends with."""
    folder.mkdir()
    # Processes are forked from one that has imported this module: imports take seconds.
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    context = mp.start_processes(
        work, (str(folder), wrap, make, leave), WORLD, join=False, start_method="forkserver"
    )
    deadline = time.monotonic() + 120
    while not context.join(timeout=5):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail("the processes wait for each other")
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


def made(rule):
    return partial(LearnedOptimizer, policy=random_policy(rule), total_steps=STEPS)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return a function that trains once for each way to wrap the model, and rule."""
    found = {}

    def run(wrap, rule):
        key = wrap, str(rule)
        if key not in found:
            found[key] = ends(tmp_path_factory.mktemp("run") / "a", wrap, made(rule))
        return found[key]

    return run


@pytest.mark.parametrize("rule", [*RULES, KEEPING], ids=str)
def test_data_parallel_training_equals_one_process_on_the_joined_batch(rule, uninterrupted):
    alone = make_model()
    fit(alone, made(rule)(alone.parameters()))
    one, other = uninterrupted(data_parallel, rule)
    assert torch.equal(one, other)
    torch.testing.assert_close(one, weights(alone), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rule", [*RULES, "nadam", "lion", NETWORK], ids=str)
def test_fully_sharded_training_equals_data_parallel_training(rule, uninterrupted):
    expected, _ = uninterrupted(data_parallel, rule)
    one, other = uninterrupted(fully_sharded, rule)
    assert torch.equal(one, other)
    torch.testing.assert_close(one, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rule", RULES[:2])
def test_sharded_tensors_are_subsampled_like_full_tensors(rule, uninterrupted, tmp_path):
    whole, _ = uninterrupted(data_parallel, rule)
    expected, _ = ends(tmp_path / "b", data_parallel, made(rule), leave_sampled)
    one, other = ends(tmp_path / "c", fully_sharded, made(rule), leave_sampled)
    assert torch.equal(one, other) and not torch.allclose(expected, whole, rtol=1e-3)
    torch.testing.assert_close(one, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("wrap", [data_parallel, fully_sharded])
@pytest.mark.parametrize("rule", [*RULES[:2], KEEPING, "nadam"], ids=str)
def test_training_resumed_from_a_checkpoint_is_unchanged(
    rule, wrap, uninterrupted, tmp_path
):
    expected, _ = uninterrupted(wrap, rule)
    one, other = ends(tmp_path / "b", wrap, made(rule), leave_resumed)
    assert torch.equal(one, other) and torch.equal(one, expected)


@pytest.mark.parametrize("rule", [*RULES, KEEPING], ids=str)
def test_partitioned_training_equals_data_parallel_training(rule, uninterrupted, tmp_path):
    expected, _ = uninterrupted(data_parallel, rule)
    make = partial(
        ZeroRedundancyOptimizer, optimizer_class=LearnedOptimizer,
        policy=random_policy(rule), total_steps=STEPS, partitioned=True,
    )  # fmt: skip
    if rules.get(rule).shaped:  # the shapes of a part alone do not tell roles
        make = ByRole(make)
    one, other = ends(tmp_path / "b", data_parallel, make)
    assert torch.equal(one, other)
    torch.testing.assert_close(one, expected, rtol=1e-3, atol=1e-4)


class ByRole:
    """Group parameters by the roles that their shapes suggest, then make an optimizer."""

    def __init__(self, make):
        self.make = make

    def __call__(self, params):
        params = list(params)
        roles = roles_of_shapes([p.shape for p in params])
        return self.make(
            [{"params": [p], "name": role} for p, role in zip(params, roles, strict=True)]
        )


@pytest.mark.parametrize("kind", ["hyperparameters", "roles"])
def test_all_that_actions_set_is_the_same_however_a_model_is_split(kind, tmp_path):
    settings = {"policy": random_policy(action={"kind": kind}), "total_steps": STEPS}
    make = ByRole(partial(LearnedOptimizer, **settings))
    expected, _ = ends(tmp_path / "a", data_parallel, make)
    sharded, other = ends(tmp_path / "b", fully_sharded, make)
    resumed, _ = ends(tmp_path / "c", fully_sharded, make, leave_resumed)
    partition = partial(
        ZeroRedundancyOptimizer, optimizer_class=LearnedOptimizer, partitioned=True
    )
    parts, _ = ends(tmp_path / "d", data_parallel, ByRole(partial(partition, **settings)))
    assert torch.equal(sharded, other) and torch.equal(sharded, resumed)
    for found in (sharded, parts):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_processes_without_losses_choose_the_same_rates(tmp_path):
    make = partial(Forgetful, make=made("adam"))
    one, other = ends(tmp_path / "a", data_parallel, make)
    assert torch.equal(one, other)


def test_schedulers_of_all_processes_choose_the_same_rates(tmp_path):
    make = partial(Scheduled, policy=random_policy(), total_steps=STEPS)
    alone = make_model()
    fit(alone, make(alone.parameters()))
    one, other = ends(tmp_path / "a", data_parallel, make)
    assert torch.equal(one, other)
    torch.testing.assert_close(one, weights(alone), rtol=1e-3, atol=1e-4)


def test_unsynchronized_processes_choose_their_own_rates(tmp_path):
    make = partial(made("adam"), synchronize=False)
    one, other = ends(tmp_path / "a", plain, make)
    assert not torch.equal(one, other)


class Validating:
    """An optimizer with a validation loss after each step, of all processes or of one."""

    def __init__(self, params, make, all_give):
        self.optimizer, self.steps, self.all_give = make(params), 0, all_give
        self.zero_grad = self.optimizer.zero_grad

    def step(self, loss):
        self.optimizer.step(loss=loss)
        self.steps += 1
        mean, rank = 3.0 / self.steps, dist.get_rank() if dist.is_initialized() else None
        if rank is None or (not self.all_give and rank == 1):
            self.optimizer.validated(mean)
        elif self.all_give:
            self.optimizer.validated(mean + rank - (WORLD - 1) / 2)


@pytest.mark.parametrize("all_give", [True, False])
def test_processes_observe_the_mean_of_their_validation_losses(all_give, tmp_path):
    policy = random_policy(features=[*observed_features("invariant", True)])
    settings = {"policy": policy, "total_steps": STEPS}
    make = partial(
        Validating, make=partial(LearnedOptimizer, **settings), all_give=all_give
    )
    one, other = ends(tmp_path / "a", data_parallel, make)
    assert torch.equal(one, other)
    alone, without = make_model(), make_model()
    fit(alone, make(alone.parameters()))
    torch.testing.assert_close(one, weights(alone), rtol=1e-3, atol=1e-4)
    fit(without, LearnedOptimizer(without.parameters(), **settings))
    assert not torch.allclose(one, weights(without), rtol=1e-2, atol=1e-2)
