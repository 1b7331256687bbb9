"""`cache copy`: the same bytes elsewhere, or nothing that counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from stillroom.cli import main
from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.copy_cache import copy_cache
from stillroom.pipeline.cache_tools.verify import verify_cache
from stillroom.pipeline.run_file.loading import load_run
from stillroom.storage_specs.errors import (
    CacheCorrupt,
    CacheIncomplete,
    CacheMismatch,
    ConfigError,
)
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable

STREET, OUT = Path("street.cache"), Path("out.cache")


def stillroom(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def parts(folder: Path) -> dict[str, bytes]:
    found = (folder / "manifest").rglob("*.parquet")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_a_copy_is_the_same_bytes_and_a_build_finds_nothing_to_do(
    run_file: Path, artifact_bytes: Callable[[Path], dict[str, str]]
) -> None:
    build(load_run(run_file))
    found = copy_cache(STREET, OUT)
    assert sum(one.shards for one in found) == 10
    assert artifact_bytes(OUT) == artifact_bytes(STREET)
    assert parts(OUT) == parts(STREET)
    assert build(load_run(run_file, ['cache.path="out.cache"'])).shards == 0
    assert not verify_cache(OUT).faults


def test_a_copy_goes_on_with_what_is_missing(run_file: Path) -> None:
    build(load_run(run_file))
    copy_cache(STREET, OUT, source="street")
    assert {source for source, _ in Cache.open(OUT).sets()} == {"street"}
    Cache.open(OUT).artifact_set("street", "tiny").discard(1)
    Cache.open(STREET).artifact_set("more", "tiny").discard(0)
    found = {(one.source, one.set_name): one for one in copy_cache(STREET, OUT)}
    assert (found["street", "tiny"].shards, found["street", "tiny"].already) == (1, 2)
    assert (found["more", "tiny"].shards, found["more", "tiny"].missing) == (1, 1)
    assert found["street", "frames"].shards == 0
    copy_cache(STREET, Path("one.cache"), set_name="tiny", source="more")
    assert Cache.open("one.cache").sets() == [("more", "tiny")]


def test_a_flipped_bit_is_found_on_the_way_and_not_recorded(run_file: Path) -> None:
    build(load_run(run_file))
    victim = STREET / "street/tiny/logits/c.1.0.0.0"
    content = bytearray(victim.read_bytes())
    content[40] ^= 4
    victim.write_bytes(content)
    with pytest.raises(CacheCorrupt, match=r"street/tiny/logits/c\.1"):
        copy_cache(STREET, OUT)
    assert "manifest/street/tiny/00001.parquet" not in parts(OUT)
    victim.unlink()
    with pytest.raises(CacheCorrupt, match="cannot be read"):
        copy_cache(STREET, OUT)
    Cache.open(STREET).artifact_set("street", "tiny").discard(1)
    build(load_run(run_file))
    copy_cache(STREET, OUT)
    assert verify_cache(OUT).is_sound


def test_a_place_that_holds_something_else_is_refused(run_file: Path) -> None:
    build(load_run(run_file))
    build(load_run(run_file, ["cache.threshold=0.5", 'cache.path="out.cache"']))
    before = parts(OUT)
    with pytest.raises(CacheMismatch, match="holds another cache: its set more/tiny"):
        copy_cache(STREET, OUT)
    assert parts(OUT) == before
    Path("foreign").mkdir()
    Path("foreign/x").write_text("x")
    with pytest.raises(CacheMismatch):
        copy_cache(STREET, Path("foreign"))
    with pytest.raises(ConfigError, match="the cache that is read"):
        copy_cache(STREET, STREET)
    with pytest.raises(CacheIncomplete, match="it holds more/frames"):
        copy_cache(STREET, Path("new.cache"), source="nowhere")


def test_the_command_copies(run_file: Path) -> None:
    stillroom("cache", "build", run_file)
    said = stillroom("cache", "copy", STREET, OUT, "--only", "frames")
    assert said.exit_code == 0, said.stderr
    assert "street/frames" in said.stdout
    again = stillroom("cache", "copy", STREET, OUT, "--json")
    sets = json.loads(again.stdout)["sets"]
    assert {(one["source"], one["set_name"]): one["shards"] for one in sets} == {
        ("street", "frames"): 0, ("street", "tiny"): 3,
        ("more", "frames"): 0, ("more", "tiny"): 2,
    }  # fmt: skip
