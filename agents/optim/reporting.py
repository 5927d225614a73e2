"""What an optimizer with a policy tells of its run."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import Optimizer

from ..policy.module import Policy
from .trace import Explanation

__all__ = ["Reporting"]


class Reporting(Optimizer):
    """Counts of what went wrong, and what the policy did; none of it can be set."""

    _policy: Policy
    _latest: dict[str, Any]

    @property
    def _run(self) -> dict[str, Any]:
        """State of the controller, in a parameter group, where torch saves it."""
        held = (group for group in self.param_groups if "controller" in group)
        group = next(held, None)
        return self._latest if group is None else group["controller"]

    @_run.setter
    def _run(self, state: dict[str, Any]) -> None:
        held = (group for group in self.param_groups if "controller" in group)
        next(held, self.param_groups[0])["controller"] = state
        self._latest = state  # should the group be removed

    @property
    def policy(self) -> Policy:
        """The policy in use."""
        return self._policy

    @property
    def skipped(self) -> int:
        """Steps skipped so far because a gradient was not finite."""
        return self._count("skipped")

    @property
    def clipped(self) -> int:
        """Steps so far whose gradients were scaled down, being far too large."""
        return self._count("clipped")

    @property
    def ignored_losses(self) -> int:
        """Losses so far that were not finite, of steps that were taken."""
        return self._count("ignored_losses")

    @property
    def ignored_actions(self) -> int:
        """Decisions so far that the policy gave no finite number for; nothing moved."""
        return self._count("ignored_actions")

    @property
    def rollbacks(self) -> int:
        """How often the parameters were given back what they had been."""
        return self._count("rollbacks")

    def explain(self) -> Explanation:
        """What the policy saw and did at each decision so far."""
        return Explanation(self._run["trace"])

    def __repr__(self) -> str:
        hidden = ("params", "controller")  # as torch shows it, without the policy's state
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {group[key]}" for key in group if key not in hidden]
        return "\n".join([*lines, ")"])

    def _count(self, name: str) -> int:
        return int(self._run[name])
