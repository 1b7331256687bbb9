"""Frames in tiles: the same values as without, and a window reads only the tiles it touches."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from stillroom.storage_specs.codecs.prediction import steps_of
from stillroom.storage_specs.codecs.table import codec_from_dict
from stillroom.storage_specs.errors import CacheCorrupt, ConfigError
from stillroom.storage_specs.layout import ArraySpec, Definition
from stillroom.storage_specs.manifest import FrameRow
from stillroom.storage_specs.shards.tiles import automatic_tile, fitted_tile
from stillroom.storage_specs.store import Cache
from stillroom.storage_specs.verify import verify_shard

if TYPE_CHECKING:
    from stillroom.storage_specs.artifact_set import ArtifactSet

LZ4 = {"name": "blosc", "cname": "lz4"}
CASES = [
    ("logits", (3,), (), "byte"),
    ("logits", (2,), (), "half"),
    ("features/deep", (4,), (), "exact"),
    ("confidence", (), (), "unit"),
    ("flow", (2,), (), "flow"),
    ("pseudo_label", (), (), "raw"),
    ("frames", (), (3,), "raw"),
]


def arrays_of(spec: ArraySpec, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    made = [rng.random(spec.shape, np.float32) for _ in range(count)]
    return [(x * 255).astype(np.uint8) for x in made] if spec.kind.dtype == "uint8" else made


def built(root: Path | str, spec: ArraySpec, count: int, shard_frames: int) -> ArtifactSet:
    name = "frames" if spec.artifact == "frames" else "fpn"
    made = Cache.create(root).define("a", name, {}, count, shard_frames, [spec])
    for i, x in enumerate(arrays_of(spec, count)):
        if i % shard_frames == 0:
            writer = made.writer(i // shard_frames)
        writer.put(FrameRow(i, str(i)), {spec.artifact: x})
        if i + 1 == count or (i + 1) % shard_frames == 0:
            writer.commit()
    return made


@st.composite
def tiled(draw: st.DrawFn) -> tuple[ArraySpec, int, int, list[tuple[slice, slice]]]:
    """A spec in tiles, frames, frames a shard, windows."""
    artifact, before, after, codec = draw(st.sampled_from(CASES))
    height, width = draw(st.integers(2, 20)), draw(st.integers(2, 20))
    tall, wide = draw(st.integers(1, height)), draw(st.integers(1, width))
    if (tall, wide) == (height, width):
        tall -= 1
    compressor = draw(st.sampled_from([LZ4, {"name": "none"}, {"name": "zstd"}]))
    shape = (*before, height, width, *after)
    spec = ArraySpec(artifact, shape, codec_from_dict(codec), compressor, {}, (tall, wide))

    def span(length: int) -> st.SearchStrategy[slice]:
        return (
            st.tuples(st.integers(0, length), st.integers(0, length))
            .filter(lambda ends: ends[0] != ends[1])
            .map(lambda ends: slice(*sorted(ends)))
        )

    windows = draw(st.lists(st.tuples(span(height), span(width)), min_size=1, max_size=4))
    return spec, draw(st.integers(1, 5)), draw(st.integers(1, 3)), windows


@given(tiled())
def test_tiles_change_no_value_and_zarr_reads_them(drawn: Any) -> None:
    spec, count, shard_frames, windows = drawn
    whole = ArraySpec(spec.artifact, spec.shape, spec.codec, spec.compressor)
    with tempfile.TemporaryDirectory() as folder:
        cut, plain = (
            built(Path(folder) / name, each, count, shard_frames)
            for name, each in (("cut", spec), ("plain", whole))
        )
        path = cut.definition.stored(spec)[0].path
        stored = zarr.open_array(Path(folder) / "cut" / path, mode="r")
        axes = spec.kind.axes
        chunk = dict(zip(axes, stored.chunks[1:], strict=True))
        assert (chunk["y"], chunk["x"]) == spec.tile
        for i in range(count):
            expected = plain.read(spec.artifact, i)
            np.testing.assert_array_equal(cut.read(spec.artifact, i), expected)
            np.testing.assert_array_equal(stored[i], cut.encoded(spec.artifact, i).values)
            for rows, columns in windows:
                at = tuple({"y": rows, "x": columns}.get(axis, slice(None)) for axis in axes)
                for made in (cut, plain):
                    seen = made.read_window(spec.artifact, i, rows, columns)
                    np.testing.assert_array_equal(seen, expected[at])
                    assert seen.flags.c_contiguous
                    assert seen.dtype == expected.dtype
        for shard in range(cut.shards):
            assert verify_shard(cut, shard) == []
        reopened = Cache.open(Path(folder) / "cut").artifact_set(cut.source, cut.name)
        assert reopened.arrays[spec.artifact].tile == spec.tile
        assert reopened.fingerprint == cut.fingerprint != plain.fingerprint


SPEC = ArraySpec("logits", (3, 20, 30), codec_from_dict("byte"), LZ4, {}, (8, 16))


def test_a_window_reads_only_the_tiles_that_it_touches(tmp_path: Path) -> None:
    made = built(tmp_path / "c", SPEC, 2, 2)
    expected = made.read("logits", 1)
    path = Path(made.place) / "a/fpn/logits/c.0.0.0.0"
    content = bytearray(path.read_bytes())
    index = np.frombuffer(content[-(16 * 12 + 4) : -4], "<u8").reshape(2, 3, 2, 2)
    content[int(index[1, 2, 1, 0]) + 20] ^= 1  # frame 1, the lower right tile
    path.write_bytes(content)
    np.testing.assert_array_equal(
        made.read_window("logits", 1, slice(0, 16), slice(None)), expected[:, :16]
    )
    np.testing.assert_array_equal(
        made.read_window("logits", 1, slice(16, 20), slice(0, 16)), expected[:, 16:, :16]
    )
    for rows, columns in [(slice(15, 17), slice(15, 17)), (slice(None), slice(None))]:
        with pytest.raises(CacheCorrupt, match=r"frame 1 .*checksum does not match"):
            made.read_window("logits", 1, rows, columns)
    np.testing.assert_array_equal(
        made.read("logits", 0), made.read_window("logits", 0, slice(None), slice(None))
    )
    (fault,) = verify_shard(made, 0)
    assert (fault.kind, fault.index) == ("chunk", 1)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (slice(0, 21), slice(None)),
        (slice(-1, 3), slice(None)),
        (slice(3, 3), slice(None)),
        (slice(0, 4), slice(0, 9, 2)),
        (slice(None), slice(29, 31)),
    ],
)
def test_a_window_outside_of_the_map_is_refused(
    tmp_path: Path, rows: slice, columns: slice
) -> None:
    made = built(tmp_path / "c", SPEC, 1, 1)
    with pytest.raises(ConfigError, match="expected cells within 20x30"):
        made.read_window("logits", 0, rows, columns)


@pytest.mark.parametrize("tile", [(20, 30), (0, 8), (21, 8), (8, 31)])
def test_a_tile_is_a_part_of_the_map(tile: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="expected a part of 20x30 cells"):
        ArraySpec("logits", (3, 20, 30), codec_from_dict("byte"), tile=tile)


@pytest.mark.parametrize("codec", ["kl", {"name": "byte", "predict": "median"}], ids=str)
def test_a_codec_that_needs_neighbours_is_not_cut(codec: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be cut into tiles"):
        ArraySpec("logits", (3, 20, 30), codec_from_dict(codec), tile=(8, 8))


def test_a_window_of_a_codec_that_needs_neighbours_is_cut_from_the_frame(tmp_path: Path) -> None:
    spec = ArraySpec("logits", (3, 20, 30), codec_from_dict("kl"), LZ4)
    made = built(tmp_path / "c", spec, 1, 1)
    seen = made.read_window("logits", 0, slice(3, 9), slice(4, 30))
    np.testing.assert_array_equal(seen, made.read("logits", 0)[:, 3:9, 4:])


@pytest.mark.parametrize("tile", [None, (8, 16)])
def test_steps_of_a_window_are_what_is_stored_of_it(tmp_path: Path, tile: Any) -> None:
    made = built(tmp_path / "c", ArraySpec("logits", (3, 20, 30), SPEC.codec, LZ4, {}, tile), 1, 1)
    out = np.zeros((3, 6, 26), np.uint8)
    side = made.read_steps("logits", 0, slice(3, 9), slice(4, 30), out)
    whole = made.encoded("logits", 0)
    np.testing.assert_array_equal(out, whole.values[:, 3:9, 4:])
    assert {role: list(of) for role, of in side.items()} == {
        role: list(of) for role, of in whole.side.items()
    }


@pytest.mark.parametrize(
    "codec",
    ["kl", {"name": "kl", "predict": "above"}, {"name": "byte", "predict": "median"}],
    ids=str,
)
def test_steps_of_a_window_are_no_differences(tmp_path: Path, codec: Any) -> None:
    spec = ArraySpec("logits", (3, 20, 30), codec_from_dict(codec), LZ4)
    made = built(tmp_path / "c", spec, 1, 1)
    stored = made.encoded("logits", 0).values
    out = np.zeros((3, 6, 26), stored.dtype)
    made.read_steps("logits", 0, slice(3, 9), slice(4, 30), out)
    np.testing.assert_array_equal(out, steps_of(stored, spec.codec.predict)[:, 3:9, 4:])


def test_without_tiles_the_layout_says_nothing_of_them() -> None:
    whole = ArraySpec("logits", (3, 20, 30), codec_from_dict("byte"), LZ4)
    assert "tile" not in whole.to_dict()
    assert SPEC.to_dict() == {**whole.to_dict(), "tile": [8, 16]}
    for spec in (whole, SPEC):
        assert ArraySpec.from_dict(spec.to_dict()) == spec
    made = Definition("a", "fpn", {}, 2, 2, (SPEC,))
    assert Definition.from_document(made.document()) == made


@pytest.mark.parametrize(
    ("shape", "axes", "itemsize", "tile"),
    [
        ((128, 90, 120), ("channel", "y", "x"), 1, None),  # 1.4 MB
        ((128, 256, 128), ("channel", "y", "x"), 1, None),  # 4 MiB
        ((128, 256, 129), ("channel", "y", "x"), 1, (64, 64)),
        ((19, 512, 1024), ("channel", "y", "x"), 1, (128, 128)),
        ((512, 64, 128), ("channel", "y", "x"), 4, (64, 64)),
        ((1024, 2048, 3), ("y", "x", "rgb"), 1, (128, 128)),
        ((8192, 32, 40), ("channel", "y", "x"), 1, None),
    ],
)
def test_large_frames_are_cut_and_small_ones_are_not(
    shape: Any, axes: Any, itemsize: int, tile: Any
) -> None:
    assert automatic_tile(shape, axes, itemsize) == tile


def test_a_tile_is_fitted_to_the_map() -> None:
    axes = ("channel", "y", "x")
    assert fitted_tile((64, 64), (3, 50, 200), axes) == (50, 64)
    assert fitted_tile((64, 64), (3, 50, 60), axes) is None


def test_an_object_store_reads_the_same_windows(tmp_path: Path) -> None:
    local = built(tmp_path / "c", SPEC, 3, 2)
    remote = built("memory://tiles", SPEC, 3, 2)
    for i in range(3):
        np.testing.assert_array_equal(remote.read("logits", i), local.read("logits", i))
        np.testing.assert_array_equal(
            remote.read_window("logits", i, slice(5, 11), slice(14, 20)),
            local.read_window("logits", i, slice(5, 11), slice(14, 20)),
        )
    assert verify_shard(remote, 0) == []
