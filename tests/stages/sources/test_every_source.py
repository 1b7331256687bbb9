"""What holds for every kind of source; a new kind needs its sample in `SAMPLES`."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_set_trees import plant
from PIL import Image
from pydantic import TypeAdapter

from stillroom.stages.sources.data_set_table import DATA_SETS
from stillroom.stages.sources.open import SOURCES, SourceConfig, open_source
from stillroom.storage_specs.errors import ConfigError, FrameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stillroom.stages.sources.source import Frame, Source
    from stillroom.stages.sources.source_settings import SourceSettings

NAMES = ("a_1", "a_2", "a_10")


def put(path: Path, image: np.ndarray | None = None) -> None:
    """An image of noise, or the one given: noise cannot be cut without being damaged."""
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise if image is None else image).save(path)


def put_label(path: Path) -> None:
    put(path, np.random.default_rng(3).integers(0, 3, (24, 32), dtype=np.uint8))


def camvid(root: Path) -> dict[str, Any]:
    for name in NAMES:
        put(root / "train" / f"{name}.png")
        put_label(root / "trainannot" / f"{name}.png")
    return {"root": root}


def image_mask(root: Path) -> dict[str, Any]:
    for name in NAMES:
        put(root / "images" / "deep" / f"{name}.png")
        put_label(root / "masks" / "deep" / f"{name}.png")
    return {"root": root, "classes": ("a", "b", "c")}


def images(root: Path) -> dict[str, Any]:
    for name in NAMES:
        put(root / "photos" / "deep" / f"{name}.png")
        put(root / "more" / f"{name}.png")
    return {"root": (root / "photos", root / "more")}


def clips(root: Path) -> dict[str, Any]:
    for name in NAMES:
        put(root / "frames" / "clip10" / f"{name}.png")
        put(root / "frames" / "clip9" / f"{name}.png")
    put_label(root / "labels" / "clip9" / f"{NAMES[1]}.png")
    return {"root": root / "frames", "labels": root / "labels", "classes": ("a", "b", "c")}


def cityscapes_sequence(root: Path) -> dict[str, Any]:
    for number in (18, 19, 20):
        place = Path("train", "ulm", f"ulm_000000_{number:06d}_leftImg8bit.png")
        put(root / "leftImg8bit_sequence" / place)
    put_label(root / "gtFine" / "train" / "ulm" / "ulm_000000_000019_gtFine_labelIds.png")
    return {"root": root}


def video(root: Path) -> dict[str, Any]:
    for name in ("b9.avi", "b10.avi"):
        root.mkdir(exist_ok=True)
        code = cv2.VideoWriter.fourcc(*"MJPG")
        writer = cv2.VideoWriter(str(root / name), cv2.CAP_FFMPEG, code, 25, (64, 48))
        for number in range(20):
            writer.write(np.full((48, 64, 3), 10 * number, np.uint8))
        writer.release()
    return {"root": root}


def rgbd(root: Path) -> dict[str, Any]:
    for name in NAMES:
        put(root / "color" / f"{name}.png")
    depth = np.random.default_rng(5).integers(400, 9000, (24, 32), dtype=np.uint16)
    put(root / "depth" / f"{NAMES[1]}.png", depth)
    return {"root": root}


def boxes(root: Path) -> dict[str, Any]:
    for name in NAMES:
        put(root / "images" / f"{name}.png")
    (root / "texts").mkdir()
    (root / "texts" / f"{NAMES[1]}.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    return {"images": root / "images", "boxes": root / "texts", "classes": ("a", "b")}


def demo(_: Path) -> dict[str, Any]:
    return {"clips": 2, "frames_per_clip": 2, "height": 16, "width": 24}


def encoded(image: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    return data.getvalue()


def webdataset(root: Path) -> dict[str, Any]:
    root.mkdir(exist_ok=True)
    for shard in ("train-0", "train-10"):
        with tarfile.open(root / f"{shard}.tar", "w") as file:
            for name, extension in product(NAMES, ("png", "seg.png")):
                rng = np.random.default_rng(len(extension))
                shape = (24, 32, 3) if extension == "png" else (24, 32)
                data = encoded(rng.integers(0, 3, shape, dtype=np.uint8))
                member = tarfile.TarInfo(f"./deep/{name}.{extension}")
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    return {"root": root, "image": "png", "label": "seg.png", "classes": 3}


def hf_dataset(root: Path) -> dict[str, Any]:
    (root / "train").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, labels = (
        [{"bytes": encoded(rng.integers(0, 3, shape, dtype=np.uint8)), "path": None}] * 3
        for shape in ((24, 32, 3), (24, 32))
    )
    table = pa.table({"image": images, "annotation": labels, "scene": ["a", "b", "c"]})
    pq.write_table(table, root / "train" / "data-00000-of-00002.parquet", row_group_size=2)
    with pa.ipc.new_stream(root / "train" / "data-00001-of-00002.arrow", table.schema) as stream:
        stream.write_table(table, max_chunksize=2)
    return {"root": root, "split": "train", "label": "annotation", "classes": 3}


def data_set(kind: str, root: Path) -> dict[str, Any]:
    plant(kind, root)
    return {"root": root}


SAMPLES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "camvid": camvid,
    "image_mask": image_mask,
    "images": images,
    "clips": clips,
    "cityscapes_sequence": cityscapes_sequence,
    "video": video,
    "rgbd": rgbd,
    "boxes": boxes,
    "demo": demo,
    "webdataset": webdataset,
    "hf_dataset": hf_dataset,
    **{kind: partial(data_set, kind) for kind in DATA_SETS},
}
every_kind = pytest.mark.parametrize("kind", SOURCES)


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))


def sample(kind: str, root: Path) -> SourceSettings:
    """A section of a kind, with at least three frames of at least two files below `root`."""
    assert kind in SAMPLES, (
        f"no sample of the source kind {kind!r}: add to SAMPLES of {__file__} a function that "
        "writes a small tree of it below a folder and returns its section's keys"
    )
    root.mkdir()
    section = {"kind": kind, **SAMPLES[kind](root)}
    config: SourceSettings = TypeAdapter(SourceConfig).validate_python(section)
    return config


def files_of(kind: str, root: Path) -> SourceSettings:
    config = sample(kind, root)
    if not config.folders():
        pytest.skip("this kind reads no files")
    return config


def told(source: Source) -> dict[str, Any]:
    """All that a source says without reading a frame."""
    every = range(len(source))
    return {
        "identity": source.identity(),
        "frame_ids": list(source.frame_ids),
        "positions": [source.position(index) for index in every],
        "labelled": [source.labelled(index) for index in every],
    }


@contextmanager
def scanned_backwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let folders be listed in another order than the disk's."""
    scan = os.scandir

    @contextmanager
    def backwards(folder: str) -> Iterator[Any]:
        with scan(folder) as entries:
            yield iter(list(entries)[::-1])

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", backwards)
        yield


@every_kind
def test_frames_are_what_the_protocol_promises(kind: str, tmp_path: Path) -> None:
    config = sample(kind, tmp_path / "data")
    source = open_source(config)
    assert len(source) == len(source.frame_ids) == len(set(source.frame_ids)) >= 3
    classes = config.stated()["classes"]
    assert source.classes == (None if classes is None else tuple(classes))
    for index, frame_id in enumerate(source.frame_ids):
        frame = source.load(index)
        assert frame.frame_id == frame_id
        assert frame.image.dtype == np.uint8
        assert frame.image.shape[2:] == (3,)
        assert (frame.label is None) == (source.classes is None)
        if frame.label is not None and source.classes is not None:
            assert (frame.label.dtype, frame.label.shape) == (np.uint8, frame.image.shape[:2])
            assert set(np.unique(frame.label)) <= {*range(len(source.classes)), 255}
            assert source.labelled(index) or (frame.label == 255).all()
        assert frame.label_fault == ""
        assert tuple(frame.targets) == config.further_targets()
        assert frame.faults == {}
        for name, target in frame.targets.items():
            size = (config.most_boxes(), 5) if name == "boxes" else frame.image.shape[:2]
            assert (target.dtype, target.shape[-2:]) == (np.float32, size)
            assert target.any() == source.labelled(index)
    assert source.label_count() == sum(map(source.labelled, range(len(source))))
    times: dict[str, int] = {}
    for clip, time in map(source.position, range(len(source))):
        if clip is not None and time is not None:
            assert time > times.get(clip, -1), "the frames of a clip come by their times"
            times[clip] = time


@every_kind
def test_the_identity_is_json_without_paths_and_holds_what_the_section_states(
    kind: str, tmp_path: Path
) -> None:
    config = sample(kind, tmp_path / "data")
    identity = open_source(config).identity()
    assert json.loads(json.dumps(identity)) == identity
    assert str(tmp_path) not in json.dumps(identity)
    assert config.stated().items() <= identity.items()
    assert identity["kind"] == kind


@every_kind
def test_neither_the_place_nor_the_order_on_disk_nor_another_process_changes_anything(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(sample(kind, tmp_path / "data"))
    with scanned_backwards(monkeypatch):
        elsewhere = open_source(sample(kind, tmp_path / "elsewhere"))
    travelled = pickle.loads(pickle.dumps(source))
    assert told(elsewhere) == told(travelled) == told(source)
    assert str(tmp_path) not in "".join(source.frame_ids)
    np.testing.assert_array_equal(travelled.load(1).image, source.load(1).image)


@every_kind
def test_missing_and_empty_folders_are_named(kind: str, tmp_path: Path) -> None:
    config = files_of(kind, tmp_path / "data")
    for folder in config.folders():
        kept = folder.rename(folder.with_name("kept"))
        with pytest.raises(ConfigError, match=rf"{folder} does not exist"):
            open_source(config)
        folder.mkdir()
        with pytest.raises(ConfigError, match=rf"{folder} holds no (image|video|shard)"):
            open_source(config)
        folder.rmdir()
        kept.rename(folder)
    open_source(config)


@pytest.mark.parametrize("share", [0.6, 0.0])
@every_kind
def test_a_file_that_is_cut_off_is_named_and_never_read_as_if_it_were_whole(
    kind: str, share: float, tmp_path: Path
) -> None:
    config = files_of(kind, tmp_path / "data")
    source = open_source(config)
    whole = [source.load(index) for index in range(len(source))]
    for folder in config.folders():
        kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for path, data in kept.items():
            # An empty text file of boxes is whole: it says that there is none.
            path.write_bytes(data[: int(share * len(data)) or path.suffix == ".txt"])
        faults = list(faults_of(config, whole))
        assert faults, folder
        for fault in faults:
            assert any(path.name in str(fault) for path in kept)
            if isinstance(fault, FrameError):  # becomes a row of the manifest
                assert str(tmp_path) not in str(fault)
        for path, data in kept.items():
            path.write_bytes(data)


def faults_of(config: SourceSettings, whole: list[Frame]) -> Iterator[Exception]:
    """What opening a source, or loading its frames, refuses; what loads must be what it was."""
    try:
        source = open_source(config)
    except ConfigError as error:
        yield error
        return
    for index, frame in enumerate(whole):
        try:
            found = source.load(index)
        except FrameError as error:
            yield error
        else:
            np.testing.assert_array_equal(found.image, frame.image)
            if found.label_fault:
                assert (found.label == 255).all()
                yield FrameError(found.label_fault)
            else:
                np.testing.assert_array_equal(found.label, frame.label)
            for name, target in found.targets.items():
                if name in found.faults:
                    assert not target.any()
                    yield FrameError(found.faults[name])
                else:
                    np.testing.assert_array_equal(target, frame.targets[name])
