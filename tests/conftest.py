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


@pytest.fixture(scope="session", autouse=True)
def logs_of_sb3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give Stable-Baselines3 a folder for logs; by default it leaves one in ``/tmp``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SB3_LOGDIR", str(tmp_path_factory.mktemp("sb3")))
        yield
