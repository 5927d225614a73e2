"""Under accelerate, the optimizer takes losses from a module, and resumes exactly."""

from __future__ import annotations

import pytest
from torch.utils.data import DataLoader

from agents import LearnedOptimizer
from tests.helpers.framework_runs import (
    BATCH,
    EPOCH,
    EPOCHS,
    KINDS,
    OwnLoss,
    data,
    in_plain_torch,
    is_the_same,
    saw_losses_and_acted,
    steps_of,
)
from tests.helpers.loops import STEPS

accelerate = pytest.importorskip(
    "accelerate", reason="accelerate is not installed (extra: frameworks)"
)
from accelerate.state import AcceleratorState, GradientState  # noqa: E402

every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=list(KINDS))


@pytest.fixture(autouse=True)
def no_accelerator_is_left():
    """Accelerators share their settings within a process: the next test has its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def fit(
    make, folder=None, *, attach=lambda model: model, resume=0, parts=1, shuffle=False,
    precision="no",
):  # fmt: skip
    """Model and optimizer after the run, or after what is left of it.

    Args:
        make: the optimizer, of parameters.
        folder: where a checkpoint is kept after every fifth step.
        attach: the module of the model that the loss is taken from.
        resume: step of the checkpoint to go on from.
        parts: batches to a step.
        shuffle: whether epochs are in an order of their own.
        precision: mixed with single precision, if any.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(
        cpu=True, gradient_accumulation_steps=parts, mixed_precision=precision,
        dataloader_config=accelerate.DataLoaderConfiguration(
            use_seedable_sampler=True, data_seed=0
        ),
    )  # fmt: skip
    own = OwnLoss()
    optimizer = make(own.parameters())
    if isinstance(optimizer, LearnedOptimizer):
        optimizer.attach_loss(attach(own))
    loader = DataLoader(data(), batch_size=BATCH // parts, shuffle=shuffle)
    model, prepared, loader = accelerator.prepare(own, optimizer, loader)
    step = resume
    if resume:
        accelerator.load_state(str(folder / str(resume)))
    for epoch in range(resume // EPOCH, EPOCHS):
        done = (step - epoch * EPOCH) * parts
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
    return own.body, optimizer


@every_kind
@pytest.mark.parametrize("attach", [lambda model: model, lambda model: model.criterion])
def test_a_run_under_accelerate_is_the_run_in_plain_torch(make, attach):
    assert is_the_same(fit(make, attach=attach), in_plain_torch(make))


@every_kind
@pytest.mark.parametrize("step", [20, 25])  # between epochs, and within one
def test_a_run_resumed_from_a_checkpoint_is_the_run(make, step, tmp_path):
    whole = fit(make, tmp_path, shuffle=True)
    assert is_the_same(fit(make, tmp_path, shuffle=True, resume=step), whole)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_policy_takes_the_losses_of_the_model_and_acts(precision):
    _, optimizer = fit(KINDS["learned"], precision=precision)
    assert saw_losses_and_acted(optimizer)
    assert steps_of(optimizer) == STEPS


@every_kind
def test_accumulated_batches_are_one_step(make):
    assert is_the_same(fit(make, parts=2), in_plain_torch(make, parts=2))
