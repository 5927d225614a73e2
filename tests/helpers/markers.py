"""Parameters of tests that are slow tests by themselves."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*values: Any, if_: bool = True, **options: Any) -> Any:
    """Return values of a parametrised test, which they make a slow test.

    Args:
        *values: values of one case.
        if_: whether the case is slow; otherwise it is a quick one.
        **options: options of :func:`pytest.param`, such as ``id``.
    """
    return pytest.param(*values, marks=pytest.mark.slow if if_ else (), **options)
