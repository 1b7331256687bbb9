"""Copies of remote shards on this machine: bounded, checked, shared, and never a read's failure."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stillroom.storage_specs.errors import CacheCorrupt, ConfigError
from stillroom.storage_specs.files import local_copies
from stillroom.storage_specs.files.local_copies import LocalCopies
from stillroom.storage_specs.files.remote_store import RemoteStore
from stillroom.storage_specs.manifest import ObjectEntry, entry_of
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.storage_specs.artifact_set import ArtifactSet

CONTENT = {name: bytes([name]) * 1000 for name in range(8)}
ENTRIES = {name: entry_of(content) for name, content in CONTENT.items()}


class Requests:
    """What was asked of the store: the operation, and the array."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, str]] = []
        for name in ("read", "read_range"):
            monkeypatch.setattr(RemoteStore, name, self.counting(name))

    def counting(self, name: str) -> Callable[..., bytes]:
        real = getattr(RemoteStore, name)

        def counted(store: RemoteStore, path: str, *arguments: int) -> bytes:
            if "/c." in path:  # an object of a shard
                self.made.append((name, path.split("/")[-2]))
            content: bytes = real(store, path, *arguments)
            return content

        return counted

    def taken(self) -> list[tuple[str, str]]:
        taken, self.made = self.made, []
        return taken


@pytest.fixture
def made(full_set: Any, define: Any) -> Any:
    """The full set's twin in this process's memory."""
    twin = type(full_set)(define(f"memory://{uuid.uuid4().hex}/my.cache"))
    for shard in range(twin.set.shards):
        twin.commit(shard)
    return twin


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLROOM_SHARD_CACHE", str(tmp_path / "deep" / "copies"))
    monkeypatch.delenv("STILLROOM_SHARD_CACHE_GB", raising=False)
    return tmp_path / "deep" / "copies"


def copies_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def opened(made: Any) -> ArtifactSet:
    found: ArtifactSet = Cache(made.set.place).artifact_set("camvid", "fpn")
    return found


def read_all(said: ArtifactSet, truth: ArtifactSet) -> None:
    for index in truth.usable():
        for artifact in truth.arrays:
            assert np.array_equal(said.read(artifact, index), truth.read(artifact, index))


def test_without_copies_a_frame_is_one_ranged_read_after_its_index(
    made: Any, full_set: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STILLROOM_SHARD_CACHE", raising=False)
    requests, said = Requests(monkeypatch), opened(made)
    said.read("confidence", 0)
    assert requests.taken() == [("read_range", "confidence")] * 2  # the index, the frame
    said.read("confidence", 1)
    assert requests.taken() == [("read_range", "confidence")]
    said.read("logits", 0)
    assert (
        requests.taken()
        == [("read_range", "logits_scale"), ("read_range", "logits_offset")]
        + [("read_range", "logits")] * 2
    )
    said.read("logits", 3)
    assert requests.taken() == [("read_range", "logits")]
    read_all(said, full_set.set)


def test_with_copies_each_object_is_fetched_once_and_by_one_process_for_all(
    made: Any, full_set: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = Requests(monkeypatch)
    read_all(opened(made), full_set.set)
    sides = {("read_range", "logits_scale"), ("read_range", "logits_offset")}
    assert {each for each in requests.taken() if each[0] == "read_range"} == sides
    objects = [entry for shard in range(3) for entry in made.set.part(shard).objects.values()]
    assert copies_in(folder) <= {entry.sha256 for entry in objects}
    assert len(copies_in(folder)) == 4 * 3  # values; side arrays are small and held in memory
    read_all(opened(made), full_set.set)  # another reader of this machine
    assert set(requests.taken()) == sides
    assert not [path for path in folder.iterdir() if path.name.startswith(".") and
                not path.name.startswith(".lock-")]  # fmt: skip


def test_a_damaged_or_short_copy_is_read_past_and_replaced(
    made: Any, full_set: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_all(opened(made), full_set.set)
    whole = {name: (folder / name).read_bytes() for name in copies_in(folder)}
    for damage in (lambda content: content[:-9], lambda content: bytes(len(content))):
        for name, content in whole.items():
            (folder / name).write_bytes(damage(content))
        read_all(opened(made), full_set.set)
        said = opened(made)
        read_all(said, full_set.set)
        read_all(said, full_set.set)
        assert {name: (folder / name).read_bytes() for name in copies_in(folder)} == whole


def test_a_copy_of_an_older_commit_is_not_read_for_the_present_one(made: Any, folder: Path) -> None:
    said, other = opened(made), type(made)(opened(made))
    said.read("confidence", 8)
    other.set.discard(2)
    writer = other.set.writer(2)
    for index in (8, 9):
        writer.put(other.row(index), other.arrays(index + 100))
    writer.commit()
    assert said.committed() == {0, 1, 2}
    expected = np.rint(other.arrays(108)["confidence"] * 255) / 255
    assert np.allclose(said.read("confidence", 8), expected, atol=1e-6)


def test_copies_that_vanish_between_two_reads_are_fetched_again(
    made: Any, full_set: Any, folder: Path
) -> None:
    said = opened(made)
    read_all(said, full_set.set)
    copies = copies_in(folder)
    assert copies
    for _ in range(2):
        for name in copies:
            (folder / name).unlink()
        read_all(said, full_set.set)  # compares each frame with the local cache's


@pytest.mark.parametrize("trouble", ["a file", "no space", "too small"])
def test_where_no_copy_can_be_put_frames_come_from_the_store(
    trouble: str, made: Any, full_set: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trouble == "a file":
        folder.parent.mkdir()
        folder.write_bytes(b"")
    elif trouble == "no space":

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
    else:
        monkeypatch.setenv("STILLROOM_SHARD_CACHE_GB", "1e-7")  # 100 bytes
    requests = Requests(monkeypatch)
    read_all(opened(made), full_set.set)
    assert ("read_range", "confidence") in requests.taken()


def test_a_damaged_object_in_the_store_is_not_copied_and_its_sound_frames_are_read(
    made: Any, full_set: Any, folder: Path
) -> None:
    path = "camvid/fpn/confidence/c.0.0.0"
    content = bytearray(made.set.store.read(path))
    content[3] ^= 1
    made.set.store.write_whole(path, bytes(content))
    said = opened(made)
    with pytest.raises(CacheCorrupt, match=r"confidence: frame 0"):
        said.read("confidence", 0)
    assert np.array_equal(said.read("confidence", 1), full_set.set.read("confidence", 1))
    assert copies_in(folder) == set()


def test_the_folder_is_bounded_and_what_was_used_least_recently_goes_first(tmp_path: Path) -> None:
    copies = LocalCopies(tmp_path, limit=3500, in_use_seconds=0.0)
    for name in (0, 1, 2):
        assert copies.hold(ENTRIES[name], lambda name=name: CONTENT[name])
        os.utime(copies.path(ENTRIES[name]), (name, name))
    assert copies.hold(ENTRIES[0], lambda: pytest.fail("it is there"))  # and was used just now
    assert copies.hold(ENTRIES[3], lambda: CONTENT[3])
    assert copies_in(tmp_path) == {ENTRIES[name].sha256 for name in (0, 2, 3)}
    assert not copies.hold(ObjectEntry(4000, "ab" * 32), lambda: pytest.fail("larger than all"))


def test_copies_in_use_are_not_thrown_out_for_others(tmp_path: Path) -> None:
    copies = LocalCopies(tmp_path, limit=2500)
    assert copies.hold(ENTRIES[0], lambda: CONTENT[0])
    assert copies.hold(ENTRIES[1], lambda: CONTENT[1])
    assert not copies.hold(ENTRIES[2], lambda: pytest.fail("there is no room for it"))
    hour_ago = time.time() - 3600
    os.utime(copies.path(ENTRIES[0]), (hour_ago, hour_ago))
    fresh = LocalCopies(tmp_path, limit=2500)
    assert fresh.hold(ENTRIES[2], lambda: CONTENT[2])
    assert copies_in(tmp_path) == {ENTRIES[1].sha256, ENTRIES[2].sha256}


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".host.1.ab"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    assert LocalCopies(tmp_path, limit=5000).hold(ENTRIES[0], lambda: CONTENT[0])
    assert not left.exists()


def test_threads_that_want_one_object_fetch_it_once(tmp_path: Path) -> None:
    fetched: list[int] = []
    begun = threading.Event()

    def slow() -> bytes:
        fetched.append(1)
        begun.wait(0.3)
        return CONTENT[0]

    with ThreadPoolExecutor(6) as pool:
        folders = [LocalCopies(tmp_path, limit=5000) for _ in range(6)]
        held = list(pool.map(lambda copies: copies.hold(ENTRIES[0], slow), folders))
    assert (held, fetched) == ([True] * 6, [1])


PROCESS = """
import random, sys
from pathlib import Path
from stillroom.storage_specs.files.local_copies import LocalCopies
from stillroom.storage_specs.manifest import entry_of
content = {name: bytes([name]) * 1000 for name in range(8)}
rng = random.Random(int(sys.argv[2]))
copies = LocalCopies(Path(sys.argv[1]), 3500, in_use_seconds=0.0)
for _ in range(300):
    name = rng.randrange(8)
    entry = entry_of(content[name])
    if copies.hold(entry, lambda: content[name]):
        try:
            assert copies.path(entry).read_bytes() == content[name]
        except FileNotFoundError:
            pass
    assert copies._rest_until == 0.0
"""


def test_processes_share_the_folder_within_its_bound(tmp_path: Path) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(tmp_path), str(seed)])
        for seed in range(3)
    ]
    for process in running:
        process.wait(120)
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(copies_in(tmp_path)) <= 3


def test_a_size_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLROOM_SHARD_CACHE", "somewhere")
    monkeypatch.setenv("STILLROOM_SHARD_CACHE_GB", "much")
    with pytest.raises(ConfigError, match="STILLROOM_SHARD_CACHE_GB=much"):
        LocalCopies.from_environment()
    monkeypatch.delenv("STILLROOM_SHARD_CACHE_GB")
    copies = LocalCopies.from_environment()
    assert copies is not None
    assert copies.limit == int(local_copies.USUAL_GIGABYTES * 1e9)
