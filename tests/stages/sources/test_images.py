from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillroom.stages.sources.canvas import to_canvas
from stillroom.stages.sources.images import ImagesConfig
from stillroom.stages.sources.open import open_source
from stillroom.storage_specs.errors import ConfigError, FrameError


def put(path: Path, grey: int = 50) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), grey, np.uint8)).save(path)


def test_frames_are_named_by_their_path_below_the_root(tmp_path: Path) -> None:
    for name in ("b/10.png", "b/9.png", "a.png", "a.bmp"):
        put(tmp_path / name)
    source = open_source(ImagesConfig(root=tmp_path))
    assert list(source.frame_ids) == ["a.bmp", "a.png", "b/9.png", "b/10.png"]
    assert source.classes is None
    assert source.load(0).label is None
    assert source.position(0) == (None, None)


def test_several_roots_are_told_apart_by_their_names(tmp_path: Path) -> None:
    put(tmp_path / "left" / "1.png")
    put(tmp_path / "right" / "1.png", 99)
    source = open_source(ImagesConfig(root=(tmp_path / "right", tmp_path / "left")))
    assert list(source.frame_ids) == ["left/1.png", "right/1.png"]
    assert source.load(1).image[0, 0, 0] == 99


def test_roots_of_one_name_are_told_apart_by_the_folders_above(tmp_path: Path) -> None:
    put(tmp_path / "x" / "train" / "1.png")
    put(tmp_path / "y" / "train" / "1.png")
    roots = (tmp_path / "x" / "train", tmp_path / "y" / "train")
    source = open_source(ImagesConfig(root=roots))
    assert list(source.frame_ids) == ["x/train/1.png", "y/train/1.png"]


def test_a_root_inside_another_is_a_config_error(tmp_path: Path) -> None:
    put(tmp_path / "deep" / "1.png")
    with pytest.raises(ConfigError, match="deep lies inside root"):
        open_source(ImagesConfig(root=(tmp_path, tmp_path / "deep")))


def test_a_root_that_is_given_twice_is_a_config_error(tmp_path: Path) -> None:
    put(tmp_path / "1.png")
    with pytest.raises(ConfigError, match=f"^root {tmp_path} is the same folder given twice"):
        open_source(ImagesConfig(root=(tmp_path, tmp_path / ".")))
    link = tmp_path.with_name(tmp_path.name + "-link")
    link.symlink_to(tmp_path)
    with pytest.raises(ConfigError, match=f"^roots {tmp_path} and {link} are the same folder"):
        open_source(ImagesConfig(root=(tmp_path, link)))


def test_no_root_at_all_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="at least one folder"):
        open_source(ImagesConfig(root=()))


def test_the_identity_holds_no_path_and_changes_with_a_file_size(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    before = open_source(ImagesConfig(root=tmp_path)).identity()
    assert str(tmp_path) not in repr(before)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes() + b"tail")
    assert open_source(ImagesConfig(root=tmp_path)).identity() != before


def test_a_relative_root_reads_like_an_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "photos" / "a.png")
    monkeypatch.chdir(tmp_path)
    here = open_source(ImagesConfig(root=Path("photos")))
    there = open_source(ImagesConfig(root=tmp_path / "photos"))
    assert here.identity() == there.identity()
    assert list(here.frame_ids) == ["a.png"]
    assert os.fspath(tmp_path) not in here.frame_ids[0]


def test_one_bad_file_is_one_bad_frame(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    source = open_source(ImagesConfig(root=tmp_path))
    assert len(source) == 2
    assert source.load(0).image.shape == (4, 6, 3)
    with pytest.raises(FrameError, match=r"^b\.png: "):
        source.load(1)


def test_a_root_that_is_a_link_to_itself_is_a_config_error(tmp_path: Path) -> None:
    put(tmp_path / "one" / "a.png")
    (tmp_path / "self").symlink_to("self")
    with pytest.raises(ConfigError, match="self cannot be read: Too many levels"):
        open_source(ImagesConfig(root=(tmp_path / "one", tmp_path / "self")))


def test_a_link_that_leads_nowhere_is_a_bad_frame(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    source = open_source(ImagesConfig(root=tmp_path))
    assert list(source.frame_ids) == ["a.png", "b.png"]
    with pytest.raises(FrameError, match=r"^b\.png: the file is missing"):
        source.load(1)


def test_real_photos_of_any_size_and_colour_reach_the_canvas(shared_data: Path) -> None:
    source = open_source(ImagesConfig(root=shared_data / "coco" / "val2017"))
    assert len(source) == 128
    shapes = set()
    for index in range(0, 128, 16):
        frame = source.load(index)
        shapes.add(frame.image.shape)
        out = to_canvas(frame, (96, 128))
        assert out.image.shape == (96, 128, 3)
        assert 96 in out.valid[:1] or 128 in out.valid[1:]
    assert len(shapes) > 1
