"""`cache verify`, `cache verify --repair` and the build after it, from damage to the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from stillroom.cli import main
from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.verify import verify_cache
from stillroom.pipeline.run_file.loading import load_run
from stillroom.storage_specs.errors import CacheCorrupt, CacheMismatch
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stillroom.storage_specs.verify import Fault

CACHE = Path("street.cache")
TINY = "street/tiny/zarr.json"


def stillroom(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def faults_of(path: Path, *, repair: bool = False) -> list[Fault]:
    return verify_cache(path, repair=repair).faults


def flip(path: str, place: int | bytes, bit: int = 0) -> None:
    content = bytearray((CACHE / path).read_bytes())
    at = place if isinstance(place, int) else content.index(place) + len(place) // 2
    content[at] ^= 1 << bit
    (CACHE / path).write_bytes(content)


def objects(folder: Path) -> dict[str, str]:
    """sha256 of all but the manifest (whose seconds differ) and the builder's name in the root."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "manifest" not in path.relative_to(folder).parts
    }


def parts(folder: Path) -> dict[str, bytes]:
    found = (folder / "manifest").rglob("*.parquet")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def of_set(pair: str, shards: Iterable[int] = (0, 1, 2)) -> set[str]:
    return {f"manifest/{pair}/{shard:05d}.parquet" for shard in shards}


# (file, where in it a bit flips, what the fault names, the shards that are made again)
DAMAGE: list[tuple[str, int | bytes, str, set[str]]] = [
    ("street/tiny/logits/c.1.0.0.0", 100, "street/tiny/logits", of_set("street/tiny", [1])),
    ("street/frames/c.0.0.0.0", -3, "street/frames", of_set("street/frames", [0])),
    ("manifest/more/tiny/00001.parquet", 40, "manifest/more/tiny/00001.parquet",
     of_set("more/tiny", [1])),
    ("manifest/street/tiny/00000.parquet", -20, "manifest/street/tiny/00000.parquet",
     of_set("street/tiny", [0])),
    ("street/tiny/logits/zarr.json", b'"shape"', "street/tiny/logits", set()),
    ("street/tiny/logits/zarr.json", b"dimension_names", "street/tiny/logits", set()),
    ("street/frames/zarr.json", b"sharding_indexed", "street/frames", set()),
    ("street/labels/zarr.json", 0, "street/labels", set()),
    ("street/tiny/features/zarr.json", b"node_type", "street/tiny/features", set()),
    (TINY, b'"stillroom"', "street/tiny", of_set("street/tiny")),
    (TINY, b'"set"', "street/tiny", of_set("street/tiny")),
    (TINY, b'"tiny"', "street/tiny", of_set("street/tiny")),
    (TINY, b"node_type", "street/tiny", of_set("street/tiny")),
    (TINY, b'"group"', "street/tiny", of_set("street/tiny")),
    (TINY, b'"identity"', "street/tiny", of_set("street/tiny")),
    (TINY, b'"fingerprint"', "street/tiny", of_set("street/tiny")),
    (TINY, 0, "street/tiny", of_set("street/tiny")),
    ("more/zarr.json", b'"stillroom"', "more", of_set("more/frames", [0, 1])),
    ("street/zarr.json", b'"frames"', "street", of_set("street/frames")),
    ("street/zarr.json", 0, "street", of_set("street/frames")),
    ("zarr.json", b'"stillroom"', "zarr.json", set()),
    ("zarr.json", 0, "zarr.json", set()),
]  # fmt: skip


@pytest.mark.slow
def test_every_flipped_bit_is_found_named_and_healed_by_repair_and_build(run_file: Path) -> None:
    run = load_run(run_file)
    build(run)
    shutil.copytree(CACHE, "good.cache")
    good, committed = objects(CACHE), parts(CACHE)
    for file, place, named, again in DAMAGE:
        case = f"{file} at {place!r}"
        flip(file, place)
        damaged = {**objects(CACHE), **parts(CACHE)}
        faults = faults_of(CACHE)
        assert {fault.array for fault in faults} == {named}, case
        assert {**objects(CACHE), **parts(CACHE)} == damaged, "verify itself changes nothing"
        assert len(faults_of(CACHE, repair=True)) == len(faults), case
        assert committed.keys() - parts(CACHE).keys() == again, case
        assert faults_of(CACHE) == [], case
        assert build(run).shards == len(again), case
        assert objects(CACHE) == good, case
        kept = {path: content for path, content in parts(CACHE).items() if path not in again}
        assert kept == {path: committed[path] for path in committed if path not in again}, case
        shutil.rmtree(CACHE)
        shutil.copytree("good.cache", CACHE)


@pytest.mark.parametrize("lost", [TINY, "street/zarr.json", "zarr.json"])
def test_a_lost_group_is_found_and_healed(run_file: Path, lost: str) -> None:
    run = load_run(run_file)
    build(run)
    good = objects(CACHE)
    (CACHE / lost).unlink()
    with pytest.raises((CacheCorrupt, CacheMismatch)):  # before any work is done
        build(run)
    assert {fault.kind for fault in faults_of(CACHE, repair=True)} == {"metadata"}
    build(run)
    assert objects(CACHE) == good
    assert faults_of(CACHE) == []


def test_any_flipped_bit_of_a_sets_group_is_found(run_file: Path) -> None:
    build(load_run(run_file))
    good = (CACHE / TINY).read_bytes()
    cache = Cache.open(CACHE)
    for place in range(0, len(good), 3):
        if good[place : place + 1] in b"eE":  # 1e-05 is 1E-05
            continue
        flip(TINY, place, place % 7)
        assert ("street", "tiny") in cache.sets()
        with pytest.raises(CacheCorrupt, match=r"street/tiny/zarr\.json is damaged.*--repair"):
            cache.artifact_set("street", "tiny")
        (CACHE / TINY).write_bytes(good)


def test_the_command_says_how_to_heal_and_json_is_printed_whatever_is_damaged(
    run_file: Path,
) -> None:
    build(load_run(run_file))
    flip(TINY, 0)
    flip("more/tiny/logits/c.0.0.0.0", 9)
    found = stillroom("cache", "verify", CACHE)
    assert found.exit_code == 1
    assert "stillroom cache verify street.cache --repair" in found.stdout
    assert "stillroom cache build" in found.stdout
    document = json.loads(stillroom("cache", "verify", CACHE, "--json").stdout)
    assert {(each["source"], each["set"]) for each in document["faults"]} == {
        ("street", "tiny"), ("more", "tiny"),
    }  # fmt: skip
    assert document["repaired"] == []
    repaired = stillroom("cache", "verify", run_file, "--repair", "--json")
    assert repaired.exit_code == 1
    lines = json.loads(repaired.stdout)["repaired"]
    assert "withdrew more/tiny, shard 0" in lines
    assert "withdrew street/tiny/zarr.json" in lines
    assert stillroom("cache", "build", run_file).exit_code == 0
    assert "complete and sound" in stillroom("cache", "verify", CACHE).stdout


def test_repair_of_a_sound_cache_changes_nothing(run_file: Path) -> None:
    build(load_run(run_file))
    before = {**objects(CACHE), **parts(CACHE)}
    shown = stillroom("cache", "verify", CACHE, "--repair")
    assert shown.exit_code == 0
    assert {**objects(CACHE), **parts(CACHE)} == before


def test_frames_and_outputs_made_from_other_pixels_are_found_and_healed(run_file: Path) -> None:
    import cv2

    Path("photos").mkdir()
    rng = np.random.default_rng(0)

    def paint(number: int) -> None:
        image = rng.integers(0, 256, (32, 48, 3), np.uint8)
        cv2.imwrite(f"photos/{number}.bmp", image)  # always as many bytes

    for number in range(6):
        paint(number)
    overrides: list[Any] = ['sources.more={kind="images", root="photos"}']
    run = load_run(run_file, overrides)
    build(run)
    assert faults_of(CACHE) == []
    paint(1)
    paint(2)
    Cache.open(CACHE).artifact_set("more", "frames").discard(0)
    build(run)
    faults = faults_of(CACHE)
    assert [(each.source, each.set_name, each.shard, each.kind) for each in faults] == [
        ("more", "frames", 0, "rows"),
        ("more", "tiny", 0, "rows"),
    ]
    assert "'tiny': 2 frames (first 1.bmp)" in str(faults[1])
    faults_of(CACHE, repair=True)
    assert build(run).shards == 2
    assert faults_of(CACHE) == []
