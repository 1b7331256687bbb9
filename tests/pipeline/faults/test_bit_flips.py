"""500 bits of a cache flipped, one at a time: each is found, and healed by repair and build."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.verify import verify_cache
from stillroom.pipeline.run_file.loading import load_run
from stillroom.storage_specs.errors import CacheCorrupt
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.storage_specs.verify import Fault

CACHE = Path("street.cache")
FLIPS = {"c.*": 250, "*.parquet": 100, "zarr.json": 150}
AT_ONCE = 25


@dataclass(frozen=True)
class Flip:
    """One bit of one file."""

    path: Path
    place: int
    bit: int

    def do(self) -> None:
        content = bytearray(self.path.read_bytes())
        content[self.place] ^= 1 << self.bit
        self.path.write_bytes(content)

    undo = do

    def names(self, fault: Fault) -> bool:
        """Whether the fault points at this file."""
        place = self.path.relative_to(CACHE).as_posix()
        of_shard = fault.shard is None or f"/c.{fault.shard}." in place
        return fault.array == place or (fault.array == parent(place) and of_shard)


def parent(place: str) -> str:
    return place.rpartition("/")[0] or place


def some_flips(rng: random.Random) -> list[Flip]:
    """As many of each kind of file as FLIPS says, no file's own free text among them."""
    flips = []
    for pattern, count in FLIPS.items():
        files = sorted(CACHE.rglob(pattern))
        while count:
            path = rng.choice(files)
            flip = Flip(path, rng.randrange(path.stat().st_size), rng.randrange(8))
            if flip not in flips and flip.place not in free_text(path):
                flips.append(flip)
                count -= 1
    return flips


def free_text(path: Path) -> range:
    """What the format gives no meaning: who made the cache."""
    if path != CACHE / "zarr.json":
        return range(0)
    content = path.read_bytes()
    start = content.index(b'"created_by"')
    return range(start, content.index(b"\n", start))


def faults() -> list[Fault]:
    return verify_cache(CACHE).faults


@pytest.mark.soak
def test_each_of_500_flipped_bits_is_found_and_healed(
    fault_run: Path, contents: Callable[[Path], dict[str, Any]]
) -> None:
    run = load_run(fault_run)
    build(run)
    good, flips = contents(CACHE), some_flips(random.Random(4))
    assert len(flips) == 500
    for flip in flips:
        flip.do()
        found = faults()
        assert found, flip
        assert all(flip.names(fault) for fault in found), (flip, found)
        flip.undo()
    random.Random(5).shuffle(flips)
    # A cache is known by its root, or, where that is damaged, by a set that is whole.
    of_root = [flip for flip in flips if flip.path == CACHE / "zarr.json"]
    others = [flip for flip in flips if flip not in of_root]
    groups = [others[start : start + AT_ONCE] for start in range(0, len(others), AT_ONCE)]
    for group in [*groups, *([flip] for flip in of_root)]:
        for flip in group:
            flip.do()
        verify_cache(CACHE, repair=True)
        build(run)
        assert contents(CACHE) == good
        assert faults() == []


@pytest.mark.slow
def test_the_command_line_finds_and_heals_as_the_library_does(
    fault_run: Path,
    contents: Callable[[Path], dict[str, Any]],
    stillroom: Callable[..., Any],
) -> None:
    build(load_run(fault_run))
    good, flips = contents(CACHE), some_flips(random.Random(6))
    for flip in (flips[0], flips[260], flips[360]):
        flip.do()
        found = stillroom("cache", "verify", CACHE, "--repair")
        assert found.returncode == 1
        assert parent(flip.path.relative_to(CACHE).as_posix()) in found.stdout
        assert stillroom("cache", "build", fault_run).returncode == 0
        assert stillroom("cache", "verify", CACHE).returncode == 0
        assert contents(CACHE) == good


def test_a_flip_in_the_makers_name_changes_nothing_that_is_read(fault_run: Path) -> None:
    build(load_run(fault_run))
    root = CACHE / "zarr.json"
    good, said = root.read_bytes(), free_text(root)
    sets, found = Cache.open(CACHE).sets(), 0
    for place in said:
        for bit in range(8):
            flip = Flip(root, place, bit)
            flip.do()
            try:
                assert Cache.open(CACHE).sets() == sets
            except CacheCorrupt:  # no JSON any more
                found += 1
            flip.undo()
    assert 0 < found < 8 * len(said)
    assert root.read_bytes() == good
