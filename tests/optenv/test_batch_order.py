"""Batches: each epoch visits every example once, in independent orders."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from optenv.tasks.examples import _STRIDES, MAX_EXAMPLES, Data, order_keys

SIZES = [1, 7, 60, 64, 100, 1000, 1021, 1024, 4095]


def orders(num_train: int, epochs: int, runs: int, batch_size: int = 1) -> Tensor:
    """Return examples in the order of their visits, ``[runs, epochs, num_train]``."""
    data = data_of(num_train, runs)
    updates = math.ceil(epochs * num_train / batch_size)
    first = torch.zeros(runs, dtype=torch.int64)
    rows = data.batch_rows(first, updates, batch_size)
    assert rows.shape == (runs, updates * batch_size)
    return rows[:, : epochs * num_train].unflatten(1, (epochs, num_train))


def data_of(num_train: int, runs: int) -> Data:
    keys = order_keys([np.random.default_rng(i) for i in range(runs)])
    empty = torch.empty(0)
    return Data(empty, empty, torch.empty(runs, num_train), keys, num_train)


@pytest.mark.parametrize("num_train", SIZES)
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_each_epoch_visits_every_example_once(num_train: int, batch_size: int) -> None:
    order = orders(num_train, epochs=4, runs=6, batch_size=batch_size)
    expected = torch.arange(num_train).expand(6, 4, num_train)
    assert order.sort(dim=-1).values.equal(expected)


def test_strides_are_coprime_to_every_number_of_examples() -> None:
    assert len(set(_STRIDES)) == len(_STRIDES)
    # `bits & (len - 1)` picks each equally often only for a power of two.
    assert len(_STRIDES) & (len(_STRIDES) - 1) == 0
    for stride in _STRIDES:
        assert stride > MAX_EXAMPLES
        assert (stride % torch.arange(2, math.isqrt(stride) + 1)).all()


@pytest.mark.parametrize("batch_size", [3, 32])
def test_the_batch_order_does_not_depend_on_the_windows(batch_size: int) -> None:
    data, first = data_of(100, 2), torch.tensor([0, 5])
    whole = data.batch_rows(first, 20, batch_size).unflatten(1, (20, batch_size))
    for begin, length in ((0, 7), (7, 1), (8, 12)):
        part = data.batch_rows(first + begin, length, batch_size)
        assert part.equal(whole[:, begin : begin + length].flatten(1))


def test_epochs_and_runs_have_different_orders() -> None:
    order = orders(1000, epochs=20, runs=20)
    for same in (order[3], order[:, 3]):
        assert len({tuple(row) for row in same.tolist()}) == 20


def correlations(a: Tensor, b: Tensor) -> Tensor:
    """Compute the rank correlation of each pair of orders."""
    positions = [order.argsort(dim=-1).double() for order in (a, b)]
    centred = [w - w.mean(-1, keepdim=True) for w in positions]
    dot = (centred[0] * centred[1]).sum(-1)
    return dot / (centred[0].norm(dim=-1) * centred[1].norm(dim=-1))


@pytest.mark.parametrize("num_train", [100, 1000, 1024])
def test_orders_of_epochs_and_of_runs_are_nearly_uncorrelated(num_train: int) -> None:
    order = orders(num_train, epochs=5, runs=400)
    between_epochs = correlations(order[:, :-1], order[:, 1:])
    between_runs = correlations(order[:-1], order[1:])
    position = torch.arange(num_train).expand_as(order)
    with_data = correlations(order, position)
    for measured in (between_epochs, between_runs, with_data):
        assert measured.mean().abs() < 0.02
        assert measured.std() < 0.25


@pytest.mark.parametrize("num_train", [100, 1000, 1024])
def test_every_example_is_first_in_an_epoch_equally_often(num_train: int) -> None:
    data = data_of(num_train, runs=5000)
    starts = [torch.full((5000,), epoch * num_train) for epoch in range(10)]
    first = torch.cat([data.batch_rows(start, 1, 1) for start in starts]).flatten()
    counts = torch.bincount(first, minlength=num_train).double()
    expected = len(first) / num_train
    chi_squared = ((counts - expected) ** 2 / expected).sum() / (num_train - 1)
    assert 0.7 < chi_squared < 1.4


@pytest.mark.parametrize("shared", [False, True])
def test_train_and_validation_examples_follow_the_rows(shared: bool) -> None:
    total, runs = 10, 3
    size = total if shared else runs * total
    rows = torch.arange(runs * total).view(runs, total)
    if shared:
        rows = torch.stack([torch.randperm(total) for _ in range(runs)])
    data = Data(torch.randn(size, 2), torch.randn(size, 4), rows, rows[:, 0], 6, shared)
    for got, examples, picked in (
        (data.train(4), range(4), slice(None)),
        (data.train(99), range(6), slice(None)),
        (data.validation(), range(6, 10), slice(None)),
        (data.validation(3), range(6, 9), slice(None)),
        (data.validation(runs=torch.tensor([2, 0])), range(6, 10), [2, 0]),
    ):
        index = torch.tensor(list(examples)).expand(runs, -1)
        for part, expected in zip(got, data.batch(index), strict=True):
            torch.testing.assert_close(part, expected[picked], rtol=0, atol=0)
