"""Streams for continual learning: samples follow their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from agents import meta
from tests.helpers.meta_tasks import sample_stream


def rows(pictures):
    """Return the set of pictures ``[..., 64]``, each as a tuple."""
    return {tuple(row) for row in pictures.flatten(0, -2).tolist()}


def test_permuted_tasks_permute_the_pixels_of_the_digits():
    stream = sample_stream(meta.DigitStream("permuted", tasks=3, examples=100, tests=50))
    assert stream.inputs.shape == (3, 100, 64) and stream.test_targets.shape == (3, 50)
    single = sample_stream(meta.DigitStream("permuted", tasks=1, examples=100, tests=50))
    ink = stream.inputs.sum(2).sort(1).values
    assert ink.std() > 1 and (stream.inputs.std(1) > 0).sum(1).min() > 50
    # The pixels that never have ink differ between tasks.
    blank = (stream.inputs.amax(1) == 0).long()
    assert not torch.equal(blank[0], blank[1])
    assert single.inputs.shape[0] == 1


def test_rotated_tasks_rotate_the_digits():
    stream = sample_stream(meta.DigitStream("rotated", tasks=2, examples=400, tests=100))
    whole = torch.cat([stream.inputs, stream.test_inputs], dim=1)
    # One of the two tasks is upright, the other is rotated by 90 degrees.
    pictures = whole.unflatten(2, (8, 8))
    turned = torch.rot90(pictures, 1, (2, 3)).flatten(2)
    back = torch.rot90(pictures, -1, (2, 3)).flatten(2)
    common = [
        len(rows(whole[:1]) & rows(other.round(decimals=6)[1:])) for other in (turned, back)
    ]
    assert max(common) > 100


def test_labels_are_permuted_in_the_same_way_in_all_tasks():
    bunch = load_digits()
    ink = np.sort(bunch.data / 16, axis=1).astype(np.float32)  # invariant to permutations
    digits = dict(zip(map(tuple, ink.tolist()), bunch.target.tolist(), strict=True))
    renamings = []
    for seed in (0, 1):
        stream = sample_stream(
            meta.DigitStream("permuted", tasks=3, examples=150, relabelled=True), seed
        )
        ink = stream.inputs.flatten(0, 1).sort(1).values
        labels = stream.targets.flatten().tolist()
        pairs = {
            (digits[tuple(row)], n) for row, n in zip(ink.tolist(), labels, strict=True)
        }
        assert len(pairs) == 10
        renamings.append(dict(pairs))
    assert renamings[0] != renamings[1]


def test_splits_share_no_digit():
    whole = {"examples": 800, "tests": 98, "tasks": 1}
    train, test = (
        sample_stream(meta.DigitStream(split=split, **whole)) for split in ("train", "test")
    )
    trained, tested = (torch.cat([s.inputs, s.test_inputs], dim=1) for s in (train, test))
    assert len(rows(trained)) > 890 and not rows(trained) & rows(tested)


def test_waves_are_sines_with_a_one_hot_index():
    stream = sample_stream(meta.SineStream(tasks=4))
    assert stream.inputs.shape == (4, 40, 5) and stream.test_targets.shape == (4, 50, 1)
    for task in range(4):
        assert (stream.inputs[task, :, 1:] == torch.eye(4)[task]).all()
        x = stream.inputs[task, :, 0].double()
        basis = torch.stack([x.sin(), x.cos()], dim=1)
        found = torch.linalg.lstsq(basis, stream.targets[task].double()).solution
        torch.testing.assert_close(
            basis @ found, stream.targets[task].double(), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "mirrored"}, "unknown kind 'mirrored'; valid: rotated, permuted"),
        ({"split": "all"}, "unknown split 'all'; valid: train, test"),
        ({"tasks": 0}, "tasks must be a positive integer, got 0"),
        ({"examples": 800}, "must be at most 898 together"),
    ],
)
def test_invalid_arguments_of_streams_are_quoted(arguments, message):
    with pytest.raises(ValueError, match=message):
        meta.DigitStream(**arguments)


def test_streams_as_tasks_keep_their_order():
    family = meta.Streams(meta.SineStream(tasks=3, examples=8, tests=5))
    support, query = family.sample(2, np.random.default_rng(0))
    first = sample_stream(family.stream)
    assert support.inputs.shape == (2, 24, 4) and query.targets.shape == (2, 15, 1)
    assert torch.equal(support.inputs[0], first.inputs.flatten(0, 1))
    assert torch.equal(query.targets[0], first.test_targets.flatten(0, 1))
