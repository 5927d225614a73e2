"""Controller that lets a policy set the learning rate of an optimizer during training.

:class:`~agents.optim.optimizer.LearnedOptimizer` and
:class:`~agents.optim.scheduler.LearnedLR` both drive a :class:`Controller`, which counts
steps, collects losses, measures gradients and updates, and asks the policy at decisions.

The controller's state is a dict of plain values and small CPU tensors
(:func:`initial_state`), so that it can be stored in a parameter group, where torch saves,
copies and restores it. Entries of a saved state are never changed in place: a step works on
a copy of the dict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optenv.actions import Decision
from optenv.telemetry import (
    OBSERVATION_BOUND,
    Control,
    History,
    Losses,
    Probe,
    ValidationHistory,
    log_loss,
    observe,
    record_validation,
    relative_fall,
)

from ..policy.module import Policy
from ..utils.warning import warn_user
from . import budget, clock, trace
from .distributed import all_reduce_sum, is_distributed, mean_loss
from .layerwise import TensorDecisions
from .loss_hook import check_loss
from .loss_unit import correct, is_outgrown, without_losses
from .modifiers import initial_settings
from .probe import UpdateProbe
from .tensors import GradientBatch, States, parameters_of

__all__ = ["Controller", "State", "initial_state", "next_run_state"]

State = dict[str, Any]

#: Statistics of no losses, as plain numbers: losses are recorded at every step, and
#: one-element tensors would cost far more.
NO_LOSSES = Losses.empty(0.0)


class Controller:
    """Runs a policy alongside an optimizer.

    At each step call :meth:`begin_step`, :meth:`record_loss` (if there is a loss) and
    :meth:`before_update`, then update the parameters at the learning rates times the
    returned multipliers, then call :meth:`after_update`. The new state is then in
    :attr:`state`.

    Args:
        policy: the policy; its weights are not changed.
        state: from :func:`initial_state`, :func:`next_run_state` or
            :func:`agents.optim.state_checks.check_controller`.
        synchronize: whether the processes of ``torch.distributed`` share one model and
            use the mean of their losses.
        partitioned: whether each of them holds a different part of the parameters.
    """

    #: Decisions on each parameter tensor; None if the policy decides on all together.
    tensors: TensorDecisions | None = None

    #: Multiplier of each parameter tensor's learning rate at this step, by group; None if
    #: the policy decides on all together.
    by_tensor: list[list[float]] | None = None

    #: Whether validation losses were given to a policy that has no use for them.
    _warned_of_validation = False

    def __init__(
        self,
        policy: Policy,
        state: State,
        *,
        synchronize: bool = True,
        partitioned: bool = False,
    ) -> None:
        self.policy = policy
        self.state = state
        self.synchronize = synchronize
        self.probe = UpdateProbe(partitioned)
        #: Measurements of a decision whose update is not complete: its step, and the inner
        #: products over all parameters and (if the policy decides on each) of each tensor.
        self._measured: tuple[int, Probe, Probe | None] | None = None
        if policy.action.per_tensor:
            self.tensors = TensorDecisions(policy)

    def begin_step(self, state: State) -> None:
        """Work on a copy of ``state``, so that a step that fails changes nothing."""
        self.state = dict(state)
        if self.tensors is not None:
            self.tensors.drop()

    def replace_state(self, state: State) -> None:
        """Continue from the state of a loaded or a new run."""
        self.state, self._measured = state, None

    def is_decision(self) -> bool:
        """Return whether the policy is asked at this step."""
        return clock.is_decision(self.policy, self.state)

    def probes_gradients(self, state: State | None = None) -> bool:
        """Return whether ``guard="probe"`` checks the gradients of this step.

        These are the steps at a decision, before a decision, and after a skipped step.

        Args:
            state: state of the controller, by default :attr:`state`.
        """
        state = self.state if state is None else state
        return bool(
            state["skipped_in_a_row"]
            or clock.is_decision(self.policy, state)
            or clock.is_decision(self.policy, state, ahead=1)
        )

    def record_loss(
        self,
        loss: Tensor | float | None,
        params: Sequence[Tensor],
        maximize: bool = False,
    ) -> None:
        """Record the loss of a step, unless it is None or not finite.

        A policy that observes ratios of losses cannot use negative ones: after the first
        negative loss, all its losses are ignored.

        Args:
            loss: loss of the step, a scalar or None.
            params: parameters, on whose device processes exchange their losses.
            maximize: whether ``loss`` is an objective to maximise.
        """
        if not self.policy.sees_loss:
            return
        if self.synchronize:
            loss = mean_loss(loss, params)
        if loss is not None and maximize:
            loss = -loss
        if loss is None:
            return
        value = loss.item() if isinstance(loss, Tensor) else float(loss)
        if self.state["negative"] or not math.isfinite(value):
            self.state["ignored_losses"] += 1
        elif value < 0 and self.policy.needs_positive_losses:
            self.state["ignored_losses"] += 1
            warn_user(
                f"a loss is {value}, below zero (or, maximised, above): the policy goes on "
                "as if none were given"
            )
            self.state["negative"] = True
            self.state["losses"] = NO_LOSSES._asdict()
        else:
            losses = Losses(**self.state["losses"])
            self.state["losses"] = losses.record(value)._asdict()

    def validated(self, loss: Tensor | float) -> None:
        """Keep a validation loss for the next decision; see ``LearnedOptimizer.validated``.

        Raises:
            ValueError, TypeError: the loss is no scalar.
        """
        check_loss(loss, "validation loss")
        if not self.policy.sees_validation:
            if not self._warned_of_validation:
                self._warned_of_validation = True
                warn_user(
                    "this policy does not observe validation losses, which validated() "
                    "thus ignores; one that was trained with observe_validation=True does"
                )
            return
        value = loss.item() if isinstance(loss, Tensor) else float(loss)
        most = torch.finfo(self.state["log_multiplier"].dtype).max
        if not abs(value) <= most:
            self.state["ignored_losses"] += 1
        elif self.state["steps"]:  # none is given before the first step in training either
            self.state["validated"] = value

    def before_update(self, batch: GradientBatch) -> list[float]:
        """Return the multiplier of each group's learning rate for this step's update.

        Args:
            batch: gradients of the step. The parameters have not moved yet. The learning
                rates in its groups are the base learning rates.
        """
        # 1. At a decision, ask the policy for another multiplier.
        is_decision = self._is_ready()
        if is_decision:
            dtype, step = self.state["log_multiplier"].dtype, self.state["steps"]
            # After a failed update, the buffers no longer hold the previous step: a retry
            # uses the measurements of the first attempt.
            if self._measured is None or self._measured[0] != step:
                measured: tuple[Probe, Probe | None] = (
                    (self.probe.measure(batch, dtype), None)
                    if self.tensors is None
                    else self.probe.measure_each(batch, dtype)
                )
                self._measured = step, *measured
            _, probe, each = self._measured
            clock.record_peaks(batch.groups)
            limit = max(map(clock.largest_multiplier, batch.groups))
            log_lr = mean_log_lr(batch.groups, self.probe.partitioned)
            if self.tensors is not None and each is not None:
                self.tensors.begin(batch, each, self.state["log_multiplier"])
            if self.policy.sees_validation:
                self._record_validation(batch.params)
            self._decide(probe, log_lr, limit)
        # 2. Advance the clock, and buffer gradients if the next step is a decision.
        if self.state["probing"]:
            self.probe.invalidate(batch.states)
        if self.tensors is not None:
            clock.record_peaks(batch.groups)
            factors = self.tensors.factors(batch, self.state["log_multiplier"])
            self.by_tensor = clock.part_multipliers(
                self.policy, self.state, batch.groups, factors
            )
        multipliers = self.advance(batch.groups)
        if is_decision:
            roles = clock.role_factors(self.policy, self.state, batch.groups)
            rate, of_it, role, scheduled = max(
                (
                    float(group["lr"]) * multiplier, multiplier, role,
                    clock.torch_factor(group),
                )
                for group, multiplier, role in zip(
                    batch.groups, multipliers, roles, strict=True
                )
            )  # fmt: skip
            own = of_it / (math.exp(self.state["log_multiplier"]) * role)
            schedule = own * scheduled
            self.state["trace"] = trace.note_rate(self.state["trace"], schedule, rate)
        if self.state["probing"]:
            self.probe.start(batch)
        return multipliers

    def allocate(self, params: Sequence[Tensor], states: States) -> None:
        """Allocate all entries that decisions need in the states of parameters."""
        self.probe.allocate(params, states)
        if self.tensors is not None:
            self.tensors.allocate(params, states, self.state["log_multiplier"])

    def _is_ready(self) -> bool:
        """Return whether this step is a decision that the previous step prepared for.

        If the length of the run has changed in between, nothing was prepared, and the
        policy is asked at the next decision instead.
        """
        return self.is_decision() and bool(self.state["probing"] or not self.state["steps"])

    def after_update(self, states: States) -> None:
        """Complete the buffers, once the parameters have moved."""
        self._measured = None
        if self.tensors is not None:
            self.tensors.commit(states)
        if self.state["probing"]:
            self.probe.finish(states)

    def _decide(self, probe: Probe, log_lr: float, limit: float) -> None:
        """Observe, ask the policy, change the multiplier, and begin a new window.

        Args:
            probe: inner products of the previous update and the current gradient, ``[1]``.
            log_lr: log of the base learning rate, averaged over parameters.
            limit: largest multiplier that has an effect in any group. Larger ones are cut
                to it: the policy would not see their effect.
        """
        state, policy = self.state, self.policy
        # 1. The observation, by the same telemetry as in the environment.
        features, history = self._features(probe, log_lr)
        if policy.needs_positive_losses:
            features, state["loss_shift"] = correct(features, state["loss_shift"])
        observation = self._observation(features, history)
        # 2. The action, decoded and applied as in the environment.
        recalled = state["memory"] if self.tensors is None else self.tensors.memories
        action, memory = policy.act(observation, recalled)
        decision = self._decode(action, limit)
        opened = state["budget"]
        if decision.batch_factor is not None:  # observed is the batch size in force
            opened = budget.opened(policy, state, decision.batch_factor.item())
            size = torch.full_like(decision.batch_factor, opened["size"])
            decision = decision._replace(batch_factor=size / opened["own"])
        rule = (
            torch.full((1,), -1, device="cpu") if decision.rule is None else decision.rule
        )
        entries = self._set_by(action, decision)
        usable = all(
            bool(entries[name].isfinite().all())
            for name in ("log_multiplier", "settings", "role_multipliers")
        )
        if not usable:  # possible with policies made in code, whose weights are unchecked
            entries = {name: state[name] for name in entries}
            entries["previous_action"] = torch.zeros_like(state["log_multiplier"])
            memory = recalled
            state["ignored_actions"] += 1
        if self.tensors is None:
            state["memory"] = memory
        else:
            self.tensors.keep(decision if usable else None, action, memory)
        state.update(entries, budget=opened, chosen=rule.item(), scale=None, new_run=0.0)
        # 3. The record, and a new window.
        losses = Losses(**state["losses"])
        state.update(
            highest=torch.maximum(state["highest"], state["log_multiplier"]),
            losses=NO_LOSSES._asdict(),
            history=history._asdict(),
            trace=trace.append(
                state["trace"],
                state["steps"],
                features,
                state["previous_action"],
                state["log_multiplier"],
                rule,
                losses.mean if losses.seen else None,
                torch.cat([state["settings"], self._factors()], dim=1),
            ),
        )

    def _observation(self, features: Tensor, history: History) -> Tensor:
        """Return the observation of the policy, ``[1, F]``, or ``[T, F]`` per tensor.

        Args:
            features: telemetry features, ``[1, F]``.
            history: history that includes the window of these features, ``[1]``.
        """
        observation = features
        if self.tensors is not None:
            observation = self._observe_each(features)
        elif self.policy.action.observed:
            observation = torch.cat([features, self.state["shown"]], dim=1)
        if self.policy.on_trials:
            observation = self._trial_observation(observation, history)
        return observation

    def _decode(self, action: Tensor, limit: float) -> Decision:
        """Decode an action; its multiplier is at most ``limit``."""
        of_action, before = self.policy.action, self.state["log_multiplier"]
        if self.tensors is not None:
            return self.tensors.decode(action, before)
        decision = of_action.decode(action, before, self.state["role_multipliers"])
        if limit == math.inf:
            return decision
        lowest = -of_action.bound
        highest = math.log(limit) if limit > 0.0 else lowest
        return decision.limited(max(highest, lowest))

    def _set_by(self, action: Tensor, decision: Decision) -> State:
        """Return the entries of the controller's state that an action changes."""
        state, of_action = self.state, self.policy.action
        before: Tensor = state["log_multiplier"]
        entries = {
            "log_multiplier": decision.log_multiplier,
            "previous_action": decision.shift,
            "settings": state["settings"],
            "role_multipliers": state["role_multipliers"],
        }
        values = [decision.hyperparameters[name] for name in of_action.sets]
        if values:
            entries["settings"] = torch.stack(values, dim=1).to(before.dtype)
        if self.tensors is None:
            if decision.part_multipliers is not None:
                entries["role_multipliers"] = decision.part_multipliers
            entries["shown"] = of_action.observe(action, decision).to(before.dtype)
            entries["said"] = of_action.encode(action).to(before.dtype)
        return entries

    def _factors(self) -> Tensor:
        """Return the multipliers of parts of the parameters, or the batch size.

        These are values that the last action has set, for the trace.

        Returns:
            Lowest and highest multiplier of a tensor ``[1, 2]``, multipliers of the roles
            ``[1, K]`` (none without roles), or the batch size ``[1, 1]``.
        """
        if self.tensors is not None:
            return self.tensors.spread().exp()
        if self.policy.action.sets_batch_size:
            size = torch.full_like(
                self.state["log_multiplier"], self.state["budget"]["size"]
            )
            return size.unsqueeze(0)
        factors: Tensor = self.state["role_multipliers"].exp()
        return factors

    def _record_validation(self, params: Sequence[Tensor]) -> None:
        """Add the latest validation loss to the history, if one was given in this window.

        Args:
            params: parameters, on whose device processes exchange their losses.
        """
        state = self.state
        loss = state["validated"]
        if self.synchronize:  # mean over the processes that have validated
            loss = mean_loss(loss, params)
        like = state["log_multiplier"]
        given = torch.full_like(like, math.nan if loss is None else float(loss))
        updated = record_validation(ValidationHistory(**state["validation"]), given)
        state.update(validated=None, validation=updated._asdict())

    def _features(self, probe: Probe, log_lr: float) -> tuple[Tensor, History]:
        """Compute the telemetry features ``[1, F]``, and the history after this window."""
        state, losses = self.state, self._losses()
        history = History(**state["history"])
        if self.policy.needs_positive_losses and is_outgrown(probe, losses, history):
            history, state["loss_shift"] = without_losses(history), None
        control, registered = self._control(log_lr), self.policy.registered
        own = self.policy.observed[: len(self.policy.observed) - len(registered)]
        validation = None
        if self.policy.sees_validation:
            validation = ValidationHistory(**state["validation"])
        return observe(probe, losses, history, control, registered, own, validation)

    def forget_norms(self, batch: GradientBatch) -> None:
        """Take the next window's norms of gradients and parameters as the initial ones.

        The first window had an outlier.

        Args:
            batch: gradients of the step; if the policy decides on each tensor, the initial
                norms of its tensors are replaced as well.
        """
        history = self.state["history"]
        none = torch.zeros_like(history["windows"])
        self.state["history"] = {**history, "windows": none}
        if self.tensors is not None:
            self.tensors.forget_norms(batch.params, batch.states)

    def _observe_each(self, features: Tensor) -> Tensor:
        """Compute the observations ``[T, F]`` of the parameter tensors that move.

        Args:
            features: telemetry features over all parameters, ``[1, F]``.
        """
        assert self.tensors is not None
        seen = self.tensors.observe(self._losses(), self._control(0.0))
        return torch.cat([features.expand(len(seen), -1), seen], dim=1)

    def _control(self, log_lr: float) -> Control:
        """Return the part of the telemetry on progress and learning rate.

        Args:
            log_lr: log of the base learning rate.
        """
        state = self.state
        log_multiplier = state["log_multiplier"]
        progress = clock.observed_progress(state)
        return Control(
            progress=None
            if progress is None
            else torch.full_like(log_multiplier, progress),
            length=state["total_steps"],
            log_multiplier=log_multiplier,
            log_lr=log_lr - math.log(self.policy.rule.default_lr) + log_multiplier,
            previous_action=state["previous_action"],
        )

    def _losses(self) -> Losses:
        """Return the statistics of the window's losses, tensors ``[1]``."""
        state = self.state
        # Through float64: a loss beyond the range of float32 becomes infinite, where
        # torch.full_like would raise.
        numbers = torch.tensor(
            [*state["losses"].values()], dtype=torch.float64, device="cpu"
        )
        return Losses(*numbers.to(state["log_multiplier"].dtype)[:, None])

    def _trial_observation(self, observation: Tensor, history: History) -> Tensor:
        """Append the previous action and reward, and the flag of a new run, for trials."""
        state = self.state
        reward = state["told"]
        if not state["new_run"]:
            # The decrease of the loss; 0 if this window has the first losses.
            before = History(**state["history"])
            reward = _told(self.policy, before, history.loss_previous, history.loss_mean)
        reward = reward.nan_to_num().clamp(-OBSERVATION_BOUND, OBSERVATION_BOUND)
        extra = torch.stack([reward, torch.full_like(reward, state["new_run"])], dim=1)
        said = state["said"] if self.tensors is None else self.tensors.previous_actions
        return torch.cat([observation, said, extra.expand(len(said), -1)], dim=1)

    def advance(self, groups: Sequence[dict[str, Any]]) -> list[float]:
        """Count a step, and return the multiplier of each group's learning rate.

        At a step that is neither a decision nor before one, :meth:`before_update` does
        nothing else. Sets ``probing`` to whether the next step is a decision, which needs
        the gradient and the update of this step.
        """
        state, policy = self.state, self.policy
        clock.record_peaks(groups)
        multipliers = clock.multipliers(policy, state, groups)
        if clock.steps_left(state) == 0:
            warn_user(
                f"total_steps={clock.end_of_run(state)} are done; further steps run at no "
                f"more than {clock.FLOOR:.0%} of the highest learning rate so far"
                + ("; extend(total_steps) goes on" if state["budget"] is None else "")
                + (", new_run() begins another run" if policy.on_trials else "")
            )
        state["steps"] += 1
        if state["budget"] is not None:
            state["budget"] = budget.advanced(policy, state)
        state["probing"] = self.is_decision()
        return multipliers

    # The length of the run.

    def extend(self, total_steps: int) -> None:
        """Continue until ``total_steps``; see ``LearnedOptimizer.extend``."""
        changed = clock.extended(self.policy, self.state, total_steps)
        self.state = {**self.state, **changed}

    def finish(self, steps: int) -> None:
        """End the run after ``steps`` more steps; see ``LearnedOptimizer.finish``."""
        changed = clock.finishing(self.policy, self.state, steps)
        self.state = {**self.state, **changed}


def initial_state(
    policy: Policy,
    total_steps: int | None,
    dtype: torch.dtype,
    schedule: str | None,
    warmup_steps: int = 0,
    batch_size: int | None = None,
) -> State:
    """Make the state of a controller before the first step.

    Args:
        policy: the policy.
        total_steps: number of steps of the run; ignored by an anytime policy.
        dtype: data type of the tensors in the state, float32 or float64.
        schedule: ``"auto"``, ``"always"`` or None, see
            :class:`~agents.optim.optimizer.LearnedOptimizer`.
        warmup_steps: number of steps over which the learning rate rises from zero.
        batch_size: base batch size in examples, for a policy that chooses multiples of it.

    Returns:
        A dict of these entries. Tensors are on the CPU and of ``dtype``; "log-multiplier"
        is the natural logarithm of the learning-rate multiplier, in nats.

        The run:

        - ``policy`` (str): fingerprint of the policy, a SHA-256 in hexadecimal digits;
        - ``total_steps`` (int or None): length of the run in steps; None for an anytime
          policy;
        - ``schedule`` (str or None): when the policy's base schedule applies, as given;
        - ``warmup_steps`` (int): length of the warm-up in steps;
        - ``origin`` (pair of int and float): a step, and the progress in [0, 1] at that
          step; from there, progress grows linearly to 1 at ``total_steps``. It is (0, 0.0)
          unless ``finish`` has been called;
        - ``fall`` (None or triple of int, int and float): first and last step of the fall
          to zero that ``finish`` asked for, and the schedule's factor when it began;
        - ``budget`` (dict or None): budget of examples of a policy that chooses the batch
          size, see :class:`agents.optim.budget.Budget`.

        Counters, all of them int:

        - ``steps``: updates made so far;
        - ``skipped``, ``skipped_in_a_row``: steps skipped for a non-finite gradient, in
          all, and since the last finite gradient or roll-back;
        - ``rollbacks``: times that the parameters were rolled back;
        - ``clipped``: steps whose gradients were scaled down as outliers, or found to have
          been outliers later;
        - ``ignored_losses``: losses that were not used;
        - ``ignored_actions``: decisions at which the policy's output was not finite.

        The guard against bad gradients (:mod:`agents.optim.guard`):

        - ``rolled_back`` (bool): whether there was a roll-back since the last finite
          gradient;
        - ``norms`` (int): number of gradient norms in ``mean_square``; zeros do not count;
        - ``mean_square`` (float): running mean of the squared norm of all gradients;
        - ``early_peak`` (float): highest gradient norm in the first steps.

        The decisions:

        - ``probing`` (bool): whether the next step is a decision, for which the gradient
          and the update of this step are kept;
        - ``log_multiplier`` (``[1]``): log-multiplier in force; with several, their mean;
        - ``highest`` (``[1]``): highest ``log_multiplier`` so far;
        - ``role_multipliers`` (``[1, K]``): log-multiplier of each role of parameters;
          ``K`` is 0 for a policy without roles;
        - ``previous_action`` (``[1]``): change of the log-multiplier that the last action
          asked for, in nats, before any limit;
        - ``shown`` (``[1, action.observed]``): last action as the policy observes it; 0 for
          a policy that decides on each tensor;
        - ``chosen`` (int): chosen update rule, an index of
          ``optenv.rules.switching.NAMES``; -1 if none was chosen;
        - ``scale`` (float or None): factor from the learning rate to the chosen rule's own,
          which makes its step as long as Adam's; None until the first update after a
          decision;
        - ``settings`` (``[1, len(action.sets)]``): hyperparameters and modifiers that the
          last action has set, in the order of ``action.sets``; at first those of the rule;
        - ``grad_mean_square`` (float): running mean of the squared gradient norm, for a
          policy that clips gradients;
        - ``trace`` (``[n, columns]``): table of the decisions so far, see
          :mod:`agents.optim.trace`.

        Trials, and policies with a memory:

        - ``new_run`` (float): 1 until the first decision of a run, then 0;
        - ``said`` (``[1, action.outputs]``): encoding of the last action, which stays
          across runs;
        - ``told`` (``[1]``): reward of the last window of the previous run, observed at the
          first decision of this one; 0 in the first run;
        - ``memory`` (``[1, members, 2 * L, H]``): hidden state of the policy, see
          :meth:`agents.policy.module.Policy.blank`. For a policy that decides on each
          tensor, ``said`` and ``memory`` stay 0: the tensors' states hold them
          (:mod:`agents.optim.layerwise`).

        The telemetry:

        - ``losses`` (dict of floats): statistics of the losses in this window, see
          :class:`optenv.telemetry.Losses`, in the unit of the loss;
        - ``history`` (dict of ``[1]``): summary of earlier windows, see
          :class:`optenv.telemetry.History`;
        - ``negative`` (bool): whether a negative loss has made the policy ignore losses;
        - ``loss_shift`` (float or None): number added to the feature
          ``predicted_decrease`` to correct the unit of the loss, see
          :mod:`agents.optim.loss_unit`; None until it is known;
        - ``validated`` (float or None): validation loss given since the last decision;
        - ``validation`` (dict of ``[1]``): summary of earlier validation losses, see
          :class:`optenv.telemetry.ValidationHistory`. These two are only there for a policy
          that observes validation losses.

    Raises:
        ValueError: ``total_steps`` or ``batch_size`` is not a positive integer, or is
            missing where the policy needs it, or the policy does not choose the batch size.
    """
    # 1. Check the length of the run.
    total_steps = clock.check_total_steps(policy, total_steps)
    warmup_steps = clock.check_warmup_steps(warmup_steps, total_steps)
    batch_size = budget.check_batch_size(policy, batch_size)
    # 2. Fill in the entries, on the CPU even if torch's default device is another one.
    decisions = None if policy.anytime else policy.description["horizon"]
    zero = torch.zeros(1, dtype=dtype, device="cpu")
    multiplier = torch.full_like(zero, policy.action.start)
    of_validation: State = {}
    if policy.sees_validation:
        history = ValidationHistory.empty(zero)._asdict()
        of_validation = {"validated": None, "validation": history}
    return {
        "policy": policy.fingerprint(),
        "total_steps": None if policy.anytime else total_steps,
        "schedule": schedule,
        **clock.CLOCK,
        "warmup_steps": warmup_steps,
        "budget": budget.start(batch_size),
        "steps": 0,
        "skipped": 0,
        "skipped_in_a_row": 0,
        "rollbacks": 0,
        "rolled_back": False,
        "clipped": 0,
        "ignored_losses": 0,
        "ignored_actions": 0,
        "norms": 0,
        "mean_square": 0.0,
        "early_peak": 0.0,
        "probing": False,
        "negative": False,
        "loss_shift": None,
        "log_multiplier": multiplier,
        "highest": multiplier.clone(),  # its own tensor: checkpoints are loaded in place
        "previous_action": zero,
        "shown": torch.zeros(1, policy.action.observed, dtype=dtype, device="cpu"),
        "chosen": -1,
        "scale": None,
        "said": torch.zeros(1, policy.action.outputs, dtype=dtype, device="cpu"),
        "new_run": 1.0,
        "told": zero.clone(),
        "memory": policy.blank(1).to(dtype),
        "losses": NO_LOSSES._asdict(),
        "history": History.empty(zero)._asdict(),
        "settings": torch.tensor(
            initial_settings(policy), dtype=dtype, device="cpu"
        ).unsqueeze(0),
        "role_multipliers": torch.full(
            (1, len(policy.action.roles)), policy.action.start, dtype=dtype, device="cpu"
        ),
        "grad_mean_square": 0.0,
        "trace": trace.empty(
            decisions, dtype, trace.columns(policy.observed, policy.action)
        ),
        **of_validation,
    }


def next_run_state(
    policy: Policy, state: State, total_steps: int | None, dtype: torch.dtype
) -> State:
    """Make the initial state of another run of the same task, with the policy's memory.

    Args:
        policy: the policy.
        state: state at the end of the previous run.
        total_steps: number of steps of the next run; None for the length of the previous.
        dtype: data type of the tensors in the state.

    Raises:
        ValueError: ``total_steps`` is no positive integer.
    """
    total = state["total_steps"] if total_steps is None else total_steps
    warmup = state["warmup_steps"]
    if total is not None and warmup >= total:  # it does not fit into a shorter run
        warmup = 0
    own = None if state["budget"] is None else state["budget"]["own"]
    fresh = initial_state(policy, total, dtype, state["schedule"], warmup, own)
    losses, reward = Losses(**state["losses"]), fresh["told"]
    if state["new_run"]:  # the previous run had no decision
        reward = state["told"]
    elif losses.seen:  # reward of its last window
        mean = torch.full_like(reward, losses.mean)
        reward = _told(policy, History(**state["history"]), log_loss(mean), mean)
    memory = state["memory"] if policy.on_trials else fresh["memory"]
    return {**fresh, "said": state["said"], "memory": memory, "told": reward}


def _told(policy: Policy, before: History, log_mean: Tensor, mean: Tensor) -> Tensor:
    """Return the reward of a window ``[1]``, as a policy for trials observes it.

    Args:
        policy: the policy.
        before: history of the earlier windows, ``[1]``.
        log_mean, mean: log of the window's mean loss, and the mean loss, ``[1]``.
    """
    if not policy.needs_positive_losses:
        return relative_fall(before, mean)
    return (before.loss_previous - log_mean) * (before.loss_windows > 0)


def mean_log_lr(groups: Sequence[Mapping[str, Any]], partitioned: bool = False) -> float:
    """Average the log of the learning rate over all parameters that move.

    Parameters without a gradient and groups whose learning rate is 0 do not count.

    Args:
        groups: parameter groups.
        partitioned: whether other processes hold further parameters.

    Returns:
        The mean, weighted by numbers of elements; ``-inf`` if nothing moves.
    """
    total, numel = 0.0, 0.0
    for group in groups:
        size = sum(p.numel() for p in group["params"] if p.grad is not None)
        if group["lr"] > 0 and size > 0:
            total += size * math.log(group["lr"])
            numel += size
    if partitioned and is_distributed():
        total, numel = all_reduce_sum([total, numel], parameters_of(groups))
    return total / numel if numel else -math.inf
