"""Folders of clips: who is in which clip and when, and who has a label."""

from __future__ import annotations

import json
import os
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from stillroom.stages.sources.camvid import CLASSES as CAMVID
from stillroom.stages.sources.camvid import CamVidConfig
from stillroom.stages.sources.canvas import to_canvas
from stillroom.stages.sources.clip_times import ClipTimes
from stillroom.stages.sources.clips import ClipsConfig
from stillroom.stages.sources.open import open_source
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.stages.sources.source import Source


def frame(path: Path, grey: int = 50, size: tuple[int, int] = (4, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), grey, np.uint8)).save(path)


def label(path: Path, ids: int | list[int] = 1, size: tuple[int, int] = (4, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.broadcast_to(np.array(ids, np.uint8), size).copy()).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two clips, one of them nested; frame 3 of the first is missing."""
    for name in ("tram/f_1.png", "tram/f_2.png", "tram/f_4.png", "day/bus/10.jpg", "day/bus/9.jpg"):
        frame(tmp_path / "clips" / name)
    label(tmp_path / "labels" / "tram" / "f_2.png", [0, 1, 2, 255, 0, 1])
    return tmp_path


def opened(folder: Path, **changes: Any) -> Source:
    return open_source(ClipsConfig(root=folder / "clips", **changes))


def labelled(folder: Path, **changes: Any) -> Source:
    given = {"labels": folder / "labels", "classes": ("a", "b", "c"), **changes}
    return opened(folder, **given)


def placed(source: Source) -> list[tuple[str, str | None, int | None]]:
    return [(name, *source.position(index)) for index, name in enumerate(source.frame_ids)]


def test_frames_come_by_clip_and_time_and_a_missing_one_leaves_a_gap(root: Path) -> None:
    assert placed(opened(root)) == [
        ("day/bus/9", "day/bus", 9),
        ("day/bus/10", "day/bus", 10),
        ("tram/f_1", "tram", 1),
        ("tram/f_2", "tram", 2),
        ("tram/f_4", "tram", 4),
    ]


def test_without_labels_the_source_has_no_classes(root: Path) -> None:
    source = opened(root)
    assert source.classes is None
    assert source.load(2).label is None
    assert not any(source.labelled(index) for index in range(5))


def test_frames_without_a_label_file_are_ignored_everywhere(root: Path) -> None:
    source = labelled(root)
    assert source.classes == ("a", "b", "c")
    assert [source.labelled(index) for index in range(5)] == [False, False, False, True, False]
    for index in range(5):
        found = source.load(index).label
        assert found is not None
        assert found.dtype == np.uint8
        assert found.shape == (4, 6)
        assert found[0].tolist() == ([0, 1, 2, 255, 0, 1] if index == 3 else [255] * 6)


def test_labelled_opens_no_file(root: Path) -> None:
    source = labelled(root)
    for file in (root / "labels").rglob("*.png"):
        file.unlink()
    assert source.labelled(3)
    assert source.load(3).label_fault == "f_2.png: the file is missing"


def test_the_last_number_of_a_name_is_its_time_whatever_else_is_in_it(tmp_path: Path) -> None:
    for name in ("cam2_000010_left8x", "cam2_000002_left9x", "cam10_000001_left7x"):
        frame(tmp_path / "clips" / "c3" / f"{name}.png")
    # 8x: the last digits count, though they stand before other letters
    assert placed(opened(tmp_path)) == [
        ("c3/cam10_000001_left7x", "c3", 7),
        ("c3/cam2_000010_left8x", "c3", 8),
        ("c3/cam2_000002_left9x", "c3", 9),
    ]


def test_digits_of_the_folder_are_no_time(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        frame(tmp_path / "clips" / "drive7" / f"{name}.png")
    frame(tmp_path / "clips" / "other" / "0005.png")
    assert placed(opened(tmp_path)) == [
        ("drive7/a", "drive7", 0),
        ("drive7/b", "drive7", 1),
        ("drive7/c", "drive7", 2),
        ("other/0005", "other", 5),
    ]


def test_a_clip_within_a_clips_folder_is_a_clip_of_its_own(tmp_path: Path) -> None:
    for name in ("a/z", "a/b/y", "a/c"):
        frame(tmp_path / "clips" / f"{name}.png")
    assert placed(opened(tmp_path)) == [("a/c", "a", 0), ("a/z", "a", 1), ("a/b/y", "a/b", 0)]


def test_two_frames_of_one_time_are_both_named(root: Path) -> None:
    frame(root / "clips" / "tram" / "g_2.png")
    frame(root / "clips" / "tram" / "f_02.png")
    with pytest.raises(ConfigError, match=r"'tram/f_02' and 'tram/f_2' both have time 2 .*1 more"):
        opened(root)


def test_a_clip_of_which_some_frames_have_no_number_is_refused(root: Path) -> None:
    frame(root / "clips" / "tram" / "cover.png")
    with pytest.raises(ConfigError, match="'tram/cover' has no number"):
        opened(root)


def test_a_number_too_large_for_a_time_is_refused(root: Path) -> None:
    frame(root / "clips" / "tram" / f"{10**18}.png")
    with pytest.raises(ConfigError, match="more than 18 digits"):
        opened(root)
    (root / "clips" / "tram" / f"{10**18}.png").rename(
        root / "clips" / "tram" / f"{10**18 - 1:030d}.png"
    )
    assert opened(root).position(5) == ("tram", 10**18 - 1)


def test_a_frame_outside_every_clip_is_refused(root: Path) -> None:
    frame(root / "clips" / "7.png")
    with pytest.raises(ConfigError, match=r"1 images outside any clip, e\.g\. '7'"):
        opened(root)


def test_an_empty_clip_folder_is_no_clip(root: Path) -> None:
    before = opened(root)
    (root / "clips" / "empty").mkdir()
    assert placed(opened(root)) == placed(before)
    assert opened(root).identity() == before.identity()


def test_a_label_that_is_a_link_to_nothing_is_not_taken_for_a_frame_without_one(root: Path) -> None:
    (root / "labels" / "tram" / "f_4.png").symlink_to(root / "gone.png")
    source = labelled(root)
    assert [source.labelled(index) for index in range(5)] == [False, False, False, True, True]
    assert source.load(4).label_fault == "f_4.png: the file is missing"


def test_a_folder_of_labels_that_is_a_link_to_itself_is_named(root: Path) -> None:
    (root / "self").symlink_to("self")
    with pytest.raises(ConfigError, match="self cannot be read: Too many levels"):
        labelled(root, labels=root / "self")


def test_no_clip_at_all_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "clips" / "empty").mkdir(parents=True)
    with pytest.raises(ConfigError, match="holds no image"):
        opened(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        opened(tmp_path / "nowhere")


def test_an_unreadable_clip_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def denied(folder: str) -> Any:
        if str(folder).endswith("tram"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr("stillroom.stages.sources.find_images.os.scandir", denied)
    with pytest.raises(ConfigError, match=r"tram cannot be read: Permission denied"):
        opened(root)


def test_a_label_without_a_frame_is_passed_over(root: Path) -> None:
    before = labelled(root).identity()
    label(root / "labels" / "tram" / "f_3.png")
    label(root / "labels" / "elsewhere" / "1.png")
    assert labelled(root).identity() == before
    assert sum(labelled(root).labelled(index) for index in range(5)) == 1


def test_labels_of_which_none_fits_are_a_config_error(root: Path) -> None:
    (root / "labels" / "tram").rename(root / "labels" / "train")
    with pytest.raises(ConfigError, match=r"no frame .* 'day/bus/10' against 'train/f_2'"):
        labelled(root)


def test_labels_inside_the_root_would_be_frames(root: Path) -> None:
    with pytest.raises(ConfigError, match="lies inside root"):
        open_source(ClipsConfig(root=root, labels=root / "labels", classes=("a", "b", "c")))


def test_label_ids_are_mapped_as_for_images_with_masks(root: Path) -> None:
    source = labelled(root, classes=("x",), mapping={2: 0}, ignore=(0,), unlisted="ignore")
    found = source.load(3).label
    assert found is not None
    assert found[0].tolist() == [255, 255, 0, 255, 255, 255]
    fault = labelled(root, classes=("x",)).load(3).label_fault
    assert fault.startswith("f_2.png: label values 1, 2 are outside")


def test_frames_of_differing_size_reach_one_canvas(root: Path) -> None:
    frame(root / "clips" / "tram" / "f_3.png", size=(8, 6))
    label(root / "labels" / "tram" / "f_3.png", 2, size=(8, 6))
    source = labelled(root)
    shapes = []
    for index in range(len(source)):
        out = to_canvas(source.load(index), (4, 6))
        shapes.append((out.image.shape, out.valid))
        assert out.label is not None
    assert set(shapes) == {((4, 6, 3), (4, 6)), ((4, 6, 3), (4, 3))}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": "l"}, "`labels` and `classes` go together"),
        ({"classes": ("a",)}, "`labels` and `classes` go together"),
        ({"around_labels": 1}, "needs `labels`"),
        ({"labels": "l", "classes": ("a",), "around_labels": -1}, "greater than or equal to 0"),
        ({"labels": "l", "classes": ("a", "a")}, "same name"),
        ({"labels": "l", "classes": ("a",), "mapping": {3: 1}}, "outside the 1 classes"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        ClipsConfig(root=tmp_path, **changes)


def test_only_frames_around_labels_are_kept_with_their_times(tmp_path: Path) -> None:
    for time in (0, 1, 2, 5, 6, 7, 9):  # steps are places: 2 and 5 are one apart
        frame(tmp_path / "clips" / "c" / f"{time}.png")
    for clip in ("a", "d"):  # the last frame of one clip is no neighbour of the next one's first
        for time in (0, 1):
            frame(tmp_path / "clips" / clip / f"{time}.png")
    label(tmp_path / "labels" / "c" / "5.png")
    label(tmp_path / "labels" / "c" / "9.png")
    times = {
        steps: [
            (clip, time) for _, clip, time in placed(labelled(tmp_path, around_labels=steps))
        ]
        for steps in (0, 1, 2, 10, None)
    }  # fmt: skip
    assert times[0] == [("c", 5), ("c", 9)]
    assert times[1] == [("c", 2), ("c", 5), ("c", 6), ("c", 7), ("c", 9)]
    assert times[2] == [("c", 1), ("c", 2), ("c", 5), ("c", 6), ("c", 7), ("c", 9)]
    assert [time for _, time in times[10]] == [0, 1, 2, 5, 6, 7, 9]
    assert len(times[None] or ()) == 11
    source = labelled(tmp_path, around_labels=0)
    assert all(source.labelled(index) for index in range(2))


def test_frames_without_numbers_keep_their_places_around_labels(tmp_path: Path) -> None:
    for name in "abcde":
        frame(tmp_path / "clips" / "c" / f"{name}.png")
    label(tmp_path / "labels" / "c" / "d.png")
    assert placed(labelled(tmp_path, around_labels=1)) == [
        ("c/c", "c", 2), ("c/d", "c", 3), ("c/e", "c", 4)
    ]  # fmt: skip


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=20),
    st.integers(0, 5),
)
def test_near_is_what_counting_places_says(rows: list[tuple[int, bool]], steps: int) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    clip = np.array([row[0] for row in rows], np.int32)
    marked = np.array([row[1] for row in rows])
    places = ClipTimes(("a", "b", "c", "d"), clip, np.arange(len(rows)))
    expected = [
        any(marked[k] and clip[k] == clip[i] and abs(k - i) <= steps for k in range(len(rows)))
        for i in range(len(rows))
    ]
    assert places.near(marked, steps).tolist() == expected


def test_the_identity_is_json_without_paths_and_tells_labels_apart(root: Path) -> None:
    plain, known = opened(root).identity(), labelled(root).identity()
    assert json.loads(json.dumps(known)) == known
    assert str(root) not in json.dumps([plain, known])
    assert plain["listing_sha256"] != known["listing_sha256"]
    assert labelled(root, unlisted="ignore").identity() != known
    assert labelled(root, around_labels=1).identity() != known
    (root / "clips").rename(root / "moved")
    moved = ClipsConfig(root=root / "moved", labels=root / "labels", classes=("a", "b", "c"))
    assert open_source(moved).identity() == known
    label(root / "labels" / "tram" / "f_4.png")
    assert open_source(moved).identity() != known


def test_a_source_travels_to_another_process(root: Path) -> None:
    source = labelled(root)
    again = pickle.loads(pickle.dumps(source))
    assert placed(again) == placed(source)
    assert [again.labelled(index) for index in range(5)] == [
        source.labelled(index) for index in range(5)
    ]
    np.testing.assert_array_equal(again.load(3).label, source.load(3).label)


def test_a_missing_label_of_camvid_is_still_a_fault(tmp_path: Path) -> None:
    frame(tmp_path / "train" / "a_1.png")
    frame(tmp_path / "train" / "a_2.png")
    label(tmp_path / "trainannot" / "a_1.png")
    source = open_source(CamVidConfig(root=tmp_path))
    assert [source.labelled(index) for index in range(2)] == [True, False]
    assert source.load(1).label_fault == "a_2.png: it has no label file"
    assert (source.label_count(), source.load(0).label_fault) == (2, "")


def test_real_frames_of_camvid_are_clips_too(shared_data: Path, tmp_path: Path) -> None:
    images = shared_data / "camvid" / "val"
    maps = shared_data / "camvid" / "valannot"
    if not images.is_dir():
        pytest.skip(f"the frames of CamVid's validation split are not at {images}")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "0016E5").symlink_to(images, target_is_directory=True)
    (tmp_path / "labels" / "0016E5").mkdir(parents=True)
    for path in sorted(maps.iterdir())[10::30]:
        (tmp_path / "labels" / "0016E5" / path.name).symlink_to(path)
    source = labelled(tmp_path, classes=CAMVID, ignore=(11,))
    as_camvid = open_source(CamVidConfig(root=shared_data / "camvid", split="val"))
    assert len(source) == len(as_camvid) == 101
    assert [source.position(index) for index in range(101)] == [
        as_camvid.position(index) for index in range(101)
    ]
    marked = [index for index in range(101) if source.labelled(index)]
    assert marked == [10, 40, 70, 100]
    for index in (9, 10):
        ours, theirs = source.load(index), as_camvid.load(index)
        np.testing.assert_array_equal(ours.image, theirs.image)
        assert ours.label is not None
        if index in marked:
            np.testing.assert_array_equal(ours.label, theirs.label)
        else:
            assert (ours.label == 255).all()
    near = labelled(tmp_path, classes=CAMVID, ignore=(11,), around_labels=3)
    assert len(near) == 3 * 7 + 4
    assert near.position(0) == source.position(7)
