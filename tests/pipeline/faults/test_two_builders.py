"""Two builders on one cache at once: of the same run, of different runs, of the same shard."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.verify import verify_cache
from stillroom.pipeline.run_file.loading import load_run
from stillroom.storage_specs.codecs.plain import Half, Raw
from stillroom.storage_specs.errors import CacheIncomplete, CacheMismatch
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.manifest import FrameRow
from stillroom.storage_specs.store import Cache
from stillroom.storage_specs.verify import verify_shard

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.verify import Fault

SHARED = Path("shared.cache")


def faults(folder: Path) -> list[Fault]:
    return verify_cache(folder).faults


def start(
    run: Path, environment: dict[str, str], *more: str, pause: float = 0.05
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stillroom", "cache", "build", str(run), *more]
    return subprocess.Popen(
        [*command, "--set", f"cache.path={SHARED}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "PAUSE": str(pause)},
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=400)
    return process.returncode, said


@pytest.mark.soak
def test_two_builders_of_one_run_leave_the_bytes_of_one(
    fault_run: Path, contents: Callable[[Path], dict[str, Any]]
) -> None:
    build(load_run(fault_run))
    both = [start(fault_run, dict(os.environ)) for _ in range(2)]
    for code, said in map(ended, both):
        assert code == 0, said
    assert contents(SHARED) == contents(Path("street.cache"))
    assert faults(SHARED) == []


@pytest.mark.soak
@pytest.mark.ray
def test_a_builder_here_and_one_on_ray_leave_the_bytes_of_one(
    fault_run: Path,
    contents: Callable[[Path], dict[str, Any]],
    marked: dict[str, str],
    wait_until: Callable[..., bool],
) -> None:
    build(load_run(fault_run))
    on_ray = start(fault_run, marked, "--runner", "ray", pause=1)
    # Join once it is at work.
    parts = SHARED / "manifest/street/frames"
    assert wait_until(lambda: list(parts.glob("*.parquet")) or on_ray.poll() is not None)
    here = start(fault_run, marked, pause=0.3)
    for code, said in (ended(here), ended(on_ray)):
        assert code == 0, said
    assert contents(SHARED) == contents(Path("street.cache"))
    assert faults(SHARED) == []


@pytest.mark.soak
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("cache.threshold=0.3", "pseudo_label.threshold"),
        ("cache.codecs.logits=half", "artifacts.logits.codec"),
        ("cache.canvas=[16,24]", "canvas.height"),
    ],
)
def test_of_two_builders_of_different_runs_one_wins_and_one_is_told(
    fault_run: Path, contents: Callable[[Path], dict[str, Any]], change: str, field: str
) -> None:
    build(load_run(fault_run, ["cache.path=0.cache"]))
    build(load_run(fault_run, ["cache.path=1.cache", change]))
    both = [start(fault_run, dict(os.environ), *more) for more in ((), ("--set", change))]
    results = [ended(each) for each in both]
    assert sorted(code for code, _ in results) == [0, 2], results
    winner = [code for code, _ in results].index(0)
    said = results[1 - winner][1]
    assert said.count("error:") == 1
    assert field in said
    assert "was built from something else" in said or "removed or redefined" in said
    assert contents(SHARED) == contents(Path(f"{winner}.cache"))
    assert faults(SHARED) == []


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What each call gave or raised; they begin together."""
    barrier = threading.Barrier(len(calls))

    def one(call: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return call()
        except CacheMismatch as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))


@pytest.mark.parametrize("name", ["fpn", "frames"])
@pytest.mark.parametrize("before", [False, True])  # whether the source has a teacher's set
def test_of_many_definitions_at_once_one_wins_and_the_others_name_the_field(
    tmp_path: Path, name: str, before: bool
) -> None:
    artifact = ArraySpec("frames", (2, 2, 3), Raw()) if name == "frames" else (
        ArraySpec("logits", (1, 2, 2), Half()))  # fmt: skip
    for attempt in range(30):
        cache = Cache.create(tmp_path / str(attempt))
        if before:
            cache.define("camvid", "psp", {}, 4, 2, [ArraySpec("logits", (1, 2, 2), Half())])

        def define(seed: int, cache: Cache = cache) -> ArtifactSet:
            return cache.define("camvid", name, {"seed": seed}, 4, 2, [artifact])

        gave = at_once(*(lambda seed=seed: define(seed) for seed in range(4)))
        won = [each for each in gave if not isinstance(each, CacheMismatch)]
        assert len(won) == 1, gave
        assert all("seed" in str(each) for each in gave if each is not won[0])
        assert cache.artifact_set("camvid", name).identity == won[0].identity
        assert faults(cache.path) == []


@pytest.mark.parametrize("door", [Cache.create, Cache.open])
def test_a_folder_that_becomes_a_cache_meanwhile_is_not_foreign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: Callable[[Path], Cache]
) -> None:
    folder, listed = tmp_path / "c", Path.iterdir
    (folder / "manifest").mkdir(parents=True)

    def iterdir(self: Path) -> Any:
        if self == folder:  # another builder comes in between
            monkeypatch.undo()
            arrays = [ArraySpec("logits", (1, 2, 2), Half())]
            Cache.create(folder).define("camvid", "fpn", {}, 4, 2, arrays)
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    try:
        assert door(folder).sets() == [("camvid", "fpn")]
    except CacheIncomplete:
        assert door == Cache.open  # as it was when the door was knocked at


def write(target: ArtifactSet, shard: int, value: float) -> None:
    writer = target.writer(shard)
    for index in target.shard_range(shard):
        logits = np.full((8, 64, 64), value, np.float32)
        writer.put(FrameRow(index, str(index), valid_height=4, valid_width=4), {"logits": logits})
    writer.commit()


@pytest.mark.parametrize("other", [1.0, 2.0])  # the same values, and those of another attempt
def test_writers_of_one_shard_at_once_leave_one_of_them_whole(tmp_path: Path, other: float) -> None:
    arrays = [ArraySpec("logits", (8, 64, 64), Half())]
    target = Cache.create(tmp_path / "c").define("camvid", "fpn", {}, 60, 2, arrays)
    for shard in range(target.shards):
        at_once(*(lambda v=v, k=shard: write(target, k, v) for v in (1.0, other, 1.0, other)))
        assert verify_shard(target, shard) == []
        assert set(np.unique(target.read("logits", 2 * shard))) <= {1.0, other}
    assert len(target.committed()) == target.shards
