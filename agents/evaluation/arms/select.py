"""Who takes part in a benchmark: baselines by name, policies at several learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from optenv.actions import RuleChoice

from ...policy.files import load_policy
from ...policy.module import Policy
from .defaults import DEFAULT, SHARED, TUNED, Arm, Search, grid_arms, learned_arm
from .more import untuned_arms
from .searches import SEARCHES

__all__ = ["Baselines", "Entrant", "load_entrants", "pick_baselines"]


@dataclass(frozen=True)
class Baselines:
    """Optimizers to measure policies against.

    Attributes:
        untuned: run as they come.
        searches: tuned for each task, by the name of the column.
        shared: whether AdamW with one setting for all tasks is among them.
    """

    untuned: list[Arm]
    searches: dict[str, Search]
    shared: bool


def pick_baselines(names: Sequence[str] = ()) -> Baselines:
    """Baselines called ``names``, by default all there are.

    AdamW with its defaults and AdamW tuned are always among them: speeds, losses and CPU
    times are relative to theirs.

    Raises:
        ValueError: there is no arm of that name; the message lists those there are.
        ImportError: the package of one of them is missing.
    """
    untuned = {arm.name: arm for arm in untuned_arms()}
    valid = [*untuned, SHARED, *SEARCHES]
    for name in names:
        if name not in valid:
            raise ValueError(f"unknown arm {name!r}; valid arms: {', '.join(valid)}")
    wanted = {*(names or valid), DEFAULT, TUNED}
    found = [arm for name, arm in untuned.items() if name in wanted]
    searches = {name: search for name, search in SEARCHES.items() if name in wanted}
    tried = [grid_arms(search)[0] for search in searches.values()]
    for arm in [*found, *tried]:  # now, rather than hours later
        module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
        try:
            arm.factory(module if arm.takes_module else module.parameters(), 10)
        except ImportError as error:
            raise ImportError(
                f"{arm.name} cannot run: {error}; name the arms that can, with --arm"
            ) from error
    return Baselines(found, searches, SHARED in wanted)


@dataclass(frozen=True)
class Entrant:
    """A policy with the base learning rates that it is judged with.

    Attributes:
        label: its name, which those of its arms begin with.
        policy: the same for all arms.
        rates: base learning rates.
    """

    label: str
    policy: Policy
    rates: tuple[float, ...]

    def name(self, lr: float, kind: str = "") -> str:
        """Name of the arm with this base learning rate, or of a control of it."""
        return f"{self.family(kind)} lr {_spelled(lr)}"

    def family(self, kind: str = "") -> str:
        """What the names of all arms of a kind begin with."""
        return f"{self.label} {kind}".rstrip()

    def arms(self) -> list[Arm]:
        """The policy as an optimizer, with each of the learning rates."""
        return [learned_arm(self.name(lr), self.policy, lr=lr) for lr in self.rates]


def load_entrants(
    paths: Sequence[str | Path], rates: Sequence[float], *, controls: bool = False
) -> list[Entrant]:
    """Policies of files, each once, called after the folders that they are in.

    Args:
        paths: as :func:`~agents.load_policy` takes them.
        rates: base learning rates.
        controls: whether there are to be controls of them.

    Raises:
        FileNotFoundError, ValueError: as :func:`~agents.load_policy`; or two rates are so
            close that their arms would have one name, or there can be no controls.
    """
    rates = tuple(dict.fromkeys(rates))
    if len({_spelled(lr) for lr in rates}) < len(rates):
        got = ", ".join(map(str, rates))
        raise ValueError(f"base learning rates must differ in six digits, got {got}")
    found: dict[str, Entrant] = {}
    for path in paths:
        policy = load_policy(path)
        if controls and isinstance(policy.action, RuleChoice):
            raise ValueError(
                f"policy {str(path)!r} chooses update rules, which controls are not made "
                "of here; give --no-controls (benchmarks/schedules.py has controls of it)"
            )
        label, mark = _label(Path(path)), policy.fingerprint()
        if any(mark == each.policy.fingerprint() for each in found.values()):
            continue
        if label in found:
            label = f"{label}-{mark[:6]}"
        found[label] = Entrant(label, policy, rates)
    return list(found.values())


def _spelled(lr: float) -> str:
    """A learning rate as the names of arms have it."""
    return f"{lr:g}"


def _label(path: Path) -> str:
    """Name of the file, or of its folder if the file is only called ``policy``."""
    path = path.resolve()
    if path.is_dir():
        return path.name
    name = path.stem if path.suffix in (".safetensors", ".json") else path.name
    return path.parent.name if name == "policy" else name
