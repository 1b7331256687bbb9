"""The process of one trial, as its parent sees it: begun, read, interrupted, ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LOG_TAIL = 2000  # characters of a log that are read for its last line
MENDABLE = 2  # exit code of what is the user's to mend


@dataclass(frozen=True)
class Failure:
    """Why a trial failed.

    Attributes:
        mendable: by the user alone: trying it again would fail again
    """

    problem: str
    mendable: bool


class Child:
    """A process that works on one trial.

    It sees the modules that this process sees, and not its Ctrl-C.

    Args:
        task: what `trial_process` reads from stdin
        log: the file that all it prints is added to
        environment: of it, beside this process's
        folder: it runs there; here if left out

    Raises:
        ConfigError: it cannot run there, or write its log.
    """

    def __init__(
        self,
        task: Mapping[str, Any],
        log: Path,
        environment: Mapping[str, str],
        folder: Path | None = None,
    ) -> None:
        self._log = log
        self._unread = b""  # the beginning of a line
        self._problem: str | None = None
        self._process = _begin(task, log, environment, folder)
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("a process was begun without its pipes")
        self.pipe = self._process.stdout
        try:
            self._process.stdin.write(json.dumps(task).encode())
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended already; its exit code says so

    def read(self) -> list[dict[str, Any]] | None:
        """Wait for what it writes and return its events; None once it has closed its end."""
        data = os.read(self.pipe.fileno(), 2**16)
        *lines, self._unread = (self._unread + data).split(b"\n")
        events = []
        for line in lines:
            try:
                values = json.loads(line)
            except ValueError:
                continue  # what a start-up script of Python's printed
            self._problem = values.get("problem", self._problem)
            if "problem" not in values:
                events.append(values)
        return events if data else None

    def end(self) -> Failure | None:
        """Wait for its end; return why it failed, if it did."""
        code = self._process.wait()
        self.pipe.close()
        if code == 0:
            return None
        return Failure(self._problem or self._last_line(code), code == MENDABLE)

    def interrupt(self) -> None:
        """Let it finish its step and save."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def _last_line(self, code: int) -> str:
        """Describe the end of a process that wrote no problem."""
        how = f"it ended with exit code {code}"
        if code < 0:
            name = signal.Signals(-code).name
            how = f"it was ended by {name}"
            if name == "SIGKILL":
                how += ", most often for want of memory"
        text = self._log.read_text(encoding="utf8", errors="replace")[-LOG_TAIL:].strip()
        last = text.splitlines()[-1] if text else "nothing"
        return f"{how}; the last line of {self._log}: {last}"


def module_paths() -> list[str]:
    """Return where this process finds its modules, for processes with another working folder."""
    return [os.path.abspath(place) for place in sys.path]


def _begin(
    task: Mapping[str, Any], log: Path, environment: Mapping[str, str], folder: Path | None
) -> subprocess.Popen[bytes]:
    full = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(module_paths()),
        "OMP_NUM_THREADS": str(task["threads"]),
        "PYTHONUNBUFFERED": "1",
        **environment,
    }
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "stillroom.pipeline.sweep.trial_process"],
                env=full, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file,
                start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        place = error.filename or log
        raise ConfigError(f"{place}: cannot be used ({error.strerror})") from error
