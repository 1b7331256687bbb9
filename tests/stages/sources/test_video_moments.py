"""Frames of videos that are not shown at equal intervals: taken, and paired, by their moments."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import struct
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stillroom.stages.sources.open import open_source
from stillroom.stages.sources.pairs import PairsConfig, plan_pairs
from stillroom.stages.sources.video import VideoConfig, VideoSource
from stillroom.stages.sources.video_index import VideoIndex
from stillroom.stages.sources.video_moments import choose_frames, equally_spaced, frame_rate
from stillroom.storage_specs.errors import ConfigError, FrameError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DARK_THEN_LIGHT = [100 * i for i in range(20)] + [2000 + 25 * i for i in range(20)]


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., VideoSource]:
    """Open a file whose frames are shown at some moments; nothing of it is decoded."""

    def opened(
        times_ms: Any, rate: float, fps: float | None = None, lost: int = 0, name: str = "a.mp4"
    ) -> VideoSource:
        index = VideoIndex(rate, lost, np.asarray(times_ms, np.float64))
        monkeypatch.setattr("stillroom.stages.sources.video.index_video", lambda _: index)
        (tmp_path / name).write_bytes(b"12345")
        source = open_source(VideoConfig(root=tmp_path / name, fps=fps))
        assert isinstance(source, VideoSource)
        return source

    return opened


def numbers(source: VideoSource) -> list[int]:
    return [int(name.rpartition("/")[2]) for name in source.frame_ids]


def times(source: VideoSource) -> list[int]:
    return [source.position(index)[1] or 0 for index in range(len(source))]


def by_place(count: int, rate: float, fps: float) -> list[int]:
    """The frames of a file that has them at equal intervals."""
    step = max(1.0, rate / fps)
    return [min(int(k * step + 0.5), count - 1) for k in range(count) if k * step <= count - 1]


@pytest.mark.parametrize("rate", [16, 30.0])  # an mp4 states the mean, an mkv what it was told
def test_a_video_of_variable_rate_gives_the_frame_of_each_moment(shown, rate):
    source = shown(DARK_THEN_LIGHT, rate, fps=5)
    taken = [DARK_THEN_LIGHT[number] for number in numbers(source)]
    assert taken == list(range(0, 2401, 200))
    assert times(source) == list(range(13))
    assert {source.position(index)[0] for index in range(13)} == {"a"}
    taken = [DARK_THEN_LIGHT[number] for number in numbers(shown(DARK_THEN_LIGHT, rate, fps=10))]
    assert taken == list(range(0, 2401, 100))


def test_what_comes_before_the_first_frame_is_no_time_of_the_clip(shown):
    late = [7040 + time for time in DARK_THEN_LIGHT]
    assert numbers(shown(late, 16, fps=5)) == numbers(shown(DARK_THEN_LIGHT, 16, fps=5))


def test_a_moment_without_a_frame_is_a_gap_and_no_frame_is_taken_twice(shown):
    still = [0, 40, 80, 1080, 1120, 1160, 1200]
    source = shown(still, 25, fps=12.5)
    assert [still[number] for number in numbers(source)] == [0, 80, 1120, 1200]
    assert times(source) == [0, 1, 14, 15]
    plan = plan_pairs(source, PairsConfig(of="all", offsets=(1,), back=False))
    assert (plan.chosen, plan.lonely) == (0, 4)


def test_a_rate_between_those_of_dark_and_light_leaves_gaps_in_the_dark(shown):
    source = shown(DARK_THEN_LIGHT, 16, fps=20)
    assert times(source) == [*range(0, 40, 2), *range(40, 50)]
    assert [DARK_THEN_LIGHT[number] for number in numbers(source)][-3:] == [2350, 2400, 2450]
    with pytest.raises(ConfigError, match=r"has 40 frames a second, .* asks for 60"):
        shown(DARK_THEN_LIGHT, 16, fps=60)


@pytest.mark.parametrize("rate", [24000 / 1001, 25, 30000 / 1001, 30, 59.94])
@pytest.mark.parametrize("fps", [0.7, 3, 10, 24])
@pytest.mark.parametrize("whole_ms", [True, False])
def test_equal_intervals_are_counted_as_ever_whole_milliseconds_or_not(shown, rate, fps, whole_ms):
    moments = np.arange(400) * 1000 / rate
    source = shown(np.rint(moments) if whole_ms else moments, rate, fps)
    assert numbers(source) == by_place(400, rate, fps)
    assert times(source) == list(range(len(source)))
    line = json.dumps(["a.mp4", 5, 400, len(source)]) + "\n"
    assert source.identity() == {
        "kind": "video",
        "fps": fps,
        "classes": None,
        "frames": len(source),
        "listing_sha256": hashlib.sha256(line.encode()).hexdigest(),
    }


def test_the_identity_names_the_frames_that_moments_chose_and_only_those(shown):
    source = shown(DARK_THEN_LIGHT, 16, fps=5)
    line = json.dumps(["a.mp4", 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 28, 36]) + "\n"
    assert source.identity()["chosen_sha256"] == hashlib.sha256(line.encode()).hexdigest()
    every = shown(DARK_THEN_LIGHT, 16).identity()
    assert set(every) == {"kind", "fps", "classes", "frames", "listing_sha256"}
    early = [0, 41, 84, 120, 161, 200]  # uneven, and still the frames of their places
    assert "chosen_sha256" not in shown(early, 25, fps=12.5).identity()


@given(
    intervals=st.lists(st.integers(1, 400), min_size=2, max_size=60),
    rate=st.sampled_from([0.0, 12.5, 25.0, 60.0]),
    fps=st.sampled_from([1.0, 7.5, 12.5, 25.0]),
)
def test_every_frame_taken_is_the_nearest_to_its_moment(intervals, rate, fps):
    moments = np.cumsum([0, *intervals]).astype(float)
    index = VideoIndex(rate, 0, moments)
    assume(not equally_spaced(index))
    chosen, ks = choose_frames(index, fps)
    expected = {}
    for k in range(int(moments[-1] * fps / 1000 + 1e-6) + 1):
        distances = np.abs(moments * fps / 1000 - k)
        nearest = len(moments) - 1 - int(np.argmin(distances.round(6)[::-1]))
        if -0.5 <= moments[nearest] * fps / 1000 - k < 0.5:
            expected[k] = nearest
    assert dict(zip(ks.tolist(), chosen.tolist(), strict=True)) == expected
    assert (np.diff(chosen) > 0).all()


def test_frames_that_a_camera_dropped_are_gaps_in_the_time_of_every_frame(shown):
    there = [place for place in range(60) if place not in (10, 30, 31)]
    source = shown([round(place * 1000 / 30) for place in there], 28.5)
    assert numbers(source) == list(range(57))
    assert times(source) == there
    plan = plan_pairs(source, PairsConfig(of="all", offsets=(1,), back=False))
    apart = np.array(there)[plan.partner] - np.array(there)[plan.frame]
    assert set(np.abs(apart)) == {1}
    assert plan.lonely == 2 + 4


def test_the_frames_that_a_cut_variable_file_lost_are_bad_ones_at_the_end(shown):
    source = shown(DARK_THEN_LIGHT, 20, fps=5, lost=20)  # 60 frames in 3 s
    assert [numbers(source)[at] for at in (0, 1, 12, 13, -1)] == [0, 2, 36, 44, 52]
    with pytest.raises(FrameError, match="cut off or damaged; of its 60 frames the first 36"):
        source.load(13)
    assert times(shown(DARK_THEN_LIGHT, 16, lost=3))[-4:] == [99, 100, 101, 102]


@pytest.mark.parametrize("fps", [None, 5, 25])
def test_a_file_of_one_frame_gives_it(shown, caplog, fps):
    source = shown([500], 25, fps)
    assert (numbers(source), times(source)) == ([0], [0])
    assert not warned(caplog)


def warned(caplog) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


def test_without_moments_frames_are_counted_and_it_is_said(shown, caplog):
    broken = [0, 0, 0, 120, 120, 120, 240, 240, 240, 360]
    source = shown(broken, 25, fps=12.5)
    assert numbers(source) == [0, 2, 4, 6, 8]
    assert times(source) == [0, 1, 2, 3, 4]
    assert warned(caplog) == [
        "a.mp4 does not say when its frames are shown: `fps` counts them at its rate"
    ]
    caplog.clear()
    assert times(shown(broken, 25)) == list(range(10))
    assert not warned(caplog)


def test_uneven_steps_are_said_where_time_is_asked_for_and_nowhere_else(shown, caplog):
    source = shown([0, 40, 80, 120, 160, 176, 200, 240, 280], 25)
    assert len(source) == 9
    source.identity()
    assert not warned(caplog)
    assert times(source) == list(range(9))
    assert len(warned(caplog)) == 1
    assert warned(caplog)[0].startswith("a.mp4 has frames at uneven intervals")
    caplog.clear()
    times(shown([0, 40, 80, 120, 160, 176, 200, 240, 280], 25, fps=25))
    times(shown([0, 33, 67, 100, 133, 200, 233, 267], 30))  # one is dropped
    assert not warned(caplog)
    times(shown([0, 40, 80, 120, 160, 260, 360, 460], 25))  # two and a half intervals
    assert len(warned(caplog)) == 1


@pytest.mark.parametrize("stated", [0.0, 500.0, 12.0])
def test_a_rate_that_the_header_gets_wrong_is_read_from_the_moments(shown, stated):
    moments = np.rint(np.arange(90) * 1000 / 30)
    assert frame_rate(VideoIndex(stated, 0, moments)) == pytest.approx(30, rel=0.01)
    source = shown(moments, stated, fps=10)
    assert numbers(source) == list(range(0, 88, 3))
    assert times(source) == list(range(30))
    with pytest.raises(ConfigError, match=r"has 30 frames a second, .* asks for 400"):
        shown(moments, stated, fps=400)


def retimed(path: Path, intervals_ms: list[int]) -> Path:
    """Rewrite an mp4's table of times, and take out the edit that cuts it to its old length."""
    data = bytearray(path.read_bytes())
    scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    at = data.index(b"stts") - 4
    rows = b"".join(struct.pack(">II", 1, each * scale // 1000) for each in intervals_ms)
    table = struct.pack(">I4sII", 16 + len(rows), b"stts", 0, len(intervals_ms)) + rows
    size = struct.unpack_from(">I", data, at)[0]
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        place = data.index(kind) - 4
        grown = struct.unpack_from(">I", data, place)[0] + len(table) - size
        struct.pack_into(">I", data, place, grown)
    data[at : at + size] = table
    path.write_bytes(data.replace(b"elst", b"free"))
    return path


def test_pixels_of_a_real_file_of_variable_rate(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    path = tmp_path / "a.mp4"
    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, 25, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no mp4v")
    for number in range(40):
        writer.write(np.full((48, 64, 3), 10 + 5 * number, np.uint8))
    writer.release()
    capture = cv2.VideoCapture(str(retimed(path, [100] * 20 + [25] * 20)), cv2.CAP_FFMPEG)
    every = [cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB) for _ in DARK_THEN_LIGHT]
    source = open_source(VideoConfig(root=path, fps=5))
    places = list(range(13))
    random.Random(3).shuffle(places)
    for place in places:
        nearest = every[DARK_THEN_LIGHT.index(200 * place)]
        np.testing.assert_array_equal(source.load(place).image, nearest)
    assert [source.position(place) for place in range(len(source))] == [("a", k) for k in range(13)]
