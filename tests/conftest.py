from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.helpers.cpu_budget import CpuBudget


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(CpuBudget())


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch in one thread: for models as small as these, more are slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
