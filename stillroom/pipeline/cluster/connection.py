"""A connection to Ray: to a cluster by its address, or to one that is started here."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECT_SECONDS = 5.0
LONGEST_TEMP_FOLDER = 33
"""Bytes: Ray's sockets have up to 70 more, and 103 is the longest path of a socket (Linux: 107)."""
SHORT_TEMP_FOLDER = "/tmp/ray"
HOST_AND_PORT = re.compile(r"(?:ray://)?(?P<host>\[[^\]]+\]|[^:/\[\]]+):(?P<port>\d{1,5})")


@contextlib.contextmanager
def connected(workers: int, address: str | None) -> Iterator[Any]:
    """Connect to Ray and give its module; what was opened here is closed again.

    Args:
        workers: a Ray of our own has CPUs for as many actors, whatever the machine has
        address: of an existing cluster; if None, the environment's RAY_ADDRESS, or a Ray of our own

    Raises:
        ConfigError: nothing answers at that address, or Ray does not start.
    """
    # Else Ray hides the GPUs from an actor that asked for none, though its teacher may use them.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    # Ray prints the output of its daemons to stdout, which belongs to the command's own report.
    with contextlib.redirect_stdout(sys.stderr):
        if ray.is_initialized():
            yield ray
            return
        _open(ray, workers, address)
        try:
            yield ray
        finally:
            ray.shutdown()


def _open(ray: Any, workers: int, address: str | None) -> None:
    origin = "--address" if address else "RAY_ADDRESS"
    address = address or os.environ.get("RAY_ADDRESS") or None
    settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address in (None, "local"):  # one CPU to spare: actors on all of them can stall Ray
        cpus = max(os.cpu_count() or 1, workers + 1)
        settings |= {"include_dashboard": False, "num_cpus": cpus, **_short_temp_folder()}
    else:
        _knock(address, origin)
    try:
        # Without an address Ray would join whatever cluster somebody has started on this machine.
        ray.init(address=address or "local", **settings)
    except Exception as error:  # Ray raises all sorts here, bare Exception among them
        ray.shutdown()  # whatever of it did start
        raise ConfigError(_why_not(error, address, origin)) from error


def _short_temp_folder() -> dict[str, str]:
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    fits = len(os.fsencode(folder)) <= LONGEST_TEMP_FOLDER
    return {} if fits else {"_temp_dir": SHORT_TEMP_FOLDER}


def _knock(address: str, origin: str) -> None:
    """Fail where nothing listens; Ray itself would try for half a minute and more."""
    if (found := HOST_AND_PORT.fullmatch(address)) is None:
        return  # "auto" among others, which Ray knows itself
    host, port = found["host"].strip("[]"), int(found["port"])
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(_why_not(error, address, origin)) from error


def _why_not(error: BaseException, address: str | None, origin: str) -> str:
    reason = first_line(error)
    if address in (None, "local"):
        return (
            f"Ray did not start on this machine: {reason}\n"
            "  look at its logs (session_latest/logs), give --address of a running cluster, or "
            "build without Ray: --runner inline"
        )
    return (
        f"no Ray cluster at {address!r} ({origin}): {reason}\n"
        "  expected HOST:PORT of a head node, as `ray start --head` prints it, with the same "
        "versions of Ray and Python; without --address and RAY_ADDRESS a Ray of this machine's "
        "own is started"
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
