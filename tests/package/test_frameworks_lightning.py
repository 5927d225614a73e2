"""In Lightning, the optimizer gets the closure's loss and resumes exactly."""

from __future__ import annotations

import pytest
from torch import nn
from torch.utils.data import DataLoader

from tests.helpers.framework_runs import (
    BATCH,
    EPOCHS,
    OPTIMIZERS,
    counted_steps,
    make_dataset,
    runs_are_equal,
    train_in_torch,
    used_losses,
)
from tests.helpers.loops import STEPS, make_model

lightning = pytest.importorskip(
    "lightning", reason="lightning is not installed (extra: frameworks)"
)
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402

pytestmark = [
    pytest.mark.frameworks,
    # Lightning itself uses a deprecated part of torch's pytree.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    # Lightning warns that a resumed run keeps its checkpoints in another folder.
    pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning"),
]
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=list(OPTIMIZERS))


class Classifier(lightning.LightningModule):
    def __init__(self, make):
        super().__init__()
        self.body, self.make = make_model(), make

    def training_step(self, batch, _):
        inputs, targets = batch
        return nn.functional.cross_entropy(self.body(inputs), targets)

    def configure_optimizers(self):
        return self.make(self.parameters())


class ResumableLoader(DataLoader):
    """A loader that resumes within an epoch: Lightning restores its state."""

    num_yielded = start = 0

    def __iter__(self):
        start, self.start = self.start, 0
        for index, batch in enumerate(super().__iter__()):
            if index >= start:
                self.num_yielded = index + 1
                yield batch

    def state_dict(self):
        return {"num_yielded": self.num_yielded % len(self)}

    def load_state_dict(self, state):
        self.start = state["num_yielded"]


def fit(make, folder, batch=BATCH, resume=None, epochs=EPOCHS, **arguments):
    """Train in Lightning, with checkpoints in ``folder``; return model and optimizer."""
    model = Classifier(make)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=5)],
        **arguments,
    )  # fmt: skip
    loader = ResumableLoader(make_dataset(), batch_size=batch)
    trainer.fit(model, loader, ckpt_path=resume, weights_only=True)
    return model.body, trainer.optimizers[0]


@every_optimizer
def test_training_equals_the_plain_torch_loop(make, tmp_path):
    assert runs_are_equal(fit(make, tmp_path), train_in_torch(make))


@every_optimizer
def test_a_resumed_run_equals_the_uninterrupted_run(make, tmp_path):
    whole = fit(make, tmp_path / "whole")
    for step in (20, 25):  # between epochs, and within one
        checkpoint = tmp_path / "whole" / f"step={step}.ckpt"
        resumed = fit(make, tmp_path / f"rest-{step}", resume=checkpoint)
        assert runs_are_equal(resumed, whole), step


def test_the_policy_gets_the_closures_losses_and_acts(tmp_path):
    _, optimizer = fit(OPTIMIZERS["learned"], tmp_path)
    assert used_losses(optimizer)
    assert counted_steps(optimizer) == STEPS


@every_optimizer
def test_accumulated_micro_batches_are_one_step(make, tmp_path):
    half = fit(make, tmp_path, batch=BATCH // 2, accumulate_grad_batches=2)
    # Lightning's closure returns the last micro-batch's loss, divided by their number.
    plain = train_in_torch(make, parts=2, combine=lambda losses: losses[-1] / 2)
    assert runs_are_equal(half, plain)
