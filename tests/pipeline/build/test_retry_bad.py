"""`cache build --retry-bad`: shards with bad rows are computed again, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from stillroom.cli import main
from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.verify import verify_cache
from stillroom.pipeline.run_file.loading import load_run
from stillroom.storage_specs.errors import CacheMismatch, TooManyBadFrames
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable

SPELL = '''

import pathlib


class Passing(Tiny):
    """Says NaN of every frame whose first pixel is bright, while a file "spell" is there."""

    def forward(self, images):
        said = super().forward(images)
        if pathlib.Path("spell").exists():
            said["logits"][images[:, :, 0, 0].mean(1) > 0] = float("nan")
        return said


def passing(classes=9, seed=0):
    return Passing(classes, seed)
'''
TARGET = "teachers.tiny.target=tiny_networks:passing"
RUN = [TARGET, "cache.max_bad_fraction=1", "cache.shard_frames=2"]


def command(run_file: Path, *options: str) -> Result:
    sets = [part for change in RUN for part in ("--set", change)]
    return CliRunner().invoke(main, ["cache", "build", str(run_file), *sets, *options])


def parts() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path("street.cache").rglob("*.parquet")}


def bad(status: str = "bad") -> set[tuple[str, int]]:
    sets = (
        Cache.open("street.cache").artifact_set(source, "tiny") for source in ("street", "more")
    )
    return {
        (one.source, row["index"])
        for one in sets
        for row in one.rows().to_pylist()
        if row["status"] == status
    }


@pytest.fixture
def spelled(run_file: Path) -> Path:
    """A run file whose cache was built under the spell."""
    networks = Path("tiny_networks.py")
    networks.write_text(networks.read_text() + SPELL)
    Path("spell").touch()
    build(load_run(run_file, RUN))
    assert 0 < len(bad()) < 16
    return run_file


def test_bad_rows_are_computed_again_and_shards_without_one_stay(
    spelled: Path, artifact_bytes: Callable[[Path], dict[str, str]]
) -> None:
    before, were_bad = parts(), bad()
    Path("spell").unlink()
    assert build(load_run(spelled, RUN)).shards == 0  # never by themselves
    dry = command(spelled, "--retry-bad", "--dry-run", "--json")
    missing = {each["source"]: each["missing_shards"] for each in json.loads(dry.stdout)["sets"]
               if each["set"] == "tiny"}  # fmt: skip
    shards = {(source, index // 2) for source, index in were_bad}
    assert sum(missing.values()) == len(shards)
    assert parts() == before  # a dry run withdraws nothing
    done = command(spelled, "--retry-bad")
    assert done.exit_code == 0, done.stderr
    of_street = sum(source == "street" for source, _ in were_bad)
    assert f"street/tiny: {of_street} bad rows in " in done.stderr
    assert "not finite" in done.stderr
    assert f"{len(shards)} of 16 shards computed" in done.stdout
    assert bad() == set()
    changed = {path for path, content in parts().items() if before[path] != content}
    assert changed == {f"street.cache/manifest/{source}/tiny/{shard:05d}.parquet"
                       for source, shard in shards}  # fmt: skip
    assert verify_cache("street.cache").is_sound
    build(load_run(spelled, [*RUN, "cache.path=fresh.cache"]))
    assert artifact_bytes(Path("street.cache")) == artifact_bytes(Path("fresh.cache"))
    after = parts()
    assert "nothing to do" in command(spelled, "--retry-bad").stdout
    assert parts() == after


def test_rows_that_are_bad_still_are_bad_again_with_the_same_bytes(
    spelled: Path, artifact_bytes: Callable[[Path], dict[str, str]]
) -> None:
    before, were_bad = artifact_bytes(Path("street.cache")), bad()
    document = json.loads(command(spelled, "--retry-bad", "--json").stdout)
    assert document["rows_retried"] == len(were_bad)
    assert (artifact_bytes(Path("street.cache")), bad()) == (before, were_bad)


def test_a_build_that_stopped_for_too_many_goes_on_from_there(run_file: Path) -> None:
    networks = Path("tiny_networks.py")
    networks.write_text(networks.read_text() + SPELL)
    Path("spell").touch()
    with pytest.raises(TooManyBadFrames, match="--retry-bad"):
        build(load_run(run_file, [TARGET]))
    Path("spell").unlink()
    with pytest.raises(TooManyBadFrames):
        build(load_run(run_file, [TARGET]))
    report = build(load_run(run_file, [TARGET]), retry_bad=True)
    assert (sum(report.bad.values()), bad()) == (0, set())


@pytest.mark.parametrize(
    ("change", "error"),
    [("cache.threshold=0.5", CacheMismatch), ("teachers.tiny.options={classes=5}", Exception)],
)
def test_nothing_is_withdrawn_for_a_run_that_cannot_go_on(
    change: str, error: Any, spelled: Path
) -> None:
    before = parts()
    with pytest.raises(error):
        build(load_run(spelled, [*RUN, change]), retry_bad=True)
    assert parts() == before


def test_mended_frames_of_the_same_size_come_in_with_all_that_was_made_of_them(
    run_file: Path,
) -> None:
    import cv2
    import numpy as np

    Path("photos").mkdir()
    for number in range(4):
        cv2.imwrite(f"photos/{number}.bmp", np.full((32, 48, 3), 20 * number, np.uint8))
    good = Path("photos/2.bmp").read_bytes()
    Path("photos/2.bmp").write_bytes(bytes(len(good)))
    run = load_run(
        run_file,
        ['sources.more={kind="images", root="photos"}', "cache.max_bad_fraction=1"],
    )
    build(run)
    Path("photos/2.bmp").write_bytes(good)
    assert build(run, retry_bad=True).shards == 2  # the frames and the teacher's
    frames = Cache.open("street.cache").artifact_set("more", "frames")
    assert (frames.read("frames", 2) == 40).all()
    assert verify_cache("street.cache").is_sound
