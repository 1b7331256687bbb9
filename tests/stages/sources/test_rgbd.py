"""RGB-D folders: units, holes and what is no depth map."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from stillroom.stages.sources.canvas import to_canvas
from stillroom.stages.sources.open import SourceConfig, open_source
from stillroom.stages.sources.rgbd import RgbdConfig
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.stages.sources.source import Source

SIZE = (6, 8)
MILLIMETRES = (1000 + 10 * np.arange(48, dtype=np.uint16)).reshape(SIZE)


def put(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for time in (2, 4, 10):
        put(tmp_path / "color" / f"f_{time}.png", np.full((*SIZE, 3), time, np.uint8))
    put(tmp_path / "depth" / "f_4.png", MILLIMETRES)
    return tmp_path


def opened(root: Path, **settings: Any) -> Source:
    section = {"kind": "rgbd", "root": root, **settings}
    return open_source(TypeAdapter(SourceConfig).validate_python(section))


def test_frames_pair_by_name_and_those_without_a_map_have_no_depth(root: Path) -> None:
    source = opened(root)
    assert list(source.frame_ids) == ["f_2", "f_4", "f_10"]
    assert [source.position(i) for i in range(3)] == [("color", 2), ("color", 4), ("color", 10)]
    assert [source.labelled(i) for i in range(3)] == [False, True, False]
    assert source.label_count() == 1
    frames = [source.load(i) for i in range(3)]
    assert all(frame.label is None and not frame.faults for frame in frames)
    assert not frames[0].targets["depth"].any()
    np.testing.assert_allclose(frames[1].targets["depth"], MILLIMETRES / 1000.0, rtol=1e-6)


def test_both_may_lie_in_one_folder_a_clip_told_by_an_ending(tmp_path: Path) -> None:
    for time in (0, 1):
        put(tmp_path / "seq-01" / f"f-{time}.color.png", np.zeros((*SIZE, 3), np.uint8))
        put(tmp_path / "seq-01" / f"f-{time}.depth.png", MILLIMETRES)
    endings = {"image_ending": ".color", "depth_ending": ".depth"}
    source = opened(tmp_path, images=".", depth=".", **endings)
    assert list(source.frame_ids) == ["seq-01/f-0", "seq-01/f-1"]
    assert source.position(1) == ("seq-01", 1)
    assert source.load(1).targets["depth"].all()
    with pytest.raises(ValidationError, match="the same files"):
        RgbdConfig(root=tmp_path, images=".", depth=".")


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_floating_point_files_are_metres_and_nan_is_a_hole(root: Path, suffix: str) -> None:
    metres = (MILLIMETRES / 1000).astype(np.float32)
    metres[1, 2] = np.nan
    put(root / "depth" / f"f_2{suffix}", metres)
    found = opened(root).load(0).targets["depth"]
    np.testing.assert_array_equal(found, np.nan_to_num(metres))


def test_a_unit_is_stated_and_readings_beyond_the_range_are_holes(root: Path) -> None:
    values = MILLIMETRES.copy()
    values[0, :4] = 0, 65535, 20, 64000
    put(root / "depth" / "f_4.png", values)
    expected = np.where((values > 100) & (values < 50000), values, 0)
    put(root / "depth" / "f_10.npy", values.astype(np.int32))  # 65535 is a number as any there
    assert opened(root).load(2).targets["depth"][0, 1] == np.float32(65.535)
    near = opened(root, far=50).load(1)
    np.testing.assert_allclose(near.targets["depth"], expected / 1000, rtol=1e-6)
    source = opened(root, unit=0.0002, far=10)
    np.testing.assert_allclose(source.load(1).targets["depth"], expected / 5000, rtol=1e-6)
    assert source.identity()["targets"] == {"depth": {"unit": 0.0002, "range_m": [0.1, 10]}}
    assert opened(root).identity() != source.identity()


BROKEN = {
    "negative": (".npy", np.where(np.eye(6, 8) == 1, -1.5, 2.0), "6 of 48 depths are negative"),
    "infinite": (".npy", np.where(np.eye(6, 8) == 1, np.inf, 2.0), "6 of 48 depths are infinite"),
    "another size": (".png", MILLIMETRES[:3], "the depth map is 3x8, its image 6x8"),
    "metres as integers": (
        ".png",
        MILLIMETRES // 500,
        r"48 of 48 .* really 0\.001 m\? Mend `unit`",
    ),
    "millimetres as floats": (".npy", 1.0 * MILLIMETRES, r"outside 0\.1 to 100 m.* really 1 m\?"),
    "a picture": (".png", np.zeros((*SIZE, 3), np.uint8), "no depth map but RGB"),
    "eight bits": (".png", np.zeros(SIZE, np.uint8), "no depth map but L"),
    "text": (".npy", np.full(SIZE, "far"), "expected an array of numbers"),
    "three channels": (".npy", np.ones((*SIZE, 3)), "the depth map is 6x8x3"),
}


@pytest.mark.parametrize(("suffix", "values", "says"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_depth_map_is_a_fault_of_the_depth_alone(
    root: Path, suffix: str, values: np.ndarray, says: str
) -> None:
    put(root / "depth" / f"f_2{suffix}", values)
    frame = opened(root).load(0)
    (fault,) = frame.faults.values()
    assert fault.startswith(f"f_2{suffix}: ")
    assert re.search(says, fault), fault
    assert not frame.targets["depth"].any()
    assert (frame.image == 2).all()


UNCLOSED = b"\x93NUMPY\x01\x00v\x00" + b"{'shape': (6, 8), 'descr': '<f4', ".ljust(117) + b"\n"


@pytest.mark.parametrize(
    "damage", [b"", b"\x93NUMPY", b"garbage" * 9, UNCLOSED, b"PK\x03\x04" + b"zip" * 9]
)
def test_a_damaged_file_is_a_fault_of_the_depth_alone(root: Path, damage: bytes) -> None:
    (root / "depth" / "f_2.npy").write_bytes(damage)
    assert "cannot be decoded" in opened(root).load(0).faults["depth"]


def test_folders_that_do_not_pair_are_refused(root: Path) -> None:
    (root / "depth" / "f_4.png").rename(root / "depth" / "g_4.png")
    with pytest.raises(ConfigError, match=r"no frame of .*color has a depth map in .*depth"):
        opened(root)
    with pytest.raises(ValidationError, match="must be below far"):
        RgbdConfig(root=root, near=3, far=2)


def test_a_camera_gives_normals_and_one_fault_is_told_once(root: Path) -> None:
    flat = np.full((20, 30), 1500, np.uint16)
    for folder, name, values in (
        ("color", "f_2", np.zeros((20, 30, 3), np.uint8)),
        ("color", "f_4", np.zeros((20, 30, 3), np.uint8)),
        ("depth", "f_2", flat),
        ("depth", "f_4", flat[:5]),
    ):
        put(root / folder / f"{name}.png", values)
    source = opened(root, camera=(30.0, 30.0, 15.0, 10.0))
    frame = source.load(0)
    assert list(frame.targets) == ["depth", "normals"]
    expected = np.zeros((3, 20, 30)) - np.array([0, 0, 1])[:, None, None]
    inside = np.s_[:, 4:-4, 4:-4]
    np.testing.assert_allclose(frame.targets["normals"][inside], expected[inside], atol=1e-4)
    assert not source.load(2).targets["normals"].any()
    broken = to_canvas(source.load(1), (20, 30))
    assert list(broken.faults) == ["depth", "normals"]
    assert broken.reason == "f_4.png: the depth map is 5x30, its image 20x30 (height x width)"
    assert "normals" in source.identity()["targets"]
    with pytest.raises(ValidationError, match="fx and fy above 0"):
        RgbdConfig(root=root, camera=(0, 1, 2, 3))
