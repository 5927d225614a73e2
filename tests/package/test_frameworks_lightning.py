"""In Lightning, the optimizer is told the loss by the closure, and resumes exactly."""

from __future__ import annotations

import pytest
from torch import nn
from torch.utils.data import DataLoader

from tests.helpers.framework_runs import (
    BATCH,
    EPOCHS,
    KINDS,
    data,
    in_plain_torch,
    is_the_same,
    saw_losses_and_acted,
    steps_of,
)
from tests.helpers.loops import STEPS, make_model

lightning = pytest.importorskip(
    "lightning", reason="lightning is not installed (extra: frameworks)"
)
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402

pytestmark = [
    # Lightning's own use of torch's pytree.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    # It notes that a resumed run keeps its checkpoints elsewhere, as these tests do.
    pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning"),
]
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=list(KINDS))


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
    """Goes on within an epoch, which Lightning leaves to loaders with a state."""

    given = start = 0

    def __iter__(self):
        start, self.start = self.start, 0
        for index, batch in enumerate(super().__iter__()):
            if index >= start:
                self.given = index + 1
                yield batch

    def state_dict(self):
        return {"given": self.given % len(self)}

    def load_state_dict(self, state):
        self.start = state["given"]


def fit(make, folder, batch=BATCH, resume=None, epochs=EPOCHS, **arguments):
    """Model and optimizer after the run, whose checkpoints are in ``folder``."""
    model = Classifier(make)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=5)],
        **arguments,
    )  # fmt: skip
    loader = ResumableLoader(data(), batch_size=batch)
    trainer.fit(model, loader, ckpt_path=resume, weights_only=True)
    return model.body, trainer.optimizers[0]


@every_kind
def test_a_run_in_lightning_is_the_run_in_plain_torch(make, tmp_path):
    assert is_the_same(fit(make, tmp_path), in_plain_torch(make))


@every_kind
@pytest.mark.parametrize("step", [20, 25])  # between epochs, and within one
def test_a_run_resumed_from_a_checkpoint_is_the_run(make, step, tmp_path):
    whole = fit(make, tmp_path / "whole")
    checkpoint = tmp_path / "whole" / f"step={step}.ckpt"
    assert is_the_same(fit(make, tmp_path / "rest", resume=checkpoint), whole)


def test_the_policy_is_told_losses_and_acts(tmp_path):
    _, optimizer = fit(KINDS["learned"], tmp_path)
    assert saw_losses_and_acted(optimizer)
    assert steps_of(optimizer) == STEPS


@every_kind
def test_accumulated_batches_are_one_step(make, tmp_path):
    half = fit(make, tmp_path, batch=BATCH // 2, accumulate_grad_batches=2)
    # Lightning's closure returns the loss of the last part, for its share.
    assert is_the_same(half, in_plain_torch(make, 2, told=lambda losses: losses[-1] / 2))
