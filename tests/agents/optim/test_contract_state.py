"""The contract of saving, copying and restoring, over LearnedOptimizer, AdamW and SGD."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import state_dict as checkpoint

from tests.helpers.loops import batches, make_model, weights
from tests.helpers.markers import slow
from tests.helpers.optimizers import all_optimizers, train, trained

pytestmark = all_optimizers


def restored(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_a_resumed_run_equals_the_uninterrupted_run(make):
    model, optimizer, data = trained(make)
    other = make_model()
    saved = restored((model.state_dict(), optimizer.state_dict()))
    resumed = make(other.parameters())
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    train(model, optimizer, data)
    train(other, resumed, data)
    assert torch.equal(weights(model), weights(other))


def test_the_state_before_the_first_step_can_be_loaded(make):  # as accelerate does
    model, other = make_model(), make_model()
    optimizer, plain = make(model.parameters()), make(other.parameters())
    optimizer.load_state_dict(optimizer.state_dict())
    train(model, optimizer, batches())
    train(other, plain, batches())
    assert torch.equal(weights(model), weights(other))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_continue_as_the_original(make, clone):
    model, optimizer, data = trained(make)
    other, own = clone((model, optimizer))
    train(model, optimizer, data)
    train(other, own, data)
    assert torch.equal(weights(model), weights(other))


@pytest.mark.parametrize("flatten", [False, True])
def test_distributed_checkpoints_hold_the_whole_state(make, flatten):
    model, optimizer, data = trained(make)
    options = checkpoint.StateDictOptions(flatten_optimizer_state_dict=flatten)
    saved = copy.deepcopy(
        checkpoint.get_optimizer_state_dict(model, optimizer, options=options)
    )
    other = make_model()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    resumed = make(other.parameters())
    before = weights(other)
    checkpoint.set_optimizer_state_dict(other, resumed, saved, options=options)
    assert torch.equal(weights(other), before)  # it takes a step of its own
    train(model, optimizer, data)
    train(other, resumed, data)
    assert torch.equal(weights(model), weights(other))


@pytest.mark.parametrize(  # also between the steps of a probe
    ("count", "flatten"), [slow(3, False), (24, False), (25, True), slow(30, True)]
)
def test_distributed_checkpoints_on_disk_resume_bit_for_bit(make, count, flatten, tmp_path):
    model, optimizer, data = trained(make, count)
    options = checkpoint.StateDictOptions(flatten_optimizer_state_dict=flatten)
    other = make_model()
    resumed = make(other.parameters())

    def state(model, optimizer):
        own = checkpoint.get_optimizer_state_dict(model, optimizer, options=options)
        return {"model": model.state_dict(), "optimizer": own}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process
        dcp.save(state(model, optimizer), checkpoint_id=tmp_path)
        loaded = state(other, resumed)
        dcp.load(loaded, checkpoint_id=tmp_path)
    other.load_state_dict(loaded["model"])
    checkpoint.set_optimizer_state_dict(
        other, resumed, loaded["optimizer"], options=options
    )
    train(model, optimizer, data)
    train(other, resumed, data)
    assert torch.equal(weights(model), weights(other))


def test_the_state_dict_holds_tensors_and_plain_values(make):
    model, optimizer, _ = trained(make)
    state = optimizer.state_dict()
    assert set(state) == {"state", "param_groups"}
    assert set(state["state"]) == set(range(len(list(model.parameters()))))
    for own in state["state"].values():
        assert all(isinstance(value, torch.Tensor) for value in own.values())
