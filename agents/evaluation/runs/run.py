"""One run of one optimizer on one held-out task."""

from __future__ import annotations

import copy
import math
import time
import warnings
from concurrent.futures import CancelledError
from statistics import median

import torch
from torch import nn
from torch.linalg import LinAlgError  # type: ignore[attr-defined]
from torch.optim import Optimizer

from ...optim.optimizer import LearnedOptimizer
from ..arms.defaults import Arm
from ..tasks.problem import Batch, HeldoutTask, Problem
from ..stats.results import Row
from ...utils.workers import stopped

__all__ = ["CURVE_POINTS", "train"]

#: Batches that BatchNorm's statistics are measured anew on, as Schedule-Free asks for.
CALIBRATION_BATCHES = 50
LR_TRACE_POINTS = 60
#: Updates of AdamW that are timed beside a run.
REFERENCE_POINTS = 20
#: How often, in updates, a run looks whether it is to stop.
STOP_EVERY = 20
CURVE_POINTS = 20


def train(arm: Arm, task: HeldoutTask, seed: int, curve_points: int = CURVE_POINTS) -> Row:
    """One run, from initial parameters to final validation loss.

    Args:
        arm: optimizer.
        task: what to train on.
        seed: of the task.
        curve_points: how often validation loss is measured on the way, besides the start
            and the end.

    Returns:
        The result; that of an optimizer of others that raises an error in a step, as where
        a matrix is singular, is that of a run that diverged, with a warning.

    Raises:
        CancelledError: the process that this runs in is to end.
    """
    problem = task.build(seed)
    module, total = problem.module, task.updates
    params = module if arm.takes_module else [*module.parameters()]
    optimizer = arm.factory(params, task.told_updates)
    watch = None if arm.watch is None else arm.watch(optimizer, task.told_updates)
    base = [group["lr"] for group in optimizer.param_groups]
    measured, traced = _spread(total, curve_points + 1), _spread(total, LR_TRACE_POINTS)
    timed, reference = {0} | _spread(total, REFERENCE_POINTS), _Reference(problem)
    curve = [(0, _finite(problem.validation_loss(module)))]
    if hasattr(optimizer, "train"):
        optimizer.train()
    lr_trace: list[tuple[int, float]] = []
    losses: list[float] = []
    cpu_seconds = 0.0
    for t in range(total):
        if t % STOP_EVERY == 0 and stopped():
            raise CancelledError
        if arm.schedule is not None:
            for group, lr in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = lr * arm.schedule(min(t / task.told_updates, 1.0))
        batch = problem.batch(t)
        if t in timed:
            reference.measure(batch)
        begin = time.process_time()
        optimizer.zero_grad()
        loss = problem.loss(module, batch)
        loss.backward()
        try:
            if arm.takes_loss:
                optimizer.step(loss=loss.detach())  # type: ignore[call-overload]
            else:
                optimizer.step()
        except (ArithmeticError, LinAlgError) as error:
            cpu_seconds += time.process_time() - begin
            if arm.takes_loss:  # ours has no excuse
                raise
            _warn(arm, task, seed, t, error)
            curve += [(u, math.inf) for u in sorted(measured) if u > t]
            lr_trace.append((t + 1, _lr_in_force(optimizer)))
            losses.append(math.inf)
            break
        if watch is not None:
            watch(loss.item())
        cpu_seconds += time.process_time() - begin
        losses.append(loss.item())
        if t + 1 in measured:
            curve.append((t + 1, _validate(problem, optimizer, total)))
        if t + 1 in traced:
            lr_trace.append((t + 1, _lr_in_force(optimizer)))
    last = losses[-max(1, total // 10) :]
    return Row(
        task=task.name,
        arm=arm.name,
        seed=seed,
        updates=total,
        learned=arm.takes_loss and not arm.control,
        train_loss=_finite(sum(last) / len(last)),
        validation_loss=curve[-1][1],
        initial_validation_loss=curve[0][1],
        lr=float(base[0]),
        cpu_seconds=cpu_seconds,
        adamw_seconds=reference.seconds * len(losses),
        curve=curve,
        lr_trace=lr_trace,
        shifts=_shifts_of(optimizer),
    )


class _Reference:
    """A copy of the module that AdamW updates now and then, to be timed.

    Runs that are compared can be hours apart, in which the speed of a shared machine
    changes by factors; what is timed within seconds can be compared.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem, self._module = problem, copy.deepcopy(problem.module)
        self._optimizer = torch.optim.AdamW(self._module.parameters(), fused=True)
        self._times: list[float] = []

    def measure(self, batch: Batch) -> None:
        for _ in range(2):  # what the first of them takes is to warm up
            begin = time.process_time()
            self._optimizer.zero_grad()
            self._problem.loss(self._module, batch).backward()
            self._optimizer.step()
            seconds = time.process_time() - begin
        self._times.append(seconds)

    @property
    def seconds(self) -> float:
        """CPU time of an update."""
        return median(self._times)


def _warn(arm: Arm, task: HeldoutTask, seed: int, t: int, error: Exception) -> None:
    warnings.warn(
        f"{arm.name} failed at update {t} of {task.name}, seed {seed}, which counts as "
        f"diverged: {error}",
        stacklevel=3,
    )


def _shifts_of(optimizer: Optimizer) -> list[float]:
    """What each decision of a learned policy asked the log-multiplier to move by."""
    if not isinstance(optimizer, LearnedOptimizer):
        return []
    return [row["moved"] for row in optimizer.explain()]


def _spread(total: int, count: int) -> set[int]:
    """About ``count`` evenly spread updates, the last one among them."""
    return {round(total * i / count) for i in range(1, count + 1)}


def _finite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _lr_in_force(optimizer: Optimizer) -> float:
    group = optimizer.param_groups[0]
    # Ours publishes it; Prodigy multiplies its learning rate by its estimate ``d``.
    return float(group.get("effective_lr", group["lr"] * group.get("d", 1.0)))


def _validate(problem: Problem, optimizer: Optimizer, total: int) -> float:
    """Validation loss, at the averaged parameters where the optimizer keeps any."""
    if not hasattr(optimizer, "eval"):
        return _finite(problem.validation_loss(problem.module))
    optimizer.eval()
    if any(isinstance(part, nn.BatchNorm2d) for part in problem.module.modules()):
        with torch.no_grad():
            for t in range(total, total + CALIBRATION_BATCHES):
                problem.module(problem.batch(t)[0])
    loss = problem.validation_loss(problem.module)
    optimizer.train()  # type: ignore[attr-defined]
    return _finite(loss)
