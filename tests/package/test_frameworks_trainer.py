"""In Hugging Face's Trainer, the optimizer gets the model's loss and resumes exactly."""

from __future__ import annotations

import pytest
from torch.utils.data import SequentialSampler

from agents import LearnedOptimizer
from tests.helpers.framework_runs import (
    BATCH,
    OPTIMIZERS,
    ModelWithLoss,
    counted_steps,
    make_dataset,
    runs_are_equal,
    train_in_torch,
    used_losses,
)
from tests.helpers.loops import STEPS

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed (extra: frameworks)"
)
pytest.importorskip("accelerate", reason="accelerate is not installed (extra: frameworks)")

pytestmark = pytest.mark.frameworks
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=list(OPTIMIZERS))


class ModelWithShareOfLoss(ModelWithLoss):
    """A model whose loss is divided by the examples of a step, as Trainer asks for."""

    def forward(self, inputs, labels, num_items_in_batch=None, **kwargs):
        outputs = super().forward(inputs, labels)
        loss = outputs["loss"] * len(labels) / num_items_in_batch
        return {**outputs, "loss": loss}


class UnshuffledTrainer(transformers.Trainer):
    """A trainer that does not shuffle, like the plain loop."""

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(train_dataset or self.train_dataset)


def fit(
    make, folder, *, trainer=UnshuffledTrainer, model=ModelWithLoss, resume=None,
    batch=BATCH, reduction="mean", **arguments,
):  # fmt: skip
    """Train in Trainer; return model and optimizer."""
    model = model()
    optimizer = make(model.parameters())
    if isinstance(optimizer, LearnedOptimizer):
        optimizer.attach_loss(model, reduction)
    arguments = {"lr_scheduler_type": "constant", "max_grad_norm": 0.0, **arguments}
    settings = transformers.TrainingArguments(
        output_dir=folder, max_steps=STEPS, per_device_train_batch_size=batch,
        report_to="none", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
        logging_strategy="no", **{"save_strategy": "no", **arguments},
    )  # fmt: skip
    examples = [{"inputs": x, "labels": y} for x, y in make_dataset()]
    run = trainer(model, settings, train_dataset=examples, optimizers=(optimizer, None))
    run.train(resume_from_checkpoint=resume)
    return model.body, optimizer


def with_own_schedule(make):
    """Return a maker of the optimizer with its own schedule, despite Trainer's."""
    if make is OPTIMIZERS["AdamW"]:
        return make
    return lambda params: make(params, schedule="always")


@every_optimizer
def test_training_equals_the_plain_torch_loop(make, tmp_path):
    assert runs_are_equal(fit(with_own_schedule(make), tmp_path), train_in_torch(make))


@pytest.mark.slow
@every_optimizer
@pytest.mark.parametrize("scheduler", ["constant", "linear"])
def test_a_resumed_run_equals_the_uninterrupted_run(make, scheduler, tmp_path):
    arguments = {"trainer": transformers.Trainer, "lr_scheduler_type": scheduler}
    whole = fit(make, tmp_path, save_strategy="steps", save_steps=5, **arguments)
    for step in (20, 25):  # between epochs, and within one
        checkpoint = str(tmp_path / f"checkpoint-{step}")
        resumed = fit(make, tmp_path / f"rest-{step}", resume=checkpoint, **arguments)
        assert runs_are_equal(resumed, whole), step


def test_the_policy_gets_the_models_losses_and_acts(tmp_path):
    _, optimizer = fit(OPTIMIZERS["learned"], tmp_path)
    assert used_losses(optimizer)
    assert counted_steps(optimizer) == STEPS


def test_trainers_linear_schedule_replaces_that_of_the_policy(tmp_path):
    _, optimizer = fit(OPTIMIZERS["learned"], tmp_path, lr_scheduler_type="linear")
    (group,) = optimizer.param_groups
    assert group["lr"] == 0.0  # after the last step
    multiplier = optimizer.explain()[-1]["multiplier"]
    assert group["effective_lr"] == pytest.approx(1e-2 / STEPS * multiplier)


@every_optimizer
def test_accumulated_micro_batches_are_one_step(make, tmp_path):
    half = fit(
        with_own_schedule(make), tmp_path, batch=BATCH // 2, gradient_accumulation_steps=2
    )
    assert runs_are_equal(half, train_in_torch(make, parts=2))


def test_shares_of_a_loss_are_summed(tmp_path):
    _, optimizer = fit(
        with_own_schedule(OPTIMIZERS["learned"]), tmp_path, model=ModelWithShareOfLoss,
        batch=BATCH // 2, gradient_accumulation_steps=2, reduction="sum",
    )  # fmt: skip
    _, plain = train_in_torch(OPTIMIZERS["learned"], parts=2)
    for row, expected in zip(optimizer.explain(), plain.explain(), strict=True):
        assert row == pytest.approx(expected, rel=1e-2, abs=1e-2)
