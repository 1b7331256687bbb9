"""Sheets of flow and of changes, curves over a clip, and films."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from stillroom.stages.evaluate.temporal_consistency import TemporalConsistency
from stillroom.stages.pictures import film
from stillroom.stages.pictures.curve_chart import consistency_chart
from stillroom.stages.pictures.film import comparison_film, write_film
from stillroom.stages.pictures.pair_sheets import (
    HIDDEN,
    OUTSIDE,
    FramePair,
    consistency_sheet,
    flow_sheet,
    hidden_map,
    laid_over,
    warped_image,
)
from stillroom.stages.pictures.prediction_sheet import WRONG
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = ("sky", "road", "car")
SIZE = (48, 64)
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
MOVED = np.roll(IMAGE, 8, axis=1)
RIGHT = np.zeros((2, *SIZE), np.float32)
RIGHT[0] = 8
VISIBLE = np.ones(SIZE, bool)
VISIBLE[:10, :10] = False
SKY = np.zeros(SIZE, np.uint8)
HALF = SKY.copy()
HALF[24:] = 1


def pair(**changes: object) -> FramePair:
    return replace(FramePair("clip_01", IMAGE, IMAGE, 0 * RIGHT), **changes)  # type: ignore[arg-type]


def count(path: Path, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(Image.open(path)) == colour).all(2).sum())


def test_two_frames_laid_over_each_other_are_grey_where_they_agree() -> None:
    found = laid_over(IMAGE, IMAGE)
    assert (found == found[..., :1]).all()
    found = laid_over(np.full((1, 1, 3), 255, np.uint8), np.zeros((1, 1, 3), np.uint8))
    assert found[0, 0].tolist() == [255, 0, 0]


def test_warping_brings_the_other_frame_to_the_first() -> None:
    warped = warped_image(MOVED, RIGHT)
    assert (warped[:, :56] == IMAGE[:, :56]).all()


def test_hidden_and_leaving_pixels_are_told_apart() -> None:
    found = hidden_map(IMAGE, RIGHT, VISIBLE)
    assert (found[:, 56:] == OUTSIDE).all()
    assert (found[:10, :10] == HIDDEN).all()
    assert not (found[10:, :56] == HIDDEN).all(2).any()
    assert not (hidden_map(IMAGE, RIGHT, None) == HIDDEN).all(2).any()


def test_the_sheet_of_flow_says_what_it_shows(tmp_path: Path, words: list[str]) -> None:
    pairs = [
        FramePair("clip_01", IMAGE, MOVED, RIGHT, VISIBLE),
        FramePair("clip_02", IMAGE, IMAGE, 0 * RIGHT),
    ]
    path = flow_sheet(tmp_path / "made" / "flow.png", pairs)
    assert {"clip_01", "clip_02", "2 pairs, 48x64 pixels"} <= set(words)
    assert {"flow, full colour at 8.0 px", "longest 8.0 px", "longest 0.0 px"} <= set(words)
    assert {"0.0 of 255 apart", "96.7% visible", "hidden", "leaves the frame"} <= set(words)
    assert count(path, (255, 0, 0)) > 20_000  # the whole flow is to the right, but for the wheel
    flow_sheet(tmp_path / "flow.png", pairs[1:])
    assert "flow, full colour at 0.0 px" in words
    assert words.count("hidden") == 1


def test_a_prediction_is_followed_to_t() -> None:
    later = np.roll(HALF, 8, axis=1)
    found = pair(flow=RIGHT, visible=VISIBLE, predictions={"a": (SKY, later)}).followed("a")
    assert (found[:, 56:] == 255).all()
    assert (found[:10, :10] == 255).all()
    assert (found[10:24, :56] == 0).all()
    assert (found[24:, :56] == 1).all()
    assert (later == np.roll(HALF, 8, axis=1)).all()  # untouched


def test_the_sheet_of_changes_says_how_much_stays(tmp_path: Path, words: list[str]) -> None:
    row = pair(predictions={"base": (SKY, HALF), "better": (HALF, HALF)})
    path = consistency_sheet(
        tmp_path / "changes.png", [row, replace(row, visible=VISIBLE)], CLASSES
    )
    assert {"base", "better", "50.00% stay", "100.00% stay", "changed at t+1", "sky"} <= set(words)
    assert words.count("what changes at t+1") == 2
    reddish = np.asarray(Image.open(path)).astype(int)
    wrong = np.abs(reddish - np.array(WRONG)).max(2) < 45
    assert wrong.sum() > 50_000
    gone = replace(row, flow=RIGHT + 100)
    consistency_sheet(tmp_path / "gone.png", [gone], CLASSES)
    assert "no pixel stays in the frame" in words


def consistency(*shares: float, masked: bool = True):
    found = TemporalConsistency(2)
    for share in shares:
        now, later = torch.zeros(2, 1, 10, 10, dtype=torch.uint8)
        now[:, 5:], later[:, 5:] = 1, 1
        later[:, :, : round(10 * (1 - share))] = 1 - now[:, :, : round(10 * (1 - share))]
        seen = torch.ones(1, 1, 10, 10, dtype=torch.bool) if masked else None
        found.add(now, later, torch.zeros(1, 2, 10, 10), visible=seen)
    return found.scores()


def test_the_curves_of_several_models_are_named_with_their_scores(
    tmp_path: Path, words: list[str]
) -> None:
    models = {"baseline": consistency(0.5, 1.0, 0.5), "distilled": consistency(1.0, 1.0, 0.9)}
    path = consistency_chart(tmp_path / "curve.png", models)
    assert {"pair of frames", "visible pixels that keep their class"} <= set(words)
    assert any(each.startswith("baseline · TC 0.") for each in words)
    assert any(each.startswith("distilled · TC 0.9") for each in words)
    assert count(path, (0, 0x72, 0xB2)) > 200
    plain = {"baseline": consistency(0.5, 1.0, masked=False)}
    consistency_chart(tmp_path / "plain.png", plain)
    assert "pixels that stay in the frame that keep their class" in words
    with pytest.raises(ConfigError, match="baseline has 3 pairs, other has 1 pairs"):
        consistency_chart(path, {"baseline": models["baseline"], "other": consistency(1.0)})
    with pytest.raises(ConfigError, match="at least one model"):
        consistency_chart(path, {})


def read_film(path: Path) -> list[np.ndarray]:
    if path.suffix == ".gif":
        with Image.open(path) as film:
            return [
                np.asarray((film.seek(index), film.convert("RGB"))[1])
                for index in range(film.n_frames)
            ]
    reader, frames = cv2.VideoCapture(str(path)), []
    while (read := reader.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    reader.release()
    return frames


@pytest.mark.parametrize("kind", ["mp4", "gif", "GIF"])
@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_a_film_shows_its_pictures_in_order(tmp_path: Path, kind: str, size) -> None:
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (220, 220, 30)]
    pictures = (np.full((*size, 3), colour, np.uint8) for colour in colours)
    path = write_film(tmp_path / "made" / f"film.{kind}", pictures, frames_per_second=5)
    read = read_film(path.rename(path.with_suffix(path.suffix.lower())))
    assert len(read) == 4
    for frame, colour in zip(read, colours, strict=True):
        assert frame.shape[:2] in {size, (size[0] + size[0] % 2, size[1] + size[1] % 2)}
        middle = frame[8:24, 8:32].reshape(-1, 3).mean(0)
        assert np.abs(middle - colour).max() < 12
    assert [each.name for each in path.parent.iterdir()] == [f"film.{kind.lower()}"]


def test_how_long_a_picture_stays(tmp_path: Path) -> None:
    pictures = [IMAGE, MOVED, IMAGE]
    with Image.open(write_film(tmp_path / "f.gif", pictures, frames_per_second=8)) as made:
        assert made.info["duration"] == 120
        assert made.info["loop"] == 0
    with Image.open(write_film(tmp_path / "f.gif", pictures, frames_per_second=200)) as made:
        assert made.info["duration"] == 20
    reader = cv2.VideoCapture(str(write_film(tmp_path / "f.mp4", pictures, frames_per_second=8)))
    assert reader.get(cv2.CAP_PROP_FPS) == pytest.approx(8)
    reader.release()


def test_films_that_cannot_be_written_are_refused_and_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"film.*its folder cannot be made|picture.*folder"):
        write_film(tmp_path / "file" / "clip.mp4", [IMAGE])
    (tmp_path / "clip.gif").mkdir()
    with pytest.raises(ConfigError, match="this is a folder"):
        write_film(tmp_path / "clip.gif", [IMAGE])
    with pytest.raises(ConfigError, match=r"expected a name ending in .mp4 or .gif"):
        write_film(tmp_path / "clip.avi", [IMAGE])
    with pytest.raises(ConfigError, match="no picture to show"):
        write_film(tmp_path / "clip.mp4", [])
    with pytest.raises(ConfigError, match="frames a second, got 0"):
        write_film(tmp_path / "clip.mp4", [IMAGE], frames_per_second=0)
    with pytest.raises(ArtifactError, match=r"\(24, 64, 3\) after \(48, 64, 3\)"):
        write_film(tmp_path / "clip.mp4", [IMAGE, IMAGE[:24]])
    monkeypatch.setattr(film.cv2, "VideoWriter", Closed)
    with pytest.raises(ConfigError, match=r"cannot write MP4 \(64x48\); name a .gif"):
        write_film(tmp_path / "clip.mp4", [IMAGE])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["clip.gif", "file"]


class Closed:
    """What OpenCV gives without its encoder."""

    fourcc = staticmethod(lambda *_: 0)

    def __init__(self, *_: object) -> None: ...

    def isOpened(self) -> bool:
        return False


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_is_closed_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match=r"clip.mp4: cannot be written.*Permission denied"):
        write_film(tmp_path / "clip.mp4", [IMAGE])


def test_a_disk_that_is_full_is_told_and_an_older_film_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip.gif"
    path.write_bytes(b"older")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(film.Image.Image, "save", full)
    with pytest.raises(ConfigError, match=r"clip.gif: cannot be written.*No space left"):
        write_film(path, [IMAGE])
    assert [each.name for each in tmp_path.iterdir()] == ["clip.gif"]
    assert path.read_bytes() == b"older"


def clip(**changes: object) -> list[FramePair]:
    """Two pairs: the baseline changes its lower half, there and back."""
    flickers = (
        {"baseline": (HALF, SKY), "distilled": (HALF, HALF)},
        {
            "baseline": (SKY, HALF),
            "distilled": (HALF, HALF),
        },
    )
    return [pair(visible=VISIBLE, predictions=each, **changes) for each in flickers]


def compare(path: Path, pairs: list[FramePair], classes: tuple[str, ...] = CLASSES) -> Path:
    return comparison_film(path, lambda: pairs, classes, title="clip")


def test_students_are_shown_side_by_side_with_what_flickers(tmp_path: Path) -> None:
    read = read_film(compare(tmp_path / "clip.gif", clip()))
    assert len(read) == 2  # the last frame has no next one
    height, width = read[0].shape[:2]
    columns = width // 3
    for frame in read:
        reddish = np.abs(frame.astype(int) - np.array(WRONG)).max(2) < 45
        below = reddish[height // 3 : 3 * height // 4]
        assert below[:, columns : 2 * columns].sum() > 1000  # the baseline changes its lower half
        assert below[:, 2 * columns :].sum() == 0
    # the line below runs to the end
    lengths = [(np.abs(f[-1].astype(int) - film.RUNNING).max(1) < 20).sum() for f in read]
    assert lengths[0] == pytest.approx(width / 2, abs=2)
    assert lengths[1] == width


def test_a_film_of_many_classes_has_one_legend_for_all_frames(tmp_path: Path) -> None:
    many = tuple(f"class {index}" for index in range(90))
    first, second = clip()
    other = replace(second, predictions={"baseline": (HALF + 70, SKY), "distilled": (SKY, SKY)})
    assert len(read_film(compare(tmp_path / "clip.gif", [first, other], many))) == 2


def test_clips_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.gif"
    with pytest.raises(ConfigError, match="at least one frame, and one model's"):
        compare(path, [])
    with pytest.raises(ConfigError, match="at least one frame, and one model's"):
        compare(path, [pair()])
    with pytest.raises(ArtifactError, match=r"expected 0\.\.2 or 255"):
        compare(path, [pair(predictions={"a": (HALF + 9, HALF)})])
    assert not path.exists()


def test_sheets_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with pytest.raises(ConfigError, match="at least one pair"):
        flow_sheet(path, [])
    with pytest.raises(ConfigError, match="at least one pair"):
        consistency_sheet(path, [], CLASSES)
    with pytest.raises(ArtifactError, match=r"clip_01: flow: expected \(2, 48, 64\), got \(2, 24"):
        pair(flow=RIGHT[:, :24])
    with pytest.raises(ArtifactError, match=r"clip_01: visible: expected \(48, 64\)"):
        pair(visible=VISIBLE[:24])
    with pytest.raises(ArtifactError, match=r"clip_01: a \(24, 64\) does not cover"):
        pair(predictions={"a": (SKY, SKY[24:])})
