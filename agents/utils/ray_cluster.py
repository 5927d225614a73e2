"""A Ray cluster for the time of a computation: one of this machine, or one that is running.

Ray is imported only when a cluster is asked for (extra ``ray``).
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
#: Times that a cluster is started, if Ray gives up on it: a busy machine takes its time.
STARTS = 4
#: Seconds that the machine at an address may take to accept a connection.
CONNECTION = 10.0
#: Packages that a cluster's machines get from this one.
PACKAGES = ("optenv", "agents")


def check_ray() -> None:
    """Refuse to go on without Ray.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise ImportError(f"clusters need Ray; {install_hint('ray')}") from error


@contextlib.contextmanager
def cluster(cpus: int, address: str | None = None) -> Iterator[None]:
    """Connect this process to a Ray cluster within.

    Workers find this package and its dependencies: those of a cluster of this machine
    look where this process looks; those of a running cluster get a copy of ``optenv`` and
    ``agents``, and need what these import. Each uses one thread of torch.

    If this process is connected already, by an outer ``with`` or by ``ray.init``, that
    cluster is used, and stays connected.

    Args:
        cpus: number of processes at once, of a cluster of this machine. More than its
            cores are allowed.
        address: of a running cluster, such as ``"10.0.0.1:6379"``, or ``"auto"`` on one of
            its machines. By default a cluster is started on this machine, and ended.

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

    Ray drops the handles of its processes without waiting for them, of which Python warns
    when it collects them, at any time later.
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
    """Refuse an address at which nothing listens, for which Ray would wait for minutes.

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
    """Return arguments of ``ray.init`` by which it writes errors alone."""
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
    """Restore the handler of SIGTERM after it; Ray installs one of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
