"""A store's requests from a forked process, made for it by a process of its own.

obstore's threads do not come along into a fork, and whatever waits for them waits for ever. A
fresh interpreter has its own: it answers over two pipes until this process ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import stillroom
from stillroom.storage_specs.errors import CacheUnwritable, ConfigError, StoreUnavailable
from stillroom.storage_specs.files.listed import Listed

if TYPE_CHECKING:
    from collections.abc import Callable

ERRORS: dict[str, Callable[[str], Exception]] = {
    error.__name__: error
    for error in (FileNotFoundError, StoreUnavailable, CacheUnwritable, ConfigError)
}


class ForkedClient:
    """The requests of `StoreClient`, one at a time. Made after the fork, and for this process."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._turn = threading.Lock()
        package = str(Path(stillroom.__file__).parent.parent)
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-m", "stillroom.storage_specs.files.store_server", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        self._requests: IO[bytes] = cast("IO[bytes]", process.stdin)
        self._answers: IO[bytes] = cast("IO[bytes]", process.stdout)
        weakref.finalize(self, _end, process)

    def get(self, path: str, start: int | None = None, length: int = 0) -> bytes:
        """As `StoreClient.get`."""
        return self._ask("get", path, start, length)[1]

    def exists(self, path: str) -> bool:
        """As `StoreClient.exists`."""
        return bool(self._ask("exists", path)[0])

    def list(self, folder: str) -> tuple[list[Listed], list[str]]:
        """As `StoreClient.list`."""
        files, folders = self._ask("list", folder)[0]
        return [Listed(*file) for file in files], folders

    def put(self, path: str, content: bytes, keep: bool = False) -> bool:
        """As `StoreClient.put`."""
        return bool(self._ask("put", path, keep, body=content)[0])

    def delete(self, path: str) -> bool:
        """As `StoreClient.delete`."""
        return bool(self._ask("delete", path)[0])

    def _ask(self, name: str, *arguments: Any, body: bytes = b"") -> tuple[Any, bytes]:
        with self._turn:
            try:
                send(self._requests, {"name": name, "arguments": arguments}, body)
                answer, content = receive(self._answers)
            except (OSError, EOFError) as error:
                raise StoreUnavailable(
                    f"{self.url}: the process that asks the store for this forked one has ended; "
                    "start processes by spawn, or look at what it said"
                ) from error
        if "error" in answer:
            raise ERRORS.get(answer["error"], StoreUnavailable)(answer["message"])
        return answer["value"], content


def send(to: IO[bytes], head: dict[str, Any], body: bytes = b"") -> None:
    """Write one message: a line of JSON, then as many bytes as it says."""
    to.write(json.dumps({**head, "bytes": len(body)}).encode() + b"\n")
    to.write(body)
    to.flush()


def receive(back: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Read one message; EOFError where the other side is gone."""
    line = back.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    head: dict[str, Any] = json.loads(line)
    body = back.read(head["bytes"])
    if len(body) != head["bytes"]:
        raise EOFError
    return head, body


def _end(process: subprocess.Popen[bytes]) -> None:
    """The other side ends when nobody can write to it any more."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait()
