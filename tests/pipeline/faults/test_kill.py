"""kill -9 at random moments of a build, then the same command again: the same bytes, and no
committed shard made twice."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stillroom.pipeline.cache_tools.verify import verify_cache
from stillroom.storage_specs.errors import CacheIncomplete
from stillroom.storage_specs.files.durable_files import STAGING

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.storage_specs.verify import Fault

SHARDS = 12
ROUNDS, KILLS_A_ROUND = 8, 4
BY_COMMAND_LINE = 8


def commits(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and mtime of every file of every committed shard: both change when it is written."""
    found = {}
    for part in (folder / "manifest").glob("*/*/*.parquet"):
        source, name, shard = *part.parts[-3:-1], int(part.stem)
        inside = folder / source if name == "frames" else folder / source / name
        objects = [*inside.rglob(f"c.{shard}.*")]
        if name == "frames":
            objects = [path for path in objects if path.parent.parent == inside]
        for path in (part, *objects):
            status = path.stat()
            found[str(path.relative_to(folder))] = (status.st_ino, status.st_mtime_ns)
    return found


def parts(folder: Path, pair: str = "*/*") -> int:
    return len(list((folder / "manifest").glob(f"{pair}/*.parquet")))


def files(folder: Path) -> int:
    """Files of a cache so far, those being written included."""
    return sum(len(names) for _, _, names in os.walk(folder))


def reached(folder: Path, moment: int, ended: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: files(folder) >= moment or ended()


def unchanged(before: dict[str, tuple[int, int]], folder: Path) -> bool:
    now = commits(folder)
    return all(now.get(path) == stamp for path, stamp in before.items())


def damage(folder: Path) -> list[Fault]:
    try:
        return verify_cache(folder).faults
    except CacheIncomplete:
        return []  # killed before there was a cache


def finish(forked: Callable[..., Any], arguments: list[str], folder: Path) -> None:
    """Let the build end, and hold what it did against what had been committed."""
    before, done, told = commits(folder), parts(folder), Path("batches")
    missing = 6 - parts(folder, "street/tiny")
    told.unlink(missing_ok=True)
    child = forked(*arguments, "--json")
    assert child.wait() == 0, child.said.read_text()
    report = json.loads("{" + child.said.read_text().partition("{")[2])
    assert report["shards_computed"] == SHARDS - done
    # One batch a shard, two on a black canvas for strides and shapes, four of the first look.
    batches = len(told.read_text().splitlines()) if told.exists() else 0
    assert batches == (missing + 6 if missing else 0)
    assert unchanged(before, folder)


@pytest.mark.soak
def test_builds_killed_at_random_moments_resume_to_the_same_bytes(
    fault_run: Path,
    contents: Callable[[Path], dict[str, Any]],
    forked: Callable[..., Any],
    wait_until: Callable[..., bool],
) -> None:
    rng = random.Random(0)
    build = ["cache", "build", str(fault_run), "--set"]
    assert forked(*build, "cache.path=whole.cache").wait() == 0
    whole = contents(Path("whole.cache"))
    killed: list[int] = []
    half_written = 0
    for number in range(ROUNDS):
        folder = Path(f"killed{number}.cache")
        arguments = [*build, f"cache.path={folder}"]
        for moment in sorted(rng.randrange(len(whole) - 1) for _ in range(KILLS_A_ROUND)):
            before = commits(folder)
            child = forked(*arguments, PAUSE="0.01")
            wait_until(reached(folder, moment, lambda child=child: not child.running()))
            # Some in planning, some within a write, some between two.
            time.sleep(rng.random() * (0.1 if moment < 8 else 0.01))
            child.kill()
            if child.wait() == -9:
                killed.append(parts(folder))
                half_written += any((folder / STAGING).glob("*"))
            assert unchanged(before, folder)
            assert damage(folder) == []
        finish(forked, arguments, folder)
        assert contents(folder) == whole
    print(f"{len(killed)} kills, with so many shards committed: {killed}")
    print(f"{half_written} of them left a file half-written")
    assert half_written
    assert len(killed) >= ROUNDS * KILLS_A_ROUND - 2  # one may come after the end
    # From the beginning of the build to its end.
    total = parts(Path("whole.cache"))
    assert min(killed) <= total // 3
    assert max(killed) >= 2 * total // 3
    assert len(set(killed)) > 4


@pytest.mark.slow
def test_the_command_line_killed_at_random_moments_resumes_to_the_same_bytes(
    fault_run: Path,
    contents: Callable[[Path], dict[str, Any]],
    forked: Callable[..., Any],
    wait_until: Callable[..., bool],
) -> None:
    rng = random.Random(1)
    build = ["cache", "build", str(fault_run), "--set"]
    assert forked(*build, "cache.path=whole.cache").wait() == 0
    whole, folder = contents(Path("whole.cache")), Path("killed.cache")
    arguments = [*build, f"cache.path={folder}"]
    killed = []
    for number in range(BY_COMMAND_LINE):
        before = commits(folder)
        child = subprocess.Popen(
            [sys.executable, "-m", "stillroom", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PAUSE": "0.05"},
        )
        if number % 4 == 0:
            time.sleep(rng.random() * 2)  # mostly while it imports
        else:
            moment = len(whole) * number // BY_COMMAND_LINE
            wait_until(reached(folder, moment, lambda child=child: child.poll() is not None))
            time.sleep(rng.random() * 0.01)
        child.kill()
        assert child.wait() == -9
        killed.append(parts(folder))
        assert unchanged(before, folder)
    print(f"{len(killed)} kills, with so many shards committed: {killed}")
    finish(forked, arguments, folder)
    assert contents(folder) == whole
