"""Sources of images: their splits, classes, scales, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from optenv.tasks import CNN, MLP
from optenv.tasks import images as sources
from optenv.tasks.data import load_digits
from optenv.tasks.images import TILE, photographs

GENERATED = ("textures", "shapes")
PLAIN = {"batch_size": 8, "num_train": 200, "num_validation": 56, "contrast_spread": 0.0}


def task_on(source: str, **fields) -> CNN:
    given = {"digits": {"classes": 10}, "photos": {"split": "ood", "side": 12}}
    return CNN(source=source, **{**PLAIN, **given.get(source, {}), **fields})


@pytest.mark.parametrize("source", [*GENERATED, "digits", "photos"])
def test_images_are_standardised_float32_and_labels_within_the_classes(source):
    task = task_on(source)
    images, labels = task.examples(np.random.default_rng(0))
    assert images.shape == (256, 1, task.side, task.side) and images.dtype == np.float32
    assert labels.shape == (256,) and labels.dtype == np.int64
    assert set(labels.tolist()) <= set(range(task.classes))
    assert len(set(labels.tolist())) == task.classes
    assert abs(images.mean()) < 0.15 and 0.8 < images.std() < 1.2
    assert len(np.unique(images.reshape(256, -1), axis=0)) > 250


@pytest.mark.parametrize("source", GENERATED)
def test_classes_of_generated_images_can_be_told_apart(source):
    """Spectra (textures) or images (figures) of a class are nearest to their own mean."""
    right = []
    for seed in range(8):
        task = task_on(source, side=12, num_train=400, classes=3)
        images, labels = task.examples(np.random.default_rng(seed))
        images = images[:, 0]
        if source == "textures":
            images = np.abs(np.fft.fft2(images))
        flat = images.reshape(len(images), -1)
        means = np.stack([flat[:400][labels[:400] == c].mean(0) for c in range(3)])
        distance = ((flat[400:, None] - means) ** 2).sum(-1)
        right.append((distance.argmin(1) == labels[400:]).mean())
    assert np.median(right) > 0.55


def test_digits_of_a_split_come_from_its_images():
    for split in ("train", "test"):
        known = {image.tobytes() for image in load_digits(split)[0]}
        images, _ = task_on("digits", split=split).examples(np.random.default_rng(0))
        assert {image.tobytes() for image in images} <= known


def test_fewer_classes_of_digits_are_numbered_anew():
    task = task_on("digits", classes=3)
    images, labels = task.examples(np.random.default_rng(3))
    pictures, truth = load_digits("train")
    known = {image.tobytes(): int(c) for image, c in zip(pictures, truth, strict=True)}
    digits = [known[image.tobytes()] for image in images]
    assert len(set(digits)) == 3 and set(labels.tolist()) == {0, 1, 2}


def places(crops: np.ndarray) -> list[tuple[int, int, int]]:
    """Return photograph, row and column of crops ``[n, S, S]`` that are not turned."""
    side = crops.shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(photographs(), (side, side), (1, 2))
    centred = windows - windows.mean((3, 4), keepdims=True)
    norms = np.sqrt((centred**2).sum((3, 4))) + 1e-6
    found = []
    for crop in crops:
        unit = crop / np.linalg.norm(crop)
        scores = np.tensordot(centred, unit, 2) / norms
        place = np.unravel_index(scores.argmax(), scores.shape)
        assert scores[place] > 0.999
        found.append(tuple(int(i) for i in place))
    return found


def test_validation_crops_share_no_pixel_with_training_crops():
    task = task_on("photos", num_train=24, num_validation=8, classes=2, side=8)
    images, _ = task.examples(np.random.default_rng(0))
    found = places(images[:, 0])
    tiles = [(p, r // TILE, c // TILE) for p, r, c in found]
    for (_, row, column), (_, down, across) in zip(found, tiles, strict=True):
        assert (row + 7) // TILE == down and (column + 7) // TILE == across
    held_out = [(down + across) % 4 == 0 for _, down, across in tiles]
    assert held_out == [False] * 24 + [True] * 8


def test_classes_of_photographs_are_their_orientation_too(monkeypatch):
    monkeypatch.setattr(sources, "noisy_labels", lambda labels, classes, rng: labels)
    task = task_on("photos", num_train=20, num_validation=4, classes=8, side=8)
    images, labels = sources.SOURCES["photos"].draw(task, np.random.default_rng(2))
    upright = [np.rot90(i, -(label // 2)) for i, label in zip(images, labels, strict=True)]
    photograph = [place[0] for place in places(np.stack(upright))]
    assert photograph == (labels % 2).tolist()
    assert set(labels // 2) == {0, 1, 2, 3}


def test_contrast_multiplies_the_images_of_a_run():
    low, high = (
        task_on("shapes", contrast=c).examples(np.random.default_rng(0))[0] for c in (1, 3)
    )
    np.testing.assert_allclose(high, 3 * low, rtol=1e-6)
    scales = [
        task_on("shapes", contrast_spread=0.5).examples(np.random.default_rng(s))[0].std()
        for s in range(40)
    ]
    assert 0.3 < np.std(np.log(scales)) < 0.7


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"source": "cifar"}, "unknown source 'cifar'; valid: textures, shapes, digits"),
        ({"source": "texture"}, "did you mean 'textures'"),
        ({"split": "validation"}, "unknown split 'validation'; valid: train, test, ood"),
        ({"source": "photos"}, "photos have no images of the split 'train'; valid: ood"),
        ({"source": "digits", "split": "ood"}, "split 'ood'; valid: train, test"),
        ({"source": "digits", "side": 12}, r"side must be in \[8, 8\] for digits, got 12"),
        ({"side": 3}, r"side must be in \[4, 64\] for textures, got 3"),
        ({"classes": 1}, r"classes must be in \[2, 1000\] for textures, got 1"),
        ({"source": "digits", "classes": 11}, r"\[2, 10\] for digits, got 11"),
        ({"init_spread": -0.1}, "init_spread must be a number, at least 0, got -0.1"),
        ({"contrast_spread": math.inf}, "contrast_spread must be a number"),
    ],
)
def test_impossible_images_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        CNN(**fields)


def test_more_digits_than_there_are_are_refused():
    task = CNN(source="digits", classes=2, num_train=250, num_validation=128)
    with pytest.raises(ValueError, match="is 378, but 2 classes of the train split of dig"):
        task.examples(np.random.default_rng(0))


def test_perceptrons_know_none_of_these_sources():
    with pytest.raises(ValueError, match="unknown source 'textures'"):
        MLP(source="textures")
