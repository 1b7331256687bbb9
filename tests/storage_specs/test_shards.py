"""Putting, committing, resuming and reading shards."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from stillroom.storage_specs.codecs.plain import Exact, Half, Raw
from stillroom.storage_specs.codecs.quantised import Byte, Flow
from stillroom.storage_specs.errors import (
    ArtifactError,
    CacheCorrupt,
    CacheIncomplete,
    CacheMismatch,
    CacheUnwritable,
    ConfigError,
    FrameError,
)
from stillroom.storage_specs.files import durable_files
from stillroom.storage_specs.files.durable_files import STAGING
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.manifest import FrameRow, decode_part, encode_part
from stillroom.storage_specs.store import Cache
from stillroom.storage_specs.verify import verify_shard

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.storage_specs.artifact_set import ArtifactSet

GOOD = [0, 1, 2, 3, 4, 6, 7, 8, 9]
LAST_PART = "manifest/camvid/fpn/00002.parquet"


def without_seconds(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files with the one column that may differ made equal."""
    return {
        path: encode_part(replace(part, rows=tuple(replace(row, seconds=0.0) for row in part.rows)))
        if path.endswith(".parquet") and (part := decode_part(content, path))
        else content
        for path, content in files.items()
    }


# ---- what is read back


def test_every_good_frame_reads_back_within_its_codecs_bound(full_set: Any) -> None:
    for index in GOOD:
        for artifact, x in full_set.arrays(index).items():
            codec = full_set.set.arrays[artifact].codec
            y = full_set.set.read(artifact, index)
            assert y.shape == x.shape
            assert y.dtype == x.dtype
            assert (np.abs(y.astype(np.float64) - x) <= codec.bound(x)).all()


@pytest.mark.filterwarnings("error")
def test_plain_zarr_opens_and_reads_every_array(full_set: Any) -> None:
    group = zarr.open_group(Path(full_set.set.place), mode="r")
    made = full_set.set
    logits = group["camvid/fpn/logits"]
    assert (logits.shape, logits.shards, logits.chunks) == (
        (10, 3, 4, 6),
        (4, 3, 4, 6),
        (1, 3, 4, 6),
    )
    assert logits.metadata.dimension_names == ("frame", "channel", "y", "x")
    assert logits.attrs["stillroom"]["stride"] == 4
    for index in GOOD:
        scale = group["camvid/fpn/logits_scale"][index][:, None, None]
        offset = group["camvid/fpn/logits_offset"][index][:, None, None]
        np.testing.assert_array_equal(
            logits[index].astype(np.float32) * scale + offset, made.read("logits", index)
        )
        np.testing.assert_array_equal(
            group["camvid/fpn/features/penultimate"][index].astype(np.float32),
            made.read("features/penultimate", index),
        )
        np.testing.assert_array_equal(
            group["camvid/fpn/pseudo_label"][index], made.read("pseudo_label", index)
        )
        np.testing.assert_array_equal(
            group["camvid/fpn/confidence"][index] / np.float32(255), made.read("confidence", index)
        )


@pytest.mark.parametrize(
    "compressor",
    [
        {"name": "none"},
        {"name": "zstd", "level": 3},
        {"name": "zstd", "level": -1},
        {"name": "blosc", "cname": "lz4", "shuffle": "bitshuffle"},
        {"name": "blosc", "cname": "lz4hc", "shuffle": "shuffle"},
        {"name": "blosc", "cname": "zstd", "clevel": 3, "shuffle": "noshuffle"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("artifact", "shape", "codec"),
    [
        ("logits", (2, 5, 7), Exact()),
        ("logits", (2, 5, 7), Half()),
        ("logits", (2, 5, 7), Byte()),
        ("flow", (2, 5, 7), Flow()),
        ("pseudo_label", (5, 7), Raw()),
    ],
    ids=lambda x: getattr(x, "name", None),
)
def test_our_reader_agrees_with_zarr_on_every_codec_and_compressor(
    tmp_path: Path, compressor: dict[str, Any], artifact: str, shape: Any, codec: Any
) -> None:
    spec = ArraySpec(artifact, shape, codec, compressor)
    made = Cache.create(tmp_path / "c").define("a", "b", {}, 3, 2, [spec])
    rng = np.random.default_rng(3)
    frames = [np.float32(rng.normal(0, 5, shape)) for _ in range(3)]
    frames[1][:] = 0  # a chunk of fill values is written like any other
    if artifact == "pseudo_label":
        frames = [np.abs(x).astype(np.uint8) for x in frames]
    for shard in range(2):
        writer = made.writer(shard)
        for i in made.shard_range(shard):
            writer.put(FrameRow(i, str(i)), {artifact: frames[i]})
        writer.commit()
    stored = zarr.open_array(Path(made.place) / "a" / "b" / artifact, mode="r")
    for i, x in enumerate(frames):
        np.testing.assert_array_equal(made.encoded(artifact, i).values, stored[i])
        assert (np.abs(made.read(artifact, i) - x.astype(np.float64)) <= codec.bound(x)).all()
    assert [verify_shard(made, k) for k in range(2)] == [[], []]


def test_a_bad_frame_is_refused_with_its_reason_and_holds_fill_values(full_set: Any) -> None:
    with pytest.raises(FrameError, match=r"camvid, frame clip/0005: image file is truncated"):
        full_set.set.read("logits", 5)
    group = zarr.open_group(Path(full_set.set.place), mode="r")
    assert (group["camvid/fpn/pseudo_label"][5] == 255).all()
    assert (group["camvid/fpn/logits"][5] == 0).all()


def test_the_rows_tell_of_every_committed_frame(full_set: Any) -> None:
    rows = full_set.set.rows()
    assert rows["index"].to_pylist() == list(range(10))
    assert rows["status"].to_pylist() == ["bad" if i == 5 else "ok" for i in range(10)]
    assert rows["crc32c"].to_pylist()[4:6] == [4000, None]
    assert min(rows["bytes"].to_pylist()) > 0
    assert full_set.set.usable().tolist() == GOOD
    objects = sum(len(content) for path, content in full_set.files().items() if "/c." in path)
    assert sum(full_set.set.sizes().values()) == objects


def test_nothing_committed_is_nothing_to_read(empty_set: Any) -> None:
    made = empty_set.set
    assert made.committed() == frozenset()
    assert made.usable().tolist() == []
    assert made.rows().num_rows == 0
    assert set(made.sizes().values()) == {0}
    with pytest.raises(CacheIncomplete, match=r"frames 4 to 7.*shard 1.*stillroom cache build"):
        made.read("logits", 6)


def test_a_frame_or_artifact_that_is_not_there_is_refused(full_set: Any) -> None:
    with pytest.raises(ConfigError, match=r"has no 'flow'; known: logits, features/penultimate"):
        full_set.set.read("flow", 0)
    for index in (-1, 10):
        with pytest.raises(ConfigError, match=f"frames 0 to 9, not {index}"):
            full_set.set.read("logits", index)


# ---- who may read


def test_a_pickled_set_reads_the_same_after_it_was_used(full_set: Any) -> None:
    made = full_set.set
    before = made.read("logits", 3)
    copy: ArtifactSet = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(copy.read("logits", 3), before)
    assert copy.fingerprint == made.fingerprint
    assert copy.committed() == made.committed()


def _sum_of(made: ArtifactSet, index: int) -> float:
    return float(made.read("logits", index).sum(dtype=np.float64))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_worker_processes_read_after_their_parent_wrote_and_read(
    full_set: Any, method: str
) -> None:
    expected = [_sum_of(full_set.set, index) for index in GOOD]
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.starmap(_sum_of, [(full_set.set, index) for index in GOOD])
    assert found == expected


def test_many_threads_read_one_set(full_set: Any) -> None:
    expected = {(a, i): full_set.set.read(a, i) for a in full_set.set.arrays for i in GOOD}
    fresh = pickle.loads(pickle.dumps(full_set.set))
    with ThreadPoolExecutor(8) as pool:
        for (artifact, index), y in zip(
            list(expected) * 8,
            pool.map(lambda key: fresh.read(*key), list(expected) * 8),
            strict=True,
        ):
            np.testing.assert_array_equal(y, expected[artifact, index])


# ---- what may be put


def test_a_frame_that_does_not_fit_is_refused_and_may_then_be_called_bad(empty_set: Any) -> None:
    writer = empty_set.set.writer(0)
    good = empty_set.arrays(0)
    nan = good["logits"].copy()
    nan[1, 2, 3] = np.nan
    stray = good["pseudo_label"].copy()
    stray[0, 0] = 3
    for changes, says in (
        ({"logits": nan}, "logits, frame clip/0000: 1 of 72 values are not finite.*channel 1"),
        ({"logits": good["logits"][:2]}, r"expected shape \(3, 4, 6\), got \(2, 4, 6\)"),
        (
            {"pseudo_label": stray},
            "1 pixels carry 3, which is neither a class \\(0 to 2\\) nor 255",
        ),
        ({"pseudo_label": stray.astype(np.int64)}, "expected uint8, got int64"),
        ({"confidence": good["confidence"] + 1}, "confidence, frame.*out of range"),
        ({"extra": good["logits"]}, "expected arrays .* got"),
    ):
        with pytest.raises(ArtifactError, match=says):
            writer.put(empty_set.row(0), {**good, **changes})
    with pytest.raises(ArtifactError, match="expected arrays"):
        writer.put(empty_set.row(0), {"logits": good["logits"]})
    writer.bad(FrameRow(0, "clip/0000", "bad", "teacher output is not finite"))
    for index in (1, 2, 3):
        writer.put(empty_set.row(index), empty_set.arrays(index))
    writer.commit()
    assert empty_set.set.usable().tolist() == [1, 2, 3]


def test_a_writer_takes_each_frame_of_its_shard_once_and_all_of_them(empty_set: Any) -> None:
    writer = empty_set.set.writer(0)
    writer.put(empty_set.row(1), empty_set.arrays(1))
    for row, says in (
        (empty_set.row(1), "frame 1 of camvid/fpn was given twice"),
        (empty_set.row(4), r"frame 4 is not in shard 0 of camvid/fpn \(0 to 3\)"),
        (FrameRow(0, "x", "bad", "why"), "put\\(\\) takes rows with status 'ok'"),
    ):
        with pytest.raises(ArtifactError, match=says):
            writer.put(row, empty_set.arrays(1))
    with pytest.raises(ArtifactError, match="and a reason"):
        writer.bad(FrameRow(0, "x", "bad"))
    with pytest.raises(ArtifactError, match="3 frames were neither put nor called bad, first 0"):
        writer.commit()
    assert not any("/c." in path for path in empty_set.files())
    with pytest.raises(ConfigError, match="has shards 0 to 2, not 7"):
        empty_set.set.writer(7)


def test_a_shard_of_bad_frames_only_is_a_shard(empty_set: Any) -> None:
    writer = empty_set.set.writer(2)
    for index in empty_set.set.shard_range(2):
        writer.bad(FrameRow(index, str(index), "bad", "unreadable"))
    writer.commit()
    assert empty_set.set.committed() == {2}
    assert empty_set.set.usable().tolist() == []
    assert verify_shard(empty_set.set, 2) == []


# ---- commit, resume, idempotence


def test_nothing_is_on_disk_before_the_commit(empty_set: Any) -> None:
    before = empty_set.files()
    empty_set.filled_writer(0)
    assert empty_set.files() == before


def test_a_part_fills_in_the_bytes_of_each_row(empty_set: Any) -> None:
    part = empty_set.commit(1)
    assert empty_set.set.part(1) == part
    assert (part.start, part.stop) == (4, 8)
    index_and_crc = 4 * 16 + 4
    assert sum(row.bytes for row in part.rows) == sum(
        entry.bytes - index_and_crc for entry in part.objects.values()
    )


def test_building_again_changes_no_byte(full_set: Any) -> None:
    before = full_set.files()
    full_set.commit(1, seconds=99.0)
    assert full_set.files() == before


def test_two_writers_of_one_shard_leave_the_same_bytes(
    tmp_path: Path, full_set: Any, define: Callable[..., ArtifactSet]
) -> None:
    other = type(full_set)(define(tmp_path / "other.cache"))
    writers = [other.filled_writer(k, seconds=float(k)) for k in (0, 1, 2) for _ in range(2)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda writer: writer.commit(), writers))
    assert without_seconds(other.files()) == without_seconds(full_set.files())


def test_what_has_no_part_does_not_exist_and_is_built_again(
    full_set: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = full_set.files()
    made = full_set.set
    assert made.discard(2)
    assert not made.discard(2)
    assert made.committed() == {0, 1}
    with pytest.raises(CacheIncomplete):
        made.read("logits", 9)
    whole = durable_files.write_whole

    def killed_before_the_part(root: Path, path: str, content: bytes, **options: Any) -> bool:
        if path.endswith(".parquet"):
            raise KeyboardInterrupt
        return whole(root, path, content, **options)

    with monkeypatch.context() as patch:
        patch.setattr(durable_files, "write_whole", killed_before_the_part)
        with pytest.raises(KeyboardInterrupt):
            full_set.commit(2)
    assert made.committed() == {0, 1}
    full_set.commit(2)
    assert full_set.files() == undisturbed


KILLED = """
import os, signal, sys
from pathlib import Path
import importlib.util as u
spec = u.spec_from_file_location("made", sys.argv[1]); made = u.module_from_spec(spec)
sys.modules["made"] = made; spec.loader.exec_module(made)
left = int(sys.argv[3])
replace, fsync = Path.replace, os.fsync
def dying(step):
    def run(*given):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*given)
    return run
of = made.Made(made.define(Path(sys.argv[2])))
writer = of.filled_writer(0)
Path.replace, os.fsync = dying(replace), dying(fsync)
writer.commit()
"""


@pytest.mark.parametrize(
    ("steps", "committed"),
    # Each of six objects: sync, rename, sync of its folder; two folders; then the part's three.
    [(0, False), (1, False), (2, False), (16, False), (18, False), (21, False), (22, True)],
)
def test_a_build_killed_at_any_step_and_run_again_leaves_the_undisturbed_bytes(
    tmp_path: Path, define: Callable[..., ArtifactSet], steps: int, committed: bool, empty_set: Any
) -> None:
    conftest = Path(__file__).with_name("conftest.py")
    path = tmp_path / "killed.cache"
    define(path)
    done = subprocess.run([sys.executable, "-c", KILLED, conftest, path, str(steps)], check=False)
    assert done.returncode == -9
    again = type(empty_set)(define(path))  # creating sweeps the dead process's temporary file
    assert again.set.committed() == ({0} if committed else frozenset())
    again.commit(0)
    empty_set.commit(0)
    assert again.files() == empty_set.files()


def test_a_full_disk_leaves_the_shard_uncommitted_and_the_rest_whole(
    empty_set: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_set.commit(0)
    before = empty_set.files()
    written = 0
    real_open = Path.open

    def filling_up(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        nonlocal written
        written += mode == "xb"
        if written > 3:
            raise OSError(28, "No space left on device")
        return real_open(path, mode, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", filling_up)
        with pytest.raises(CacheUnwritable, match="free some space and run the same command again"):
            empty_set.commit(1)
    assert empty_set.set.committed() == {0}
    assert {k: v for k, v in empty_set.files().items() if k in before} == before
    assert list((Path(empty_set.set.place) / STAGING).iterdir()) == []
    empty_set.commit(1)
    assert empty_set.set.committed() == {0, 1}


def test_committing_again_mends_a_damaged_object(full_set: Any) -> None:
    undisturbed = full_set.files()
    root = Path(full_set.set.place)
    (root / "camvid/fpn/logits/c.1.0.0.0").write_bytes(b"damaged")
    (root / "camvid/fpn/confidence/c.1.0.0").unlink()
    full_set.commit(1)
    assert full_set.files() == undisturbed


def test_a_damaged_part_counts_as_not_built_and_is_built_again(full_set: Any) -> None:
    undisturbed = full_set.files()
    made, path = full_set.set, Path(full_set.set.place) / LAST_PART
    assert made.committed() == {0, 1, 2}
    for content in (b"", undisturbed[LAST_PART][:-20], undisturbed[LAST_PART][::-1]):
        path.write_bytes(content)
        assert made.committed() == {0, 1}
        assert made.usable().tolist() == [0, 1, 2, 3, 4, 6, 7]
        fresh = pickle.loads(pickle.dumps(made))
        with pytest.raises(CacheCorrupt, match=r"00002\.parquet.*stillroom cache build"):
            fresh.read("logits", 9)
        full_set.commit(2)
        assert full_set.files() == undisturbed


def test_a_part_of_another_definition_or_shard_is_not_ours(
    tmp_path: Path, full_set: Any, define: Callable[..., ArtifactSet]
) -> None:
    other = define(tmp_path / "other", identity={"canvas": {"height": 1, "width": 1}})
    foreign = Path(other.place) / "manifest/camvid/fpn"
    foreign.mkdir(parents=True)
    for shard, content in full_set.files().items():
        if shard.endswith(".parquet"):
            (foreign / Path(shard).name).write_bytes(content)
    assert other.committed() == frozenset()
    with pytest.raises(CacheMismatch, match="belongs to camvid/fpn"):
        other.read("logits", 0)
    mine = Path(full_set.set.place) / "manifest/camvid/fpn"
    (mine / "00001.parquet").write_bytes((mine / "00000.parquet").read_bytes())
    assert full_set.set.committed() == {0, 2}


def test_strange_files_among_the_parts_are_passed_over(full_set: Any) -> None:
    folder = Path(full_set.set.place) / "manifest/camvid/fpn"
    part = (folder / "00000.parquet").read_bytes()
    for name in ("00009.parquet", "copy.parquet", "00000.parquet.bak"):
        (folder / name).write_bytes(part)
    assert full_set.set.committed() == {0, 1, 2}


def test_a_set_redefined_meanwhile_is_not_committed_to(empty_set: Any) -> None:
    writer = empty_set.filled_writer(0)
    (Path(empty_set.set.place) / "camvid/fpn/zarr.json").unlink()
    with pytest.raises(CacheMismatch, match=r"camvid/fpn was removed or redefined while shard 0"):
        writer.commit()
