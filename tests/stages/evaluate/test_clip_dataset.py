"""Which frames of a source follow each other."""

from __future__ import annotations

from typing import Any

import pytest

from stillroom.stages.evaluate.clip_dataset import Clip, clips_of
from stillroom.stages.evaluate.evaluation_settings import VideoConfig
from stillroom.stages.sources.demo import DemoConfig, DemoSource
from stillroom.storage_specs.errors import ConfigError

Places = list[tuple[str | None, int | None]]


def timed(clip: str, *times: int) -> Places:
    return [(clip, time) for time in times]


def asked(**more: Any) -> VideoConfig:
    return VideoConfig.model_validate({"source": "film", "flow": "dis", **more})


def test_frames_go_by_time_whatever_their_order_in_the_source(film: Any) -> None:
    source = film([("b", 30), ("a", 2), ("b", 10), (None, None), ("a", 1), ("b", 20), ("a", None)])
    found, left_out = clips_of(source, asked())
    assert found == [Clip("b", (2, 5, 0), frozenset()), Clip("a", (4, 1), frozenset())]
    assert [clip.pairs for clip in found] == [2, 1]
    assert not left_out


def test_a_missing_frame_breaks_a_clip_and_a_closer_one_does_not(film: Any) -> None:
    # every second number is the clip's own step; 12 to 16 and 17 to 23 are gaps
    source = film(timed("a", 10, 12, 16, 17, 23, 25, 27))
    ((clip,), _) = clips_of(source, asked())
    assert clip == Clip("a", (0, 1, 2, 3, 4, 5, 6), frozenset({2, 4}))
    assert clip.pairs == 4


def test_what_is_as_frequent_is_the_smaller_step(film: Any) -> None:
    ((clip,), _) = clips_of(film(timed("a", 0, 1, 5)), asked())
    assert clip.breaks == {2}


def test_times_that_a_clock_rounded_break_no_clip(film: Any) -> None:
    ((clip,), _) = clips_of(film(timed("a", 0, 33, 67, 100, 133, 167, 267, 300)), asked())
    assert clip.breaks == {6}


def test_the_first_clips_and_frames_are_taken() -> None:
    source = DemoSource(DemoConfig(clips=4, frames_per_clip=5))
    found, _ = clips_of(source, asked(clips=2, frames=3))
    assert [(clip.name, clip.indices) for clip in found] == [
        ("clip0000", (0, 1, 2)),
        ("clip0001", (5, 6, 7)),
    ]
    every, _ = clips_of(source, asked(clips="all", frames="all"))
    assert [len(clip.indices) for clip in every] == [5, 5, 5, 5]
    named, _ = clips_of(source, asked(clips=["clip0003", "clip0001", "clip0003"]))
    assert [clip.name for clip in named] == ["clip0003", "clip0001"]


def test_the_usual_step_is_that_of_the_whole_clip(film: Any) -> None:
    source = film(timed("a", 0, 3, 4, 5, 6) + timed("b", 0, 1))
    found, left_out = clips_of(source, asked(frames=2))
    assert [clip.name for clip in found] == ["b"]
    assert [(each.clip, each.reason) for each in left_out] == [
        ("a", "its 2 frames are no neighbours")
    ]


def test_a_clip_of_one_frame_is_left_out_and_does_not_count(film: Any) -> None:
    source = film(timed("a", 0) + timed("b", 0, 1) + timed("c", 0, 1) + timed("d", 0))
    found, left_out = clips_of(source, asked(clips=2))
    assert [clip.name for clip in found] == ["b", "c"]
    assert [(each.clip, each.reason) for each in left_out] == [("a", "it has one frame")]


@pytest.mark.parametrize(
    ("places", "more", "complaint"),
    [
        ([(None, None)] * 3, {}, "'film' has no clips: its frames do not say"),
        ([("a", None)] * 3, {}, "'film' has no clips"),
        (timed("a", 1) + timed("b", 2), {}, "no clip of two frames.*; a: it has one frame"),
        (timed("a", 1, 2, 1), {}, "frames 'frame0' and 'frame2' are both at time 1 of clip 'a'"),
        (timed("left", 1, 2), {"clips": ["lift"]}, "no clip 'lift'; did you mean 'left'"),
        (timed("left", 1, 2), {"clips": ["xyz"]}, "no clip 'xyz'; known: left"),
    ],
)
def test_what_has_no_clips_is_refused(
    film: Any, places: Places, more: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        clips_of(film(places), asked(**more))
