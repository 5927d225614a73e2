"""In Hugging Face's Trainer, the optimizer takes the model's loss, and resumes exactly."""

from __future__ import annotations

import pytest
from torch.utils.data import SequentialSampler

from agents import LearnedOptimizer
from tests.helpers.framework_runs import (
    BATCH,
    KINDS,
    OwnLoss,
    data,
    in_plain_torch,
    is_the_same,
    saw_losses_and_acted,
    steps_of,
)
from tests.helpers.loops import STEPS

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed (extra: frameworks)"
)
pytest.importorskip("accelerate", reason="accelerate is not installed (extra: frameworks)")

every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=list(KINDS))


class Share(OwnLoss):
    """Divides its loss by the size of all batches of a step, as Trainer asks models to."""

    def forward(self, inputs, labels, num_items_in_batch=None, **kwargs):
        ends = super().forward(inputs, labels)
        return {**ends, "loss": ends["loss"] * len(labels) / num_items_in_batch}


class InOrder(transformers.Trainer):
    """Does not shuffle, as the plain loop does not."""

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(train_dataset or self.train_dataset)


def fit(
    make, folder, *, trainer=InOrder, model=OwnLoss, resume=None, batch=BATCH,
    reduction="mean", **arguments,
):  # fmt: skip
    """Model and optimizer after the run, whose checkpoints are in ``folder``."""
    model = model()
    optimizer = make(model.parameters())
    if isinstance(optimizer, LearnedOptimizer):
        optimizer.attach_loss(model, reduction)
    arguments = {"lr_scheduler_type": "constant", "max_grad_norm": 0.0, **arguments}
    settings = transformers.TrainingArguments(
        output_dir=folder, max_steps=STEPS, per_device_train_batch_size=batch,
        save_strategy="steps", save_steps=5, report_to="none", disable_tqdm=True,
        use_cpu=True, dataloader_pin_memory=False, logging_strategy="no", **arguments,
    )  # fmt: skip
    examples = [{"inputs": x, "labels": y} for x, y in data()]
    run = trainer(model, settings, train_dataset=examples, optimizers=(optimizer, None))
    run.train(resume_from_checkpoint=resume)
    return model.body, optimizer


def followed(make):
    """The same optimizer, which follows its own schedule under Trainer's constant one."""
    if make is KINDS["AdamW"]:
        return make
    return lambda params: make(params, schedule="always")


@every_kind
def test_a_run_in_trainer_is_the_run_in_plain_torch(make, tmp_path):
    assert is_the_same(fit(followed(make), tmp_path), in_plain_torch(make))


@every_kind
@pytest.mark.parametrize("step", [20, 25])  # between epochs, and within one
@pytest.mark.parametrize("scheduler", ["constant", "linear"])
def test_a_run_resumed_from_a_checkpoint_is_the_run(make, step, scheduler, tmp_path):
    arguments = {"trainer": transformers.Trainer, "lr_scheduler_type": scheduler}
    whole = fit(make, tmp_path / "whole", **arguments)
    checkpoint = tmp_path / "whole" / f"checkpoint-{step}"
    rest = fit(make, tmp_path / "rest", resume=str(checkpoint), **arguments)
    assert is_the_same(rest, whole)


def test_the_policy_takes_the_losses_of_the_model_and_acts(tmp_path):
    _, optimizer = fit(KINDS["learned"], tmp_path)
    assert saw_losses_and_acted(optimizer)
    assert steps_of(optimizer) == STEPS


def test_trainers_linear_schedule_takes_the_place_of_the_policys_own(tmp_path):
    _, optimizer = fit(KINDS["learned"], tmp_path, lr_scheduler_type="linear")
    (group,) = optimizer.param_groups
    assert group["lr"] == 0.0  # after the last step
    multiplier = optimizer.explain()[-1]["multiplier"]
    assert group["effective_lr"] == pytest.approx(1e-3 / STEPS * multiplier)


@every_kind
def test_accumulated_batches_are_one_step(make, tmp_path):
    half = fit(followed(make), tmp_path, batch=BATCH // 2, gradient_accumulation_steps=2)
    assert is_the_same(half, in_plain_torch(make, parts=2))


def test_shares_of_a_loss_are_added_up(tmp_path):
    found = fit(
        followed(KINDS["learned"]), tmp_path, batch=BATCH // 2, model=Share,
        gradient_accumulation_steps=2, reduction="sum",
    )  # fmt: skip
    plain = in_plain_torch(KINDS["learned"], parts=2)
    for row, own in zip(found[1].explain(), plain[1].explain(), strict=True):
        assert row == pytest.approx(own, rel=1e-2, abs=1e-2)
