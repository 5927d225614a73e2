"""A quick test fails over its budget of CPU time; slow tests and shared fixtures do not."""

from __future__ import annotations

import pytest

from tests.helpers import cpu_budget

pytest_plugins = ["pytester"]

CONFTEST = """
import pytest
from tests.helpers.cpu_budget import CpuBudget

def pytest_configure(config):
    config.addinivalue_line("markers", "slow: exempt")
    config.pluginmanager.register(CpuBudget())
"""
BUSY = """
import subprocess
import sys
import time
import pytest

BUSY = "import time\\nwhile time.process_time() < 0.3: pass"

def busy():
    begin = time.process_time()
    while time.process_time() < begin + 0.3:
        pass
"""


@pytest.fixture
def outcomes(pytester, monkeypatch):
    """Run the given tests under a limit of 0.1 s; return the result."""
    monkeypatch.setenv(cpu_budget.LIMIT_VARIABLE, "0.1")
    monkeypatch.setattr(cpu_budget, "slowdown", lambda: 1.0)
    pytester.makeconftest(CONFTEST)

    def run(tests):
        pytester.makepyfile(BUSY + tests)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:xdist")

    return run


@pytest.mark.parametrize(
    "tests",
    [
        "def test_call(): busy()",
        "def test_child(): subprocess.run([sys.executable, '-c', BUSY], check=True)",
        "@pytest.fixture\ndef slow_fixture(): busy()\ndef test_setup(slow_fixture): pass",
    ],
    ids=["call", "child process", "function fixture"],
)
def test_a_test_over_the_limit_fails_with_its_seconds(outcomes, tests):
    result = outcomes(tests)
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"0\.[3-9] s of CPU time are more than the 0\.1 s"])


@pytest.mark.parametrize(
    "tests",
    [
        "def test_quick(): pass",
        "def test_waiting(): time.sleep(0.3)",
        "@pytest.mark.slow\ndef test_marked(): busy()",
        "@pytest.fixture(scope='module')\ndef shared(): busy()\n"
        "def test_shared(shared): pass\ndef test_again(request, shared): pass",
    ],
    ids=["quick", "waiting", "slow", "shared fixture"],
)
def test_no_other_test_fails(outcomes, tests):
    result = outcomes(tests)
    assert result.ret == 0


def test_a_slower_machine_has_a_higher_limit(outcomes, monkeypatch):
    monkeypatch.setattr(cpu_budget, "slowdown", lambda: 100.0)
    outcomes("def test_call(): busy()").assert_outcomes(passed=1)


def test_a_limit_of_zero_is_none(outcomes, monkeypatch):
    monkeypatch.setenv(cpu_budget.LIMIT_VARIABLE, "0")
    outcomes("def test_call(): busy()").assert_outcomes(passed=1)


def test_a_failing_test_fails_for_its_own_reason(outcomes):
    result = outcomes("def test_call():\n    busy()\n    assert 1 == 2")
    result.assert_outcomes(failed=1)
    assert "CPU time" not in result.stdout.str()


def test_the_machine_is_never_said_to_be_quicker_than_the_reference(monkeypatch):
    monkeypatch.setattr(cpu_budget, "workload", lambda: None)
    assert cpu_budget.slowdown() == 1.0
