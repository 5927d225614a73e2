"""Guards against bad gradients: skip non-finite ones, clip outliers, roll back.

Counters and the running mean square of the gradient norm are in the controller's state,
which is saved with the optimizer's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from optenv.modifiers import CLIP_MEMORY, CLIP_WARMUP

from ..utils.warning import warn_user
from .controller import Controller
from .state_keys import DECIDED, GOOD_PARAM, OWN, REMEMBERED
from .tensors import GradientBatch, grad_norm, parameters_of

__all__ = ["EARLY_STEPS", "GUARDS", "GradientGuard"]

#: When gradients are checked: at every step, or only around decisions.
GUARDS = ("step", "probe")

#: Steps skipped in a row before a warning.
MAX_SKIPS_BEFORE_WARNING = 20

#: Gradient norms are clipped at this multiple of the root mean square of earlier norms.
#: The highest ratio in runs of the selection tasks is 7 (docs/notes/policy-log.md).
CLIP_RATIO = 10.0

#: A gradient of the first ``EARLY_STEPS`` steps is an outlier if the gradient of a later
#: one of them is ``EARLY_RATIO`` times smaller. There are too few earlier norms to tell at
#: once.
EARLY_RATIO, EARLY_STEPS = 30.0, 10

#: Number of steps after which outliers are scaled down no further than to ``CLIP_RATIO``.
CLIPPED_LESS = 200

#: Non-finite gradients in a row after which the parameters are rolled back.
ROLLBACK_PATIENCE = 5

#: Decrease of the log-multiplier at a roll-back, which leaves a quarter of the rate.
ROLLBACK_DECREASE = math.log(4.0)


class GradientGuard:
    """Checks of the gradients before an update.

    Args:
        when: one of :data:`GUARDS`.
        rollback: whether to copy the parameters, and to restore them after bad gradients.
        partitioned: whether other processes hold further parameters of the model.
    """

    def __init__(
        self, when: str = "step", rollback: bool = False, partitioned: bool = False
    ) -> None:
        self.when = when
        self.rollback = rollback
        self.partitioned = partitioned

    def check(self, batch: GradientBatch, controller: Controller) -> GradientBatch | None:
        """Check the gradients of a step, and count outliers and skipped steps.

        Returns:
            The gradients to use, as scaled copies if their norm is an outlier; None if the
            step must be skipped because a gradient is not finite.

        Raises:
            RuntimeError: a gradient is sparse.
        """
        if self.when == "probe" and not controller.probes_gradients():
            return batch
        state = controller.state
        norm = grad_norm(batch.grads, self.partitioned)
        if not math.isfinite(norm):
            self._skip(batch, controller)
            return None
        state["skipped_in_a_row"], state["rolled_back"] = 0, False
        coefficient = clip_coefficient(state, norm)
        if was_early_outlier(state, norm * coefficient):
            controller.forget_norms(batch)
            for p in batch.params:
                of_param = batch.states[p]
                for name in of_param.keys() - {*OWN}:
                    del of_param[name]
        if coefficient < 1.0:
            batch = batch.with_grads([grad * coefficient for grad in batch.grads])
        if self.rollback:
            self.keep_params(batch, renew=controller.is_decision())
        return batch

    def keep_params(self, batch: GradientBatch, renew: bool) -> None:
        """Copy the parameters of all groups, to roll back to.

        Args:
            batch: gradients of the step, with the groups and states of all parameters.
            renew: whether to update existing copies; missing ones are always made.
        """
        for p in parameters_of(batch.groups):
            state = batch.states[p]
            good = state.get(GOOD_PARAM)
            if good is None or good.shape != p.shape:
                state[GOOD_PARAM] = p.detach().clone()
            elif renew:
                good.copy_(p)

    def _skip(self, batch: GradientBatch, controller: Controller) -> None:
        """Count a skipped step, and roll back after several of them."""
        state = controller.state
        state["skipped"] += 1
        state["skipped_in_a_row"] += 1
        if state["skipped_in_a_row"] == MAX_SKIPS_BEFORE_WARNING:
            warn_user(
                f"{MAX_SKIPS_BEFORE_WARNING} steps in a row were skipped: their gradients "
                "were not finite, or so large that their squares were not"
            )
        params = parameters_of(batch.groups)
        if (
            state["skipped_in_a_row"] >= ROLLBACK_PATIENCE
            and not state["rolled_back"]  # not again until a gradient has been finite
            and any(GOOD_PARAM in batch.states[p] for p in params)
        ):
            self._roll_back(batch, params, state, controller.policy.action.bound)
            warn_user(
                f"the gradients of {ROLLBACK_PATIENCE} steps in a row were not finite: the "
                "parameters are again what they were at the last decision, and the "
                "learning rate is a quarter of that; buffers, as BatchNorm's, are not the "
                "optimizer's: see to them"
            )

    def _roll_back(
        self,
        batch: GradientBatch,
        params: list[Tensor],
        state: dict[str, Any],
        bound: float,
    ) -> None:
        """Restore the copied parameters, and reduce the learning rate to a quarter.

        Frozen parameters and those whose learning rate is 0 are not changed. The state of
        the update rule and averages of parameters are dropped. No log-multiplier, not even
        of a single tensor, falls below ``-bound``.
        """
        for p in parameters_of([group for group in batch.groups if group["lr"]]):
            if p.requires_grad and GOOD_PARAM in batch.states[p]:
                p.copy_(batch.states[p][GOOD_PARAM])
        for p in params:
            kept = {
                name: batch.states[p][name]
                for name in (GOOD_PARAM, DECIDED, REMEMBERED)
                if name in batch.states[p]
            }
            batch.states[p].clear()
            batch.states[p].update(kept)
            if DECIDED in kept:
                entry = kept[DECIDED].clone()
                entry[0] = _lowered(entry[0], bound)
                batch.states[p][DECIDED] = entry
        roles = state["role_multipliers"]
        if roles.numel():
            state["role_multipliers"] = _lowered(roles, bound)
            state["log_multiplier"] = state["role_multipliers"].mean(1)
        else:
            state["log_multiplier"] = _lowered(state["log_multiplier"], bound)
        state["rollbacks"] += 1
        state["rolled_back"] = True
        state["skipped_in_a_row"] = 0
        state["probing"] = False


def _lowered(log_multiplier: Tensor, bound: float) -> Tensor:
    """Return log-multipliers (of any shape) after a roll-back; none is raised."""
    lowered = (log_multiplier - ROLLBACK_DECREASE).clamp(min=-bound)
    return torch.minimum(lowered, log_multiplier)


def clip_coefficient(state: dict[str, Any], norm: float) -> float:
    """Record the norm of the gradients, and return the factor to scale them by.

    The factor is 1 unless the norm exceeds :data:`CLIP_RATIO` times the root mean square
    (RMS) of the norms so far. Such an outlier would otherwise stay in the second moments of
    Adam-like rules for the rest of the run. It is recorded as :data:`CLIP_RATIO` times the
    RMS, so that norms that stay large are no longer clipped after a few steps. Zero norms
    are not recorded. Early in the run, outliers are scaled down further, at first to the
    RMS itself, since the moments contain few other gradients.

    Args:
        state: state of the controller, whose entries ``norms``, ``mean_square`` and
            ``clipped`` are updated.
        norm: Euclidean norm over all gradients, finite.
    """
    if norm == 0.0:
        return 1.0
    count, mean_square = state["norms"] + 1, state["mean_square"]
    limit = CLIP_RATIO * math.sqrt(mean_square) if count > CLIP_WARMUP else math.inf
    is_outlier = 0.0 < limit < norm
    clipped = recorded = limit if is_outlier else norm
    if is_outlier:
        clipped *= min(1.0, max(1.0 / CLIP_RATIO, state["steps"] / CLIPPED_LESS))
        if state["steps"] < EARLY_STEPS:
            recorded = clipped
    mean_square += (recorded * recorded - mean_square) / min(count, CLIP_MEMORY)
    state["clipped"] += is_outlier
    state["norms"], state["mean_square"] = count, mean_square
    return clipped / norm


def was_early_outlier(state: dict[str, Any], norm: float) -> bool:
    """Record the norm of an early step; return whether an earlier one was an outlier.

    If so, the state of the update rule must be reset: in the second moments of Adam-like
    rules, the outlier would slow the parameters down for the rest of the run.

    Args:
        state: state of the controller. After an outlier, its statistics of gradient norms
            restart with this norm.
        norm: Euclidean norm over all gradients, finite.
    """
    if norm == 0.0 or state["steps"] >= EARLY_STEPS:
        return False
    if state["early_peak"] <= EARLY_RATIO * norm:
        state["early_peak"] = max(state["early_peak"], norm)
        return False
    state.update(
        norms=1, mean_square=norm * norm, early_peak=norm, clipped=state["clipped"] + 1
    )
    return True
