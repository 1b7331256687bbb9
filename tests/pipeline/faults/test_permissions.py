"""A cache that may be read and not written; a folder that a group shares."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.loading import load_run
from stillroom.storage_specs.files.durable_files import STAGING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY, GROUP = 65534, 65533
# Root without its right to pass over permissions: to whom nothing belongs that is not root's.
POWERLESS = [
    "setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner",
    f"--regid={GROUP}", "--clear-groups",
]  # fmt: skip


@pytest.fixture
def open_place(fault_run: Path) -> Iterator[Path]:
    """The run file and its networks where every user may go: pytest's folder is its owner's."""
    folder = Path(tempfile.mkdtemp(prefix="stillroom-faults-"))
    folder.chmod(0o777)
    for name in ("run.toml", "tiny_networks.py"):
        shutil.copy(fault_run.parent / name, folder)
        (folder / name).chmod(0o644)
    yield folder
    shutil.rmtree(folder)


def call(
    folder: Path, *arguments: object, powerless: bool = False, umask: int = 0o022
) -> subprocess.CompletedProcess[str]:
    """The command line, as somebody for whom permissions count."""
    prefix = POWERLESS if powerless and os.geteuid() == 0 else []
    environment = {
        **os.environ, "HOME": str(folder), "PYTHONPATH": str(folder),
        "BATCHES": os.devnull, "MPLCONFIGDIR": str(folder),
    }  # fmt: skip
    return subprocess.run(
        [*prefix, sys.executable, "-m", "stillroom", *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        umask=umask,
    )


def give(folder: Path, folders: int, files: int) -> None:
    """These modes for everything in it, and another owner, if we may."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(folders if path.is_dir() else files)
        if os.geteuid() == 0:
            os.chown(path, NOBODY, GROUP)


@pytest.fixture(autouse=True, scope="module")
def powers() -> None:
    if os.geteuid() == 0 and subprocess.run([*POWERLESS, "true"], capture_output=True).returncode:
        pytest.skip("root cannot give up its rights here: no setpriv")


@pytest.mark.slow
def test_a_read_only_cache_is_read_verified_and_trained_from_and_not_built(
    open_place: Path, contents: Callable[[Path], dict[str, Any]]
) -> None:
    folder = open_place / "street.cache"
    assert call(open_place, "cache", "build", "run.toml").returncode == 0
    # One shard is wanting, so that a build has something to do.
    (folder / "manifest/street/tiny/00003.parquet").unlink()
    give(folder, 0o555, 0o444)
    before = contents(folder)
    build_it = call(open_place, "cache", "build", "run.toml", powerless=True)
    assert build_it.returncode == 2, build_it.stderr
    (line,) = [line for line in build_it.stderr.splitlines() if line.startswith("error: ")]
    assert "no permission to write" in line
    assert "make the folder writable for this user, or point cache.path elsewhere" in line
    verified = call(open_place, "cache", "verify", "street.cache", powerless=True)
    assert verified.returncode == 0, verified.stderr
    assert call(open_place, "cache", "info", "street.cache", powerless=True).returncode == 0
    repaired = call(open_place, "cache", "verify", "street.cache", "--repair", powerless=True)
    assert repaired.returncode == 0  # there is nothing to repair
    assert contents(folder) == before
    give(folder, 0o777, 0o666)
    assert call(open_place, "cache", "build", "run.toml").returncode == 0
    give(folder, 0o555, 0o444)
    trained = call(open_place, "train", "run.toml", powerless=True)
    assert trained.returncode == 0, trained.stderr
    assert (open_place / "run/model.safetensors").exists()


@pytest.mark.slow
def test_a_cache_on_a_disk_that_is_mounted_read_only(fault_run: Path) -> None:
    build(load_run(fault_run))
    (Path("street.cache") / "manifest/street/tiny/00003.parquet").unlink()
    folder = Path("street.cache").resolve()
    mount = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder} && "
    inside = ["unshare", "--mount", "sh", "-c"]
    if subprocess.run([*inside, f"{mount} true"], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    codes, said = [], ""
    for command in ("verify", "build"):
        argument = str(fault_run)
        done = subprocess.run(
            [*inside, f"{mount} exec {sys.executable} -m stillroom cache {command} {argument}"],
            capture_output=True,
            text=True,
        )
        codes.append(done.returncode)
        said = done.stderr
    assert codes == [0, 2], said
    assert "no permission to write" in said


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_new_files_have_the_modes_that_the_umask_leaves(open_place: Path, umask: int) -> None:
    assert call(open_place, "cache", "build", "run.toml", umask=umask).returncode == 0
    found = {
        (path.is_dir(), stat.S_IMODE(path.stat().st_mode))
        for path in (open_place / "street.cache").rglob("*")
    }
    assert found == {(True, 0o777 & ~umask), (False, 0o666 & ~umask)}


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_two_users_of_a_group_build_one_cache(
    fault_run: Path, open_place: Path, contents: Callable[[Path], dict[str, Any]]
) -> None:
    build(load_run(fault_run))
    folder = open_place / "street.cache"
    build_it = ("cache", "build", "run.toml")
    assert call(open_place, *build_it, umask=0o002).returncode == 0
    (folder / "manifest/street/tiny/00003.parquet").unlink()
    left = folder / STAGING / "0123456789ab.1.00"
    left.touch()
    give(folder, 0o775, 0o664)
    os.utime(left, (0, 0))
    done = call(open_place, *build_it, powerless=True, umask=0o002)
    assert done.returncode == 0, done.stderr
    assert contents(folder) == contents(fault_run.parent / "street.cache")
    # And where the first one's umask shuts the group out, the second is told.
    (folder / "manifest/street/tiny/00003.parquet").unlink()
    give(folder, 0o755, 0o644)
    done = call(open_place, *build_it, powerless=True)
    assert done.returncode == 2
    assert "no permission to write" in done.stderr
