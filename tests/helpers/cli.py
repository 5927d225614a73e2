"""``train_agent.py``, run inside the test's process."""

from __future__ import annotations

import importlib.util

from click.testing import CliRunner

from tests.helpers.paths import ROOT

SCRIPT = ROOT / "train_agent.py"


def script():
    """Return ``train_agent.py`` as a module."""
    spec = importlib.util.spec_from_file_location("train_agent", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def invoke(*arguments):
    """Run ``train_agent.py`` with ``arguments``; return click's result."""
    return CliRunner().invoke(script().main, [str(a) for a in arguments])
