"""Learned optimizers in Hugging Face's Trainer."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from optenv.extras import install_hint

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState
    from transformers import TrainingArguments as Arguments
except ImportError as error:
    raise ImportError(
        "agents.integrations.transformers needs transformers and accelerate, which the "
        f'extra "frameworks" has; {install_hint("frameworks")}'
    ) from error

from ..optim.optimizer import LearnedOptimizer
from .run import follow_trainer, unwrapped, warn_of_missing_validation

__all__ = ["LearnedOptimizerCallback", "LearnedTrainer"]


class LearnedOptimizerCallback(TrainerCallback):
    """Callback that connects a :class:`~agents.LearnedOptimizer` with its trainer.

    At the beginning of training, it attaches the optimizer to the losses that the model
    returns, and sets the optimizer's ``total_steps`` to the trainer's number of steps. When
    the trainer logs, it adds the numbers of :meth:`~agents.LearnedOptimizer.log_dict` to
    ``log_history``, and to the logs for later callbacks. (Trainer calls callbacks that
    report to TensorBoard and the like first; :class:`LearnedTrainer` puts this one before
    them.) A policy that observes validation losses is given the ``eval_loss`` of each
    evaluation.

    Args:
        attach_loss: whether to take the losses from the model. Set it to False if losses
            are passed to the optimizer in another way, or if the model does not return the
            loss that is trained on (``compute_loss_func``, label smoothing).
        prefix: put before the names of the logged numbers.

    Raises:
        TypeError: training begins with another optimizer.

    Example::

        trainer = Trainer(
            model,
            arguments,
            train_dataset=dataset,
            optimizer_cls_and_kwargs=(LearnedOptimizer, {"total_steps": 1000}),
            callbacks=[LearnedOptimizerCallback()],
        )
    """

    def __init__(self, attach_loss: bool = True, prefix: str = "optimizer/") -> None:
        self.attaches_loss, self._prefix = attach_loss, prefix
        self._optimizer: LearnedOptimizer | None = None
        self._attached: RemovableHandle | None = None
        self._trains = False  # evaluations before and after training may use test data
        self._warned = False  # whether a missing validation loss was warned of

    def on_train_begin(
        self,
        args: Arguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: Any = None,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        optimizer = unwrapped(optimizer)
        if not isinstance(optimizer, LearnedOptimizer):
            raise TypeError(
                "LearnedOptimizerCallback needs a LearnedOptimizer, but the trainer's is "
                f"{type(optimizer).__name__}: give the trainer "
                "optimizer_cls_and_kwargs=(LearnedOptimizer, {...})"
            )
        self._optimizer, self._trains = optimizer, True
        follow_trainer(optimizer, state.max_steps, state.global_step)
        if self.attaches_loss:
            self._detach()  # left over if an exception has ended a training
            reduction = "sum" if _divides_losses(model) else "mean"
            self._attached = optimizer.attach_loss(model, reduction)

    def on_log(
        self,
        args: Arguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if self._optimizer is not None and logs is not None and "loss" in logs:
            numbers = self._optimizer.log_dict(self._prefix)
            logs.update(numbers)
            state.log_history[-1].update(numbers)

    def on_evaluate(
        self,
        args: Arguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        optimizer = self._optimizer
        if optimizer is None or not self._trains or not optimizer.policy.sees_validation:
            return
        found = metrics or {}
        if "eval_loss" in found:
            optimizer.validated(found["eval_loss"])
        elif not self._warned:
            self._warned = True
            warn_of_missing_validation("eval_loss", found)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._detach()
        self._trains = False

    def _detach(self) -> None:
        if self._attached is not None:
            self._attached.remove()
            self._attached = None


class LearnedTrainer(Trainer):
    """Trainer whose optimizer is a :class:`~agents.LearnedOptimizer`.

    It takes the arguments of ``Trainer``. The optimizer gets the number of steps of the
    run, ``TrainingArguments.learning_rate`` as base learning rate, the parameter groups
    that Trainer makes for ``weight_decay``, and the loss of every step. This is the loss
    that is differentiated, also with gradient accumulation, ``compute_loss_func`` or label
    smoothing. If the policy observes validation losses, it also gets the ``eval_loss`` of
    each evaluation. The optimizer's numbers are logged. A resumed run gives the same result
    as an uninterrupted one.

    Trainer always makes a scheduler. The lower one of its factor and the policy's own
    schedule applies; with ``lr_scheduler_type="constant"`` that is the policy's.

    Other arguments of the optimizer are given as
    ``optimizer_cls_and_kwargs=(LearnedOptimizer, {"max_lr": 1e-4})``; they take precedence.
    Combine it with other trainers by inheritance:
    ``class T(LearnedTrainer, Seq2SeqTrainer): pass``.

    Raises:
        TypeError: ``optimizer_cls_and_kwargs`` or ``optimizers`` have another optimizer.
        ValueError: ``callbacks`` contain a :class:`LearnedOptimizerCallback` that attaches
            losses, which this trainer already passes to the optimizer.

    Example::

        arguments = TrainingArguments(learning_rate=1e-3, lr_scheduler_type="constant")
        trainer = LearnedTrainer(model, arguments, train_dataset=dataset)
        trainer.train()
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        given = self.optimizer_cls_and_kwargs or (LearnedOptimizer, {})
        made = self.optimizer
        if not _is_learned(given[0]) or not (
            made is None or isinstance(unwrapped(made), LearnedOptimizer)
        ):
            name = given[0].__name__ if made is None else type(made).__name__
            raise TypeError(f"LearnedTrainer is for LearnedOptimizer, got {name}")
        self._optimizer_arguments = given
        self._announced_steps = 0
        # Passes the losses of training steps to the optimizer that it is attached to.
        self._loss_of_step = nn.Identity()
        self._attached_to: Any = None
        for each in self.callback_handler.callbacks:
            _check_callback(each)
        # Before the callbacks that report the logs.
        callback = LearnedOptimizerCallback(attach_loss=False)
        self.callback_handler.callbacks.insert(0, callback)

    def add_callback(self, callback: Any) -> None:
        """Add a callback, as in ``Trainer``.

        Raises:
            ValueError: the callback would pass the losses to the optimizer a second time.
        """
        _check_callback(callback)
        super().add_callback(callback)

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Make optimizer and scheduler for a run of ``num_training_steps`` steps."""
        self._announced_steps = num_training_steps
        super().create_optimizer_and_scheduler(num_training_steps)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Optimizer:
        """Make the optimizer, unless there already is one.

        Raises:
            ValueError: the number of steps is not known, as before ``train()``.
        """
        if self.optimizer is None:
            cls, given = self._optimizer_arguments
            arguments = {"lr": self.args.learning_rate, **given}
            if "total_steps" not in given:
                arguments["total_steps"] = self._number_of_steps()
            self.optimizer_cls_and_kwargs = (cls, arguments)
        made: Optimizer = super().create_optimizer(*args, **kwargs)
        return made

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Differentiate the loss of a batch, and pass it to the optimizer."""
        optimizer = unwrapped(self.optimizer)
        if optimizer is not self._attached_to:  # each trial of a search has a new one
            self._loss_of_step, self._attached_to = nn.Identity(), optimizer
            # "sum": with accumulated batches, each loss is a share of the step's loss.
            optimizer.attach_loss(self._loss_of_step, "sum")
        loss: Tensor = super().training_step(*args, **kwargs)
        self._loss_of_step(loss)
        return loss

    def _number_of_steps(self) -> int:
        """Return the number of optimizer steps in the run.

        Raises:
            ValueError: the number is not known.
        """
        steps = (self.state.max_steps, self._announced_steps, self.args.max_steps)
        known = [each for each in steps if each > 0]
        if not known:
            raise ValueError(
                "create_optimizer() before train() does not know the number of steps: give "
                "TrainingArguments(max_steps=...), or "
                'optimizer_cls_and_kwargs=(LearnedOptimizer, {"total_steps": ...})'
            )
        return known[0]


def _check_callback(callback: Any) -> None:
    """Refuse a callback that would pass the losses to the optimizer a second time.

    Raises:
        ValueError: it is such a callback, or its class.
    """
    made = callback() if callback is LearnedOptimizerCallback else callback
    if isinstance(made, LearnedOptimizerCallback) and made.attaches_loss:
        raise ValueError(
            "LearnedTrainer hands over losses, and logs, without a "
            "LearnedOptimizerCallback: with one, each loss would count twice; leave it "
            "out, or give "
            "LearnedOptimizerCallback(attach_loss=False)"
        )


def _is_learned(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, LearnedOptimizer)


def _divides_losses(model: Any) -> bool:
    """Return whether ``model`` divides losses by the number of examples in a step."""
    if hasattr(model, "get_base_model"):  # of PEFT
        model = model.get_base_model()
    if hasattr(model, "accepts_loss_kwargs"):
        return bool(model.accepts_loss_kwargs)
    parameters = inspect.signature(model.forward).parameters.values()
    return any(each.kind is each.VAR_KEYWORD for each in parameters)
