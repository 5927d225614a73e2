"""The functional core: a batch of training runs as tensors, advanced together.

A :class:`RunState` is a value: :func:`advance` returns a new one and does not change the
old one, which can be kept as a snapshot. With ``differentiable=True`` gradients flow
through the updates to the learning rate and the initial parameters. Randomness enters only
through the run's data and its ``order`` key.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from .modifiers import UNMODIFIED, Modifiers, average_weight, clip
from .rules import Rule, RuleState
from .tasks.base import Task
from .tasks.examples import Batch, Data
from .telemetry import Losses, Probe, first_probe, probe
from .tensor_telemetry import inner_product, inner_products

T = TypeVar("T")

#: Number of examples, over all runs, whose rows are computed at once.
AHEAD = 2**16

#: Number of losses of a window that are kept before they are recorded. Tensors around a
#: kept loss are freed, so that thousands of losses would leave gaps in memory of many times
#: their own size.
LOSSES_KEPT = 64


class RunState(NamedTuple):
    """State of ``B`` training runs of one structure.

    Attributes:
        params: flat parameters, ``[B, P]``.
        grad: gradient ``[B, P]`` at ``params`` on the next batch. The next update uses it,
            as ``Optimizer.step()`` does.
        rule: state of the update rule, tensors ``[B, ...]``.
        updates: number of updates done, ``[B]`` int64.
        losses: statistics of the training losses since :func:`advance` was last called.
        latest: last training loss, ``[B]``.
        probe: inner products around the last update, ``[B]``; or of each of ``T`` parameter
            tensors, ``[B, T]``.
        buffers: running statistics of the task, ``[B, S]``.
        mean_square: running mean of the squared norms of the gradients, ``[B]``; 0 unless
            they are clipped.
        average: average of the parameters, ``[B, P]``, or ``[B, 0]`` if there is none.
        drawn: number of examples in all batches so far, ``[B]`` int64.
    """

    params: Tensor
    grad: Tensor
    rule: RuleState
    updates: Tensor
    losses: Losses
    latest: Tensor
    probe: Probe
    buffers: Tensor
    mean_square: Tensor
    average: Tensor
    drawn: Tensor

    @property
    def evaluated(self) -> Tensor:
        """Parameters that are evaluated: their average, if there is one."""
        return self.average if self.average.shape[1] else self.params


def start(
    task: Task,
    rule: Rule,
    data: Data,
    params: Tensor,
    *,
    averaged: bool = False,
    by_tensor: bool = False,
    differentiable: bool = False,
) -> RunState:
    """Make the state of runs before their first update.

    Args:
        task: structure of the runs.
        rule: update rule.
        data: examples of the runs.
        params: initial parameters, ``[B, P]``.
        averaged: whether to average the parameters.
        by_tensor: whether to probe each parameter tensor separately.
        differentiable: keep the graph (relevant where ``params`` requires grad).
    """
    rule = rule.bind(task.shapes, task.roles)
    updates = torch.zeros(len(params), dtype=torch.int64, device=params.device)
    rows = data.batch_rows(updates, 1, task.batch_size)
    buffers = task.init_buffers(len(params)).to(params)
    loss, grad, buffers = _training_loss_and_grad(
        task, data, params, rows, updates, buffers, differentiable
    )
    with torch.set_grad_enabled(differentiable):
        return RunState(
            params=params,
            grad=grad,
            rule=rule.init(params),
            updates=updates,
            losses=Losses.empty(torch.zeros_like(loss)).record(loss),
            latest=loss,
            probe=_probe(first_probe, task, by_tensor, grad, params),
            buffers=buffers,
            mean_square=torch.zeros_like(loss),
            average=params if averaged else params[:, :0],
            drawn=torch.full_like(updates, task.batch_size),
        )


def advance(
    task: Task,
    rule: Rule,
    data: Data,
    state: RunState,
    lr: Tensor,
    modifiers: Modifiers = UNMODIFIED,
    *,
    counts: Tensor | None = None,
    batch_size: int | None = None,
    by_tensor: bool = False,
    differentiable: bool = False,
) -> RunState:
    """Make ``U`` updates on every run.

    Args:
        task: structure of the runs.
        rule: update rule.
        data: examples of the runs.
        state: state of the runs.
        lr: learning rate of each update and run, ``[U, B]``.
        modifiers: changes of the updates besides their learning rates.
        counts: number of updates of each run, ``[B]`` int64, at most ``U``; by default all
            make ``U``. Runs of one group that are out of phase need it.
        batch_size: examples in the batches that are drawn from now on; by default the
            task's batch size. The first update uses the gradient of the batch before.
        by_tensor: see :func:`start`.
        differentiable: keep the graph (relevant where ``lr`` or ``state`` require grad).

    Returns:
        The state after the updates, with the window's losses and a probe of its last
        update.
    """
    # One loop serves three ways to make the updates:
    # - with counts, some runs make fewer than U. Each update is made on all of them, and
    #   `where` keeps the state of those that have made theirs; losses are recorded update
    #   by update, as each run has a number of its own.
    # - in place, if all runs make the same U > 1 updates and no graph is kept: the updates
    #   overwrite one copy of parameters and rule state, which saves allocations. This is
    #   safe because the caller's state is not overwritten, the graph of each gradient is
    #   freed before the next update, and `before`, which the probe of the last update
    #   needs, is a separate copy.
    # - differentiable, the graph goes back through all updates: each makes new tensors.
    total, size = len(lr), task.batch_size if batch_size is None else batch_size
    rule = rule.bind(task.shapes, task.roles) if rule.shaped else rule
    # Batches are computed ahead, but in a long window not all at once.
    drawn, ahead = state.drawn, max(1, AHEAD // (size * len(state.drawn)))
    rates = lr.unsqueeze(-1)
    inplace = counts is None and not differentiable and total > 1
    if inplace:
        rule_state = tuple(part.clone() for part in state.rule)
        state = state._replace(params=state.params.clone(), rule=rule_state)
    found: list[Tensor] = []
    recorded: Losses | None = None
    if counts is not None:
        state = state._replace(losses=Losses.empty(torch.zeros_like(state.losses.mean)))
    with torch.set_grad_enabled(differentiable):
        for update in range(total):
            place = update % ahead
            if not place:
                count = min(ahead, total - update)
                rows = data.rows_from(drawn + update * size, count * size)
            batch = rows[:, place * size : (place + 1) * size]
            before = None  # unless the update is probed
            if counts is not None or update == total - 1:
                before = state.params.clone() if inplace else state.params
            new = _update(
                task, rule, data, state, rates[update], modifiers, batch,
                before=before, by_tensor=by_tensor, inplace=inplace,
                differentiable=differentiable,
            )  # fmt: skip
            if counts is None:
                found.append(new.latest)
                if len(found) == LOSSES_KEPT and update < total - 1:
                    recorded, found = Losses.numbers(found, recorded), []
            else:
                new = new._replace(losses=state.losses.record(new.latest))
                new = where(counts > update, new, state)
            state = new
        if counts is None:
            state = state._replace(losses=Losses.of(found, recorded))
    return state


def _update(
    task: Task,
    rule: Rule,
    data: Data,
    state: RunState,
    rates: Tensor,
    modifiers: Modifiers,
    rows: Tensor,
    *,
    before: Tensor | None,
    by_tensor: bool,
    inplace: bool,
    differentiable: bool,
) -> RunState:
    """Make one update of every run, then take loss and gradient on the next batch.

    The loss is not recorded among the losses of the window.

    Args:
        task, rule, data, state, modifiers, by_tensor, differentiable: see
            :func:`advance`.
        rates: learning rate, ``[B, 1]``.
        rows: examples of the next batch, ``[B, n]``.
        before: parameters before the update, ``[B, P]``, to measure a new probe; None to
            keep the last probe.
        inplace: whether ``state`` may be overwritten.
    """
    updates = state.updates + 1
    grad, mean_square = state.grad, state.mean_square
    if modifiers.clip is not None:
        grad, mean_square = clip(grad, modifiers.clip, mean_square, state.updates)
    if modifiers.lr_factors is not None:
        rates = rates * modifiers.lr_factors
    decayed = state.params
    if modifiers.weight_decay is not None:
        decayed = decayed * (1.0 - rates * modifiers.weight_decay.unsqueeze(1))
    if modifiers.update is None:
        params, rule_state = rule.update(decayed, grad, state.rule, rates, inplace)
    else:
        params, rule_state = decayed + rates * modifiers.update, state.rule
    average = state.average
    if modifiers.average is not None:
        weight = average_weight(updates, modifiers.average)
        average = torch.lerp(average, params, weight.unsqueeze(1))
    loss, grad, buffers = _training_loss_and_grad(
        task, data, params, rows, updates, state.buffers, differentiable
    )
    measured = state.probe
    if before is not None:
        measured = _probe(probe, task, by_tensor, grad, params, state.grad, params - before)
    return RunState(
        params=params,
        grad=grad,
        rule=rule_state,
        updates=updates,
        losses=state.losses,
        latest=loss,
        probe=measured,
        buffers=buffers,
        mean_square=mean_square,
        average=average,
        drawn=state.drawn + rows.shape[1],
    )


def _probe(
    measure: Callable[..., Probe], task: Task, by_tensor: bool, *operands: Tensor
) -> Probe:
    """Measure the probe of operands ``[B, P]``, over all parameters or for each tensor."""
    if not by_tensor:
        return measure(inner_product, *operands)
    sizes = [math.prod(shape) for shape in task.shapes]
    return measure(inner_products, *(each.split(sizes, dim=1) for each in operands))


def _training_loss_and_grad(
    task: Task,
    data: Data,
    params: Tensor,
    rows: Tensor,
    updates: Tensor,
    buffers: Tensor,
    differentiable: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute loss ``[B]``, gradient ``[B, P]`` and running statistics of a batch.

    Args:
        task, data, params, differentiable: see :func:`start`.
        rows: examples of the batch, ``[B, n]``.
        updates: number of the update that the gradient is for, ``[B]``.
        buffers: running statistics before, ``[B, S]``.
    """
    noise = params.new_empty(*rows.shape, 0)
    if task.noise:
        noise = data.noise(updates, rows.shape[1], task.noise).to(params)
    keys = data.keys(updates) if task.draws else None
    batch = Batch(*data.batch(rows, updates), noise, keys)
    after = [buffers]

    def loss_at(parts: tuple[Tensor, ...]) -> Tensor:
        loss, after[0] = task.training_loss(parts, batch, buffers)
        loss = _checked(task, loss, params)
        _check_differentiable(task, loss)
        return loss

    def loss_of(params: Tensor) -> Tensor:
        inner = params if data.scale is None else params * data.scale
        return loss_at(task.unflatten(inner))

    is_split = type(task).unflatten is Task.unflatten  # not overridden by the task
    if is_split and data.scale is None and not differentiable:
        loss, grad = _differentiate_parts(loss_at, task.unflatten(params.detach()))
    else:
        loss, grad = _differentiate(loss_of, params, differentiable)
    return loss, grad, after[0].detach()


class Trainable(Protocol):
    """Protocol of objects with a stateless loss: most tasks, and copies of a module.

    For ``loss`` and ``unflatten`` see :class:`~optenv.tasks.base.Task`.
    """

    def loss(
        self, params: tuple[Tensor, ...], inputs: Tensor, targets: Tensor
    ) -> Tensor: ...

    def unflatten(self, params: Tensor) -> tuple[Tensor, ...]: ...


def loss_and_grad(
    task: Trainable,
    params: Tensor,
    batch: tuple[Tensor, Tensor],
    differentiable: bool = False,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the loss ``[B]`` of each run on its batch, and its gradient ``[B, P]``.

    Args:
        task: structure of the runs.
        params: parameters, ``[B, P]``.
        batch: inputs and targets, ``[B, n, ...]``.
        differentiable: keep the graph, also through the gradient.
        scale: factors of the parameters, see :class:`~optenv.tasks.Data`.
    """

    def loss_of(params: Tensor) -> Tensor:
        inner = params if scale is None else params * scale
        return _checked(task, task.loss(task.unflatten(inner), *batch), params)

    return _differentiate(loss_of, params, differentiable)


def _differentiate_parts(
    loss_at: Callable[[tuple[Tensor, ...]], Tensor], parts: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Compute a loss ``[B]`` of parameter tensors, and its gradient ``[B, P]``.

    The graph then does not include the split of flat parameters into tensors ``[B, ...]``.
    """
    with torch.enable_grad():
        parts = tuple(part.detach().requires_grad_() for part in parts)
        loss = loss_at(parts)
        runs = loss.shape[0]
        total = loss if runs == 1 else loss.sum()
        grads = torch.autograd.grad(total, parts, allow_unused=True)
    flat = [
        (torch.zeros_like(part) if grad is None else grad).reshape(runs, -1)
        for part, grad in zip(parts, grads, strict=True)
    ]
    return loss.detach(), torch.cat(flat, dim=1)


def _differentiate(
    loss_of: Callable[[Tensor], Tensor], params: Tensor, differentiable: bool
) -> tuple[Tensor, Tensor]:
    """Compute a loss ``[B]`` of parameters ``[B, P]``, and its gradient."""
    with torch.enable_grad():
        if not (differentiable and params.requires_grad):
            params = params.detach().requires_grad_()
        loss = loss_of(params)
        (grad,) = torch.autograd.grad(loss.sum(), params, create_graph=differentiable)
    return (loss if differentiable else loss.detach()), grad


#: Update numbers from which evaluations on each source of examples draw their random
#: numbers. No update has them.
_EVALUATIONS = {"train": -1, "validation": -2}


def evaluate(
    task: Task,
    params: Tensor,
    examples: tuple[Tensor, Tensor],
    data: Data | None = None,
    buffers: Tensor | None = None,
    *,
    source: str = "train",
    differentiable: bool = False,
) -> Tensor:
    """Compute the evaluation loss ``[B]`` of each run.

    Args:
        task: structure of the runs.
        params: parameters, ``[B, P]``.
        examples: inputs and targets, ``[B, n, ...]``.
        data: data of these runs. It provides the random numbers of the loss, the same for
            all evaluations of a run, and the ``scale``. May be None for tasks that need
            neither.
        buffers: running statistics, ``[B, S]``; by default the initial ones.
        source: source of the examples, ``"train"`` or ``"validation"``; each has its own
            random numbers.
        differentiable: keep the graph.
    """
    runs, count = examples[0].shape[:2]
    noise, keys = params.new_empty(runs, count, 0), None
    if data is not None and (task.noise or task.draws):
        updates = torch.full_like(data.order, _EVALUATIONS[source])
        noise = data.noise(updates, count, task.noise).to(params)
        keys = data.keys(updates)
    if buffers is None:
        buffers = task.init_buffers(runs).to(params)
    scale = None if data is None else data.scale
    with torch.set_grad_enabled(differentiable):
        inner = params if scale is None else params * scale
        batch = Batch(*examples, noise, keys)
        loss = task.evaluation_loss(task.unflatten(inner), batch, buffers)
        return _checked(task, loss, params)


def _checked(task: Any, loss: Tensor, params: Tensor) -> Tensor:
    """Check that a task's loss at parameters ``[B, P]`` is ``[B]``, and return it.

    Raises:
        ValueError: the loss has another shape, is not a tensor, or is complex.
    """
    if not isinstance(loss, Tensor) or loss.shape != params.shape[:1]:
        given = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else loss
        raise ValueError(
            f"loss of {type(task).__name__} must return a tensor of one number for each "
            f"run, of shape {tuple(params.shape[:1])}, got {given}"
        )
    if loss.is_complex():
        raise ValueError(
            f"loss of {type(task).__name__} must return real numbers, got {loss.dtype}"
        )
    return loss.to(params.dtype)


def _check_differentiable(task: Any, loss: Tensor) -> None:
    """Refuse a loss that cannot be differentiated.

    Raises:
        ValueError: the loss has no graph to the parameters.
    """
    if not loss.requires_grad:
        raise ValueError(
            f"loss of {type(task).__name__} does not depend on the parameters by "
            "operations that can be differentiated"
        )


def where(mask: Tensor, new: T, old: T) -> T:
    """Select runs by a mask: ``torch.where`` for every tensor of two trees.

    Args:
        mask: mask of runs, ``[B]`` bool.
        new: nested tuples of tensors ``[B, ...]``, taken where ``mask`` is True.
        old: nested tuples of the same structure, taken elsewhere.
    """

    def select(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *[1] * (new.dim() - 1)), new, old)

    return _each(select, new, old)


def detach(tree: T) -> T:
    """Detach every tensor of a tree, i.e. of nested tuples."""
    return _each(Tensor.detach, tree)


def take(tree: T, index: Tensor) -> T:
    """Select runs: the rows ``index [n]`` of every tensor of a tree."""
    return _each(lambda part: part.index_select(0, index), tree)


def put(old: T, index: Tensor, new: T) -> T:
    """Replace runs: a copy of ``old`` with the rows ``index [n]`` of ``new [n, ...]``."""
    return _each(lambda old, new: old.index_copy(0, index, new), old, new)


def _each(function: Callable[..., Tensor], *trees: Any) -> Any:
    """Apply a function to every tensor of a tree, or of several of the same structure."""
    first = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)
    assert isinstance(first, tuple)
    parts = [_each(function, *each) for each in zip(*trees, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
