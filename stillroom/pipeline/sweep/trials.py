"""Work of a sweep, each piece in a process of its own, some at a time."""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from stillroom.pipeline.sweep.file import Work

LOG = logging.getLogger(__name__)
LOG_TAIL = 2000


@dataclass(frozen=True)
class Order:
    """A piece of work, as a process is told of it.

    task: for `sweep_child`
    log: the file that all it prints is added to
    """

    work: Work
    task: dict[str, Any]
    log: Path


@dataclass(frozen=True)
class ChildEvent:
    """Something happened to a piece of work.

    kind: "begun", "step", "scored", "done" or "failed"
    said: what the process told of it
    """

    work: Work
    kind: str
    said: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class _Child:
    order: Order
    process: subprocess.Popen[bytes]
    pipe: IO[bytes]
    waiting: bytes = b""
    problem: str | None = None


def run_children(
    orders: Iterable[Order], parallel: int, threads: int, listen: Callable[[ChildEvent], None]
) -> dict[Work, str]:
    """Do all of it; what failed comes back with what was said of it, the rest is done.

    When this is interrupted, so are the processes: each finishes its step and saves.

    Raises:
        ConfigError: a log cannot be written.
    """
    waiting = deque(orders)
    failed: dict[Work, str] = {}
    running: list[_Child] = []
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < parallel:
                    child = _start(waiting.popleft(), threads)
                    running.append(child)
                    selector.register(child.pipe, selectors.EVENT_READ, child)
                    listen(ChildEvent(child.order.work, "begun"))
                for key, _ in selector.select():
                    child = key.data
                    if _hear(child, listen):
                        continue
                    selector.unregister(child.pipe)
                    running.remove(child)
                    _settle(child, failed, listen)
        except BaseException:
            _stop(running)
            raise
    return failed


def _start(order: Order, threads: int) -> _Child:
    """Begin a process that sees the modules that this one sees, and not this one's Ctrl-C."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(os.path.abspath(place) for place in sys.path),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
    }
    try:
        order.log.parent.mkdir(parents=True, exist_ok=True)
        with order.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "stillroom.pipeline.sweep.trial"],
                env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        raise ConfigError(f"{order.log}: cannot be written ({error.strerror})") from error
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("a process was begun without its pipes")
    try:
        process.stdin.write(json.dumps(order.task).encode())
        process.stdin.close()
    except BrokenPipeError:
        pass  # it has ended already; its exit code says so
    return _Child(order, process, process.stdout)


def _hear(child: _Child, listen: Callable[[ChildEvent], None]) -> bool:
    """Take in what the process has written; False once it has closed its end."""
    data = os.read(child.pipe.fileno(), 2**16)
    *lines, child.waiting = (child.waiting + data).split(b"\n")
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            continue  # what a start-up script of Python's printed
        if "problem" in said:
            child.problem = said["problem"]
        else:
            kind = "step" if "step" in said else "scored"
            listen(ChildEvent(child.order.work, kind, said))
    return bool(data)


def _settle(child: _Child, failed: dict[Work, str], listen: Callable[[ChildEvent], None]) -> None:
    code = child.process.wait()
    child.pipe.close()
    if code == 0:
        listen(ChildEvent(child.order.work, "done"))
        return
    failed[child.order.work] = child.problem or _last_words(child.order.log, code)
    listen(ChildEvent(child.order.work, "failed", {"problem": failed[child.order.work]}))


def _last_words(log: Path, code: int) -> str:
    """Of a process that said nothing."""
    how = f"it ended with exit code {code}"
    if code < 0:
        name = signal.Signals(-code).name
        how = f"it was ended by {name}"
        if name == "SIGKILL":
            how += ", most often for want of memory"
    text = log.read_text(encoding="utf8", errors="replace")[-LOG_TAIL:].strip()
    last = text.splitlines()[-1] if text else "nothing"
    return f"{how}; the last line of {log}: {last}"


def _stop(running: list[_Child]) -> None:
    """Interrupt the processes and wait for them; a second Ctrl-C meanwhile kills them."""
    if not running:
        return
    LOG.warning("stopping: students finish their step and are saved; once more to stop at once")
    try:
        for child in running:
            child.process.send_signal(signal.SIGINT)
        for child in running:
            child.process.wait()
    except BaseException:
        for child in running:
            child.process.kill()
        raise
    finally:
        for child in running:
            child.process.wait()
            child.pipe.close()
