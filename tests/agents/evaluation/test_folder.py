"""Tasks on data from a folder; missing files are named."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from agents.evaluation.arms.short_list import default_arms
from agents.evaluation.runs.jobs import Job, job_key
from agents.evaluation.runs.run import train
from agents.evaluation.tasks.folder import folder_tasks
from tests.helpers.paths import DATA

FOLDER = DATA


@pytest.fixture(scope="module")
def tasks():
    if not FOLDER.is_dir():
        pytest.skip(f"needs the data sets in {FOLDER}")
    return {task.name: task for task in folder_tasks(FOLDER)}


def test_missing_files_of_a_folder_are_named(tmp_path):
    with pytest.warns(UserWarning) as caught:
        assert folder_tasks(tmp_path) == ()
    texts = [str(warning.message) for warning in caught]
    assert "tinyshakespeare.txt is missing" in texts[0]
    assert "images_background_small1.zip is in neither" in texts[1]
    with pytest.raises(FileNotFoundError, match="no folder 'nowhere'"):
        folder_tasks("nowhere")


@pytest.mark.filterwarnings("ignore:.*missing")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tinyshakespeare.txt", "tinyshakespeare.txt has only 4 characters"),
        ("images_background_small1.zip", "small1.zip is not a zip archive"),
    ],
)
def test_a_file_with_the_wrong_content_is_refused_at_once(name, message, tmp_path):
    (tmp_path / name).write_text("junk")
    with pytest.raises(ValueError, match=message):
        folder_tasks(tmp_path)


@pytest.mark.filterwarnings("ignore:images_background")
def test_training_text_and_validation_text_are_disjoint(tmp_path):
    (tmp_path / "tinyshakespeare.txt").write_text("a" * 900 + "b" * 100)
    task = folder_tasks(tmp_path)[0]
    rng = np.random.default_rng(0)
    inputs, targets = task.sample("train", rng, 300)
    held_inputs, held_targets = task.sample("validation", rng, 300)
    assert inputs.unique().tolist() == targets.unique().tolist()
    assert held_inputs.unique().tolist() == held_targets.unique().tolist()
    assert inputs.unique().tolist() != held_inputs.unique().tolist()


@pytest.mark.filterwarnings("ignore:images_background")
def test_keys_tell_files_of_the_same_name_apart(tmp_path):
    keys = []
    for i, text in enumerate(["a" * 1000, "a" * 1000, "b" * 1000]):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "tinyshakespeare.txt").write_text(text)
        keys.append(job_key(Job(default_arms()[0], folder_tasks(folder)[0], 0)))
    assert keys[0] == keys[1] != keys[2]


def test_every_folder_task_trains(tasks):
    adamw = default_arms()[0]
    for task in tasks.values():
        again = pickle.loads(pickle.dumps(task))
        result = train(adamw, again.lasting(0.05), 0, curve_points=0)
        assert result["validation_loss"] < result["initial_validation_loss"]


def test_omniglot_splits_share_no_drawing(tasks):
    task, rng = tasks["omniglot-cnn"], np.random.default_rng(0)
    images, labels = task.sample("train", rng, 2000)
    held, _ = task.sample("validation", rng, 2000)
    assert images.shape[1:] == (1, 21, 21) and set(labels.tolist()) <= set(range(136))
    assert 0.02 < images.mean() < 0.3 and images.min() == 0
    own = {image.numpy().tobytes() for image in images}
    assert not own & {image.numpy().tobytes() for image in held}
    assert isinstance(images, torch.Tensor)
