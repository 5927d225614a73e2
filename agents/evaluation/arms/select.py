"""Selection of arms by name, and of policies by path, for one benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ...policy.files import load_policy
from ...policy.module import Policy
from ..row import DEFAULT, SHARED, TUNED
from .arm import Arm, Search
from .learned import learned_arm
from .table import ARMS, SEARCHES, untuned_arms

__all__ = [
    "PolicyArms",
    "SelectedArms",
    "load_policy_arms",
    "require_packages",
    "select_arms",
]


@dataclass(frozen=True)
class SelectedArms:
    """Arms to compare policies with.

    Attributes:
        untuned: arms that run with their own defaults.
        searches: searches that choose a setting for each task, by the name of the column.
        shared: whether AdamW with one setting for all tasks is among the arms.
    """

    untuned: list[Arm]
    searches: dict[str, Search]
    shared: bool


def select_arms(names: Sequence[str] = ()) -> SelectedArms:
    """Return the arms called ``names``, by default all of the table.

    AdamW with its defaults and AdamW tuned are always among them: speeds, losses and CPU
    times are relative to theirs.

    Raises:
        ValueError: there is no arm of that name; the message lists the valid ones.
    """
    for name in names:
        if name not in ARMS:
            raise ValueError(f"unknown arm {name!r}; valid arms: {', '.join(ARMS)}")
    wanted = {*(names or ARMS), DEFAULT, TUNED}
    untuned = [arm for arm in untuned_arms() if arm.name in wanted]
    searches = {name: search for name, search in SEARCHES.items() if name in wanted}
    return SelectedArms(untuned, searches, SHARED in wanted)


def require_packages(arms: Iterable[Arm]) -> None:
    """Make the optimizer of each arm once, to find a missing package now.

    Otherwise it would be found only at the arm's first run, hours later.

    Args:
        arms: arms that have runs to make.

    Raises:
        ImportError: the package of one of them is missing.
    """
    for arm in arms:
        module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
        try:
            params = module if arm.takes_module else module.parameters()
            optimizer = arm.factory(params, 10)
            if arm.watch is not None:
                arm.watch(optimizer, 10)
        except ImportError as error:
            raise ImportError(
                f"{arm.name} cannot run: {error}; name the arms that can, with --arm"
            ) from error


@dataclass(frozen=True)
class PolicyArms:
    """A policy with several base learning rates, each of which is an arm.

    Attributes:
        label: name with which the names of its arms begin.
        policy: the policy of all arms.
        rates: base learning rates.
    """

    label: str
    policy: Policy
    rates: tuple[float, ...]

    def name(self, lr: float, control: str = "") -> str:
        """Return the name of the arm with this base learning rate, or of its control."""
        return f"{self.family(control)} lr {_format_lr(lr)}"

    def family(self, control: str = "") -> str:
        """Return the name that the arms of all learning rates begin with."""
        return f"{self.label} {control}".rstrip()

    def arms(self) -> list[Arm]:
        """Return the policy as an optimizer with each of the learning rates."""
        return [learned_arm(self.name(lr), self.policy, lr=lr) for lr in self.rates]


def load_policy_arms(
    paths: Sequence[str | Path], rates: Sequence[float], *, controls: bool = False
) -> list[PolicyArms]:
    """Load policies, each once, and name them after their folders.

    Args:
        paths: names or paths of policies, see :func:`~agents.load_policy`.
        rates: base learning rates.
        controls: whether to refuse policies for which there are no controls.

    Raises:
        FileNotFoundError, ValueError: see :func:`~agents.load_policy`; or two rates are so
            close that their arms would have the same name, or there are no controls for a
            policy.
    """
    rates = tuple(dict.fromkeys(rates))
    if len({_format_lr(lr) for lr in rates}) < len(rates):
        got = ", ".join(map(str, rates))
        raise ValueError(f"base learning rates must differ in six digits, got {got}")
    loaded: dict[str, PolicyArms] = {}
    for path in paths:
        policy = load_policy(path)
        if controls and not policy.action.sets_one_rate:
            raise ValueError(
                f"policy {str(path)!r} sets more than one learning rate (its action is "
                f"{policy.action.kind!r}), of which there are no controls here; give "
                "--no-controls"
            )
        label, fingerprint = _label(Path(path)), policy.fingerprint()
        if any(fingerprint == other.policy.fingerprint() for other in loaded.values()):
            continue
        if label in loaded:
            label = f"{label}-{fingerprint[:6]}"
        loaded[label] = PolicyArms(label, policy, rates)
    return list(loaded.values())


def _format_lr(lr: float) -> str:
    """Format a learning rate as in the names of arms."""
    return f"{lr:g}"


def _label(path: Path) -> str:
    """Return the name of the file, or of its folder if the file is called ``policy``."""
    path = path.resolve()
    if path.is_dir():
        return path.name
    name = path.stem if path.suffix in (".safetensors", ".json") else path.name
    return path.parent.name if name == "policy" else name
