"""Instances fix what runs train on; sets of them can be chosen from, saved and loaded."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

import optenv
from optenv import instances, tasks
from optenv.instances import Instance, InstanceSet
from optenv.instances.__main__ import main
from tests.helpers.families import axes_of
from tests.helpers.small_runs import (
    MLP,
    QUADRATIC,
    assert_identical,
    assert_same,
    module_task,
    random_actions,
    rollout,
)

ID = "optenv/LearningRate-v0"
SHORT: dict[str, Any] = {"horizon": 3, "updates_per_step": 2}

#: Six instances: of two structures, and of two lengths.
MIXED = InstanceSet([
    Instance("a", "train", 0, MLP, 1),
    Instance("b", "train", 0, QUADRATIC, 1),
    Instance("a", "train", 1, MLP, 2, base_lr=0.01),
    Instance("a", "train", 2, MLP, 3, updates=9),
    Instance("b", "train", 1, QUADRATIC, 2),
    Instance("a", "train", 3, MLP, 3, reparametrize=0.5),
])  # fmt: skip


def run_of(env: Any, i: int = 0) -> tuple[Any, int]:
    """Group of run ``i`` of an environment, and the run's place in it."""
    base = env.unwrapped
    for rows, group in getattr(base, "batch", base).groups:
        places = np.arange(getattr(base, "num_envs", 1))[rows]
        if i in places:
            return group, int(np.flatnonzero(places == i)[0])
    raise AssertionError(i)


def start_of(env: Any, i: int = 0) -> dict[str, torch.Tensor]:
    """All that a run begins with."""
    group, place = run_of(env, i)
    rows = group.data.rows[place]
    start = {
        "inputs": group.data.inputs[rows],
        "targets": group.data.targets[rows],
        "base_lr": group.state.base_lr[place],
        "params": group.state.run.params[place],
        "order": group.data.order[place],
    }
    if group.data.scale is not None:
        start["scale"] = group.data.scale[place]
    return start


def test_an_instance_fixes_the_task_and_a_seed_the_rest() -> None:
    env = gym.make(ID, base_lr=(1e-4, 1e-1), reparametrize=0.3, **SHORT)
    starts = []
    for seed, instance in ((0, MIXED[0]), (0, MIXED[0]), (1, MIXED[0]), (0, MIXED[2])):
        env.reset(seed=seed, options={"instance": instance})
        starts.append(start_of(env))
    first, again, other_seed, other_instance = starts
    assert_same(again, first)
    fixed = ("inputs", "targets", "base_lr", "scale")
    for name in first:
        assert torch.equal(other_seed[name], first[name]) == (name in fixed)
    assert not torch.equal(other_instance["inputs"], first["inputs"])
    assert other_instance["base_lr"].item() == pytest.approx(0.01)


def test_a_run_on_an_instance_is_the_same_in_every_batch() -> None:
    # In float64: a squashed feature shows the rounding of float32 fifteen times as large.
    arguments = {**SHORT, "dtype": "float64"}
    batch = gym.make_vec(ID, 6, **arguments)
    infos = batch.reset(seed=10, options={"instance": list(MIXED)})[1]
    assert list(infos["instance"]) == [each.name for each in MIXED]
    assert [group.size for _, group in batch.unwrapped.groups] == [2, 2, 1, 1]
    starts = [start_of(batch, i) for i in range(6)]
    actions = random_actions(batch.action_space, 3)
    steps = [batch.step(action) for action in actions]
    for i, instance in enumerate(MIXED):
        single = gym.make(ID, **arguments)
        _, info = single.reset(seed=10 + i, options={"instance": instance})
        assert_same(start_of(single), starts[i])  # bit for bit
        assert info["initial_loss"] == pytest.approx(infos["initial_loss"][i])
        for action, (observation, reward, *_) in zip(actions, steps, strict=True):
            ours = single.step(action[i])
            np.testing.assert_allclose(observation[i], ours[0], 1e-11, 1e-11)
            assert reward[i] == pytest.approx(ours[1], rel=1e-11, abs=1e-11)


def test_a_seed_starts_the_cycle_at_its_number() -> None:
    env = gym.make(ID, instances=MIXED, **SHORT)
    names = [env.reset(seed=seed)[1]["instance"] for seed in (4, None, None)]  # type: ignore[arg-type]
    assert names == [MIXED[i].name for i in (4, 5, 0)]
    assert env.reset(seed=7)[1]["instance"] == MIXED[1].name
    batch = gym.make_vec(ID, 6, instances=MIXED, groups=6, **SHORT)
    assert list(batch.reset(seed=2)[1]["instance"]) == [
        MIXED[i].name for i in (2, 3, 4, 5, 0, 1)
    ]


def test_instances_of_one_structure_are_spread_over_a_group() -> None:
    same = InstanceSet.sample(MLP, 5)
    batch = gym.make_vec(
        ID, 3, instances=same, autoreset_mode=AutoresetMode.DISABLED, **SHORT
    )
    seen = [batch.reset(seed=0)[1]["instance"], batch.reset()[1]["instance"]]
    assert [list(names) for names in seen] == [
        [same[i].name for i in (0, 1, 2)],
        [same[i].name for i in (3, 4, 0)],
    ]
    masked = batch.reset(options={"reset_mask": np.array([False, True, False])})[1]
    assert masked["instance"].tolist() == [None, same[2].name, None]
    assert masked["_instance"].tolist() == [False, True, False]


def test_drawn_instances_follow_the_seed_and_cover_the_set() -> None:
    env = gym.make(ID, instances=MIXED, instance_order="draw", **SHORT)
    draws = [
        [env.reset(seed=s if n == 0 else None)[1]["instance"] for n in range(30)]
        for s in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert set(draws[0]) == {each.name for each in MIXED}


@pytest.mark.parametrize("mode", AutoresetMode)
def test_infos_tell_begin_and_end_of_every_run(mode: AutoresetMode) -> None:
    batch = gym.make_vec(ID, 4, instances=MIXED[:2], groups=2, autoreset_mode=mode, **SHORT)
    info = batch.reset(seed=0)[1]
    assert list(info["family"]) == ["a", "a", "b", "b"]
    assert info["work"].tolist() == info["examples"].tolist() == [0] * 4
    assert info["structure"][0] == repr(MLP)
    steps = rollout(batch, [np.zeros((4, 1), np.float32)] * 3)[1:]
    assert "family" not in steps[0][4]
    end = steps[-1][4]
    fresh = None
    if mode is AutoresetMode.SAME_STEP:
        fresh, end = end, end["final_info"]
    elif mode is AutoresetMode.NEXT_STEP:
        fresh = batch.step(np.zeros((4, 1), np.float32))[4]
    for i, task in enumerate([MLP, MLP, QUADRATIC, QUADRATIC]):
        assert end["examples"][i] == 6 * task.batch_size
        assert end["work"][i] == 6 * task.work
    if fresh is not None:
        assert fresh["work"].tolist() == [0] * 4 and fresh["_work"].all()


def test_tasks_without_instances_are_named_by_their_family() -> None:
    _, drawn = gym.make("optenv/LearningRate-Quadratic-v0", **SHORT).reset(seed=0)
    assert (drawn["family"], drawn["split"], drawn["instance"]) == (
        "quadratic", "train", None,
    )  # fmt: skip
    _, given = gym.make(ID, tasks=MLP, **SHORT).reset(seed=0)
    assert (given["family"], given["split"], given["instance"]) == (None, None, None)


def test_an_instance_of_a_module_task_works_but_is_not_saved(tmp_path: Path) -> None:
    mine = InstanceSet.sample(module_task(), 3)
    batch = gym.make_vec(ID, 3, instances=mine, **SHORT)
    batch.reset(seed=0)
    masked = {"reset_mask": np.array([True, False, False]), "instance": mine[2]}
    assert batch.reset(options=masked)[1]["instance"][0] == mine[2].name
    with pytest.raises(TypeError, match=r"ModuleTask\.factory cannot be written as JSON"):
        mine.save(tmp_path / "mine.jsonl")
    assert not list(tmp_path.iterdir())


def test_a_saved_set_is_loaded_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    sampled = InstanceSet.sample(
        [f"{name}/{split}" for name, splits in tasks.families().items() for split in splits
         if name in {**tasks.FAMILIES, **tasks.MORE_FAMILIES}],
        3, base_lr=(1e-4, 1e-2), updates=(10, 100), reparametrize=0.2,
    )  # fmt: skip
    for each in (sampled, MIXED):
        each.save(path)
        assert InstanceSet.load(path) == each == instances.make(str(path))


def test_splits_have_no_structure_in_common() -> None:
    for name in (*tasks.FAMILIES, *tasks.MORE_FAMILIES):
        seen: set[str] = set()
        for split in tasks.families()[name]:
            # Without the fields that differ whatever a run trains on.
            found = {
                repr((type(each.task), axes_of(each.task)))
                for each in InstanceSet.sample(f"{name}/{split}", 300)
            }
            assert not found & seen
            seen |= found


def test_a_number_is_one_instance_however_large_the_set() -> None:
    large = InstanceSet.sample("train", 4, seed=3)
    assert InstanceSet.sample("logistic/train", 2, seed=3) == large[4:6]
    assert instances.get("cnn/test/7") == instances.make("cnn/test")[7]
    ranged = InstanceSet.sample("logistic", 2, base_lr=(1e-3, 1e-1))
    plain = InstanceSet.sample("logistic", 2)
    assert [e.task for e in ranged] == [e.task for e in plain]


def test_a_broken_file_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    good = MIXED[0].to_json()
    for bad, message in (
        ("{", "line 2"),
        ("[" * 100_000, "line 2 .*nested too deep"),
        ("[]", "JSON object"),
        (good.replace('"seed"', '"sead"'), "'sead' of an instance; did you mean 'seed'"),
        (good.replace('"MLP"', '"Perceptron"'), "'Perceptron'; valid: .*MLP"),
        (good.replace('"width"', '"wide"'), "'wide' of the task MLP; did you mean 'width'"),
        (good, "two instances of a set are named 'a/train/0'"),
    ):
        path.write_text(f"{good}\n{bad}\n")
        with pytest.raises(ValueError, match=message):
            InstanceSet.load(path)
    path.write_bytes(good.encode("utf-16"))
    with pytest.raises(ValueError, match=r"set\.jsonl' is no text in UTF-8"):
        InstanceSet.load(path)


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ("cnn/train", ValueError, "family/split/number"),
        ("cnn/trian/3", ValueError, "unknown task 'cnn/trian'"),
        (6, ValueError, r"\[0, 5\].*got 6"),
        (1.5, TypeError, "a number, or a list.*got 1.5"),
        ([0, 1], ValueError, r"one entry per run \(3\), got 2"),
        (np.array(1.5), TypeError, "a number, or a list.*got 1.5"),
    ],
)
def test_unknown_instances_are_refused_before_anything_changes(
    option: Any, error: type[Exception], message: str
) -> None:
    batch, twin = (gym.make_vec(ID, 3, instances=MIXED, **SHORT) for _ in range(2))
    for env in (batch, twin):
        env.reset(seed=0)
    with pytest.raises(error, match=message):
        batch.reset(seed=5, options={"instance": option})
    assert_same(batch.reset(), twin.reset())


def test_a_number_may_be_an_array_without_dimensions() -> None:
    env = gym.make(ID, instances=MIXED, **SHORT)
    info = env.reset(seed=0, options={"instance": np.array(4)})[1]
    assert info["instance"] == MIXED[4].name


@dataclass(frozen=True, kw_only=True)
class Centred(tasks.GeneratedTask):
    """Squared distance to a point, which is an array."""

    center: np.ndarray

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return (self.center.shape,)

    def examples(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        total = self.num_train + self.num_validation
        return np.zeros((total, 1), np.float32), np.zeros(total, np.float32)

    def init(self, generators: Any) -> Tensor:
        return torch.zeros(len(generators), len(self.center))

    def loss(self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
        return (params[0] - torch.from_numpy(self.center)).square().sum(-1)


def test_tasks_with_arrays_are_compared_by_their_entries() -> None:
    near, far = np.ones(2, np.float32), np.full(2, 3, np.float32)
    chosen = InstanceSet(
        Instance("point", "train", i, Centred(center=center), 0)
        for i, center in enumerate((near, far, near.copy()))
    )
    env = gym.make_vec(ID, 3, instances=chosen, groups=3, **SHORT)
    losses = env.reset(seed=0)[1]["initial_loss"]
    np.testing.assert_allclose(losses, [2.0, 18.0, 2.0])
    together = gym.make_vec(ID, 2, **SHORT)
    together.reset(seed=0, options={"instance": [chosen[0], chosen[2]]})
    assert len(together.groups) == 1
    together.reset(seed=0, options={"instance": [chosen[0], chosen[1]]})
    assert len(together.groups) == 2


def test_runs_that_go_on_keep_their_structure() -> None:
    batch = gym.make_vec(ID, 3, tasks=MLP, **SHORT)
    batch.reset(seed=0)
    mask = np.array([True, False, False])
    before = start_of(batch, 1)
    with pytest.raises(ValueError, match=r"runs \[0\] have another structure.*groups="):
        batch.reset(options={"reset_mask": mask, "instance": MIXED[1]})
    batch.reset(options={"reset_mask": mask, "instance": MIXED[2]})
    assert_identical([*start_of(batch, 1).values()], [*before.values()])
    apart = gym.make_vec(ID, 3, tasks=MLP, groups=3, **SHORT)
    apart.reset(seed=0)
    info = apart.reset(options={"reset_mask": mask, "instance": MIXED[1]})[1]
    assert info["instance"].tolist() == ["b/train/0", None, None]


def test_the_next_plain_reset_restores_the_groups() -> None:
    batch = gym.make_vec(ID, 6, tasks="train", groups=2, **SHORT)
    first = batch.reset(seed=0)
    batch.reset(options={"instance": list(MIXED)})
    assert_same(batch.reset(seed=0), first)


def test_trials_keep_their_instance() -> None:
    env = gym.make("optenv/LearningRateTrial-v0", instances=MIXED[:1], runs=2, **SHORT)
    env.reset(seed=0)
    first, ends = start_of(env), []
    for _ in range(6):
        info = env.step(np.zeros(1, np.float32))[4]
        if "family" in info:
            ends.append((info["instance"], info["examples"]))
    assert ends == [("a/train/0", 6 * MLP.batch_size)] * 2
    assert torch.equal(start_of(env)["inputs"], first["inputs"])


def test_lengths_of_instances_are_told_to_policies() -> None:
    described = optenv.LearningRateVectorEnv(1, instances=MIXED, **SHORT).describe()
    assert described["total_updates"] == [6, 9]


def test_a_command_lists_shows_and_writes_sets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list"]) == 0
    assert "cnn/ood" in capsys.readouterr().out
    path = str(tmp_path / "cnn.jsonl")
    arguments = ["cnn/test", path, "--count", "3", "--base-lr", "1e-4", "1e-2"]
    assert main(["write", *arguments]) == 0
    capsys.readouterr()
    assert main(["show", path, "--count", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["instance", "cnn/test/0", "cnn/test/1"]
    assert main(["show", "cnn/exam"]) == 2
    assert "unknown task 'cnn/exam'; valid: " in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_runs_as_a_module_without_warnings() -> None:
    command = [sys.executable, "-W", "error", "-m", "optenv.instances", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "quadratic/train" in done.stdout and not done.stderr
