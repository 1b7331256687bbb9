"""Trials of a sweep, each in a process of its own, some at a time."""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from stillroom.pipeline.sweep.file import Trial

LOG = logging.getLogger(__name__)
LOG_TAIL = 2000  # characters of a log that are read for its last line


@dataclass(frozen=True)
class TrialJob:
    """A trial to be run.

    Attributes:
        task: what `trial_process` reads from stdin
        log: the file that all it prints is added to
    """

    trial: Trial
    task: dict[str, Any]
    log: Path


@dataclass(frozen=True)
class TrialEvent:
    """Something happened to a trial.

    Attributes:
        kind: "begun", "step", "scored", "done" or "failed"
        values: what its process wrote about it
    """

    trial: Trial
    kind: str
    values: dict[str, Any] = field(default_factory=dict)


OnEvent = Callable[[TrialEvent], None]


@dataclass(eq=False)
class _Process:
    job: TrialJob
    handle: subprocess.Popen[bytes]
    pipe: IO[bytes]
    unread: bytes = b""  # the beginning of a line
    problem: str | None = None


def run_trials(
    jobs: Iterable[TrialJob], parallel: int, threads: int, on_event: OnEvent
) -> dict[Trial, str]:
    """Run all trials; return the error message of each that failed.

    When this is interrupted, so are the processes: each finishes its step and saves.

    Raises:
        ConfigError: a log cannot be written.
    """
    waiting = deque(jobs)
    failed: dict[Trial, str] = {}
    running: list[_Process] = []
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < parallel:
                    process = _start(waiting.popleft(), threads)
                    running.append(process)
                    selector.register(process.pipe, selectors.EVENT_READ, process)
                    on_event(TrialEvent(process.job.trial, "begun"))
                for key, _ in selector.select():
                    process = key.data
                    if _read_events(process, on_event):
                        continue
                    selector.unregister(process.pipe)
                    running.remove(process)
                    _finish(process, failed, on_event)
        except BaseException:
            _stop(running)
            raise
    return failed


def _start(job: TrialJob, threads: int) -> _Process:
    """Begin a process that sees the modules that this one sees, and not this one's Ctrl-C."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(os.path.abspath(place) for place in sys.path),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
    }
    try:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            handle = subprocess.Popen(
                [sys.executable, "-P", "-m", "stillroom.pipeline.sweep.trial_process"],
                env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        raise ConfigError(f"{job.log}: cannot be written ({error.strerror})") from error
    if handle.stdin is None or handle.stdout is None:
        raise RuntimeError("a process was begun without its pipes")
    try:
        handle.stdin.write(json.dumps(job.task).encode())
        handle.stdin.close()
    except BrokenPipeError:
        pass  # it has ended already; its exit code says so
    return _Process(job, handle, handle.stdout)


def _read_events(process: _Process, on_event: OnEvent) -> bool:
    """Pass on what the process has written; return False once it has closed its end."""
    data = os.read(process.pipe.fileno(), 2**16)
    *lines, process.unread = (process.unread + data).split(b"\n")
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:
            continue  # what a start-up script of Python's printed
        if "problem" in values:
            process.problem = values["problem"]
        else:
            kind = "step" if "step" in values else "scored"
            on_event(TrialEvent(process.job.trial, kind, values))
    return bool(data)


def _finish(process: _Process, failed: dict[Trial, str], on_event: OnEvent) -> None:
    code, trial = process.handle.wait(), process.job.trial
    process.pipe.close()
    if code == 0:
        on_event(TrialEvent(trial, "done"))
        return
    failed[trial] = process.problem or _last_line(process.job.log, code)
    on_event(TrialEvent(trial, "failed", {"problem": failed[trial]}))


def _last_line(log: Path, code: int) -> str:
    """Describe the end of a process that wrote no problem."""
    how = f"it ended with exit code {code}"
    if code < 0:
        name = signal.Signals(-code).name
        how = f"it was ended by {name}"
        if name == "SIGKILL":
            how += ", most often for want of memory"
    text = log.read_text(encoding="utf8", errors="replace")[-LOG_TAIL:].strip()
    last = text.splitlines()[-1] if text else "nothing"
    return f"{how}; the last line of {log}: {last}"


def _stop(running: list[_Process]) -> None:
    """Interrupt the processes and wait for them; a second Ctrl-C meanwhile kills them."""
    if not running:
        return
    LOG.warning("stopping: students finish their step and are saved; once more to stop at once")
    try:
        for process in running:
            process.handle.send_signal(signal.SIGINT)
        for process in running:
            process.handle.wait()
    except BaseException:
        for process in running:
            process.handle.kill()
        raise
    finally:
        for process in running:
            process.handle.wait()
            process.pipe.close()
