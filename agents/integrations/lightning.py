"""Learned optimizers in Lightning."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from optenv.extras import install_hint

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.trainer.states import TrainerFn
except ImportError as error:
    raise ImportError(
        'agents.integrations.lightning needs lightning, which the extra "frameworks" '
        f"has; {install_hint('frameworks')}"
    ) from error

from ..optim.optimizer import LearnedOptimizer
from .run import (
    follow_trainer,
    unwrapped,
    warn_of_manual_length,
    warn_of_missing_validation,
)

__all__ = ["LearnedOptimizerCallback"]


class LearnedOptimizerCallback(Callback):
    """Callback that connects a :class:`~agents.LearnedOptimizer` with its trainer.

    It sets the optimizer's ``total_steps`` to the trainer's number of steps, passes the
    losses to the optimizer where Lightning does not (with manual optimization, a
    ``GradScaler``, or accumulated batches), and logs the numbers of
    :meth:`~agents.LearnedOptimizer.log_dict` at every step. With manual optimization, the
    number of steps is only known from ``max_steps``; without it, the optimizer's
    ``total_steps`` is kept, with a warning unless it is one step per batch. With several
    optimizers, the callback only logs, with the index of each optimizer in the names. If an
    optimizer's policy observes validation losses, it is given the logged one.

    Args:
        prefix: put before the names of the logged numbers.
        validation_loss: name under which ``validation_step`` logs the validation loss.

    Raises:
        TypeError: training begins without a learned optimizer.

    Example::

        trainer = lightning.Trainer(max_epochs=10, callbacks=[LearnedOptimizerCallback()])
        trainer.fit(model, loader)
    """

    def __init__(
        self, prefix: str = "optimizer/", validation_loss: str = "val_loss"
    ) -> None:
        self._prefix, self._validation_loss = prefix, validation_loss
        self._optimizers: dict[str, LearnedOptimizer] = {}
        self._warned = False  # whether a missing validation loss was warned of
        # Passes losses to the optimizer that it is attached to.
        self._loss_of_batch = nn.Identity()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        every = [unwrapped(each) for each in trainer.optimizers]
        prefixes = [self._prefix]
        if len(every) > 1:
            prefixes = [f"{self._prefix}{i}/" for i in range(len(every))]
        self._optimizers = {
            prefix: each
            for prefix, each in zip(prefixes, every, strict=True)
            if isinstance(each, LearnedOptimizer)
        }
        if not self._optimizers:
            names = ", ".join(type(each).__name__ for each in every) or "none"
            raise TypeError(
                "LearnedOptimizerCallback needs a LearnedOptimizer from "
                f"configure_optimizers(), but the optimizers are: {names}"
            )
        self._loss_of_batch = nn.Identity()
        if len(every) == 1:
            # "sum": with accumulated batches, each loss is a share of the step's loss.
            every[0].attach_loss(self._loss_of_batch, "sum")
            steps, done = trainer.estimated_stepping_batches, trainer.global_step
            if not math.isfinite(steps):
                return
            if pl_module.automatic_optimization or steps == trainer.max_steps:
                follow_trainer(every[0], int(steps), done)
            else:
                warn_of_manual_length(every[0], int(steps), done)

    def on_before_zero_grad(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        # Drop losses that no step has used, for example because a GradScaler skipped it.
        for each in self._optimizers.values():
            each._losses.take()

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else scaler.get_scale()
        self._loss_of_batch(loss / scale)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any
    ) -> None:
        for prefix, optimizer in self._optimizers.items():
            pl_module.log_dict(optimizer.log_dict(prefix), on_step=True, on_epoch=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        seeing = [o for o in self._optimizers.values() if o.policy.sees_validation]
        loss = trainer.callback_metrics.get(self._validation_loss)
        if seeing and loss is None and not self._warned:
            self._warned = True
            names = map(str, trainer.callback_metrics)
            warn_of_missing_validation(self._validation_loss, names)
        if loss is not None:
            for optimizer in seeing:
                optimizer.validated(loss)
