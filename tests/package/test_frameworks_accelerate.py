"""With Accelerate, the optimizer takes losses from a module and resumes exactly."""

from __future__ import annotations

import pytest
from torch.utils.data import DataLoader

from agents import LearnedOptimizer
from tests.helpers.framework_runs import (
    BATCH,
    EPOCHS,
    OPTIMIZERS,
    STEPS_PER_EPOCH,
    ModelWithLoss,
    counted_steps,
    make_dataset,
    runs_are_equal,
    train_in_torch,
    used_losses,
)
from tests.helpers.loops import STEPS

accelerate = pytest.importorskip(
    "accelerate", reason="accelerate is not installed (extra: frameworks)"
)
from accelerate.state import AcceleratorState, GradientState  # noqa: E402

pytestmark = pytest.mark.frameworks
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=list(OPTIMIZERS))


@pytest.fixture(autouse=True)
def reset_accelerate():
    """Clear the settings that all accelerators of a process share, after each test."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def fit(
    make, folder=None, *, attach=lambda model: model, resume=0, parts=1, shuffle=False,
    precision="no",
):  # fmt: skip
    """Train with Accelerate; return the model and the optimizer.

    Args:
        make: function of the parameters that returns the optimizer.
        folder: folder for a checkpoint after every fifth step.
        attach: function of the model that returns the module to take losses from.
        resume: step of the checkpoint in ``folder`` to resume from; 0 starts afresh.
        parts: micro-batches of a step.
        shuffle: shuffle the examples anew in each epoch.
        precision: "no", or the data type of mixed precision.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(
        cpu=True, gradient_accumulation_steps=parts, mixed_precision=precision,
        dataloader_config=accelerate.DataLoaderConfiguration(
            use_seedable_sampler=True, data_seed=0
        ),
    )  # fmt: skip
    classifier = ModelWithLoss()
    optimizer = make(classifier.parameters())
    if isinstance(optimizer, LearnedOptimizer):
        optimizer.attach_loss(attach(classifier))
    loader = DataLoader(make_dataset(), batch_size=BATCH // parts, shuffle=shuffle)
    model, prepared, loader = accelerator.prepare(classifier, optimizer, loader)
    step = resume
    if resume:
        accelerator.load_state(str(folder / str(resume)))
    for epoch in range(resume // STEPS_PER_EPOCH, EPOCHS):
        done = (step - epoch * STEPS_PER_EPOCH) * parts
        rest = accelerator.skip_first_batches(loader, done) if done else loader
        rest.set_epoch(epoch)
        for batch in rest:
            with accelerator.accumulate(model):
                accelerator.backward(model(*batch)["loss"])
                prepared.step()
                prepared.zero_grad()
            step += accelerator.sync_gradients
            if folder and accelerator.sync_gradients and step % 5 == 0 and not resume:
                accelerator.save_state(str(folder / str(step)))
    assert step == STEPS
    return classifier.body, optimizer


@every_optimizer
@pytest.mark.parametrize("attach", [lambda model: model, lambda model: model.criterion])
def test_training_equals_the_plain_torch_loop(make, attach):
    assert runs_are_equal(fit(make, attach=attach), train_in_torch(make))


@every_optimizer
def test_a_resumed_run_equals_the_uninterrupted_run(make, tmp_path):
    whole = fit(make, tmp_path, shuffle=True)
    for step in (20, 25):  # between epochs, and within one
        resumed = fit(make, tmp_path, shuffle=True, resume=step)
        assert runs_are_equal(resumed, whole), step


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_policy_gets_the_models_losses_and_acts(precision):
    _, optimizer = fit(OPTIMIZERS["learned"], precision=precision)
    assert used_losses(optimizer)
    assert counted_steps(optimizer) == STEPS


@every_optimizer
def test_accumulated_micro_batches_are_one_step(make):
    assert runs_are_equal(fit(make, parts=2), train_in_torch(make, parts=2))
