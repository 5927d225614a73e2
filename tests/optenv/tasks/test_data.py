"""Real tables as sources of examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from optenv import tasks
from optenv.tasks.data import CLASSIFIED, TABLES, load_table
from tests.helpers.families import check_environment, progress
from tests.helpers.small_runs import sample_runs

every_table = pytest.mark.parametrize("name", TABLES)


def on_table(name: str, **fields: Any) -> tasks.MLP:
    rows, inputs, outputs, _ = TABLES[name]
    sizes = {
        "inputs": inputs, "outputs": outputs, "batch_size": 16,
        "num_train": rows - rows // 4, "num_validation": rows // 4,
    }  # fmt: skip
    return tasks.MLP(source=name, activation="tanh", **{**sizes, **fields})


@every_table
def test_tables_have_the_sizes_that_are_listed(name: str) -> None:
    inputs, targets = load_table(name)
    rows, columns, outputs, classified = TABLES[name]
    assert inputs.shape == (rows, columns) and inputs.dtype == np.float32
    np.testing.assert_allclose(inputs.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(inputs.std(0), 1, atol=1e-5)
    assert classified == (name in CLASSIFIED) == (on_table(name).num_classes == outputs)
    if classified:
        assert set(targets.tolist()) == set(range(outputs)) and targets.dtype == np.int64
    else:
        assert targets.shape == (rows, outputs) and targets.dtype == np.float32
        assert targets.mean() == pytest.approx(0, abs=1e-5)
        assert targets.std() == pytest.approx(1, abs=1e-5)


@every_table
def test_each_run_has_rows_classes_and_scales_of_its_own(name: str) -> None:
    task = on_table(name)
    table, targets = load_table(name)
    drawn = [task.examples(np.random.default_rng(seed)) for seed in range(8)]
    order, names = [], set()
    for inputs, labels in drawn:
        # Columns are scaled, and all rows are used: standardised again, they are the table.
        scaled = inputs / inputs.std(0)
        rows = [int(np.abs(table - row).sum(1).argmin()) for row in scaled]
        assert sorted(rows) == list(range(len(table)))
        order.append(rows)
        if task.num_classes:
            pairs = {*zip(targets[rows].tolist(), labels.tolist(), strict=True)}
            assert len(pairs) == task.outputs  # a permutation, and no other noise
            names.add(tuple(sorted(pairs)))
        else:
            np.testing.assert_array_equal(labels, targets[rows])
    assert len({*map(tuple, order)}) == 8
    assert len(names) > 1 or not task.num_classes
    first, again = (task.examples(np.random.default_rng(0)) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])


@every_table
@pytest.mark.parametrize("depth", [0, 2])
def test_training_on_a_table_reduces_the_loss(name: str, depth: int) -> None:
    left = progress(on_table(name, depth=depth), 1e-2, 200)
    assert (left < 0.8).float().mean() > 0.8


@every_table
def test_a_few_rows_can_be_shared_by_all_runs(name: str) -> None:
    task = on_table(name, num_train=40, num_validation=20, data_seed=3)
    data, _ = sample_runs(task, 3)
    assert data.shared and len(data.inputs) == 60
    assert torch.equal(data.rows[0], data.rows[1])


@every_table
def test_environments_on_tables_pass_gymnasiums_checker(name: str) -> None:
    check_environment(on_table(name))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("wine", {"inputs": 16}, "inputs must be 13 .*'wine', .* columns, got 16"),
        ("wine", {"outputs": 2}, "outputs must be 3 .*'wine', .* classes, got 2"),
        ("diabetes", {"outputs": 4}, "outputs must be 1 .* regression targets, got 4"),
        (
            "breast-cancer", {"num_train": 500, "num_validation": 70},
            r"num_train \+ num_validation must be at most 569 .* rows, got 500 \+ 70 = 570",
        ),
    ],
)  # fmt: skip
def test_sizes_that_no_table_has_are_refused(
    name: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        on_table(name, **fields)
