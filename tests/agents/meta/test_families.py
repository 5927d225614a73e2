"""Families of few-shot tasks: samples follow the distributions of their protocols."""

from __future__ import annotations

import math
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from agents import meta
from agents.meta.families import digits
from tests.helpers.meta_tasks import numbered_classes
from tests.helpers.paths import DATA

OMNIGLOT = DATA / "omniglot-small"


# Sine waves.


def sample_waves(variant, **arguments):
    family = meta.Sinusoids(variant=variant, **arguments)
    return family.sample(2000, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("variant", "queries"), [("maml", 10), ("meta-sgd", 100), ("reptile", 50)]
)
def test_support_and_query_are_of_one_wave(variant, queries):
    support, query = sample_waves(variant)
    assert support.inputs.shape == support.targets.shape == (2000, 10, 1)
    assert query.inputs.shape == query.targets.shape == (2000, queries, 1)
    inputs = torch.cat([support.inputs, query.inputs], 1)[..., 0].double().numpy()
    targets = torch.cat([support.targets, query.targets], 1)[..., 0].double().numpy()
    assert np.abs(inputs).max() <= 5
    frequencies = np.linspace(0.8, 1.2, 401) if variant == "meta-sgd" else [1.0]
    for x, y in zip(inputs[:20], targets[:20], strict=True):
        fits = []
        for f in frequencies:  # a sin(f x + b) is a sum of a sine and a cosine
            basis = np.stack([np.sin(f * x), np.cos(f * x)], axis=1)
            rest = np.linalg.lstsq(basis, y, rcond=None)[1]
            fits.append(float(rest.sum()))
        assert min(fits) < (1e-10 if variant != "meta-sgd" else 0.05)


@pytest.mark.parametrize(("variant", "turn"), [("maml", math.pi), ("reptile", 2 * math.pi)])
def test_amplitudes_and_phases_fill_their_ranges(variant, turn):
    support, _ = sample_waves(variant)
    x, y = support.inputs[..., 0].double(), support.targets[..., 0].double()
    basis = torch.stack([x.sin(), x.cos()], dim=2)
    found = torch.linalg.lstsq(basis, y[..., None]).solution[..., 0]
    amplitude = found.norm(dim=1).numpy()
    phase = torch.atan2(found[:, 1], found[:, 0]).remainder(2 * math.pi).numpy()
    for values, low, high in ((amplitude, 0.1, 5.0), (phase, 0.0, turn)):
        assert low - 1e-4 < values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() < high + 1e-4
        middle = (low + high) / 2
        assert abs(values.mean() - middle) < 4 * values.std() / np.sqrt(2000)


def test_inputs_are_on_the_grids_of_the_protocols():
    support, query = sample_waves("reptile", shots=50)
    grid = torch.linspace(-5, 5, 50).expand(2000, -1)
    torch.testing.assert_close(support.inputs[..., 0].sort(1).values, grid)
    torch.testing.assert_close(query.inputs[..., 0], grid)
    few = sample_waves("reptile").support.inputs[..., 0]
    assert (few.sort(1).values.diff(dim=1) > 0.1).all()  # no point twice
    torch.testing.assert_close(
        sample_waves("meta-sgd").query.inputs[..., 0],
        torch.linspace(-5, 5, 100).expand(2000, -1),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "anil"}, "unknown variant 'anil'; valid: maml, meta-sgd, reptile"),
        ({"shots": 0}, "shots must be a positive integer, got 0"),
        ({"shots": 51, "variant": "reptile"}, "shots must be at most 50"),
    ],
)
def test_invalid_arguments_of_sinusoids_are_quoted(arguments, message):
    with pytest.raises(ValueError, match=message):
        meta.Sinusoids(**arguments)


# N-way K-shot tasks.


def test_query_has_other_drawings_of_the_same_classes():
    family = meta.FewShot(numbered_classes(), ways=4, shots=2, queries=3)
    support, query = family.sample(50, np.random.default_rng(0))
    assert support.inputs.shape == (50, 8, 1, 2, 2) and query.inputs.shape[1] == 12
    for i in range(50):
        class_of = {}
        for part, per_class in ((support, 2), (query, 3)):
            drawings = part.inputs[i, :, 0, 0, 0].int()
            labels = part.targets[i]
            assert labels.tolist() == [k for k in range(4) for _ in range(per_class)]
            for drawing, label in zip(drawings.tolist(), labels.tolist(), strict=True):
                assert class_of.setdefault(label, drawing // 6) == drawing // 6
        assert len(set(class_of.values())) == 4
        pictures = torch.cat([support.inputs[i], query.inputs[i]])[:, 0, 0, 0]
        assert len(set(pictures.tolist())) == 20


def test_every_class_gets_every_label_equally_often():
    family = meta.FewShot(numbered_classes(classes=5), ways=5, shots=1, queries=1)
    support = family.sample(2000, np.random.default_rng(0)).support
    chosen = (support.inputs[:, :, 0, 0, 0] // 6).long()
    for label in range(5):
        counts = chosen[:, label].bincount(minlength=5)
        assert (counts - 400).abs().max() < 4 * math.sqrt(2000 * 0.16)


def test_seed_determines_the_tasks():
    for family in (meta.Sinusoids(), meta.FewShot(numbered_classes(), queries=2)):
        first, again, other = (
            family.sample(3, np.random.default_rng(s)) for s in (1, 1, 2)
        )
        assert torch.equal(first.query.inputs, again.query.inputs)
        assert not torch.equal(first.query.inputs, other.query.inputs)


def test_classes_are_selected_by_group_and_by_similarity():
    classes = numbered_classes()
    chosen = classes.within(["group 1"])
    assert chosen.groups == ("group 1",) * 4
    np.testing.assert_array_equal(chosen.pictures, classes.pictures[1::3])
    with pytest.raises(ValueError, match="unknown group 'x'; valid groups: group 0"):
        classes.within(["x"])
    shapes = np.eye(9, dtype=np.float32).reshape(9, 1, 3, 3)
    mine = meta.Classes(shapes[:4], ("a", "b", "c", "d"))
    theirs = meta.Classes(shapes[2:] * 5 + 1, ("e",) * 7)  # brighter, of the same shape
    assert mine.unlike(theirs, 0.9).groups == ("a", "b")


def test_turned_classes_are_further_classes():
    shapes = np.arange(18, dtype=np.float32).reshape(2, 1, 3, 3)
    turned = meta.Classes(shapes, ("a", "b")).turned()
    assert turned.pictures.shape == (8, 1, 3, 3) and turned.groups == ("a", "b") * 4
    for turn in range(4):
        np.testing.assert_array_equal(
            turned.pictures[2 * turn, 0], np.rot90(shapes[0, 0], turn)
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ways": 13}, "ways must be at most 12, the classes, got 13"),
        ({"shots": 2, "queries": 5}, "at most 6 together, the pictures of a class"),
        ({"queries": 0}, "queries must be a positive integer, got 0"),
    ],
)
def test_too_few_classes_or_pictures_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        meta.FewShot(numbered_classes(), **{"queries": 2, **arguments})


# Omniglot and digits.


def write_drawings(folder, alphabets=("Abc", "Def"), drawings=3):
    rng = np.random.default_rng(0)
    for alphabet in alphabets:
        for character in ("character01", "character02"):
            place = folder / alphabet / character
            place.mkdir(parents=True)
            for i in range(drawings):
                ink = (rng.random((105, 105)) < 0.9) * 255
                Image.fromarray(ink.astype(np.uint8)).convert("1").save(place / f"{i}.png")


def test_omniglot_is_read_from_folders_and_archives_alike(tmp_path):
    write_drawings(tmp_path / "data" / "images")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for file in (tmp_path / "data").rglob("*.png"):
            archive.write(file, file.relative_to(tmp_path / "data"))
    found = meta.omniglot([tmp_path / "data" / "images"], side=35)
    assert found.groups == ("Abc", "Abc", "Def", "Def")
    assert found.pictures.shape == (4, 3, 35, 35)
    original = np.asarray(
        Image.open(tmp_path / "data" / "images" / "Abc" / "character01" / "0.png").convert(
            "L"
        )
    )
    ink = 1 - original.reshape(35, 3, 35, 3).mean((1, 3)) / 255
    np.testing.assert_allclose(found.pictures[0, 0], ink, atol=0.003)
    again = meta.omniglot([tmp_path / "images.zip", tmp_path / "data"], side=35)
    np.testing.assert_array_equal(again.pictures, found.pictures)
    assert again.groups == found.groups


def test_paths_without_omniglot_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no drawings"):
        meta.omniglot([tmp_path])
    with pytest.raises(OSError, match="missing"):
        meta.omniglot(str(tmp_path / "missing.zip"))
    with pytest.raises(ValueError, match=r"at least one, got \[\]"):
        meta.omniglot([])
    no_zip = tmp_path / "images.zip"
    no_zip.write_text("<html>")
    with pytest.raises(ValueError, match=r"images.zip' is neither a folder nor a zip arch"):
        meta.omniglot(no_zip)
    with pytest.raises(ValueError, match=r"give its archives themselves: images.zip"):
        meta.omniglot(tmp_path)
    write_drawings(tmp_path / "some")
    write_drawings(tmp_path / "more", alphabets=("Ghi",), drawings=2)
    with pytest.raises(ValueError, match=r"equally many drawings, got \[2, 3\]"):
        meta.omniglot([tmp_path / "some", tmp_path / "more"])


@pytest.mark.skipif(
    not OMNIGLOT.exists(), reason="omniglot-small is not beside the project"
)
def test_small_omniglot_has_242_characters_by_20_hands():
    found = meta.omniglot(sorted(OMNIGLOT.glob("*.zip")))
    assert found.pictures.shape == (242, 20, 28, 28) and len(set(found.groups)) == 8
    assert 0.03 < found.pictures.mean() < 0.15 and found.pictures.max() > 0.9


def test_digits_are_those_of_scikit_learn_equally_many_of_each():
    found = meta.digits((3, 7))
    bunch = load_digits()
    assert found.pictures.shape == (2, 174, 8, 8) and found.groups == ("3", "7")
    assert np.array_equal(found.pictures[1, 0] * 16, bunch.images[bunch.target == 7][0])
    assert not set(digits.TRAINING) & set(digits.TEST)
    with pytest.raises(ValueError, match="labels must be digits from 0 to 9, got 10"):
        meta.digits((10,))
    with pytest.raises(ValueError, match=r"from 0 to 9, at least one, got \[\]"):
        meta.digits([])
