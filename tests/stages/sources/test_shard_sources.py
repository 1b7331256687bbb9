"""Frames in tar, Parquet and Arrow files."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from stillroom.stages.sources.hf_dataset import HfDatasetSettings, open_hf_dataset
from stillroom.stages.sources.webdataset import WebDatasetSettings, open_webdataset
from stillroom.storage_specs.errors import ConfigError, FrameError, SourceUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.stages.sources.source import Source


def encoded(value: int, mode: str = "RGB", size: tuple[int, int] = (4, 3)) -> bytes:
    data = io.BytesIO()
    Image.new(mode, size, (value,) * 3 if mode == "RGB" else value).save(data, "PNG")
    return data.getvalue()


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def shards(root: Path, **changes: Any) -> Source:
    given = {"image": "png", "label": "seg.png", "classes": 4} | changes
    return open_webdataset(WebDatasetSettings(root=root, **given))


def pair(key: str, value: int) -> dict[str, bytes]:
    return {
        f"{key}.png": encoded(value),
        f"{key}.seg.png": encoded(value, "L"),
        f"{key}.json": b"{}",
    }


def test_members_of_one_key_are_a_frame_in_natural_order_of_shards_and_keys(tmp_path: Path) -> None:
    tar(tmp_path / "b-10.tar", pair("7", 3))
    tar(tmp_path / "b-9.tar", {**pair("x/10", 1), **pair("x/9", 2), "readme.txt": b"hello"})
    source = shards(tmp_path)
    assert list(source.frame_ids) == ["b-9/x/9", "b-9/x/10", "b-10/7"]
    assert [int(source.load(index).image[0, 0, 0]) for index in (2, 0, 1)] == [3, 2, 1]
    assert [int(source.load(index).label[0, 0]) for index in range(3)] == [2, 1, 3]
    assert source.label_count() == 3


def test_a_frame_without_a_label_has_a_bad_one_and_a_key_without_an_image_is_none(
    tmp_path: Path,
) -> None:
    without = {name: data for name, data in pair("2", 2).items() if "seg" not in name}
    tar(tmp_path / "a.tar", {**pair("1", 1), **without, "3.seg.png": encoded(0, "L")})
    source = shards(tmp_path)
    assert list(source.frame_ids) == ["a/1", "a/2"]
    assert not source.labelled(1)
    assert source.load(1).label_fault == "a/2.png: it has no label file"


def test_a_source_of_shards_without_labels(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", pair("1", 1))
    source = shards(tmp_path, label=None, classes=())
    assert source.classes is None
    assert source.load(0).label is None
    with pytest.raises(ValidationError, match="go together"):
        shards(tmp_path, label=None)


def test_an_extension_that_no_member_has_is_refused_with_those_that_there_are(
    tmp_path: Path,
) -> None:
    tar(tmp_path / "a.tar", pair("1", 1))
    with pytest.raises(
        ConfigError, match=r"no frame .* member .jpg; there are: json, png, seg.png"
    ):
        shards(tmp_path, image="jpg")
    with pytest.raises(ConfigError, match=r"member .mask.png; there are"):
        shards(tmp_path, label="mask.png")


def test_a_split_is_of_shards_by_name_or_by_folder(tmp_path: Path) -> None:
    for name in ("train-0.tar", "deep/train/0.tar", "val-0.tar", "training.tar"):
        tar(tmp_path / name, pair("1", 1))
    assert len(shards(tmp_path)) == 4
    assert list(shards(tmp_path, split="train").frame_ids) == ["deep/train/0/1", "train-0/1"]
    with pytest.raises(ConfigError, match=r"none of its 4 shards is of split 'test'"):
        shards(tmp_path, split="test")


def test_shards_take_lists_draws_and_ids_from_one_too(tmp_path: Path) -> None:
    tar(
        tmp_path / "a.tar",
        {k: v for key in range(1, 5) for k, v in pair(f"{key:03d}", key).items()},
    )
    (tmp_path / "list.txt").write_text("003.png 003.seg.png\n002\n")
    source = shards(tmp_path, list=tmp_path / "list.txt", ids_from=1)
    assert list(source.frame_ids) == ["a/002", "a/003"]
    assert (source.load(1).label == 2).all()
    assert len(shards(tmp_path, take=3)) == 3


def test_compressed_and_damaged_shards_are_named(tmp_path: Path) -> None:
    whole = tar(tmp_path / "a.tar", pair("1", 1)).read_bytes()
    end = whole.rstrip(b"\0")
    padded = end + bytes(-len(end) % 512)  # its last member is whole, the end is not there
    for data in (gzip.compress(whole), whole[:700], padded, b"x" * 2000):
        (tmp_path / "a.tar").write_bytes(data)
        with pytest.raises(ConfigError, match=r"a.tar cannot be read as a tar file"):
            shards(tmp_path)


def test_a_shard_that_is_cut_off_after_it_was_listed_gives_bad_frames(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", pair("1", 1))
    source = shards(tmp_path)
    os.truncate(path, 540)
    with pytest.raises(FrameError, match=r"a/1.png: a.tar ends in it"):
        source.load(0)
    path.unlink()
    with pytest.raises(FrameError, match="the file is missing"):
        source.load(0)


def test_a_member_whose_name_is_no_text_is_a_bad_frame(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"\udcff.png": encoded(1), **pair("2", 2)})
    source = shards(tmp_path, label=None, classes=())
    assert len(source) == 2
    assert source.frame_ids[0] == "a/2"
    with pytest.raises(FrameError, match="is not printable UTF-8"):
        source.load(1)


def table(rows: int, start: int = 0) -> pa.Table:
    values = range(start, start + rows)
    return pa.table(
        {
            "image": [{"bytes": encoded(value), "path": f"{value}.png"} for value in values],
            "annotation": [{"bytes": encoded(value % 4, "L"), "path": None} for value in values],
            "raw": [encoded(value) for value in values],
        }
    )


def hub(root: Path, **changes: Any) -> Source:
    given = {"label": "annotation", "classes": 4} | changes
    return open_hf_dataset(HfDatasetSettings(root=root, **given))


def test_rows_of_parquet_and_arrow_are_frames_in_any_order(tmp_path: Path) -> None:
    pq.write_table(table(7), tmp_path / "train-0.parquet", row_group_size=3)
    for opened, name in ((pa.ipc.new_stream, "train-1"), (pa.ipc.new_file, "train-2")):
        rows = table(5, start=7 if name == "train-1" else 12)
        with opened(tmp_path / f"{name}.arrow", rows.schema) as file:
            file.write_table(rows, max_chunksize=2)
    pq.write_table(table(1), tmp_path / "val-0.parquet")
    pq.write_table(table(1), tmp_path / "cache-0123.parquet")  # what `map` leaves there
    source = hub(tmp_path, split="train")
    assert len(source) == 17
    assert source.frame_ids[7] == "train-1/000000"
    assert len(hub(tmp_path)) == 18
    order = np.random.default_rng(0).permutation(17)
    assert [int(source.load(index).image[0, 0, 0]) for index in order] == order.tolist()
    assert [int(source.load(index).label[0, 0]) for index in order] == (order % 4).tolist()
    assert int(hub(tmp_path, split="train", image="raw").load(9).image[0, 0, 0]) == 9


def test_threads_share_the_rows(tmp_path: Path) -> None:
    pq.write_table(table(40), tmp_path / "a.parquet", row_group_size=8)
    source, found = hub(tmp_path), {}

    def read(first: int) -> None:
        for index in range(first, 40, 4):
            found[index] = int(source.load(index).image[0, 0, 0])

    threads = [threading.Thread(target=read, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {index: index for index in range(40)}


def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    pq.write_table(table(1), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"no column 'mask'; .* image, annotation, raw"):
        hub(tmp_path, label="mask")


def test_a_row_without_bytes_is_a_bad_frame(tmp_path: Path) -> None:
    cells = [{"bytes": None, "path": "/else/where.png"}, {"bytes": encoded(5), "path": None}]
    pq.write_table(pa.table({"image": cells}), tmp_path / "a.parquet")
    source = hub(tmp_path, label=None, classes=())
    with pytest.raises(FrameError, match=r"a.parquet row 0: column 'image' has no bytes there"):
        source.load(0)
    assert source.load(1).image[0, 0, 0] == 5


def test_files_that_are_damaged_or_change_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ConfigError, match=r"a.parquet cannot be read"):
        hub(tmp_path)
    pq.write_table(table(0), path)
    with pytest.raises(ConfigError, match=r"its 1 files have no rows"):
        hub(tmp_path)
    pq.write_table(table(4), path)
    source = hub(tmp_path)
    pq.write_table(table(2), path)
    with pytest.raises(SourceUnavailable, match=r"has changed or is damaged"):
        source.load(3)


def test_another_file_is_another_listing(tmp_path: Path) -> None:
    pq.write_table(table(4), tmp_path / "a.parquet")
    before = hub(tmp_path).identity()
    pq.write_table(table(4, start=1), tmp_path / "a.parquet", compression="none")
    assert hub(tmp_path).identity()["listing_sha256"] != before["listing_sha256"]
