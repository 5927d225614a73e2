"""A Ray cluster for a computation: one on this machine, or one that is running already.

Ray (extra ``ray``) is imported only when a cluster is needed.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optenv.extras import install_hint

__all__ = ["check_ray", "cluster"]

#: Folder that holds the packages of this project, an installation or a checkout.
HOME = Path(__file__).parents[2]
#: Number of attempts to start a cluster, as Ray's start may time out on a busy machine.
STARTS = 4
#: Seconds within which the machine at an address must accept a connection.
CONNECTION = 10.0
#: Packages that a cluster's machines get from this machine.
PACKAGES = ("optenv", "agents")


def check_ray() -> None:
    """Check that Ray is installed.

    Raises:
        ImportError: Ray is not installed; the message says how to install it.
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise ImportError(f"clusters need Ray; {install_hint('ray')}") from error


@contextlib.contextmanager
def cluster(cpus: int, address: str | None = None) -> Iterator[None]:
    """Connect this process to a Ray cluster within.

    Workers of a cluster on this machine import packages from the same places as this
    process. Workers of a running cluster get a copy of ``optenv`` and ``agents``; the
    dependencies must be installed there. Each worker uses one thread of torch.

    If this process is connected already, by an outer ``with`` or by ``ray.init``, that
    cluster is used, and stays connected.

    Args:
        cpus: number of processes at once of a cluster on this machine, which may exceed the
            number of cores.
        address: address of a running cluster, such as ``"10.0.0.1:6379"``, or ``"auto"`` on
            one of its machines. By default (None), a cluster is started on this machine,
            and ended afterwards.

    Raises:
        ImportError: Ray is not installed.
        ValueError: there is no cluster at ``address``.

    Example::

        with cluster(2):
            print(ray.cluster_resources()["CPU"])  # 2.0
    """
    check_ray()
    import ray

    if ray.is_initialized():
        yield
        return
    with _handlers_kept():
        if address is None:
            _start(cpus)
        else:
            _connect(address)
    try:
        yield
    finally:
        with _handlers_kept():
            _shut_down()


def _start(cpus: int) -> None:
    """Start a cluster of this machine, whose processes inherit the environment."""
    import ray

    path = os.pathsep.join(filter(None, [str(HOME), os.environ.get("PYTHONPATH")]))
    with _environment(PYTHONPATH=path, OMP_NUM_THREADS="1"):
        for attempt in range(1, STARTS + 1):
            try:
                ray.init(
                    address="local", num_cpus=cpus, include_dashboard=False, **_quiet()
                )
                return
            except Exception as error:  # Ray has no class for it
                if "timed out" not in str(error) or attempt == STARTS:
                    raise
            _shut_down()


def _shut_down() -> None:
    """Leave the cluster, and end it if this process has started it.

    Ray drops the handles of its processes without waiting for them. Python would warn of
    this when it collects them later, so they are collected here, without the warning.
    """
    import ray

    ray.shutdown()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def _connect(address: str) -> None:
    """Connect to a running cluster, and give its machines the packages of this one."""
    import ray

    runtime = {
        "py_modules": [str(HOME / name) for name in PACKAGES],
        "excludes": ["__pycache__"],
        "env_vars": {"OMP_NUM_THREADS": "1"},
    }
    try:
        _check_listens(address)
        ray.init(address=address, runtime_env=runtime, **_quiet())
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"no Ray cluster can be reached at {address!r} ({error}); start one with `ray "
            "start --head`, or leave out --address to start one on this machine"
        ) from error


def _check_listens(address: str) -> None:
    """Check that something listens at an address; Ray would wait for minutes otherwise.

    Raises:
        OSError: there is no such machine, or no connection to it.
        ValueError: the port is no number.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:  # "auto", or one that Ray refuses at once
        return
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f"a port is a number from 1 to 65535, got {port!r}")
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECTION).close()


def _quiet() -> dict[str, Any]:
    """Return arguments of ``ray.init`` with which it logs only errors."""
    return {"log_to_driver": False, "logging_level": "ERROR"}


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set environment variables within."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Restore the handler of SIGTERM afterwards, as Ray installs its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
