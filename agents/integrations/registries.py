"""Learned optimizers by name, in the registries of other packages."""

from __future__ import annotations

from typing import Any

from optenv.extras import install_hint

from ..optim.optimizer import LearnedOptimizer

__all__ = ["NAME", "register_with_pytorch_optimizer", "register_with_timm"]

#: Name under which registries know the learned optimizer.
NAME = "learned"


def register_with_pytorch_optimizer(name: str = NAME) -> None:
    """Let pytorch_optimizer make a :class:`~agents.LearnedOptimizer` by name.

    ``load_optimizer``, ``create_optimizer`` and ``get_supported_optimizers`` then know it
    in this process. A second call has no effect.

    Args:
        name: name in the registry, in lower case.

    Raises:
        ImportError: pytorch_optimizer is not installed.
        ValueError: ``name`` is not in lower case, or is taken by another optimizer.

    Example::

        register_with_pytorch_optimizer()
        optimizer = pytorch_optimizer.create_optimizer(
            model, "learned", lr=1e-3, weight_decay=0.01, total_steps=1000
        )
    """
    _check_name(name)
    try:
        from pytorch_optimizer.optimizer import OPTIMIZERS
    except ImportError as error:
        raise ImportError(
            "register_with_pytorch_optimizer needs pytorch_optimizer 4.1, which the extra "
            f'"benchmark" has; {install_hint("benchmark")}'
        ) from error
    registered: dict[str, Any] = OPTIMIZERS
    _check_free(name, registered.get(name))
    registered[name] = LearnedOptimizer


def register_with_timm(name: str = NAME) -> None:
    """Let timm make a :class:`~agents.LearnedOptimizer` by name.

    ``timm.optim.create_optimizer_v2`` and ``list_optimizers`` then know it in this process.
    A second call has no effect.

    Args:
        name: name in the registry, in lower case and without ``_``, at which timm splits
            names.

    Raises:
        ImportError: timm is not installed, or is older than 1.0.12.
        ValueError: ``name`` is not valid, or is taken by another optimizer.

    Example::

        register_with_timm()
        optimizer = timm.optim.create_optimizer_v2(
            model, "learned", lr=1e-3, weight_decay=0.01, total_steps=1000
        )
    """
    _check_name(name)
    if "_" in name:
        raise ValueError(f"names of timm's optimizers have no '_', got {name!r}")
    try:
        from timm.optim import OptimInfo, list_optimizers
        from timm.optim._optim_factory import default_registry
    except ImportError as error:
        raise ImportError(
            "register_with_timm needs timm 1.0.12 or later, and torchvision for the "
            f"installed torch: pip install timm ({error})"
        ) from error
    if name in list_optimizers():
        _check_free(name, default_registry.get_optimizer_info(name).opt_class)
        return
    about = "Learning rate set by a policy that was learned by reinforcement learning"
    default_registry.register(
        OptimInfo(name, LearnedOptimizer, about, has_eps=True, has_betas=True)
    )


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name or name != name.lower():
        raise ValueError(f"name must be a string in lower case, got {name!r}")


def _check_free(name: str, registered: Any) -> None:
    """Refuse a name that is taken by another optimizer.

    Raises:
        ValueError: ``registered`` is another optimizer.
    """
    if registered not in (None, LearnedOptimizer):
        raise ValueError(f"{name!r} is another optimizer already: {registered}")
