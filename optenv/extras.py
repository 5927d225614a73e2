"""Extras: optional packages, and how to install them."""

from __future__ import annotations

__all__ = ["install_hint"]


def install_hint(extra: str) -> str:
    """Return how to install an extra from a checkout of optenv, for error messages.

    Args:
        extra: name of the extra, one of those in ``pyproject.toml``.

    Example:
        >>> install_hint("render")
        'in a checkout of optenv: pip install ".[render]"'
    """
    return f'in a checkout of optenv: pip install ".[{extra}]"'
