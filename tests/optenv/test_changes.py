"""Tasks that change during a run: what changes, when, and what runs are told of it."""

from __future__ import annotations

import pickle
import re
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import optenv
from optenv import changes, rewards, tasks
from optenv.changes import KINDS, Changes
from tests.helpers.paths import ROOT
from tests.helpers.small_runs import (
    MLP,
    QUADRATIC,
    assert_same,
    generators,
    module_task,
    random_actions,
    rollout,
)

ID = "optenv/LearningRate-v0"
FUNCTION = tasks.Function(function="rastrigin", dim=3)
IMAGES = tasks.CNN(batch_size=8, num_train=40, num_validation=20, classes=4, side=4)
TEXT = tasks.RNN(batch_size=4, num_train=40, num_validation=20, length=8, width=6)
#: A task for each kind of change.
TASKS: dict[str, tasks.Task] = {
    "classes": IMAGES, "batch_size": QUADRATIC, "distribution": MLP, "text": TEXT,
    "optimum": FUNCTION, "rotation": IMAGES, "inputs": MLP, "labels": MLP, "shift": MLP,
    "noise": MLP,
}  # fmt: skip


def make(num_envs: int = 1, **arguments: Any) -> optenv.LearningRateVectorEnv:
    given: dict[str, Any] = {
        "tasks": MLP, "horizon": 9, "updates_per_step": 3, "base_lr": 0.02,
        "changes": "labels", **arguments,
    }  # fmt: skip
    return optenv.LearningRateVectorEnv(num_envs, **given)


def drawn(kind: str, count: int = 2, runs: int = 3) -> tuple[tasks.Data, Any]:
    """Data of runs with changes of one kind, and the values of the kind."""
    wanted = Changes(kinds=(kind,), count=count)
    data = TASKS[kind].sample(generators(runs))
    changed = changes.draw(wanted, TASKS[kind], data, generators(runs, 9))
    assert changed.stages is not None
    return changed, changed.stages.values[0]


def in_stage(data: tasks.Data, stage: int) -> tasks.Data:
    return data.in_stage(torch.full((len(data.rows),), stage))


@pytest.mark.parametrize("task", [MLP, FUNCTION, IMAGES], ids=["mlp", "function", "cnn"])
def test_a_batch_of_changing_tasks_equals_single_environments(task: tasks.Task) -> None:
    arguments = {
        "tasks": task, "horizon": 8, "updates_per_step": 2, "changes": 3,
        "dtype": "float64", "on_divergence": "absorb",
    }  # fmt: skip
    batch = gym.make_vec(ID, 2, **arguments).unwrapped
    actions = random_actions(batch.action_space, 8)
    together = rollout(batch, actions, seed=3)
    for run in range(2):
        single = gym.make(ID, **arguments).unwrapped
        alone = rollout(single, [action[run] for action in actions], seed=3 + run)
        for (*one, info), (*many, infos) in zip(alone[1:], together[1:], strict=True):
            assert_same(
                [np.asarray(x) for x in one[:2]], [x[run] for x in many[:2]], 1e-7, 1e-9
            )
            for name in ("changes", "mean_loss", "forgetting"):
                assert info[name] == pytest.approx(infos[name][run], 1e-7, 1e-9)
    assert together[-1][4]["changes"].tolist() == [3, 3]


def test_runs_equal_those_without_changes_up_to_the_first_one() -> None:
    changed, plain = make(4), make(4, changes=None)
    steps = random_actions(plain.action_space, 9)
    with_changes, without = rollout(changed, steps, 5), rollout(plain, steps, 5)
    first = changed.groups[0][1].change_steps[:, 0]
    assert len(set(first.tolist())) > 1  # each run draws its own times
    for run, end in enumerate(first):
        for number in range(1, 9):
            one, other = with_changes[number], without[number]
            assert one[0].shape == other[0].shape
            # A run sees the first batch of a new task at the end of the step before it.
            is_same = np.array_equal(one[0][run], other[0][run])
            assert is_same == (number < end)
            if number <= end:
                assert one[1][run] == other[1][run]
            assert (
                one[4]["changes"][run]
                == (number > changed.groups[0][1].change_steps[run]).sum()
            )
    assert not {"changes", "mean_loss", "forgetting"} & set(without[1][4])


def test_losses_so_far_and_forgetting_equal_those_recomputed() -> None:
    env = make(5, dtype="float64", changes={"kinds": ["labels"], "count": 2})
    env.reset(seed=1)
    group = env.groups[0][1]
    data, task = group.data, group.task
    assert data.stages is not None
    # 1. The inputs and targets of each stage, by hand.
    orders = data.stages.values[0]
    inputs = data.inputs.unflatten(0, (5, -1))[:, : task.num_train]
    targets = data.targets.unflatten(0, (5, -1))[:, : task.num_train]
    at_end = np.full((5, 3), np.nan)
    potentials = np.zeros((5, 3))
    total = np.zeros(5)

    def losses() -> np.ndarray:
        params = task.unflatten(group.state.run.params)
        found = [
            task.loss(params, inputs, orders[:, stage].gather(1, targets))
            for stage in range(3)
        ]
        return torch.stack(found, 1).numpy()

    initial = losses()
    for action in random_actions(env.action_space, 9):
        stages = (group.change_steps <= group.steps[:, None]).sum(1)
        _, reward, _, _, info = env.step(action)
        now, total = losses(), total + reward
        for run, stage in enumerate(stages):
            at_end[run, stage] = now[run, stage]
            earlier = now[run, :stage] - at_end[run, :stage]
            assert info["loss"][run] == pytest.approx(now[run, stage])
            assert info["mean_loss"][run] == pytest.approx(now[run, : stage + 1].mean())
            expected = earlier.mean() if stage else 0.0
            assert info["forgetting"][run] == pytest.approx(expected)
            pair = torch.tensor([[now[run, stage]], [initial[run, stage]]])
            potentials[run, stage] = rewards.log_progress(*pair).item()
    # 2. The return is the progress on each task, from the initial parameters.
    assert stages.tolist() == [2] * 5
    np.testing.assert_allclose(total, -potentials.sum(1), rtol=1e-9)


@pytest.mark.parametrize("reward", ["log_loss", "final", "time"])
@pytest.mark.parametrize("mode", ["end", "absorb"])
def test_a_diverged_run_pays_for_all_of_its_tasks(mode: str, reward: str) -> None:
    env = make(3, base_lr=1e9, on_divergence=mode, reward=reward)
    steps = rollout(env, [np.ones((3, 1), np.float32)] * 9, seed=0)
    total = sum(step[1] for step in steps[1:])
    np.testing.assert_allclose(total, -4 * rewards.DIVERGED_POTENTIAL)


def test_no_change_makes_a_run_diverge_by_itself() -> None:
    losses = changes.StageLosses(
        *(torch.tensor([[[1.0], [2.0]]] * 4), torch.zeros(4, 2), torch.zeros(4)),
        *(torch.zeros(4), torch.zeros(4, dtype=torch.int64)),
    )
    jumped = torch.tensor([[1.0], [100.0], [torch.inf], [-3.0]])
    reference = losses.reference(torch.ones(4, dtype=torch.int64), jumped)
    assert reference.flatten().tolist() == [2.0, 10.0, 2.0, 2.0]
    _, diverged = rewards.get("log_loss").evaluate(jumped, reference)
    assert diverged.tolist() == [False, False, True, False]


def test_a_reward_at_the_end_is_paid_at_the_end_of_each_task() -> None:
    whole, late = make(4), make(4, reward="final")
    actions = random_actions(whole.action_space, 9)
    one, other = (
        np.array([s[1] for s in rollout(env, actions, 0)[1:]]) for env in (whole, late)
    )
    np.testing.assert_allclose(one.sum(0), other.sum(0), rtol=1e-4)
    ends = whole.groups[0][1].change_steps - 1
    for run in range(4):
        assert np.flatnonzero(other[:, run]).tolist() == [*ends[run], 8]


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_task_of_a_run_is_that_without_changes(kind: str) -> None:
    data, values = drawn(kind)
    assert values.shape[:2] == (3, 3)
    if kind in ("classes", "text"):
        return
    plain = TASKS[kind].sample(generators(3))
    examples = torch.arange(TASKS[kind].batch_size).expand(3, -1)
    first = torch.zeros(3, dtype=torch.int64)
    assert_same(data.batch(examples, first), plain.batch(examples))
    assert_same(data.validation(6), plain.validation(6))
    assert not torch.equal(values[:, 0], values[:, 1])


def test_classes_join_and_examples_of_others_stand_in() -> None:
    data, joined = drawn("classes")
    assert joined.sum(2).tolist() == [[2, 3, 4]] * 3
    assert (joined[:, 1:] >= joined[:, :-1]).all()
    everything = torch.arange(40).expand(3, -1)
    for stage in range(3):
        now = in_stage(data, stage)
        for _, labels in (now.batch(everything), now.train(99), now.validation()):
            for run in range(3):
                found = set(labels[run].tolist())
                assert found <= set(joined[run, stage].nonzero().flatten().tolist())
                assert len(found) > 1
    # Examples for validation are never trained on.
    kept, held_out = in_stage(data, 0).train(99)[0], in_stage(data, 0).validation()[0]
    same = (kept[:, :, None] == held_out[:, None]).flatten(3).all(3)
    assert not same.any()


def test_a_smaller_batch_has_the_loss_of_its_examples_alone() -> None:
    data, sizes = drawn("batch_size")
    assert {1, 2, 4} >= set(sizes.flatten().tolist())
    examples = torch.arange(4).expand(3, -1)
    params = QUADRATIC.unflatten(QUADRATIC.init(generators(3)))
    full = QUADRATIC.sample(generators(3))
    for stage in range(3):
        losses = QUADRATIC.loss(params, *in_stage(data, stage).batch(examples))
        for run, size in enumerate(sizes[:, stage].tolist()):
            alone = QUADRATIC.loss(params, *full.batch(examples[:, :size]))
            assert losses[run].item() == pytest.approx(alone[run].item(), rel=1e-5)


def test_the_examples_seen_count_those_of_smaller_batches_once() -> None:
    env = make(4, tasks=QUADRATIC, changes="batch_size")
    env.reset(seed=0)
    group = env.groups[0][1]
    assert group.data.stages is not None
    sizes, starts = group.data.stages.values[0], group.data.stages.starts
    steps = rollout(env, [np.zeros((4, 1), np.float32)] * 9, seed=0)
    stage = (torch.arange(27) >= starts.unsqueeze(2)).sum(1)
    assert steps[-1][4]["examples"].tolist() == sizes.gather(1, stage).sum(1).tolist()


def test_new_data_and_other_texts_have_no_example_of_before() -> None:
    data, _ = drawn("distribution")
    inputs = [in_stage(data, stage).train(20)[0] for stage in range(3)]
    assert not any(torch.equal(inputs[0], other) for other in inputs[1:])
    assert len(torch.cat([x[0] for x in inputs]).unique(dim=0)) == 60
    data, _ = drawn("text")
    assert data.stages is not None and data.num_train == 40
    for part in (slice(0, 40), slice(40, None)):
        rows = data.rows[:, part]
        places = [data.stages.place(rows, torch.full((3,), stage)) for stage in range(3)]
        for run in range(3):
            ranges = sorted((x[run].min().item(), x[run].max().item()) for x in places)
            assert all(a[1] < b[0] for a, b in pairwise(ranges))


def test_the_minimum_of_a_function_moves() -> None:
    data, offsets = drawn("optimum")
    before = FUNCTION.minimizers(in_stage(data, 0))
    after = FUNCTION.minimizers(in_stage(data, 2))
    torch.testing.assert_close(after - before, offsets[:, 2:3])
    loss = FUNCTION.loss((after[:, 0],), *in_stage(data, 2).train(1))
    torch.testing.assert_close(loss, torch.zeros(3), atol=1e-4, rtol=0)


def test_a_rotation_turns_images_by_its_angle() -> None:
    images = torch.randn(2, 5, 1, 6, 6)
    angles = torch.tensor([torch.pi / 2, 0.0])
    turned, _ = KINDS["rotation"].apply(angles, images, images)
    quarters = [images[0].rot90(k, (-2, -1)) for k in (1, 3)]
    assert any(torch.allclose(turned[0], quarter, atol=1e-5) for quarter in quarters)
    assert torch.equal(turned[1], images[1])


def test_the_mean_of_the_inputs_moves_by_as_much_as_they_spread() -> None:
    data, shifts = drawn("shift", runs=20)
    first, targets = in_stage(data, 0).train(400)
    spread = first[:, :256].std(1, correction=0).mean(1)
    for stage in (1, 2):
        moved, same = in_stage(data, stage).train(400)
        offset = shifts[:, stage] * spread.unsqueeze(1)
        expected = first + offset.unsqueeze(1)
        torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(same, targets)
    steps = shifts.diff(dim=1).flatten(0, 1)
    assert 0.8 < steps.std() < 1.2 and steps.any(1).all()


def test_a_share_of_the_classes_becomes_random_and_stays_so() -> None:
    data, values = drawn("noise", runs=20)
    first = in_stage(data, 0)
    inputs, clean = first.train(400)
    for stage in (1, 2):
        now = in_stage(data, stage)
        same, noisy = now.train(400)
        torch.testing.assert_close(same, inputs)
        share = (noisy != clean).double().mean(1)
        expected = values[:, stage, 0] * (1 - 1 / MLP.outputs)
        assert (share - expected).abs().max() < 0.12
        assert noisy.min() >= 0 and noisy.max() < MLP.outputs
        # A batch sees the noise that the whole has.
        examples = torch.arange(5).expand(20, -1)
        batch = now.batch(examples)[1]
        torch.testing.assert_close(batch, noisy[:, :5])
    levels = values[:, 1:, 0]
    assert levels.min() >= 0.1 and levels.max() <= 0.5


@pytest.mark.parametrize(
    "task",
    [
        tasks.MLP(source="sine", outputs=2, num_train=300),
        tasks.Quadratic(dim=5, num_train=300),
        optenv.from_module(
            lambda: torch.nn.Linear(2, 1), torch.randn(400, 2), 3 * torch.randn(400, 1)
        ),
    ],
    ids=["sine", "quadratic", "module"],
)
def test_numbers_get_normal_noise_of_a_part_of_their_spread(task: tasks.Task) -> None:
    data = task.sample(generators(8))
    data = changes.draw(Changes(kinds=("noise",), count=1), task, data, generators(8, 9))
    assert data.stages is not None
    values = data.stages.values[0][:, 1, 0]
    assert values.min() >= 0.25 and values.max() <= 1.0
    parts = zip(in_stage(data, 0).train(300), in_stage(data, 1).train(300), strict=True)
    (inputs, inputs_now), (targets, targets_now) = parts
    of_inputs = isinstance(task, tasks.Quadratic)
    clean, noisy = (inputs, inputs_now) if of_inputs else (targets, targets_now)
    kept, left = (targets, targets_now) if of_inputs else (inputs, inputs_now)
    torch.testing.assert_close(left, kept)
    added = noisy - clean
    expected = values * clean[:, :256].std(1, correction=0).mean(1)
    torch.testing.assert_close(added.flatten(1).std(1), expected, rtol=0.15, atol=0.0)
    assert (added.mean((1, 2)).abs() < 0.3 * expected).all()
    assert not torch.equal(added[0] / expected[0], added[1] / expected[1])


def test_each_run_has_a_number_of_changes_of_its_own() -> None:
    env = make(24, changes={"kinds": "labels", "count": [0, 2]}, groups=1)
    steps = rollout(env, [env.action_space.sample()] * 9, 0)
    group = env.groups[0][1]
    counts = group.change_counts
    assert set(counts.tolist()) == {0, 1, 2}
    assert (group.change_steps < 9).sum(1).tolist() == counts.tolist()
    assert steps[-1][4]["changes"].tolist() == counts.tolist()
    # Without choice, nothing is drawn: the runs are those of a number.
    pair = make(3, changes={"kinds": "labels", "count": (2, 2)})
    number = make(3, changes={"kinds": "labels", "count": 2})
    actions = [pair.action_space.sample()] * 9
    assert_same(rollout(pair, actions, 0), rollout(number, actions, 0))


def test_the_runs_of_a_trial_have_one_number_of_changes() -> None:
    env = optenv.TrialVectorEnv(
        8, runs=2, tasks=MLP, horizon=5, updates_per_step=2,
        changes={"kinds": "labels", "count": (0, 3)},
    )  # fmt: skip
    env.reset(seed=0)
    ends = []
    for _ in range(10):
        info = env.step(env.action_space.sample())[4]
        ends.append(info["changes"])
    assert ends[4].tolist() == ends[9].tolist() and len(set(ends[4])) > 1


def test_instances_fix_what_changes_and_seeds_when() -> None:
    instances = [optenv.instances.Instance("a", "train", 0, MLP, 1)]
    env = make(2, instances=instances, changes=["inputs", "distribution"], horizon=30)
    env.reset(seed=0)
    group = env.groups[0][1]
    assert group.data.stages is not None
    for values in group.data.stages.values:
        assert torch.equal(values[0], values[1])
    assert group.change_steps[0].tolist() != group.change_steps[1].tolist()
    assert torch.equal(*(in_stage(group.data, 3).train(9)[0][i] for i in range(2)))
    other = optenv.instances.get("quadratic/train/0")
    with pytest.raises(ValueError, match=r"'inputs' do not fit.*valid: "):
        env.reset(options={"instance": other})


def test_the_runs_of_a_trial_have_the_same_changes_at_other_times() -> None:
    env = gym.make(
        "optenv/LearningRateTrial-v0", tasks=MLP, horizon=20, updates_per_step=1,
        runs=2, changes="labels",
    ).unwrapped  # fmt: skip
    env.reset(seed=0)
    before, times = env.group.data.stages.values, env.group.change_steps
    steps = [env.step(np.zeros(1, np.float32)) for _ in range(40)]
    assert steps[-1][2]
    assert [step[4]["changes"] for step in steps[19:21]] == [3, 0]
    assert_same(before, env.group.data.stages.values)
    assert times.tolist() != env.group.change_steps.tolist()


def test_resets_and_copies_of_some_runs_leave_the_others_alone() -> None:
    env = make(3, changes=2, autoreset_mode="Disabled")
    plain = make(3, changes=2, autoreset_mode="Disabled")
    actions = random_actions(env.action_space, 4)
    for each in (env, plain):
        rollout(each, actions[:2], seed=0)
    env = pickle.loads(pickle.dumps(env))
    mask = np.array([False, True, False])
    env.reset(seed=7, options={"reset_mask": mask})
    new = env.groups[0][1].change_steps[1].tolist()
    assert new != plain.groups[0][1].change_steps[1].tolist()
    for action in actions[2:]:
        one, other = env.step(action), plain.step(action)
        assert_same([x[~mask] for x in one[:2]], [x[~mask] for x in other[:2]], 1e-5, 1e-6)


def test_times_of_changes_leave_every_task_half_of_its_share() -> None:
    steps = changes.draw_steps(3, 40, generators(200))
    lengths = np.diff(steps, axis=1, prepend=0, append=40)
    assert lengths.min() == 5 and lengths.max() > 15
    short = changes.draw_steps(3, 2, generators(5))
    assert (short[:, 0] == 1).all() and (short[:, 1:] > 1e9).all()


def test_a_spec_with_changes_survives_json() -> None:
    given = {"kinds": ["inputs", "labels"], "count": 2}
    env = gym.make(ID, tasks="mlp-classification", changes=given, horizon=5)
    spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
    copy = gym.make(spec)
    steps = [np.zeros(1, np.float32)] * 5
    assert_same(rollout(env, steps, seed=0), rollout(copy, steps, seed=0))
    read = copy.unwrapped.batch.settings.changes
    assert read == Changes(kinds=("labels", "inputs"), count=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"changes": "colour"}, "unknown kind of change 'colour'; valid: classes, "),
        ({"changes": {"kind": "labels"}}, "unknown entry 'kind'.*'kinds'"),
        ({"changes": 0}, "count of changes must be a positive integer, got 0"),
        ({"changes": {"count": (2, 1)}}, "must be .least, greatest.*got \\(2, 1\\)"),
        ({"changes": {"count": (0, 0)}}, "greatest positive and no less"),
        ({"changes": {"count": (1, 2, 3)}}, "must be one or two integers, got"),
        ({"changes": {"count": (True, 3)}}, "must be one or two integers, got"),
        ({"changes": {"count": (1, 9)}}, "less than horizon \\(9\\), got 9"),
        ({"changes": ["labels", "labels"]}, "once each, got"),
        ({"changes": ["distribution", "classes"]}, "exclude each other"),
        ({"changes": 9}, "less than horizon \\(9\\), got 9"),
        ({"changes": "rotation"}, "'rotation' do not fit.*valid: batch_size, dist"),
        ({"tasks": "train", "changes": "labels"}, "'labels' do not fit the task"),
        ({"changes": {"kinds": "classes", "count": 2}}, "2 changes of kind 'classes'"),
        ({"reward": "baseline"}, "have no baseline.*valid: log_loss, final, time"),
        ({"tasks": module_task(), "changes": "distribution"}, "valid: batch_size"),
    ],
)  # fmt: skip
def test_changes_that_do_not_fit_are_refused(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_changes_of_another_type_are_refused() -> None:
    with pytest.raises(TypeError, match=r"changes must be None, a number.*got True"):
        make(changes=True)


def test_users_can_add_a_kind_of_change(monkeypatch: pytest.MonkeyPatch) -> None:
    class Brightness(changes.Change):
        def fits(self, task: tasks.Task, count: int) -> bool:
            return task.num_features is not None

        def draw(self, task: Any, rng: Any, previous: Any, count: int) -> Any:
            return np.float32(0.0 if previous is None else rng.normal())

        def apply(self, values: Any, inputs: Any, targets: Any) -> Any:
            return inputs + values.view(-1, *[1] * (inputs.dim() - 1)), targets

    monkeypatch.setattr(changes.request, "_REGISTERED", {})
    changes.register("brightness", Brightness())
    env = make(2, changes=["brightness", "labels"])
    assert rollout(env, [env.action_space.sample()] * 9, 0)[-1][4]["changes"].all()
    data = env.groups[0][1].data
    assert data.stages is not None
    offset = in_stage(data, 3).train(9)[0] - in_stage(data, 0).train(9)[0]
    expected = data.stages.values[1][:, 3, None, None].expand(offset.shape)
    torch.testing.assert_close(offset, expected, atol=1e-5, rtol=0)
    assert "brightness" not in changes.fitting(Changes(), MLP)
    with pytest.raises(ValueError, match="'labels'"):
        changes.register("labels", Brightness())
    with pytest.raises(TypeError, match="must be a Change"):
        changes.register("shade", "darker")  # type: ignore[arg-type]


def test_the_documentation_lists_all_kinds() -> None:
    text = (ROOT / "docs" / "environments.md").read_text()
    section = text.partition("## Tasks that change")[2].partition("\n## ")[0]
    listed = re.findall(r'^\| `"(\w+)"` \|', section, re.MULTILINE)
    assert sorted(listed) == sorted(KINDS)
