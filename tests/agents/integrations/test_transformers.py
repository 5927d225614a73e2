"""Trainer makes, feeds, measures, logs and resumes the learned optimizer."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import SequentialSampler

from agents import LearnedOptimizer
from optenv.telemetry import observed_features
from tests.helpers.framework_runs import (
    BATCH,
    ModelWithLoss,
    counted_steps,
    make_dataset,
    runs_are_equal,
    train_in_torch,
    used_losses,
)
from tests.helpers.loops import STEPS
from tests.helpers.markers import slow
from tests.helpers.policies import random_policy

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed (extra: frameworks)"
)
pytest.importorskip("accelerate", reason="accelerate is not installed (extra: frameworks)")
from agents.integrations.run import unwrapped  # noqa: E402
from agents.integrations.transformers import (  # noqa: E402
    LearnedOptimizerCallback,
    LearnedTrainer,
)

pytestmark = pytest.mark.frameworks
INNER = {"schedule": "always"}  # the policy's own schedule, whatever Trainer's is


class Unshuffled:
    """Part of a trainer that does not shuffle, like the plain loop."""

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(train_dataset or self.train_dataset)


class PlainTrainer(Unshuffled, transformers.Trainer):
    pass


class Learned(LearnedTrainer, Unshuffled, transformers.Trainer):
    """A learned trainer of another trainer, by inheritance."""


class ModelWithShareOfLoss(ModelWithLoss):
    """A model whose loss is divided by the examples of a step, as Trainer asks for."""

    def forward(self, inputs, labels, num_items_in_batch=None, **kwargs):
        outputs = super().forward(inputs, labels)
        loss = outputs["loss"] * len(labels) / num_items_in_batch
        return {**outputs, "loss": loss}


class Reporter(transformers.TrainerCallback):
    """A callback that keeps what it is given to report."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **_):
        self.logs.append(dict(logs))


def trainer(cls, folder, model=None, *, batch=BATCH, given=None, arguments=None, **more):
    """Return a trainer of :data:`STEPS` steps, and its model."""
    model = model or ModelWithLoss()
    settings = {
        "max_steps": STEPS, "per_device_train_batch_size": batch, "learning_rate": 1e-2,
        "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "save_strategy": "no",
        "report_to": "none", "disable_tqdm": True, "use_cpu": True,
        "dataloader_pin_memory": False, "logging_strategy": "no", **(arguments or {}),
    }  # fmt: skip
    if given is not None:
        more["optimizer_cls_and_kwargs"] = (LearnedOptimizer, given)
    examples = [{"inputs": x, "labels": y} for x, y in make_dataset()]
    run = cls(
        model,
        transformers.TrainingArguments(output_dir=folder, **settings),
        train_dataset=examples,
        **more,
    )
    return run, model


def fit(cls, folder, resume=None, **arguments):
    """Train; return the body of the model, and the optimizer."""
    run, model = trainer(cls, folder, **arguments)
    run.train(resume_from_checkpoint=resume)
    return model.body, unwrapped(run.optimizer)


def with_trainers_groups(params):
    """Return the optimizer with Trainer's parameter groups: weights, then biases."""
    params = list(params)
    groups = [[p for p in params if p.ndim > 1], [p for p in params if p.ndim < 2]]
    return LearnedOptimizer([{"params": each} for each in groups], total_steps=STEPS)


@pytest.fixture(scope="module")
def plain():
    """The run in a plain loop, which stands for all others."""
    return train_in_torch(with_trainers_groups)


def test_the_trainer_needs_no_more_than_its_name(tmp_path, plain):
    body, optimizer = fit(Learned, tmp_path, given=INNER)
    assert runs_are_equal((body, optimizer), plain)
    assert used_losses(optimizer) and optimizer.total_steps == STEPS


def test_the_callback_does_the_same_for_trainer_itself(tmp_path, plain):
    fitted = fit(
        PlainTrainer, tmp_path, given={"total_steps": STEPS, **INNER},
        callbacks=[LearnedOptimizerCallback()],
    )  # fmt: skip
    assert runs_are_equal(fitted, plain)


@pytest.mark.parametrize("model", [ModelWithLoss, ModelWithShareOfLoss])
@pytest.mark.parametrize("kind", ["trainer", "callback"])
def test_accumulated_losses_are_those_of_their_step(tmp_path, model, kind):
    arguments = {"gradient_accumulation_steps": 2}
    cls, given, more = (
        (Learned, INNER, {})
        if kind == "trainer"
        else (
            PlainTrainer,
            {"total_steps": STEPS, **INNER},
            {"callbacks": [LearnedOptimizerCallback()]},
        )
    )
    _, optimizer = fit(
        cls, tmp_path, model=model(), batch=BATCH // 2, given=given, arguments=arguments,
        **more,
    )  # fmt: skip
    _, expected = train_in_torch(with_trainers_groups, parts=2)
    assert counted_steps(optimizer) == STEPS
    for row, other in zip(optimizer.explain(), expected.explain(), strict=True):
        assert row == pytest.approx(other, rel=1e-2, abs=1e-2)


def test_the_loss_that_is_differentiated_counts_not_the_models(tmp_path):
    def doubled(outputs, labels, num_items_in_batch=None):
        return 2.0 * nn.functional.cross_entropy(outputs["logits"], labels)

    class Logits(ModelWithLoss):
        def forward(self, inputs, labels=None):
            return {"logits": self.body(inputs)}

    _, optimizer = fit(Learned, tmp_path, model=Logits(), compute_loss_func=doubled)
    assert used_losses(optimizer)


def test_evaluation_hands_over_no_losses(tmp_path, plain):
    examples = [{"inputs": x, "labels": y} for x, y in make_dataset()][:4]
    arguments = {"eval_strategy": "steps", "eval_steps": 7}
    fitted = fit(Learned, tmp_path, given=INNER, arguments=arguments, eval_dataset=examples)
    assert runs_are_equal(fitted, plain)


@pytest.mark.parametrize("kind", ["trainer", "callback"])
def test_a_policy_that_observes_validation_losses_is_given_those_of_evaluations(
    tmp_path, kind
):
    policy = random_policy(features=[*observed_features("invariant", True)])
    given = {"policy": policy, **INNER}
    cls, more = Learned, {}
    if kind == "callback":
        cls, given["total_steps"] = PlainTrainer, STEPS
        more["callbacks"] = [LearnedOptimizerCallback()]
    examples = [{"inputs": x, "labels": y} for x, y in make_dataset()][:4]
    arguments = {"eval_strategy": "steps", "eval_steps": 7}
    run, _ = trainer(
        cls, tmp_path, given=given, arguments=arguments, eval_dataset=examples, **more
    )
    run.train()
    losses = [row["eval_loss"] for row in run.state.log_history if "eval_loss" in row]
    optimizer = unwrapped(run.optimizer)
    history = optimizer.param_groups[0]["controller"]["validation"]
    seen = [row["has_validation"] for row in optimizer.explain()]
    assert seen[0] == 0 and seen[-1] == 1
    assert float(history["latest"]) in [pytest.approx(loss, rel=1e-5) for loss in losses]


def test_evaluations_without_a_loss_are_warned_of(tmp_path):
    policy = random_policy(features=[*observed_features("invariant", True)])
    examples = [{"inputs": x, "labels": y} for x, y in make_dataset()][:4]
    run, _ = trainer(
        Learned, tmp_path, given={"policy": policy, **INNER},
        arguments={"eval_strategy": "steps", "eval_steps": 7},
        eval_dataset={"first": examples, "second": examples},
    )  # fmt: skip
    with pytest.warns(UserWarning, match="no 'eval_loss', only .*eval_first_loss"):
        run.train()


@pytest.mark.parametrize("scheduler", ["constant", slow("linear")])
def test_a_resumed_run_equals_the_uninterrupted_run(tmp_path, scheduler):
    arguments = {"lr_scheduler_type": scheduler, "save_strategy": "steps", "save_steps": 5}
    whole = fit(LearnedTrainer, tmp_path, arguments=arguments)
    for step in (20, 25):  # between epochs, and within one
        resumed = fit(
            LearnedTrainer, tmp_path / f"rest-{step}", str(tmp_path / f"checkpoint-{step}"),
            arguments={"lr_scheduler_type": scheduler},
        )  # fmt: skip
        assert runs_are_equal(resumed, whole), step


def test_a_run_that_is_resumed_for_longer_gets_the_new_length(tmp_path):
    arguments = {"save_strategy": "steps", "save_steps": 20}
    fit(Learned, tmp_path, arguments=arguments)
    run, _ = trainer(Learned, tmp_path / "rest", arguments={"max_steps": 2 * STEPS})
    loaded = pytest.warns(UserWarning, match=f"loaded total_steps={STEPS} overrides")
    with loaded, pytest.warns(UserWarning, match=f"ends after {2 * STEPS} steps"):
        run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))
    optimizer = unwrapped(run.optimizer)
    assert optimizer.total_steps == counted_steps(optimizer) == 2 * STEPS
    assert optimizer.explain()[-1]["step"] > STEPS


def test_a_second_training_goes_on_with_a_fall_at_its_end(tmp_path):
    run, _ = trainer(Learned, tmp_path)
    run.train()
    run.train()
    optimizer = unwrapped(run.optimizer)
    assert optimizer.total_steps == counted_steps(optimizer) == 2 * STEPS
    last = optimizer.log_dict()
    assert last["lr"] < 0.1 * last["multiplier"] * run.args.learning_rate


def test_a_length_that_is_not_the_trainers_is_replaced_with_a_warning(tmp_path):
    run, _ = trainer(
        PlainTrainer, tmp_path, given={"total_steps": 3 * STEPS},
        callbacks=[LearnedOptimizerCallback()],
    )  # fmt: skip
    with pytest.warns(UserWarning, match=f"total_steps={3 * STEPS}, but the trainer's"):
        run.train()
    assert unwrapped(run.optimizer).total_steps == STEPS


def test_an_anytime_policy_trains_too(tmp_path):
    _, optimizer = fit(Learned, tmp_path, given={"policy": "anytime"})
    assert counted_steps(optimizer) == STEPS and optimizer.total_steps is None


@pytest.mark.parametrize("scheduler", ["constant", "linear"])
def test_the_lower_of_both_schedules_applies(tmp_path, scheduler):
    arguments = {"lr_scheduler_type": scheduler}
    _, optimizer = fit(Learned, tmp_path, arguments=arguments)
    last = optimizer.log_dict()
    rate = last["lr"] / (last["multiplier"] * 1e-2)
    falls = {"constant": 1 / (0.3 * STEPS), "linear": 1 / STEPS}
    assert rate == pytest.approx(falls[scheduler], rel=1e-3)


def test_settings_of_the_trainer_and_of_the_optimizer_count(tmp_path):
    run, _ = trainer(
        Learned, tmp_path, given={"max_lr": 2e-4, "policy": "adam"},
        arguments={"weight_decay": 0.1, "learning_rate": 3e-4},
    )  # fmt: skip
    run.train()
    optimizer = unwrapped(run.optimizer)
    assert optimizer.policy.name == "adam"
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert [group["lr"] for group in optimizer.param_groups] == [3e-4, 3e-4]
    assert 0 < optimizer.log_dict()["lr"] <= 2e-4


@pytest.mark.parametrize("kind", ["trainer", "callback"])
def test_the_numbers_of_the_optimizer_are_logged(tmp_path, kind):
    arguments = {"logging_strategy": "steps", "logging_steps": 10}
    reporter = Reporter()
    if kind == "trainer":
        run, _ = trainer(Learned, tmp_path, arguments=arguments, callbacks=[reporter])
    else:
        callbacks = [LearnedOptimizerCallback(), reporter]
        given = {"total_steps": STEPS}
        run, _ = trainer(
            PlainTrainer, tmp_path, arguments=arguments, given=given, callbacks=callbacks
        )
    run.train()
    for logs in (reporter.logs, run.state.log_history):
        rows = [row for row in logs if "loss" in row]
        assert [row["optimizer/step"] for row in rows] == list(range(10, STEPS + 1, 10))
        assert all(row["optimizer/lr"] > 0 for row in rows)


def test_tensorboard_gets_the_numbers(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    arguments = {
        "logging_strategy": "steps", "logging_steps": 10, "report_to": "tensorboard",
    }  # fmt: skip
    fit(Learned, tmp_path, arguments=arguments)
    (events,) = (tmp_path / "events").rglob("events*")
    accumulator = EventAccumulator(str(events)).Reload()
    rates = [each.value for each in accumulator.Scalars("train/optimizer/lr")]
    assert len(rates) == STEPS // 10 and min(rates) > 0


def test_a_search_trains_each_trial_with_its_own_losses(tmp_path):
    run, _ = trainer(Learned, tmp_path)
    run.train()
    first = unwrapped(run.optimizer)
    run.optimizer = run.lr_scheduler = None  # as a search does before each trial
    run.train()
    second = unwrapped(run.optimizer)
    assert second is not first and used_losses(second)
    assert counted_steps(first) == counted_steps(second) == STEPS


def test_a_callback_that_would_count_losses_twice_is_refused(tmp_path, plain):
    for callback in (LearnedOptimizerCallback(), LearnedOptimizerCallback):
        with pytest.raises(ValueError, match=r"count twice.*attach_loss=False"):
            trainer(Learned, tmp_path, callbacks=[callback])
        run, _ = trainer(Learned, tmp_path)
        with pytest.raises(ValueError, match=r"count twice.*attach_loss=False"):
            run.add_callback(callback)
    only_logs = LearnedOptimizerCallback(attach_loss=False, prefix="mine/")
    fitted = fit(Learned, tmp_path, given=INNER, callbacks=[only_logs])
    assert runs_are_equal(fitted, plain)


def test_other_optimizers_are_refused_by_name(tmp_path):
    for more in (
        {"optimizer_cls_and_kwargs": (torch.optim.AdamW, {})},
        {"optimizers": (torch.optim.AdamW([nn.Parameter(torch.zeros(1))]), None)},
    ):
        with pytest.raises(TypeError, match=r"LearnedTrainer.*AdamW"):
            trainer(Learned, tmp_path, **more)
    run, _ = trainer(PlainTrainer, tmp_path, callbacks=[LearnedOptimizerCallback()])
    with pytest.raises(TypeError, match=r"needs a LearnedOptimizer.*is AdamW"):
        run.train()


def test_an_optimizer_of_unknown_length_is_refused_before_training(tmp_path):
    run, _ = trainer(Learned, tmp_path, arguments={"max_steps": -1, "num_train_epochs": 1})
    with pytest.raises(ValueError, match="does not know the number of steps"):
        run.create_optimizer()
    run.create_optimizer_and_scheduler(70)
    assert run.optimizer.total_steps == 70


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "agents.integrations.transformers")
    with pytest.raises(ImportError, match=r'install "\.\[frameworks\]"'):
        importlib.import_module("agents.integrations.transformers")
