"""`cache transcode`: a build's bytes where nothing is lost, its own identity where something is."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner, Result

from stillroom.cli import main
from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.transcode import Change, transcode_cache
from stillroom.pipeline.cache_tools.verify import verify_cache
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import train_run
from stillroom.storage_specs.errors import CacheMismatch, ConfigError
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable

    Bytes = Callable[[Path], dict[str, str]]

STREET, OUT = Path("street.cache"), Path("out.cache")


def stillroom(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def sound(folder: Path) -> bool:
    return verify_cache(folder).is_sound


@pytest.mark.parametrize(("before", "after"), [("fast", "compact"), ("exact", "fast")])
def test_without_loss_it_is_what_a_build_makes(
    run_file: Path, artifact_bytes: Bytes, before: str, after: str
) -> None:
    # Both presets with the same lossy codec: what is left between them is compressors.
    codecs = 'cache.codecs={logits="byte",features="byte"}'
    build(load_run(run_file, [f'cache.preset="{before}"', *([codecs] if before == "fast" else [])]))
    mine = artifact_bytes(STREET)
    same_codecs = {"logits": "byte", "features": "byte"}
    transcode_cache(STREET, OUT, Change(preset=after, codecs=same_codecs, shard_frames=4))
    built = load_run(run_file, [f'cache.preset="{after}"', codecs, 'cache.path="built.cache"'])
    build(built)
    assert artifact_bytes(OUT) == artifact_bytes(built.cache.path)
    assert artifact_bytes(STREET) == mine, "the source is untouched"
    same = load_run(run_file, [f'cache.preset="{after}"', codecs, 'cache.path="out.cache"'])
    assert build(same).shards == 0, "a build goes on with it"
    assert sound(OUT)


def test_other_shards_hold_the_same_frames_rows_and_bad_frames(run_file: Path) -> None:
    options = ['teachers.tiny.target="tiny_networks:sometimes_nan"', "cache.max_bad_fraction=1"]
    build(load_run(run_file, options))
    transcode_cache(STREET, OUT, Change(shard_frames=3))
    old, new = (Cache.open(path).artifact_set("street", "tiny") for path in (STREET, OUT))
    assert (old.shards, new.shards) == (3, 4)
    columns = ["index", "frame_id", "status", "reason", "crc32c", "bytes", "confidence"]
    assert new.rows().select(columns).to_pylist() == old.rows().select(columns).to_pylist()
    assert 0 < len(new.usable()) < new.count
    for index in new.usable().tolist():
        np.testing.assert_array_equal(new.read("logits", index), old.read("logits", index))
    assert sound(OUT)


def test_a_lossy_step_is_part_of_the_identity_and_readers_know(
    run_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build(load_run(run_file))
    old = Cache.open(STREET).artifact_set("street", "tiny")
    (_, _, *tiny) = transcode_cache(STREET, OUT, Change(codecs={"logits": "half"}))
    assert all("gains nothing" in one.notes[0] for one in tiny if one.notes)
    new = Cache.open(OUT).artifact_set("street", "tiny")
    assert new.identity["transcoded_from"] == {
        "fingerprint": old.fingerprint,
        "codecs": {"logits": {"name": "kl", "budget": 5e-5, "predict": "above"}},
    }
    here = 'cache.path="out.cache"'
    half = load_run(run_file, [here, 'cache.codecs={logits="half"}'])
    with caplog.at_level(logging.WARNING):
        assert train_run(half).steps == 6
    assert "street/tiny was encoded twice, with loss: logits" in caplog.text
    with pytest.raises(CacheMismatch, match="transcoded_from"):
        build(half)
    with pytest.raises(CacheMismatch, match=r"artifacts\.logits\.codec"):
        train_run(load_run(run_file, [here, 'train.path="other"']))
    other = load_run(
        run_file,
        [here, 'cache.codecs={logits="half"}', "teachers.tiny.options={seed=3}"],
    )
    with pytest.raises(CacheMismatch, match="teacher"):
        train_run(other)
    transcode_cache(OUT, Path("third.cache"), Change(codecs={"logits": "byte"}))
    third = Cache.open("third.cache").artifact_set("street", "tiny").identity["transcoded_from"]
    assert third["before"] == new.identity["transcoded_from"]


def test_it_resumes_and_waits_for_frames_that_are_not_cached(run_file: Path) -> None:
    build(load_run(run_file))
    target = Cache.open(STREET).artifact_set("street", "tiny")
    target.discard(2)
    found = transcode_cache(STREET, OUT, Change(preset="compact", shard_frames=5))
    (tiny,) = (one for one in found if (one.source, one.set_name) == ("street", "tiny"))
    assert (tiny.shards, tiny.already, tiny.waiting) == (1, 0, 1)
    build(load_run(run_file))
    found = transcode_cache(STREET, OUT, Change(preset="compact", shard_frames=5))
    assert [(one.shards, one.waiting) for one in found if one.shards] == [(1, 0)]
    assert sum(one.already for one in found) > 0
    assert sound(OUT)


@pytest.mark.slow
@pytest.mark.ray
def test_ray_writes_what_threads_write(run_file: Path, artifact_bytes: Bytes) -> None:
    build(load_run(run_file))
    transcode_cache(STREET, OUT, Change("compact"))
    transcode_cache(STREET, Path("ray.cache"), Change("compact"), address="local")
    assert artifact_bytes(OUT) == artifact_bytes(Path("ray.cache"))


def test_what_cannot_be_is_refused(run_file: Path) -> None:
    build(load_run(run_file))
    for options, words in (
        ({}, "nothing to change"),
        ({"codecs": {"flow": "half"}}, "the cache holds"),
        ({"codecs": {"logits": "nonsense"}}, "unknown codec"),
        ({"codecs": {"confidence": "byte"}}, "cannot store it"),
        ({"preset": "tiny"}, "unknown preset"),
    ):
        with pytest.raises(ConfigError, match=words):
            transcode_cache(STREET, OUT, Change(**options))
    with pytest.raises(ConfigError, match="name another folder"):
        transcode_cache(STREET, STREET, Change(preset="exact"))
    assert not OUT.exists()
    transcode_cache(STREET, OUT, Change(preset="exact"))
    with pytest.raises(CacheMismatch):
        transcode_cache(STREET, OUT, Change(preset="compact"))


def test_the_command_says_what_changed(run_file: Path) -> None:
    stillroom("cache", "build", run_file)
    said = stillroom("cache", "transcode", STREET, OUT, "--codec", "features=half")
    assert said.exit_code == 0, said.stderr
    assert "byte -> half" in said.stdout
    assert "gains nothing" in said.stdout
    again = stillroom("cache", "transcode", STREET, OUT, "--codec", "features=half", "--json")
    assert sum(one["shards"] for one in json.loads(again.stdout)["sets"]) == 0
    assert stillroom("cache", "transcode", STREET, OUT, "--codec", "half").exit_code == 2
