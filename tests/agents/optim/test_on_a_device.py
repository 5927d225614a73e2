"""A CUDA device: graphs, states that move to it, fused steps. Skipped without one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from agents import LearnedOptimizer
from tests.helpers.loops import batches, make_model, train, weights
from tests.helpers.optimizers import (
    WITH_SCHEDULER,
    parametrized,
    restore,
    save,
    shipped,
)

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device, which torch finds none of"
)

STEPS = 300


def learned(model, name, **arguments):
    total = None if shipped(name).anytime else STEPS
    return LearnedOptimizer(model.parameters(), name, total_steps=total, **arguments)


def data(steps, device="cuda"):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        inputs = torch.randn(8, 6, generator=generator)
        yield inputs.to(device), inputs[:, :3].argmax(1).to(device)


def backward(model, inputs, targets):
    loss = nn.functional.cross_entropy(model(inputs), targets)
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("name", ["default", "adam", "momentum", "anytime"])
@pytest.mark.parametrize("fused", [None, True], ids=["foreach", "fused"])
def test_a_cuda_graph_between_decisions_goes_where_steps_go(name, fused):
    if fused and name not in ("adam", "momentum"):
        pytest.skip("the rule has no fused implementation")
    plain = make_model().cuda()
    optimizer = learned(plain, name, guard="probe")
    for inputs, targets in data(STEPS):
        optimizer.zero_grad()
        optimizer.step(loss=backward(plain, inputs, targets))
    model = make_model().cuda()
    static_inputs, static_targets = next(data(1))
    optimizer = learned(model, name, guard="probe", capturable=True, fused=fused)
    graph, static_loss, replays = None, None, 0
    for inputs, targets in data(STEPS):
        static_inputs.copy_(inputs)
        static_targets.copy_(targets)
        if not optimizer.can_replay():
            optimizer.zero_grad()
            optimizer.step(loss=backward(model, static_inputs, static_targets))
            continue
        if graph is None:
            optimizer.zero_grad()
            before = weights(model)
            # A backward pass needs a warm-up on the side stream that captures it.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                backward(model, static_inputs, static_targets)
            torch.cuda.current_stream().wait_stream(stream)
            optimizer.zero_grad()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                static_loss = backward(model, static_inputs, static_targets)
                optimizer.step(loss=static_loss)
            assert torch.equal(weights(model), before)
        optimizer.replay(graph, loss=static_loss)
        replays += 1
    assert replays > STEPS // 2
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-2, atol=1e-3)


def test_capturing_without_capturable_says_what_to_do():
    model = make_model().cuda()
    optimizer = learned(model, "adam")
    backward(model, *next(data(1)))
    optimizer.step()
    with pytest.raises(RuntimeError, match="with capturable=True"):
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            optimizer.step()


@parametrized(WITH_SCHEDULER)
def test_a_state_of_the_cpu_goes_on_alike_on_the_device(make):
    model = make_model()
    optimizer = make(model.parameters())
    train_plainly(model, optimizer, data(20, "cpu"))
    saved = copy.deepcopy(save(optimizer))
    other = copy.deepcopy(model).cuda()
    resumed = make(other.parameters())
    restore(resumed, saved)
    for own in resumed.state_dict()["state"].values():
        if torch.is_tensor(own.get("step")):
            assert own["step"].device.type == "cpu"
    train_plainly(model, optimizer, data(5, "cpu"))
    train_plainly(other, resumed, data(5))
    torch.testing.assert_close(weights(other).cpu(), weights(model), rtol=1e-3, atol=1e-4)


def train_plainly(model, optimizer, steps):
    for inputs, targets in steps:
        optimizer.zero_grad()
        backward(model, inputs, targets)
        optimizer.step()


@pytest.mark.parametrize("arguments", [
    {"fused": True}, {"capturable": True, "guard": "probe"},
])  # fmt: skip
def test_a_state_that_was_kept_on_the_cpu_goes_on_with_fused_and_capturable_steps(
    arguments,
):
    model = make_model()
    optimizer = learned(model, "adam")
    train_plainly(model, optimizer, data(12, "cpu"))
    other = copy.deepcopy(model).cuda()
    resumed = learned(other, "adam", **arguments)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train_plainly(other, resumed, data(12))
    train_plainly(model, optimizer, data(12, "cpu"))
    torch.testing.assert_close(weights(other).cpu(), weights(model), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["adam", "momentum"])
def test_fused_steps_on_the_device_match_those_on_the_cpu(name):
    ends = []
    for device in ("cpu", "cuda"):
        model = make_model().to(device)
        optimizer = learned(model, name, fused=True)
        train(model, optimizer, ((x.to(device), y.to(device)) for x, y in batches()))
        ends.append(weights(model).cpu())
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-4)
