"""A disk that fills up during a build: said in one line, nothing half-written, and it goes on."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.verify import verify_cache
from stillroom.pipeline.run_file.loading import load_run
from stillroom.storage_specs.errors import CacheIncomplete, CacheUnwritable
from stillroom.storage_specs.files.durable_files import STAGING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WHOLE = Path("street.cache")
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from stillroom.cli import main
main(sys.argv[2:])
"""


def is_sound(folder: Path) -> bool:
    """Nothing committed that is not whole, nothing half-written lying about."""
    staging = folder / STAGING
    if staging.exists() and list(staging.iterdir()):
        return False
    try:
        return not verify_cache(folder).faults
    except CacheIncomplete:
        return True  # full before anything was there


def is_one_clear_line(said: str) -> bool:
    errors = [line for line in said.splitlines() if "error" in line.lower()]
    words = ("no space left", "free some space and run the same command again")
    return len(errors) == 1 and all(word in errors[0] for word in words) and "Trace" not in said


@pytest.mark.soak
@pytest.mark.parametrize("limit", [500, 4000])  # too small for metadata, for a shard of frames
def test_a_limit_on_the_size_of_files(
    fault_run: Path, contents: Callable[[Path], dict[str, Any]], limit: int
) -> None:
    build(load_run(fault_run))
    arguments = ["cache", "build", str(fault_run), "--set", "cache.path=full.cache"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert is_one_clear_line(done.stderr), done.stderr
    assert is_sound(Path("full.cache"))
    build(load_run(fault_run, ["cache.path=full.cache"]))
    assert contents(Path("full.cache")) == contents(WHOLE)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """`small_disk(kilobytes)`: one that is new and that small; called again, it has grown.

    It is mounted where only its holder sees it, and gone with that process.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", "echo ready; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    sizes: list[int] = []

    def mount(kilobytes: int) -> Path:
        options = f"size={kilobytes}k" if not sizes else f"remount,size={kilobytes}k"
        sizes.append(kilobytes)
        inside = ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt"]
        command = [*inside, "mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        return Path(f"/proc/{holder.pid}/root{folder}")

    try:
        if holder.stdout.readline() != "ready\n":
            pytest.skip("no mount namespace can be made here")
        yield mount
    finally:
        holder.stdin.close()
        holder.wait(60)
        holder.stdout.close()


@pytest.mark.soak
@pytest.mark.parametrize("kilobytes", [24, 100, 180, 260, 340])
def test_a_small_disk(
    fault_run: Path,
    contents: Callable[[Path], dict[str, Any]],
    forked: Callable[..., Any],
    small_disk: Callable[[int], Path],
    kilobytes: int,
) -> None:
    assert forked("cache", "build", fault_run).wait() == 0
    folder = small_disk(kilobytes) / "full.cache"
    arguments = ["cache", "build", fault_run, "--set", f"cache.path={folder}"]
    child = forked(*arguments)
    assert child.wait() == 2, child.said.read_text()
    assert is_one_clear_line(child.said.read_text()), child.said.read_text()
    assert is_sound(folder)
    print(f"{kilobytes} kB:", len([*folder.glob("manifest/*/*/*.parquet")]), "of 12 committed")
    small_disk(4096)
    child = forked(*arguments)
    assert child.wait() == 0, child.said.read_text()
    assert contents(folder) == contents(WHOLE)


@pytest.mark.soak
def test_no_space_at_any_write(
    fault_run: Path, contents: Callable[[Path], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(load_run(fault_run))
    whole, synced = contents(WHOLE), os.fsync
    for last in range(0, 2 * len(whole), 7):  # of the file, and of its folder
        folder, left = Path(f"full{last}.cache"), [last]

        def sync(descriptor: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            synced(descriptor)

        run = load_run(fault_run, [f"cache.path={folder}"])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", sync)
            with pytest.raises(CacheUnwritable, match="no space left"):
                build(run)
        assert is_sound(folder)
        build(run)
        assert contents(folder) == whole
