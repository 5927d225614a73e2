"""Freed memory is kept for later tensors where the C library can."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

import optenv

#: Prints the page faults of a tensor of 64 MiB, the fewest of several.
PROGRAM = """
import resource, torch, optenv
{}
faults = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


def faults(keep):
    program = PROGRAM.format("optenv.keep_freed_memory()" if keep else "")
    command = [sys.executable, "-c", program]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
def test_a_large_tensor_that_was_freed_costs_no_page_faults_again():
    assert faults(keep=True) < faults(keep=False) / 10


@pytest.mark.parametrize("limit", [0, -1, 1.5, "1"])
def test_a_limit_is_a_positive_integer(limit):
    with pytest.raises(ValueError, match=f"limit must be a positive .*, got {limit!r}"):
        optenv.keep_freed_memory(limit)
