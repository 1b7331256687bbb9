"""A build of a second that can be watched, and what two caches have in common.

fault_run   a run file whose teacher writes its process number to $BATCHES at each batch and takes
            $PAUSE seconds for it: 12 frames in shards of 2, so six of the frames and six of the
            teacher's
contents    everything in a cache that two builds must agree on: all but the column `seconds`
stillroom   the command line as its own process, finished
forked      the command line in a forked child, to be killed at any moment
marked      environment variables; every process that has inherited them is ended after the test
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stillroom.storage_specs.errors import CacheCorrupt
from stillroom.storage_specs.manifest import decode_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WATCHED = '''

import os
import time


def watched(classes=9, seed=0):
    """Tells of each batch, and takes its time; neither is part of a cache's identity."""
    network = Tiny(classes, seed)

    def tell(*_):
        with open(os.environ["BATCHES"], "a") as file:
            file.write(f"{os.getpid()}\\n")
        time.sleep(float(os.environ.get("PAUSE", "0")))

    network.register_forward_hook(tell)
    return network
'''
# Ray then listens on 127.0.0.1 alone, and drivers look for their node there.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@pytest.fixture
def run_document(run_document: dict[str, Any]) -> dict[str, Any]:
    street = {**run_document["sources"]["street"], "clips": 6}
    tiny = {**run_document["teachers"]["tiny"], "target": "tiny_networks:watched"}
    run_document["cache"].update(shard_frames=2)
    return {
        "sources": {"street": street},
        "teachers": {"tiny": tiny},
        "cache": run_document["cache"],
        "student": run_document["student"],
        "terms": run_document["terms"],
        "train": {**run_document["train"], "streams": {"street": {"batch": 3}}, "steps": 2},
    }


@pytest.fixture
def fault_run(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    networks = run_file.parent / "tiny_networks.py"
    networks.write_text(networks.read_text() + WATCHED)
    monkeypatch.setenv("BATCHES", str(run_file.parent / "batches"))
    return run_file


def contents_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name, content = path.relative_to(folder).as_posix(), path.read_bytes()
            found[name] = hashlib.sha256(content).hexdigest()
            if path.suffix == ".parquet":
                try:
                    part = decode_part(content, name)
                except CacheCorrupt:
                    continue
                found[name] = replace(part, rows=tuple(replace(r, seconds=0) for r in part.rows))
    return found


@pytest.fixture
def contents() -> Callable[[Path], dict[str, Any]]:
    return contents_of


@pytest.fixture
def stillroom() -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "stillroom", *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=500, **options
        )

    return call


@dataclass
class Forked:
    """A command in a child of the zygote."""

    zygote: subprocess.Popen[str]
    process: int
    said: Path

    def kill(self) -> None:
        os.kill(self.process, signal.SIGKILL)

    def running(self) -> bool:
        """Not a zombie: its exit code may still be unread."""
        try:
            stat = Path(f"/proc/{self.process}/stat").read_text()
        except FileNotFoundError:
            return False
        return stat.rpartition(")")[2].split()[0] != "Z"

    def wait(self) -> int:
        assert self.zygote.stdout is not None
        return int(self.zygote.stdout.readline())


@pytest.fixture(scope="module")
def zygote() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("zygote.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **LOOPBACK},
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


@pytest.fixture
def forked(zygote: subprocess.Popen[str], tmp_path: Path) -> Callable[..., Forked]:
    def start(*arguments: object, **environment: str) -> Forked:
        said = tmp_path / "said.txt"
        order = {
            "arguments": [str(each) for each in arguments],
            "folder": str(tmp_path),
            "environment": {"BATCHES": str(tmp_path / "batches"), **environment},
            "said": str(said),
        }
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        zygote.stdin.write(json.dumps(order) + "\n")
        zygote.stdin.flush()
        return Forked(zygote, int(zygote.stdout.readline()), said)

    return start


@pytest.fixture
def wait_until() -> Callable[..., bool]:
    """`wait_until(condition, seconds)`: whether it came true; looked at every millisecond."""

    def wait(condition: Callable[[], object], seconds: float = 120) -> bool:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True

    return wait


def with_mark(mark: str) -> list[int]:
    """Processes that have inherited this environment variable, but for zombies."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return [process for process in found if process != os.getpid()]


@pytest.fixture
def marked() -> Iterator[dict[str, str]]:
    mark = secrets.token_hex(16)
    yield {**os.environ, **LOOPBACK, "STILLROOM_FAULT_TEST": mark}
    deadline = time.monotonic() + 60
    while (left := with_mark(mark)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
    assert not left
