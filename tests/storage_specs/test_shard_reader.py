"""Reading: what zarr-python reads, from threads, forks and spawned workers, with few open files."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from stillroom.storage_specs import buffers
from stillroom.storage_specs.artifacts import ARTIFACTS, AXIS_LENGTHS
from stillroom.storage_specs.buffers import IDLE_BLOCKS, SMALLEST_LENT, lend, scratch
from stillroom.storage_specs.codecs.table import codec_from_dict
from stillroom.storage_specs.errors import ArtifactError, CacheCorrupt, ConfigError, FrameError
from stillroom.storage_specs.files import folder_store
from stillroom.storage_specs.files.open_files import OpenFiles
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.manifest import FrameRow
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from stillroom.storage_specs.artifact_set import ArtifactSet

COMPRESSORS = [
    {"name": "none"},
    {"name": "zstd", "level": 1},
    {"name": "zstd", "level": -1},
    *(
        {"name": "blosc", "cname": cname, "shuffle": shuffle}
        for cname in ("lz4", "lz4hc", "zstd")
        for shuffle in ("noshuffle", "shuffle", "bitshuffle")
    ),
]
GOOD = [0, 1, 2, 3, 4, 6, 7, 8, 9]


# ---- the same as zarr-python


@st.composite
def sets(draw: st.DrawFn) -> tuple[ArraySpec, int, int, frozenset[int], int]:
    """A spec, frames, frames a shard, bad frames, a seed."""
    row = draw(st.sampled_from([row for row in ARTIFACTS.values() if row.made_by != "source"]))
    codec = codec_from_dict(draw(st.sampled_from(row.codecs)))
    channels = draw(st.integers(1, 4)) + (100 if codec.name == "topk" else 0)
    lengths = {"channel": channels, "y": draw(st.integers(1, 9)), "x": draw(st.integers(1, 9))}
    shape = tuple((lengths | AXIS_LENGTHS)[axis] for axis in row.axes)
    name = f"{row.name}/deep" if row.layered else row.name
    spec = ArraySpec(name, shape, codec, draw(st.sampled_from(COMPRESSORS)))
    count = draw(st.integers(1, 7))
    bad = draw(st.frozensets(st.integers(0, count - 1), max_size=3))
    return spec, count, draw(st.integers(1, 5)), bad, draw(st.integers(0, 99))


def built(root: Path, spec: ArraySpec, count: int, shard_frames: int, bad: Any, seed: int) -> Any:
    made = Cache.create(root).define("a", "b", {}, count, shard_frames, [spec])
    rng = np.random.default_rng(seed)
    for shard in range(made.shards):
        writer = made.writer(shard)
        for i in made.shard_range(shard):
            if i in bad:
                writer.bad(FrameRow(i, str(i), "bad", "torn"))
                continue
            x = rng.random(spec.shape, np.float32) * rng.choice([0, 1])
            x[x < 0.1] = 0  # what codec log does not hold
            x = (x * 255).astype(np.uint8) if spec.kind.dtype == "uint8" else x
            writer.put(FrameRow(i, str(i)), {spec.artifact: x})
        writer.commit()
    return made


@given(sets())
def test_what_is_read_is_what_zarr_reads(drawn: Any) -> None:
    spec, count, shard_frames, bad, seed = drawn
    with tempfile.TemporaryDirectory() as folder:
        made = built(Path(folder) / "c", spec, count, shard_frames, bad, seed)
        group = zarr.open_group(Path(folder) / "c" / "a" / "b", mode="r")
        for i in range(count):
            if i in bad:
                with pytest.raises(FrameError, match="torn"):
                    made.read(spec.artifact, i)
                continue
            stored = group[spec.artifact][i]
            sides = spec.codec.side_shapes(spec.shape)
            side = {name: group[f"{spec.artifact}_{name}"][i] for name in sides}
            if spec.codec.name == "byte":
                scale, offset = (side[name][:, None, None] for name in ("scale", "offset"))
                expected = scale * stored.astype(np.float32) + offset
            elif spec.codec.name in ("unit", "flow", "half", "exact"):
                step = {"unit": 255, "flow": 64}.get(spec.codec.name, 1)
                expected = stored.astype(np.float32) / np.float32(step)
            else:
                expected = spec.codec.decode(stored, side)
            out = np.full(spec.shape, 7, spec.kind.dtype)
            assert made.read(spec.artifact, i, out=out) is out
            for got, wanted in [
                (made.encoded(spec.artifact, i).values, stored),
                (made.read(spec.artifact, i), expected),
                (made.read_frame(i, [spec.artifact])[spec.artifact], expected),
                (out, expected),
            ]:
                assert got.dtype == wanted.dtype
                np.testing.assert_array_equal(got, wanted)


# ---- results and buffers


def test_results_stay_what_they_are_while_others_are_read(tmp_path: Path) -> None:
    spec = ArraySpec("logits", (4, 80, 90), codec_from_dict("byte"))
    made = built(tmp_path / "c", spec, 5, 5, (), 1)
    kept = [made.read("logits", i) for i in range(5)]
    assert kept[0].nbytes > SMALLEST_LENT
    copies = [x.copy() for x in kept]
    corner = kept[0][1, 3:, 4:]  # a view holds the memory as its array does
    of_corner = corner.copy()
    del kept[0]
    gc.collect()
    for _ in range(3):
        for i in range(5):
            made.read("logits", i)
    np.testing.assert_array_equal(corner, of_corner)
    for x, copy in zip(kept, copies[1:], strict=True):
        np.testing.assert_array_equal(x, copy)


def test_memory_that_nobody_holds_is_lent_again_and_no_more_is_kept_than_said() -> None:
    shape, dtype = (SMALLEST_LENT + 123,), np.dtype(np.uint8)
    held = [lend(shape, dtype) for _ in range(IDLE_BLOCKS + 5)]
    assert len({x.ctypes.data for x in held}) == len(held)
    addresses = {x.ctypes.data for x in held}
    held.clear()
    assert len(buffers._idle) <= IDLE_BLOCKS
    again = lend(shape, dtype)
    assert again.ctypes.data in addresses
    assert again.flags.writeable


def test_each_thread_has_its_own_scratch() -> None:
    mine = scratch("test", 100)
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(scratch, "test", 100).result()
    assert mine.ctypes.data != theirs.ctypes.data
    assert scratch("test", 50).ctypes.data == mine.ctypes.data
    assert scratch("test", 5000).size == 5000


@pytest.mark.parametrize(
    "out",
    [
        np.empty((3, 4, 5), np.float32),
        np.empty((3, 4, 6), np.float64),
        np.empty((3, 6, 4), np.float32).transpose(0, 2, 1),
    ],
    ids=["shape", "dtype", "order"],
)
def test_a_buffer_that_does_not_fit_is_refused(full_set: Any, out: np.ndarray) -> None:
    with pytest.raises(ArtifactError, match=r"out: expected a C-contiguous.*\(3, 4, 6\), got"):
        full_set.set.read("logits", 0, out=out)


def test_several_artifacts_of_a_frame_are_read_in_one_call(full_set: Any) -> None:
    names = ["confidence", "logits", "pseudo_label"]
    frame = full_set.set.read_frame(3, names)
    assert list(frame) == names
    for name in names:
        np.testing.assert_array_equal(frame[name], full_set.set.read(name, 3))
    with pytest.raises(ConfigError, match="has no 'depth'; known: logits"):
        full_set.set.read_frame(3, ["logits", "depth"])
    with pytest.raises(FrameError, match="truncated"):
        full_set.set.read_frame(5, names)


# ---- open files


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_no_more_files_stay_open_than_said_and_the_last_used_stay(tmp_path: Path) -> None:
    paths = [str(tmp_path / str(i)) for i in range(7)]
    for path in paths:
        Path(path).write_text(path)
    before = descriptors()
    files = OpenFiles(limit=3)
    for path in paths[:3]:
        files.get(path)
    first = files.get(paths[0]).descriptor  # used again: now the second is the oldest
    files.get(paths[3])
    assert files.get(paths[0]).descriptor == first
    for path in paths:
        files.get(path)
        assert len(files) <= 3
    assert descriptors() == before + 3
    del files
    assert descriptors() == before


def test_a_file_in_use_is_not_closed_when_others_push_it_out(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    files = OpenFiles(limit=1)
    held = files.get(str(tmp_path / "a"))
    files.get(str(tmp_path / "b"))
    files.get(str(tmp_path / "c"))
    assert os.pread(held.descriptor, 1, 0) == b"a"


def test_a_cache_of_more_shards_than_files_may_be_open_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = OpenFiles(limit=4)
    monkeypatch.setattr(folder_store, "OPEN_FILES", files)
    made = built(
        tmp_path / "c", ArraySpec("logits", (2, 3, 3), codec_from_dict("byte")), 12, 1, (), 3
    )
    before = descriptors()
    first = [made.read("logits", i) for i in range(12)]
    assert len(files) == 4
    assert descriptors() <= before + 4
    for i in (11, 0, 5):
        np.testing.assert_array_equal(made.read("logits", i), first[i])


# ---- objects that change


def test_an_object_that_was_replaced_since_is_read_anew(full_set: Any) -> None:
    made: ArtifactSet = full_set.set
    expected = made.read("logits", 0)
    path = Path(made.place) / "camvid/fpn/logits/c.0.0.0.0"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[3] ^= 1
    path.write_bytes(damaged)  # in place: the open file shows it
    with pytest.raises(CacheCorrupt, match=r"frame 0 .*checksum does not match"):
        made.read("logits", 0)
    other = path.with_name("new")
    other.write_bytes(whole)
    other.rename(path)
    np.testing.assert_array_equal(made.read("logits", 0), expected)


def test_damage_behind_an_open_file_is_not_reported_once_it_is_repaired(full_set: Any) -> None:
    made: ArtifactSet = full_set.set
    expected = made.read("logits", 1)
    path = Path(made.place) / "camvid/fpn/logits/c.0.0.0.0"
    whole = path.read_bytes()
    path.write_bytes(b"\0" * len(whole))
    path.with_name("new").write_bytes(whole)
    path.with_name("new").rename(path)  # the reader still holds the damaged one
    np.testing.assert_array_equal(made.read("logits", 1), expected)


def test_a_withdrawn_shard_is_read_anew_when_it_is_there_again(full_set: Any) -> None:
    made: ArtifactSet = full_set.set
    made.read("logits", 0)
    made.discard(0)
    path = Path(made.place) / "camvid/fpn/logits/c.0.0.0.0"
    path.unlink()
    full_set.commit(0)
    np.testing.assert_array_equal(
        made.encoded("logits", 0).values,
        zarr.open_array(path.parent, mode="r")[0],
    )


@pytest.mark.parametrize("cut", [0, 3, 60])
def test_a_frame_that_is_not_compressed_is_checked_where_it_was_read(
    tmp_path: Path, cut: int
) -> None:
    spec = ArraySpec("logits", (2, 5, 6), codec_from_dict("byte"), {"name": "none"})
    made = built(tmp_path / "c", spec, 2, 2, (), 1)
    expected = made.read("logits", 1)
    path = Path(made.place) / "a/b/logits/c.0.0.0.0"
    content = bytearray(path.read_bytes())
    content[cut] ^= 4  # first byte, another, and first of the crc
    path.write_bytes(content)
    with pytest.raises(CacheCorrupt, match=r"frame 0 .*checksum does not match"):
        made.read("logits", 0)
    np.testing.assert_array_equal(made.read("logits", 1), expected)
    os.truncate(path, 64 + 40)
    with pytest.raises(CacheCorrupt, match=r"damaged"):
        made.read("logits", 1)


@pytest.mark.parametrize("keep", [0, 3, 40])
def test_an_object_cut_short_under_an_open_file_is_named(full_set: Any, keep: int) -> None:
    made: ArtifactSet = full_set.set
    made.read("logits", 3)
    path = Path(made.place) / "camvid/fpn/logits/c.0.0.0.0"
    os.truncate(path, keep)
    with pytest.raises(CacheCorrupt, match=r"camvid/fpn/logits: .*damaged"):
        made.read("logits", 3)


# ---- threads and processes


def totals(made: ArtifactSet) -> list[float]:
    return [
        float(made.read(artifact, i).sum(dtype=np.float64))
        for artifact in ("logits", "confidence", "features/penultimate")
        for i in GOOD
    ]


def test_threads_read_and_push_out_each_others_files(
    full_set: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_store, "OPEN_FILES", OpenFiles(limit=2))
    expected = totals(full_set.set)
    start = threading.Barrier(6)

    def work(_: int) -> list[list[float]]:
        start.wait()
        return [totals(full_set.set) for _ in range(20)]

    with ThreadPoolExecutor(6) as pool:
        for seen in pool.map(work, range(6)):
            assert seen == [expected] * 20


def send_totals(made: ArtifactSet, pipe: Any) -> None:
    pipe.send(totals(made))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_reads_with_a_set_that_its_parent_has_used(full_set: Any, method: str) -> None:
    expected = totals(full_set.set)  # files are open, indices read, kernels compiled
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    child = context.Process(target=send_totals, args=(full_set.set, theirs))
    child.start()
    theirs.close()
    try:
        assert ours.poll(120)
        assert ours.recv() == expected
    finally:
        child.join(30)
    assert child.exitcode == 0
    assert totals(full_set.set) == expected  # the child closed nothing of ours


def test_the_same_relative_path_in_another_folder_is_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = OpenFiles(limit=4)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        monkeypatch.chdir(tmp_path / name)
        assert os.pread(files.get("file").descriptor, 9, 0).decode() == name
    Path("file").rename("moved")
    with pytest.raises(FileNotFoundError):
        files.get("file")
    Path("file").write_text("third")
    assert os.pread(files.get("file").descriptor, 9, 0) == b"third"


def test_a_frame_decodes_where_compiled_code_cannot_be_kept(full_set: Any, tmp_path: Path) -> None:
    code = (
        "import sys, numba.core.caching as c\n"
        "for locator in list(c.CacheImpl._locator_classes):\n"
        "    locator.from_function = classmethod(lambda *a: None)\n"
        "from stillroom.storage_specs.store import Cache\n"
        "made = Cache.open(sys.argv[1]).artifact_set('camvid', 'fpn')\n"
        "print(made.read('logits', 0).sum(dtype='f8'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, full_set.set.place],
        capture_output=True,
        text=True,
        check=True,
    )
    expected = full_set.set.read("logits", 0).sum(dtype=np.float64)
    assert float(done.stdout) == pytest.approx(float(expected))


def test_numba_waits_for_the_first_frame() -> None:
    code = (
        "import sys, stillroom.storage_specs.store, stillroom.storage_specs.codecs.table\n"
        "print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
