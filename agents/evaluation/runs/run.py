"""One run of one arm on one held-out task."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from statistics import median

import torch
from torch import nn
from torch.linalg import LinAlgError  # type: ignore[attr-defined]
from torch.optim import Optimizer

from ...optim.optimizer import LearnedOptimizer
from ...utils.workers import stopped
from ..arms.arm import Arm
from ..row import Row
from ..tasks.problem import Batch, HeldoutTask, Problem
from .batches import build_problem

__all__ = ["CURVE_POINTS", "train", "train_schedules"]

#: Number of points of the validation curve, besides the start.
CURVE_POINTS = 20
#: Number of points of the trace of the learning rate.
LR_TRACE_POINTS = 60
#: Number of updates of AdamW that are timed during a run.
TIMED_ADAMW_UPDATES = 20
#: Number of batches to measure BatchNorm's statistics again, as Schedule-Free requires.
CALIBRATION_BATCHES = 50
#: Number of updates between two checks of whether the process has to stop.
STOP_CHECK_INTERVAL = 20


def train(arm: Arm, task: HeldoutTask, seed: int, curve_points: int = CURVE_POINTS) -> Row:
    """Make one run, from initial parameters to final validation loss.

    Args:
        arm: optimizer under test.
        task: task to train on.
        seed: seed of the task.
        curve_points: number of measurements of the validation loss between the start and
            the end.

    Returns:
        The result. If the optimizer of another package raises an error in a step, for
        instance because of a singular matrix, the run counts as diverged, with a warning.

    Raises:
        CancelledError: this worker process has to stop.
    """
    run = _Run(arm, task, seed, curve_points)
    run.advance(task.updates)
    return run.row()


def train_schedules(
    arms: Sequence[Arm], task: HeldoutTask, seed: int, curve_points: int = CURVE_POINTS
) -> list[Row]:
    """Make the runs of arms that differ only in their schedules, with shared updates.

    As long as all schedules are at their full learning rate, the runs are the same. They
    share these updates, so that "constant" and "stable then decayed" cost 1.3 runs, and
    arms with the same schedule a single run. All results except CPU times equal those of
    :func:`train`. Without a validation curve, as in tuning, AdamW is timed only once.

    Args:
        arms: arms with equal optimizers and any schedules.
        task, seed, curve_points: see :func:`train`.
    """
    # The trunk keeps the full learning rate, instead of the first arm's schedule.
    constant = replace(arms[0], schedule=None)
    trunk = _Run(constant, task, seed, curve_points, times_adamw=curve_points > 0)
    branch_at = [_first_change(arm, task) for arm in arms]
    rows: dict[int, Row] = {}
    for i in sorted(range(len(arms)), key=branch_at.__getitem__):
        twin = next((j for j in rows if arms[j].schedule is arms[i].schedule), None)
        if twin is not None:
            rows[i] = rows[twin].copy()
            rows[i]["arm"] = arms[i].name
            continue
        trunk.advance(branch_at[i])
        branch = trunk.branch(arms[i])
        branch.advance(task.updates)
        rows[i] = branch.row()
    return [rows[i] for i in range(len(arms))]


def _first_change(arm: Arm, task: HeldoutTask) -> int:
    """Return the first update whose rate the schedule changes, or the number of updates."""
    if arm.schedule is None:
        return task.updates
    progress = (min(t / task.announced_updates, 1.0) for t in range(task.updates))
    factors = map(arm.schedule, progress)
    return next((t for t, factor in enumerate(factors) if factor != 1.0), task.updates)


class _Run:
    """One run in progress; see :func:`train` for the arguments.

    Args:
        times_adamw: whether to time AdamW over the whole run, or only at its start.
    """

    def __init__(
        self,
        arm: Arm,
        task: HeldoutTask,
        seed: int,
        curve_points: int,
        times_adamw: bool = True,
    ) -> None:
        self.arm, self.task, self.seed = arm, task, seed
        problem = self.problem = build_problem(task, seed)
        module, total = problem.module, task.updates
        params = module if arm.takes_module else [*module.parameters()]
        optimizer = self.optimizer = arm.factory(params, task.announced_updates)
        self.watch = None
        if arm.watch is not None:
            self.watch = arm.watch(optimizer, task.announced_updates)
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.measured = _spread(total, curve_points + 1)
        self.traced = _spread(total, LR_TRACE_POINTS)
        self.timed = {0} | (_spread(total, TIMED_ADAMW_UPDATES) if times_adamw else set())
        self.adamw = _TimedAdamW(problem)
        self.curve = [(0, _finite_or_inf(problem.validation_loss(module)))]
        if hasattr(optimizer, "train"):
            optimizer.train()
        self.lr_trace: list[tuple[int, float]] = []
        self.losses: list[float] = []
        self.cpu_seconds = 0.0
        self.done, self.failed = 0, False

    def branch(self, arm: Arm) -> _Run:
        """Return a copy of the run that continues with another arm's schedule."""
        copied = copy.deepcopy(self)
        copied.arm = arm
        return copied

    def advance(self, until: int) -> None:
        """Make updates until there are ``until``, unless the optimizer has failed."""
        arm, task, problem, optimizer = self.arm, self.task, self.problem, self.optimizer
        module = problem.module
        for t in range(self.done, self.done if self.failed else until):
            if t % STOP_CHECK_INTERVAL == 0 and stopped():
                raise CancelledError
            # 1. Set the learning rates, draw the batch, and time AdamW now and then.
            if arm.schedule is not None:
                for group, lr in zip(optimizer.param_groups, self.base_lrs, strict=True):
                    group["lr"] = lr * arm.schedule(min(t / task.announced_updates, 1.0))
            batch = problem.batch(t)
            if t in self.timed:
                self.adamw.measure(batch)

            # 2. Update the parameters. Only this stage counts as the arm's CPU time.
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
                self.cpu_seconds += time.process_time() - begin
                if arm.takes_loss:  # an error of our own optimizers is a bug
                    raise
                _warn(arm, task, self.seed, t, error)
                self.curve += [(u, math.inf) for u in sorted(self.measured) if u > t]
                self.lr_trace.append((t + 1, _lr_in_force(optimizer)))
                self.losses.append(math.inf)
                self.failed = True
                break
            if self.watch is not None:
                self.watch(loss.item())
            self.cpu_seconds += time.process_time() - begin

            # 3. Record losses and learning rates.
            self.losses.append(loss.item())
            if t + 1 in self.measured:
                self.curve.append((t + 1, _validate(problem, optimizer, task.updates)))
            if t + 1 in self.traced:
                self.lr_trace.append((t + 1, _lr_in_force(optimizer)))
        self.done = max(self.done, until)

    def row(self) -> Row:
        """Return the result of the run, once all updates are made."""
        task, arm, total = self.task, self.arm, self.task.updates
        last_tenth = self.losses[-max(1, total // 10) :]
        return Row(
            task=task.name,
            arm=arm.name,
            seed=self.seed,
            updates=total,
            learned=arm.takes_loss and not arm.baseline,
            train_loss=_finite_or_inf(sum(last_tenth) / len(last_tenth)),
            validation_loss=self.curve[-1][1],
            initial_validation_loss=self.curve[0][1],
            lr=float(self.base_lrs[0]),
            cpu_seconds=self.cpu_seconds,
            adamw_seconds=self.adamw.seconds * len(self.losses),
            curve=self.curve,
            lr_trace=self.lr_trace,
            shifts=_shifts_of(self.optimizer),
        )


class _TimedAdamW:
    """A copy of the module that AdamW updates now and then, to time it.

    Runs to compare can be hours apart, and the speed of a shared machine may change by
    factors in between. Times measured within seconds of each other are comparable.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem, self._module = problem, copy.deepcopy(problem.module)
        self._optimizer = torch.optim.AdamW(self._module.parameters(), fused=True)
        self._times: list[float] = []

    def measure(self, batch: Batch) -> None:
        """Time one update on ``batch``."""
        for _ in range(2):  # the first warms up; the second is timed
            begin = time.process_time()
            self._optimizer.zero_grad()
            self._problem.loss(self._module, batch).backward()
            self._optimizer.step()
            seconds = time.process_time() - begin
        self._times.append(seconds)

    @property
    def seconds(self) -> float:
        """Median CPU time of an update."""
        return median(self._times)


def _warn(arm: Arm, task: HeldoutTask, seed: int, t: int, error: Exception) -> None:
    warnings.warn(
        f"{arm.name} failed at update {t} of {task.name}, seed {seed}, which counts as "
        f"diverged: {error}",
        stacklevel=3,
    )


def _shifts_of(optimizer: Optimizer) -> list[float]:
    """Return the change of the log-multiplier chosen at each decision of a policy."""
    if not isinstance(optimizer, LearnedOptimizer):
        return []
    return [row["moved"] for row in optimizer.explain()]


def _spread(total: int, count: int) -> set[int]:
    """Return about ``count`` evenly spread updates, including the last one."""
    return {round(total * i / count) for i in range(1, count + 1)}


def _finite_or_inf(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _lr_in_force(optimizer: Optimizer) -> float:
    group = optimizer.param_groups[0]
    # LearnedOptimizer publishes it; Prodigy multiplies its learning rate by ``d``.
    return float(group.get("effective_lr", group["lr"] * group.get("d", 1.0)))


def _validate(problem: Problem, optimizer: Optimizer, total: int) -> float:
    """Return the validation loss, at averaged parameters if the optimizer has them."""
    if not hasattr(optimizer, "eval"):
        return _finite_or_inf(problem.validation_loss(problem.module))
    optimizer.eval()
    # BatchNorm's running statistics belong to the trained parameters, not their average.
    if any(isinstance(part, nn.BatchNorm2d) for part in problem.module.modules()):
        with torch.no_grad():
            for t in range(total, total + CALIBRATION_BATCHES):
                problem.module(problem.batch(t)[0])
    loss = problem.validation_loss(problem.module)
    optimizer.train()  # type: ignore[attr-defined]
    return _finite_or_inf(loss)
