"""Fashion-MNIST and Omniglot are read from the user's folder, or refused clearly."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

import optenv  # noqa: F401
from optenv.tasks import CNN, Contrastive, image_files
from tests.helpers.paths import ROOT

SHARED = ROOT.parent / "shared" / "data"


def idx(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_fashion(folder: Path, count: int = 80, compress: bool = True) -> np.ndarray:
    """Write random images of both splits; returns those of the train split."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    written = []
    for stem in ("train", "t10k"):
        images = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for name, array in (
            (f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels),
        ):  # fmt: skip
            raw = idx(array)
            if compress:
                (folder / f"{name}.gz").write_bytes(gzip.compress(raw))
            else:
                (folder / name).write_bytes(raw)
        written.append(images)
    return written[0]


def write_omniglot(path: Path, alphabets: dict[str, int], drawings: int = 6) -> None:
    """Write an archive of random drawings, of some characters of each alphabet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for alphabet, characters in alphabets.items():
            for character in range(characters):
                for drawing in range(drawings):
                    paper = rng.random((105, 105)) > 0.1
                    content = io.BytesIO()
                    Image.fromarray(paper).save(content, "PNG")
                    name = f"character{character:02}/{drawing:02}.png"
                    archive.writestr(f"{path.stem}/{alphabet}/{name}", content.getvalue())


@pytest.mark.parametrize("place", [".", "fashion-mnist", "FashionMNIST/raw"])
@pytest.mark.parametrize("compress", [True, False])
def test_fashion_mnist_is_read_from_its_usual_places(tmp_path, place, compress):
    written = write_fashion(tmp_path / place, compress=compress)
    images, labels = image_files.fashion_mnist(tmp_path, "train")
    np.testing.assert_array_equal(images, written)
    assert labels.dtype == np.int64 and labels.tolist() == [i % 10 for i in range(80)]
    assert not np.array_equal(images, image_files.fashion_mnist(tmp_path, "test")[0])


def test_a_task_reads_the_folder_of_the_argument_or_the_environment(tmp_path, monkeypatch):
    write_fashion(tmp_path)
    size = {"num_train": 40, "num_validation": 20, "side": 7, "classes": 10}
    task = CNN(source="fashion-mnist", folder=str(tmp_path), **size)
    images, labels = task.examples(np.random.default_rng(0))
    assert images.shape == (60, 1, 7, 7) and set(labels.tolist()) <= set(range(10))
    monkeypatch.setenv("OPTENV_DATA", str(tmp_path))
    again, _ = CNN(source="fashion-mnist", **size).examples(np.random.default_rng(0))
    np.testing.assert_array_equal(images, again)
    env = gym.make("optenv/LearningRate-v0", tasks=task, horizon=1, updates_per_step=1)
    env.reset(seed=0)


def test_without_a_folder_the_message_says_how_to_give_one(monkeypatch, tmp_path):
    monkeypatch.delenv("OPTENV_DATA", raising=False)
    task = CNN(source="omniglot", num_train=32)
    with pytest.raises(ValueError, match=r"give folder=, or set .* OPTENV_DATA"):
        task.examples(np.random.default_rng(0))
    with pytest.raises(FileNotFoundError, match=r"no folder of data sets '.*missing'"):
        image_files.data_folder(str(tmp_path / "missing"))
    with pytest.raises(TypeError, match="folder must be a path as a string, got 3"):
        CNN(source="omniglot", folder=3)


@pytest.mark.parametrize("source", ["fashion-mnist", "omniglot"])
def test_an_empty_folder_is_refused_with_the_files_that_are_missing(tmp_path, source):
    loader = image_files.LOADERS[source]
    wanted = {"fashion-mnist": "train-images-idx3-ubyte", "omniglot": "images_background"}
    with pytest.raises(FileNotFoundError, match=wanted[source]):
        loader(tmp_path, "train")


def test_files_that_are_not_what_their_names_say_are_refused(tmp_path):
    write_fashion(tmp_path, compress=False)
    labels = tmp_path / "train-labels-idx1-ubyte"
    whole = labels.read_bytes()
    labels.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match="should hold 80 bytes after its header, got 75"):
        image_files.fashion_mnist(tmp_path, "train")
    labels.write_bytes(b"no labels at all")
    with pytest.raises(ValueError, match="is no IDX file of bytes in 1 dimensions"):
        image_files.fashion_mnist(tmp_path, "train")
    labels.write_bytes(idx(np.arange(7)))
    with pytest.raises(ValueError, match="has 80 images, but 7 labels"):
        image_files.fashion_mnist(tmp_path, "train")
    labels.unlink()
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(whole)[:-4])
    with pytest.raises(ValueError, match="is no complete gzip file"):
        image_files.fashion_mnist(tmp_path, "train")
    (tmp_path / "images_background.zip").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="neither a folder nor a zip archive"):
        image_files.omniglot(tmp_path, "train")


def test_splits_of_omniglot_share_no_alphabet(tmp_path):
    write_omniglot(tmp_path / "omniglot" / "images_background.zip", {"A": 2, "B": 1})
    write_omniglot(tmp_path / "omniglot" / "images_evaluation.zip", {"B": 3, "C": 4})
    images, labels = image_files.omniglot(tmp_path, "train")
    assert images.shape == (18, 105, 105) and len(set(labels.tolist())) == 3  # A and B
    held_out, others = image_files.omniglot(tmp_path, "test")
    assert held_out.shape == (24, 105, 105) and len(set(others.tolist())) == 4
    assert 0.05 < images.mean() < 0.15, "ink is 1"
    drawings = {image.tobytes() for image in images}
    assert not drawings & {image.tobytes() for image in held_out}


def test_an_omniglot_of_two_alphabets_has_no_test_split(tmp_path):
    write_omniglot(tmp_path / "images_background.zip", {"A": 1, "B": 1}, 2)
    with pytest.raises(ValueError, match=r"test split of Omniglot is empty: .* A, B"):
        image_files.omniglot(tmp_path, "test")


@pytest.mark.parametrize("side", [1, 5, 7, 12, 28])
def test_shrinking_takes_means_over_areas(side):
    images = np.random.default_rng(0).random((3, 28, 28))
    small = image_files.shrink(images, side)
    assert small.shape == (3, side, side) and small.dtype == np.float32
    np.testing.assert_allclose(small.mean((1, 2)), images.mean((1, 2)), rtol=1e-5)
    if 28 % side == 0:
        blocks = images.reshape(3, side, 28 // side, side, 28 // side).mean((2, 4))
        np.testing.assert_allclose(small, blocks, rtol=1e-5)


def test_shrinking_does_not_enlarge():
    with pytest.raises(ValueError, match=r"side must be in \[1, 4\], got 5"):
        image_files.shrink(np.zeros((1, 4, 4)), 5)


@pytest.mark.slow
@pytest.mark.skipif(
    not (SHARED / "omniglot-small").is_dir(),
    reason=f"Omniglot's small background sets are not in {SHARED}",
)
def test_omniglot_of_the_shared_folder_trains(tmp_path):
    task = Contrastive(
        source="omniglot", side=14, classes=40, num_train=512, num_validation=128,
        folder=str(SHARED),
    )  # fmt: skip
    env = gym.make("optenv/LearningRate-v0", tasks=task, horizon=5, updates_per_step=10)
    env.reset(seed=0)
    rewards = [env.step(np.zeros(1, np.float32))[1] for _ in range(5)]
    assert sum(rewards) > 0.1
