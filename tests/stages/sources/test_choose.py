"""Frames by a list, and frames that a seed draws."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from stillroom.stages.sources.camvid import CamVidConfig
from stillroom.stages.sources.clips import ClipsConfig
from stillroom.stages.sources.image_mask import ImageMaskConfig
from stillroom.stages.sources.images import ImagesConfig
from stillroom.stages.sources.open import open_source
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.stages.sources.source import Source

NAMES = [f"{folder}/{number:03d}" for folder in ("a", "b") for number in range(20)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in NAMES:
        for path, mode in ((f"images/{name}.jpg", "RGB"), (f"masks/{name}_ids.png", "L")):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new(mode, (4, 3)).save(tmp_path / path)
    return tmp_path


def photos(root: Path, **chosen: Any) -> Source:
    return open_source(ImagesConfig(root=root / "images", **chosen))


def masked(root: Path, **chosen: Any) -> Source:
    settings = ImageMaskConfig(root=root, classes=("x", "y"), mask_ending="_ids", **chosen)
    return open_source(settings)


def listed(root: Path, *lines: str) -> Path:
    path = root / "list.txt"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    "line",
    [
        "b/007",
        "./b/007.jpg",
        "images/b/007.jpg",
        "/images/b/007.jpg",
        "b/007.jpg b/007_ids.png",
        "images/b/007.jpg\tmasks/b/007_ids.png",
        "images/b/007.jpg, masks/b/007_ids.png",
    ],
)
def test_a_list_calls_a_frame_by_its_id_or_by_the_end_of_its_path(root: Path, line: str) -> None:
    path = listed(root, "", line, "a/003", line)
    assert list(masked(root, list=path).frame_ids) == ["a/003", "b/007"]
    assert list(photos(root, list=path).frame_ids) == ["a/003.jpg", "b/007.jpg"]


def test_a_name_with_spaces_is_one_name(root: Path) -> None:
    (root / "images/a/000.jpg").rename(root / "images/a/my first.jpg")
    path = listed(root, "a/my first")
    assert list(photos(root, list=path).frame_ids) == ["a/my first.jpg"]


def test_a_list_of_another_system_is_read(root: Path) -> None:
    (root / "list.txt").write_bytes(b"\xef\xbb\xbfa/001\r\nb/002\r\n")
    assert list(masked(root, list=root / "list.txt").frame_ids) == ["a/001", "b/002"]


def test_entries_that_are_not_there_are_counted_and_named(root: Path) -> None:
    path = listed(root, "a/001", *(f"c/{number}" for number in range(5)))
    with pytest.raises(ConfigError, match=r"5 of 6 entries .* 'c/0', 'c/1', 'c/2' and 2 more") as e:
        photos(root, list=path)
    assert "frames are called like 'a/000.jpg'" in str(e.value)


def test_an_entry_of_another_folder_is_not_taken_for_a_frame_of_that_name(root: Path) -> None:
    path = listed(root, "other/b/007.jpg")
    with pytest.raises(ConfigError, match="1 of 1 entries"):
        photos(root, list=path)


def test_an_entry_that_may_be_two_frames_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"'007' may be 'a/007.jpg' and 'b/007.jpg'"):
        photos(root, list=listed(root, "007"))


def test_a_list_that_pairs_frames_with_other_labels_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="is no label of frame '007'"):
        masked(root, list=listed(root, "b/007.jpg masks/b/008_ids.png"))
    with pytest.raises(ConfigError, match="is no label of frame '007'"):
        masked(root, list=listed(root, "b/007 -1"))  # as in VOC's lists of one class


def test_a_list_that_cannot_be_read_or_is_empty_is_named(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.txt cannot be read: No such file"):
        photos(root, list=root / "nowhere.txt")
    with pytest.raises(ConfigError, match=r"list.txt is empty"):
        photos(root, list=listed(root, " ", ""))
    (root / "list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="it is no UTF-8 text"):
        photos(root, list=root / "list.txt")


def test_take_and_skip_of_one_number_are_all_and_share_none(root: Path) -> None:
    taken, left = (set(photos(root, **{key: 5}).frame_ids) for key in ("take", "skip"))
    assert (len(taken), len(left)) == (5, 35)
    assert taken | left == set(photos(root).frame_ids)
    following = set(photos(root, skip=5, take=10).frame_ids)
    assert len(following) == 10
    assert following < left


def test_a_draw_follows_from_seed_and_names_alone(root: Path) -> None:
    def places(seed: int) -> list[str]:
        ids = [f"{name}.jpg" for name in NAMES]
        return sorted(ids, key=lambda one: hashlib.sha256(f"{seed}\n{one}".encode()).digest())

    assert set(photos(root, take=7).frame_ids) == set(places(0)[:7])
    assert set(photos(root, take=7, seed=3).frame_ids) == set(places(3)[:7])
    assert list(photos(root, take=7).frame_ids) == sorted(photos(root, take=7).frame_ids)
    few = listed(root, *NAMES[:12])
    drawn = set(photos(root, take=7, list=few).frame_ids)
    assert drawn <= {f"{name}.jpg" for name in NAMES[:12]}


def test_more_than_there_is_cannot_be_drawn(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"take = 41: frames are drawn, and there are 40 of them"):
        photos(root, take=41)
    with pytest.raises(
        ConfigError, match=r"skip = 30, take = 11: frames are drawn, and there are 40"
    ):
        photos(root, skip=30, take=11)
    with pytest.raises(ConfigError, match=r"skip = 40: frames are drawn, and there are 40"):
        photos(root, skip=40)


def test_a_seed_without_a_draw_is_refused(root: Path) -> None:
    with pytest.raises(ValidationError, match="give one of them"):
        photos(root, seed=1)


def test_of_clips_whole_ones_are_drawn_and_a_list_may_name_them(tmp_path: Path) -> None:
    for clip in range(6):
        for time in range(4):
            path = tmp_path / f"c{clip}" / f"{time}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((3, 4, 3), clip, np.uint8)).save(path)
    with pytest.raises(ConfigError, match="whole clips are drawn, and there are 6 of them"):
        open_source(ClipsConfig(root=tmp_path, take=24))
    drawn = open_source(ClipsConfig(root=tmp_path, take=2))
    clips = [drawn.position(index) for index in range(len(drawn))]
    assert len(drawn) == 8
    assert len({clip for clip, _ in clips}) == 2
    assert [time for _, time in clips] == [0, 1, 2, 3] * 2
    path = listed(tmp_path, "c3", "c5/2")
    named = open_source(ClipsConfig(root=tmp_path, list=path))
    assert list(named.frame_ids) == ["c3/0", "c3/1", "c3/2", "c3/3", "c5/2"]
    assert named.position(4) == ("c5", 2)


def test_a_draw_is_part_of_the_identity_and_only_where_there_is_one(tmp_path: Path) -> None:
    assert "drawn" not in CamVidConfig(root=tmp_path).stated()
    stated = ImagesConfig(root=tmp_path, take=5, seed=2).stated()
    assert stated == {
        "kind": "images",
        "classes": None,
        "drawn": {"skip": 0, "take": 5, "seed": 2},
    }
    assert ClipsConfig(root=tmp_path, skip=1).stated()["drawn"]["skip"] == 1
    assert ImageMaskConfig(root=tmp_path, classes=2, skip=1).stated()["drawn"]["take"] is None


def test_snippets_of_cityscapes_are_drawn_whole(tmp_path: Path) -> None:
    from stillroom.stages.sources.cityscapes import CityscapesSequenceConfig

    for sequence in range(3):
        for number in range(17, 22):
            stem = f"ulm/ulm_{sequence:06d}_{number:06d}"
            path = tmp_path / "leftImg8bit_sequence/train" / f"{stem}_leftImg8bit.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 2)).save(path)
        path = tmp_path / f"gtFine/train/ulm/ulm_{sequence:06d}_000019_gtFine_labelIds.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 2)).save(path)
    source = open_source(CityscapesSequenceConfig(root=tmp_path, take=2, around_labels=1))
    assert (len(source), source.label_count()) == (6, 2)
    # a list of single frames, as Cityscapes' own are, names their snippets
    path = listed(tmp_path, "ulm/ulm_000001_000019")
    assert len(open_source(CityscapesSequenceConfig(root=tmp_path, list=path))) == 5
