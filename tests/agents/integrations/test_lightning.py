"""In Lightning, the callback measures, feeds and logs; the command line makes by name."""

from __future__ import annotations

import importlib
import math
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from agents import LearnedOptimizer
from optenv.telemetry import observed_features
from tests.helpers.framework_runs import (
    BATCH,
    counted_steps,
    make_dataset,
    runs_are_equal,
    train_in_torch,
    used_losses,
)
from tests.helpers.loops import STEPS, make_model
from tests.helpers.policies import random_policy

lightning = pytest.importorskip(
    "lightning", reason="lightning is not installed (extra: frameworks)"
)
from lightning.pytorch.loggers import CSVLogger  # noqa: E402
from lightning.pytorch.plugins import MixedPrecision  # noqa: E402

from agents.integrations.lightning import LearnedOptimizerCallback  # noqa: E402

pytestmark = [
    pytest.mark.frameworks,
    # Lightning itself uses a deprecated part of torch's pytree.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
]


def learned(params, **arguments):
    return LearnedOptimizer(params, **{"total_steps": STEPS, **arguments})


class Module(lightning.LightningModule):
    """A classifier; ``make`` returns its optimizer or optimizers."""

    def __init__(self, make=learned):
        super().__init__()
        self.body, self.make = make_model(), make

    def training_step(self, batch, _):
        inputs, targets = batch
        return nn.functional.cross_entropy(self.body(inputs), targets)

    def configure_optimizers(self):
        return self.make(self.body.parameters())


class Manual(Module):
    """The same with manual optimization, where no closure has the loss."""

    def __init__(self, make=learned):
        super().__init__(make)
        self.automatic_optimization = False

    def training_step(self, batch, index):
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, index))
        for optimizer in optimizers:
            optimizer.step()


class Networkless(lightning.LightningModule):
    """A module without ``configure_optimizers``, which the command line adds."""

    def __init__(self):
        super().__init__()
        self.body = make_model()

    training_step = Module.training_step

    def train_dataloader(self):
        return DataLoader(make_dataset(), batch_size=BATCH)


def fit(model, folder, callbacks=None, **arguments):
    """Train in Lightning; return the trainer."""
    callbacks = [LearnedOptimizerCallback()] if callbacks is None else callbacks
    trainer = lightning.Trainer(
        **{
            "max_steps": STEPS, "accelerator": "cpu", "devices": 1, "logger": False,
            "enable_progress_bar": False, "enable_model_summary": False,
            "enable_checkpointing": False, "default_root_dir": folder,
            "callbacks": callbacks, **arguments,
        }
    )  # fmt: skip
    trainer.fit(model, DataLoader(make_dataset(), batch_size=BATCH))
    return trainer


def test_the_callback_leaves_the_run_of_a_closure_as_it_is(tmp_path):
    model = Module()
    trainer = fit(model, tmp_path)
    assert runs_are_equal((model.body, trainer.optimizers[0]), train_in_torch(learned))


def test_manual_optimization_hands_its_losses_over(tmp_path):
    model = Manual()
    trainer = fit(model, tmp_path)
    assert runs_are_equal((model.body, trainer.optimizers[0]), train_in_torch(learned))
    alone = fit(Manual(), tmp_path, callbacks=[])
    assert not used_losses(alone.optimizers[0])


class Validated(Module):
    """A classifier that logs its validation loss, under a name of its choice."""

    logged = "val_loss"

    def validation_step(self, batch, _):
        inputs, targets = batch
        self.log(self.logged, nn.functional.cross_entropy(self.body(inputs), targets))

    def val_dataloader(self):
        return DataLoader(make_dataset(), batch_size=BATCH)


@pytest.mark.parametrize("name", ["val_loss", "held_out"])
def test_a_policy_that_observes_validation_losses_is_given_the_logged_ones(tmp_path, name):
    policy = random_policy(features=[*observed_features("invariant", True)])
    model = Validated(lambda params: learned(params, policy=policy))
    model.logged = name
    callback = LearnedOptimizerCallback(validation_loss=name)
    trainer = fit(model, tmp_path, callbacks=[callback], val_check_interval=0.5)
    (optimizer,) = trainer.optimizers
    state = optimizer.param_groups[0]["controller"]
    seen = [row["has_validation"] for row in optimizer.explain()]
    assert seen[0] == 0 and seen[-1] == 1  # not that of the check before training
    latest = state["validated"]
    if latest is None:
        latest = float(state["validation"]["latest"])
    assert latest == pytest.approx(float(trainer.callback_metrics[name]), rel=1e-5)


def test_a_validation_loss_that_is_never_logged_is_warned_of(tmp_path):
    policy = random_policy(features=[*observed_features("invariant", True)])
    model = Validated(lambda params: learned(params, policy=policy))
    callback = LearnedOptimizerCallback(validation_loss="val_los")
    with pytest.warns(UserWarning, match="no 'val_los', only .*val_loss"):
        fit(model, tmp_path, callbacks=[callback], val_check_interval=0.5)


def test_losses_arrive_unscaled_through_a_grad_scaler(tmp_path):
    def losses_of(callbacks):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        trainer = fit(Module(), tmp_path, callbacks=callbacks, plugins=[plugin])
        return trainer.optimizers[0]

    assert not used_losses(losses_of([]))
    optimizer = losses_of([LearnedOptimizerCallback()])
    _, plain = train_in_torch(learned)
    assert used_losses(optimizer)
    for row, expected in zip(optimizer.explain(), plain.explain(), strict=True):
        # Half precision moves the losses by a little; a scale would by 1024 times.
        assert row["loss"] == pytest.approx(expected["loss"], rel=0.1)


def test_the_run_gets_the_length_of_the_trainers(tmp_path):
    with pytest.warns(UserWarning, match="total_steps=500, but the trainer's"):
        trainer = fit(Module(lambda p: learned(p, total_steps=500)), tmp_path)
    (optimizer,) = trainer.optimizers
    assert optimizer.total_steps == counted_steps(optimizer) == STEPS


def test_accumulated_batches_count_as_one_step_of_the_length(tmp_path):
    with pytest.warns(UserWarning, match=f"ends after {STEPS // 2} steps"):
        trainer = fit(
            Module(), tmp_path, max_steps=-1, max_epochs=3, accumulate_grad_batches=2
        )
    (optimizer,) = trainer.optimizers
    assert optimizer.total_steps == counted_steps(optimizer) == STEPS // 2


def test_accumulated_losses_are_those_of_their_step(tmp_path):
    module = Module()
    trainer = fit(module, tmp_path, accumulate_grad_batches=4, max_steps=STEPS)
    _, plain = train_in_torch(learned)
    losses = [row["loss"] for row in trainer.optimizers[0].explain()]
    assert losses[0] == pytest.approx(plain.explain()[0]["loss"], rel=0.3)
    model = make_model()
    inputs, targets = make_dataset().tensors
    first = [
        nn.functional.cross_entropy(model(inputs[rows]), targets[rows])
        for rows in torch.arange(4 * BATCH).split(BATCH)
    ]
    assert losses[0] == pytest.approx(torch.stack(first).mean().item(), rel=1e-5)


def test_losses_of_steps_that_a_scaler_skips_are_dropped(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, growth_interval=10**6)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    (optimizer,) = fit(Module(), tmp_path, plugins=[plugin]).optimizers
    assert counted_steps(optimizer) < STEPS  # others overflowed
    losses = [row["loss"] for row in optimizer.explain()]
    assert max(losses) < 1.5 * math.log(3)


def test_manual_optimization_gets_the_length_of_max_steps(tmp_path):
    with pytest.warns(UserWarning, match="total_steps=999, but the trainer's"):
        trainer = fit(Manual(lambda p: learned(p, total_steps=999)), tmp_path)
    (optimizer,) = trainer.optimizers
    assert optimizer.total_steps == counted_steps(optimizer) == STEPS


def test_manual_optimization_of_another_length_gives_a_warning(tmp_path):
    def run(total):
        make = Manual(lambda p: learned(p, total_steps=total))
        return fit(make, tmp_path, max_steps=-1, max_epochs=3)

    with pytest.warns(UserWarning, match=f"total_steps=999, but one .* makes {STEPS};"):
        trainer = run(999)
    assert trainer.optimizers[0].total_steps == 999
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", module="lightning")
        run(STEPS)


def test_the_numbers_of_every_optimizer_are_logged(tmp_path):
    def two(params):
        params = list(params)
        return [learned(params[:2]), torch.optim.SGD(params[2:3]), learned(params[3:])]

    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    fit(Module(), tmp_path, logger=logger, log_every_n_steps=10)
    head, *rows = (tmp_path / logger.log_dir / "metrics.csv").read_text().splitlines()
    columns = {name: i for i, name in enumerate(head.split(","))}
    cells = [row.split(",") for row in rows]
    steps = [float(row[columns["optimizer/step"]]) for row in cells]
    assert steps == list(range(10, STEPS + 1, 10))
    assert all(float(row[columns["optimizer/lr"]]) > 0 for row in cells)
    numbers = fit(Manual(two), tmp_path).callback_metrics
    assert {"optimizer/0/lr", "optimizer/2/lr"} < set(numbers)
    assert not [name for name in numbers if name.startswith("optimizer/1")]


def test_a_trainer_without_a_learned_optimizer_is_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match=r"the optimizers are: SGD"):
        fit(Module(torch.optim.SGD), tmp_path)


def test_the_command_line_makes_the_optimizer_by_name(tmp_path, monkeypatch):
    pytest.importorskip("jsonargparse", reason="jsonargparse is not installed")
    from lightning.pytorch.cli import LightningCLI

    arguments = [
        "fit", f"--trainer.max_steps={STEPS}", "--trainer.logger=false",
        "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
        "--trainer.enable_checkpointing=false", "--trainer.accelerator=cpu",
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.callbacks=agents.integrations.lightning.LearnedOptimizerCallback",
        "--optimizer=agents.LearnedOptimizer", f"--optimizer.total_steps={STEPS}",
        "--optimizer.policy=adam", "--optimizer.max_lr=0.01",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["program.py", *arguments])
    cli = LightningCLI(
        Networkless, save_config_callback=None, seed_everything_default=False
    )
    (optimizer,) = cli.trainer.optimizers
    assert isinstance(optimizer, LearnedOptimizer) and optimizer.policy.name == "adam"
    model, plain = train_in_torch(lambda p: learned(p, policy="adam", max_lr=0.01))
    assert runs_are_equal((cli.model.body, optimizer), (model, plain))


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "agents.integrations.lightning")
    with pytest.raises(ImportError, match=r'install "\.\[frameworks\]"'):
        importlib.import_module("agents.integrations.lightning")
