"""Asks a store on behalf of a forked process (`forked_client`), until that one closes the pipe.

Started as `python -m stillroom.storage_specs.files.store_server URL`.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import astuple
from typing import IO, Any

from stillroom.storage_specs.errors import StillroomError
from stillroom.storage_specs.files.forked_client import receive, send
from stillroom.storage_specs.files.store_client import StoreClient


def serve(url: str, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer one request after the other."""
    client = StoreClient(url)
    while True:
        try:
            head, body = receive(requests)
        except EOFError:
            return
        try:
            value, content = _answer(client, head["name"], head["arguments"], body)
        except (StillroomError, FileNotFoundError) as error:
            send(answers, {"error": type(error).__name__, "message": str(error)})
        else:
            send(answers, {"value": value}, content)


def _answer(client: StoreClient, name: str, arguments: Any, body: bytes) -> tuple[Any, bytes]:
    if name == "get":
        return None, client.get(*arguments)
    if name == "exists":
        return client.exists(*arguments), b""
    if name == "list":
        files, folders = client.list(*arguments)
        return [[astuple(file) for file in files], folders], b""
    if name == "put":
        path, keep = arguments
        return client.put(path, body, keep), b""
    return client.delete(*arguments), b""


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for those who asked
    serve(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)
