from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stillroom.storage_specs.errors import CacheUnwritable
from stillroom.storage_specs.files.durable_files import STAGING, remove, sweep, write_whole


def left_over(root: Path) -> list[str]:
    return [path.name for path in (root / STAGING).iterdir()]


def test_a_file_is_written_with_its_folders_and_nothing_else(tmp_path: Path) -> None:
    assert write_whole(tmp_path, "a/b/c", b"new")
    assert (tmp_path / "a/b/c").read_bytes() == b"new"
    assert left_over(tmp_path) == []


def test_a_file_is_replaced_unless_it_is_to_be_kept(tmp_path: Path) -> None:
    write_whole(tmp_path, "a", b"first")
    assert not write_whole(tmp_path, "a", b"second", keep=True)
    assert (tmp_path / "a").read_bytes() == b"first"
    assert write_whole(tmp_path, "a", b"third")
    assert (tmp_path / "a").read_bytes() == b"third"
    assert left_over(tmp_path) == []


def test_keeping_works_where_a_disk_has_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert write_whole(tmp_path, "a", b"first", keep=True)
    assert not write_whole(tmp_path, "a", b"second", keep=True)
    assert (tmp_path / "a").read_bytes() == b"first"


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "no space left.*5 bytes.*free some space and run the same command again"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "no permission to write.*make the folder writable"),
        (errno.EROFS, "no permission"),
        (errno.EIO, "look at the disk"),
    ],
)
@pytest.mark.parametrize("step", ["fsync", "open"])
def test_a_fault_of_the_disk_leaves_nothing_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str, step: str
) -> None:
    write_whole(tmp_path, "a", b"first")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        if step == "fsync":
            patch.setattr(os, "fsync", fail)
        else:
            patch.setattr(Path, "open", fail)
        with pytest.raises(CacheUnwritable, match=says) as caught:
            write_whole(tmp_path, "a", b"other")
    assert str(tmp_path / "a") in str(caught.value)
    assert (tmp_path / "a").read_bytes() == b"first"
    assert left_over(tmp_path) == []


def test_a_real_limit_on_file_size_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from stillroom.storage_specs.files.durable_files import write_whole\n"
        "from stillroom.storage_specs.errors import CacheUnwritable\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    write_whole(Path(sys.argv[1]), 'a', bytes(100_000))\n"
        "except CacheUnwritable as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "no space left" in done.stdout
    assert not (tmp_path / "a").exists()
    assert left_over(tmp_path) == []


def test_a_folder_without_permission_is_unwritable(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from stillroom.storage_specs.files.durable_files import write_whole\n"
        "from stillroom.storage_specs.errors import CacheUnwritable\n"
        "os.chdir(sys.argv[1])\n"
        "if os.geteuid() == 0:\n"  # root writes anywhere: go on as nobody, all being imported
        "    os.setuid(65534)\n"
        "try:\n"
        "    write_whole(Path('shut'), 'a', b'')\n"
        "except CacheUnwritable as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "no permission to write" in done.stdout


def test_a_file_in_the_place_of_a_folder_is_unwritable(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(CacheUnwritable, match="cannot write"):
        write_whole(tmp_path, "a/b", b"")


def test_removing_tells_whether_there_was_anything(tmp_path: Path) -> None:
    write_whole(tmp_path, "a", b"")
    assert remove(tmp_path, "a")
    assert not remove(tmp_path, "a")


def test_only_abandoned_temporary_files_are_swept(tmp_path: Path) -> None:
    staging = tmp_path / STAGING
    staging.mkdir(parents=True)
    names = {
        "abandoned": "0123456789ab.1.part",
        "being written": "0123456789ab.2.part",
        "of an older stillroom": "0123456789ab.1-77.00",
        "stranger": "note",
        "old stranger": "thesis.txt",
    }
    for name in names.values():
        (staging / name).write_bytes(b"")
    os.utime(staging / names["old stranger"], (0, 0))
    (staging / "0123456789ab.3.part").symlink_to(staging / "note")
    os.mkfifo(staging / "0123456789ab.4.part")
    with (staging / names["being written"]).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert sweep(tmp_path) == 2
        assert sorted(left_over(tmp_path)) == sorted(
            [names[each] for each in ("being written", "stranger", "old stranger")]
            + ["0123456789ab.3.part", "0123456789ab.4.part"]
        )
    assert sweep(tmp_path) == 1


def test_where_a_disk_has_no_locks_a_temporary_file_is_swept_when_it_is_an_hour_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert write_whole(tmp_path, "a", b"first")
    for name, age in (("0123456789ab.1.part", 3500), ("0123456789ab.2.part", 3700)):
        (tmp_path / STAGING / name).touch()
        os.utime(tmp_path / STAGING / name, (time.time() - age,) * 2)
    assert sweep(tmp_path) == 1
    assert left_over(tmp_path) == ["0123456789ab.1.part"]


def test_there_may_be_nothing_to_sweep(tmp_path: Path) -> None:
    assert sweep(tmp_path / "absent") == 0
