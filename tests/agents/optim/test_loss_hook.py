"""Losses that come from a module's forward passes instead of the training loop."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.helpers.loops import batches, learned, make_model, train, weights


class OwnLoss(nn.Module):
    """A model that returns its own loss, if it is given labels."""

    def __init__(self, wrap):
        super().__init__()
        self.body, self.wrap = make_model(), wrap

    def forward(self, inputs, targets=None):
        logits = self.body(inputs)
        if targets is not None:
            targets = nn.functional.cross_entropy(logits, targets)
        return self.wrap(targets, logits)


def as_mapping(loss, logits):
    return {"loss": loss, "logits": logits}


def as_attribute(loss, logits):
    return SimpleNamespace(loss=loss, logits=logits)


def as_tuple(loss, logits):
    return loss, logits


def told(steps=None):
    """Weights of a loop that hands over its losses."""
    model = make_model()
    train(model, learned(model), steps or batches())
    return weights(model)


@pytest.mark.parametrize("call", [lambda o: o.step(), lambda o: o.step(None)])
def test_an_attached_criterion_equals_passing_the_loss(call):
    model, criterion = make_model(), nn.CrossEntropyLoss()
    optimizer = learned(model)
    optimizer.attach_loss(criterion)
    for inputs, targets in batches():
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        with torch.no_grad():  # a validation pass tells nothing
            criterion(model(inputs) * 100, targets)
        call(optimizer)
    assert torch.equal(weights(model), told())


@pytest.mark.parametrize("wrap", [as_mapping, as_attribute, as_tuple])
def test_a_model_that_returns_its_own_loss_can_be_attached(wrap):
    model = OwnLoss(wrap)
    optimizer = learned(model)
    optimizer.attach_loss(model)
    for inputs, targets in batches():
        optimizer.zero_grad()
        output = model(inputs, targets)
        if wrap is as_tuple:
            output[0].backward()
        else:
            (output["loss"] if wrap is as_mapping else output.loss).backward()
        model(inputs)  # without labels there is no loss
        optimizer.step()
    assert torch.equal(weights(model), told())


def test_accumulated_losses_are_averaged():
    model, criterion = make_model(), nn.CrossEntropyLoss()
    optimizer = learned(model)
    optimizer.attach_loss(criterion)
    for inputs, targets in batches():
        optimizer.zero_grad()
        for half in (slice(0, 4), slice(4, 8)):
            (criterion(model(inputs[half]), targets[half]) / 2).backward()
        optimizer.step()
    torch.testing.assert_close(weights(model), told(), rtol=1e-3, atol=1e-5)


def test_reduction_sum_adds_accumulated_losses():
    model, criterion = make_model(), nn.CrossEntropyLoss(reduction="sum")
    optimizer = learned(model)
    optimizer.attach_loss(criterion, reduction="sum")
    for inputs, targets in batches():
        optimizer.zero_grad()
        for part in (slice(0, 2), slice(2, 8)):
            loss = criterion(model(inputs[part]), targets[part])
            (loss / len(targets)).backward()
        optimizer.step()
    model = make_model()
    plain = learned(model)
    train(model, plain, batches())
    for row, expected in zip(optimizer.explain(), plain.explain(), strict=True):
        assert row["multiplier"] == pytest.approx(expected["multiplier"], rel=1e-2)
        if expected["loss"] is not None:
            assert row["loss"] == pytest.approx(8 * expected["loss"], rel=1e-2)


def test_non_finite_accumulated_losses_are_ignored():
    model, criterion = make_model(), nn.CrossEntropyLoss()
    optimizer = learned(model)
    optimizer.attach_loss(criterion)
    for inputs, targets in batches():
        criterion(float("nan") * model(inputs), targets)  # nobody steps on it
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    assert torch.equal(weights(model), told()) and optimizer.ignored_losses == 0
    criterion(float("nan") * model(inputs), targets)
    assert optimizer._losses.take().isnan()


def test_loading_a_state_drops_pending_losses():
    model, criterion = make_model(), nn.CrossEntropyLoss()
    optimizer = learned(model)
    optimizer.attach_loss(criterion)
    criterion(model(torch.ones(2, 6)), torch.tensor([0, 1]))
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer._losses.take() is None


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match=r"one of .'mean', 'sum'., got 'none'"):
        learned(make_model()).attach_loss(nn.CrossEntropyLoss(), "none")


def test_a_given_loss_takes_precedence_over_an_attached_one():
    model, criterion = make_model(), nn.CrossEntropyLoss()
    optimizer = learned(model)
    optimizer.attach_loss(criterion)
    for inputs, targets in batches():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        criterion(100 * model(inputs), targets)
        optimizer.step(loss=loss)
    assert torch.equal(weights(model), told())
    assert optimizer._losses.take() is None


def test_a_loss_scaled_in_place_later_counts_unscaled():
    model, criterion = make_model(), nn.CrossEntropyLoss()
    optimizer = learned(model)
    optimizer.attach_loss(criterion)
    for inputs, targets in batches():
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        loss.detach().div_(4)
        optimizer.step()
    assert torch.equal(weights(model), told())


def test_copies_and_pickles_of_an_attached_module_are_detached():
    criterion = nn.CrossEntropyLoss()
    optimizer = learned(make_model())
    optimizer.attach_loss(criterion)
    inputs, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    for clone in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        clone(inputs, targets)
        assert optimizer._losses.take() is None
    criterion(inputs, targets)
    assert optimizer._losses.take() is not None


def test_removing_the_handle_detaches_the_module():
    model, criterion = make_model(), nn.CrossEntropyLoss()
    optimizer = learned(model)
    optimizer.attach_loss(criterion).remove()
    for inputs, targets in batches():
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    assert all(row["has_loss"] == 0 for row in optimizer.explain())


def test_attached_optimizers_and_modules_can_be_copied_saved_and_loaded():
    model = OwnLoss(as_mapping)
    optimizer = learned(model)
    optimizer.attach_loss(model)
    data = list(batches())

    def go(model, optimizer, steps):
        for inputs, targets in steps:
            optimizer.zero_grad()
            model(inputs, targets)["loss"].backward()
            optimizer.step()

    go(model, optimizer, data[:30])
    pickle.dumps(optimizer)
    average = copy.deepcopy(model)  # as of an exponential moving average
    with torch.no_grad():
        average(*data[0])
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    go(model, optimizer, data[30:])
    assert torch.equal(weights(model), told())
    assert len(optimizer.explain()) == optimizer.policy.description["horizon"]
    clone = copy.deepcopy(optimizer)
    model(*data[0])
    assert clone._losses.take() is None and optimizer._losses.take() is not None


def test_a_module_that_returns_no_loss_is_refused():
    model = make_model()
    optimizer = learned(model)
    with pytest.raises(TypeError, match=r"needs a module .* got <function cross_entropy"):
        optimizer.attach_loss(nn.functional.cross_entropy)
    optimizer.attach_loss(model)
    with pytest.raises(ValueError, match=r"Sequential returned a tensor of shape \[8, 3\]"):
        model(next(batches())[0])
    other = OwnLoss(lambda loss, logits: [loss, logits])
    optimizer.attach_loss(other)
    with pytest.raises(TypeError, match="OwnLoss returned list"):
        other(next(batches())[0])


def test_a_closure_that_raises_drops_its_losses():
    model, criterion = make_model(), nn.CrossEntropyLoss()
    optimizer = learned(model)
    optimizer.attach_loss(criterion)
    inputs, targets = next(batches())

    def fail():
        criterion(1e12 * model(inputs), targets).backward()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(fail)
    optimizer.zero_grad()
    loss = criterion(model(inputs), targets)
    loss.backward()
    optimizer.step()
    assert optimizer.explain()[0]["loss"] == pytest.approx(loss.item())


@pytest.mark.parametrize("parts", [1, 2])
def test_the_sum_of_a_steps_shares_comes_before_the_closures_share(parts):
    model, criterion = make_model(), nn.CrossEntropyLoss()
    optimizer, shares = learned(model), nn.Identity()
    optimizer.attach_loss(shares, "sum")
    inputs, targets = next(batches())

    def differentiate():
        share = criterion(model(inputs), targets) / parts
        shares(share).backward()
        return share.detach()

    for _ in range(parts - 1):
        differentiate()
    share = optimizer.step(differentiate)
    assert optimizer.explain()[0]["loss"] == pytest.approx(parts * share.item())
