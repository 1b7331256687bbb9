"""Frames as rgb: built, moved from raw by transcode, read whole and cropped, trained from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.transcode import Change, transcode_cache
from stillroom.pipeline.cache_tools.verify import verify_cache
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import train_run
from stillroom.storage_specs.errors import CacheMismatch, ConfigError
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.storage_specs.artifact_set import ArtifactSet

RGB = 'cache.codecs={frames={codec="rgb", compressor="zstd"}}'


def frames_of(*caches: str) -> list[ArtifactSet]:
    return [Cache.open(f"{name}.cache").artifact_set("street", "frames") for name in caches]


def test_frames_as_rgb_are_the_same_pixels_in_fewer_bytes(run_file: Path) -> None:
    run = load_run(run_file, [RGB, "cache.path=rgb.cache"])
    build(load_run(run_file))
    build(run)
    raw, rgb = frames_of("street", "rgb")
    assert rgb.arrays["frames"].codec.name == "rgb"
    for index in range(raw.count):
        pixels = raw.read("frames", index)
        np.testing.assert_array_equal(rgb.read("frames", index), pixels)
        window = rgb.read_window("frames", index, slice(5, 20), slice(7, 41))
        np.testing.assert_array_equal(window, pixels[5:20, 7:41])
    assert rgb.sizes()["frames"] < 0.8 * raw.sizes()["frames"]
    assert verify_cache("rgb.cache").is_sound
    assert train_run(run).losses == train_run(load_run(run_file, ["train.path=raw"])).losses


def test_transcode_makes_the_bytes_of_a_build_and_back(run_file: Path) -> None:
    build(load_run(run_file))
    run = load_run(run_file, [RGB, "cache.path=rgb.cache"])
    change = Change(codecs={"frames": {"codec": "rgb", "compressor": "zstd"}})
    transcode_cache("street.cache", "rgb.cache", change)
    assert build(run).shards == 0
    transcode_cache("rgb.cache", "back.cache", Change(preset="fast", shard_frames=4))
    sets = frames_of("street", "back")
    assert sets[0].fingerprint == sets[1].fingerprint
    parts = [one.part(0).objects for one in sets]
    assert parts[0] == parts[1]


def test_a_cache_of_raw_frames_is_not_mixed_with_rgb(run_file: Path) -> None:
    build(load_run(run_file))
    with pytest.raises(CacheMismatch, match="frames"):
        build(load_run(run_file, [RGB]))
    with pytest.raises(ConfigError, match="'rgb' cannot store it"):
        load_run(run_file, ['cache.codecs={labels="rgb"}'])
