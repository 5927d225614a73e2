"""Tasks that training runs train on.

A *family* draws structures: a function from a random generator and a split to a
:class:`Task`. Families have three disjoint splits. The structures of ``train`` and ``test``
differ in size, and their tasks on digits use different images. The structures of ``ood``
also differ in kind: they have other data, networks or functions. The families of the
package are listed in :data:`FAMILIES` and :data:`MORE_FAMILIES`; :func:`register` adds one
from outside the package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from ..checks import check_new_name
from ..extras import install_hint
from . import (
    autoencoder,
    cnn,
    contrastive,
    few_shot,
    functions,
    language,
    mlp,
    physics,
    policy_gradient,
    quadratic,
    rnn,
    transformer,
)
from .autoencoder import VAE, Autoencoder
from .base import Task
from .cnn import CNN
from .contrastive import Contrastive
from .examples import Data
from .few_shot import FewShot
from .functions import Function
from .generated import GeneratedTask
from .language import LanguageModel, TopicLanguageModel
from .mlp import MLP
from .module import ModuleTask, from_module
from .physics import PhysicsInformed
from .policy_gradient import PolicyGradient
from .quadratic import PowerLawQuadratic, Quadratic
from .rnn import RNN
from .transformer import Transformer

__all__ = [
    "CNN",
    "FAMILIES",
    "MLP",
    "MORE_FAMILIES",
    "RNN",
    "SPLITS",
    "VAE",
    "Autoencoder",
    "Contrastive",
    "Data",
    "Family",
    "FewShot",
    "Function",
    "GeneratedTask",
    "LanguageModel",
    "ModuleTask",
    "PhysicsInformed",
    "PolicyGradient",
    "PowerLawQuadratic",
    "Quadratic",
    "Task",
    "TaskSampler",
    "TopicLanguageModel",
    "Transformer",
    "families",
    "from_module",
    "make",
    "register",
]

#: Function ``(rng, split) -> Task`` that draws a structure of a split.
Family = Callable[[np.random.Generator, str], Task]

#: Families, by name, that ``tasks="train"``, ``"test"`` and ``"ood"`` draw from.
FAMILIES: dict[str, Family] = {
    "quadratic": quadratic.sample_structure,
    "logistic": mlp.sample_logistic,
    "mlp-classification": mlp.sample_classification,
    "mlp-regression": mlp.sample_regression,
    "digits": mlp.sample_digits,
    "language": language.sample_language,
}

#: Further families, by name. ``tasks="train"``, ``"test"`` and ``"ood"`` leave them out, as
#: the shipped policies were trained without them.
MORE_FAMILIES: dict[str, Family] = {
    "functions": functions.sample_structure,
    "physics": physics.sample_structure,
    "cnn": cnn.sample_structure,
    "autoencoder": autoencoder.sample_autoencoder,
    "vae": autoencoder.sample_vae,
    "contrastive": contrastive.sample_structure,
    "rnn": rnn.sample_structure,
    "transformer": transformer.sample_structure,
    "policy-gradient": policy_gradient.sample_structure,
    "few-shot": few_shot.sample_structure,
}

#: Modules that structures can need, by family, or by family and split. They are checked
#: when tasks are chosen. As only some structures need them, an environment without this
#: check could fail at an episode in the middle of a training.
NEEDED: dict[str, tuple[str, ...]] = {
    "digits": ("sklearn",),
    "cnn": ("sklearn",),
    "autoencoder": ("sklearn",),
    "vae": ("sklearn",),
    "contrastive": ("sklearn",),
    "few-shot": ("sklearn", "HersheyFonts", "PIL"),
    "logistic/ood": ("sklearn",),
    "mlp-classification/ood": ("sklearn",),
    "mlp-regression/ood": ("sklearn",),
}

#: Names of the splits of every family. Structures of ``"test"`` differ from those of
#: ``"train"`` in size; those of ``"ood"`` (out of distribution) also differ in kind.
SPLITS = ("train", "test", "ood")

#: Families registered from outside the package.
_REGISTERED: dict[str, Family] = {}

#: Value of the ``tasks`` argument of the environments, see :func:`make`.
TaskSpec = str | Task | Sequence["str | Task"]


def register(name: str, family: Family) -> Family:
    """Make a task family available to environments by its name.

    An environment with ``tasks=name`` draws structures of the family's train split, one
    with ``tasks=f"{name}/test"`` those of its test split, and likewise for ``"ood"``, if
    ``family`` knows that split. A split alone, such as ``tasks="train"``, still draws only
    from :data:`FAMILIES`.

    Args:
        name: name that is not in use yet, without a slash.
        family: function ``(rng, split) -> Task``. All its randomness should come from
            ``rng``, so that an environment depends only on its seed.

    Returns:
        The family.

    Raises:
        TypeError: ``name`` is no string, or ``family`` is not callable.
        ValueError: the name is taken, or has a slash.

    Example::

        def wide(rng, split):
            widths = {"train": (256, 512), "test": (384,)}[split]
            return MLP(width=int(rng.choice(widths)))

        register("wide", wide)
        env = gym.make("optenv/LearningRate-v0", tasks="wide")
    """
    check_new_name("task family", name, [*_known(), *SPLITS])
    if "/" in name:
        raise ValueError(f"the name of a task family must not have a slash, got {name!r}")
    if not callable(family) or isinstance(family, Task):
        raise TypeError(
            f"task family {name!r} must be a function (rng, split) -> Task, got "
            f"{family!r}; a Task itself can be given as tasks="
        )
    _REGISTERED[name] = family
    return family


def _known() -> dict[str, Family]:
    return {**FAMILIES, **MORE_FAMILIES, **_REGISTERED}


def families() -> dict[str, tuple[str, ...]]:
    """Return the splits of every family, by name, ``"train"`` first."""
    return dict.fromkeys(_known(), SPLITS)


@dataclass(frozen=True)
class TaskSampler:
    """Sampler of structures, uniform over its sources.

    Attributes:
        sources: tasks, or pairs ``(family, split)`` of names.
    """

    sources: tuple[Task | tuple[str, str], ...]

    @property
    def fixed(self) -> bool:
        """True if there is only one structure."""
        return len(self.sources) == 1 and isinstance(self.sources[0], Task)

    def draw(self, rng: np.random.Generator) -> Task:
        """Draw a structure.

        Raises:
            TypeError: a registered family returns something else than a task.
        """
        return self.draw_named(rng)[1]

    def draw_named(self, rng: np.random.Generator) -> tuple[tuple[str, str] | None, Task]:
        """Draw a structure, and return it with its family and split.

        Returns:
            The pair ``(family, split)``, or None if the source is a task; and the task.

        Raises:
            TypeError: a registered family returns something else than a task.
        """
        source = self.sources[int(rng.integers(len(self.sources)))]
        if isinstance(source, Task):
            return None, source
        family, split = source
        task = _known()[family](rng, split)
        if not isinstance(task, Task):
            raise TypeError(f"task family {family!r} must return a Task, got {task!r}")
        return source, task


def make(spec: TaskSpec) -> TaskSampler:
    """Read the ``tasks`` argument of the environments.

    Args:
        spec: a split (``"train"``, ``"test"`` or ``"ood"``) of all :data:`FAMILIES`; a
            family (``"digits"``), for its train split; a family and a split
            (``"digits/test"``, ``"cnn/ood"``); a :class:`Task`; or a sequence of these.

    Raises:
        ValueError: a name is unknown, or the sequence is empty.
        TypeError: something is neither a name nor a task.
        ImportError: a family needs a package that is not installed.
    """
    parts: Sequence[str | Task] = [spec] if isinstance(spec, (str, Task)) else spec
    if isinstance(parts, Mapping):
        raise TypeError(
            f"tasks must be names or Task objects, got {spec!r}; a spec that is written as "
            "JSON keeps the fields of a Task, but not its type: give the name of a family, "
            "or a file of instances as instances="
        )
    if not isinstance(parts, (list, tuple)):
        raise TypeError(f"tasks must be names or Task objects, got {spec!r}")
    if not parts:
        raise ValueError("tasks is empty; give at least one name or Task")
    sources: list[Task | tuple[str, str]] = []
    for part in parts:
        if isinstance(part, Task):
            sources.append(part)
        elif not isinstance(part, str):
            raise TypeError(f"tasks must be names or Task objects, got {part!r}")
        elif part in SPLITS:
            sources += [(family, part) for family in FAMILIES]
        else:
            family, _, split = part.partition("/")
            split = split or "train"
            if family not in _known() or split not in SPLITS:
                named = (f"{name}/{each}" for name in _known() for each in SPLITS[1:])
                valid = ", ".join([*SPLITS, *_known(), *named])
                raise ValueError(f"unknown task {part!r}; valid: {valid}")
            sources.append((family, split))
    _check_packages(sources)
    return TaskSampler(tuple(sources))


def _check_packages(sources: Sequence[Task | tuple[str, str]]) -> None:
    """Refuse families that need packages which are not installed.

    Raises:
        ImportError: a package is missing; the message says how to install it.
    """
    for source in sources:
        if not isinstance(source, tuple):
            continue
        family, split = source
        needed = NEEDED.get(family, NEEDED.get(f"{family}/{split}", ()))
        missing = [module for module in needed if find_spec(module) is None]
        if missing:
            others = ", ".join(name for name in _known() if name not in NEEDED)
            raise ImportError(
                f"tasks of {family}/{split} need packages that are not installed "
                f"({', '.join(missing)}); {install_hint('train')}. Families whose splits "
                f"train and test need none: {others}"
            )
