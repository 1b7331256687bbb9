"""Which frames of clips are paired, and which are not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from stillroom.stages.sources.clip_times import usual_step
from stillroom.stages.sources.pairs import BACKWARD, PairPlan, PairsConfig, plan_pairs
from stillroom.storage_specs.errors import ConfigError


@dataclass
class Clips:
    """Frames by clip and time; those named in `with_label` have one."""

    times: dict[str, list[int]]
    with_label: set[str] = field(default_factory=set)
    classes: tuple[str, ...] | None = ("road", "sky")

    def __post_init__(self) -> None:
        self.at = [(clip, time) for clip, times in self.times.items() for time in times]
        self.frame_ids = [f"{clip}_{time:03d}" for clip, time in self.at]

    def __len__(self) -> int:
        return len(self.at)

    def position(self, index: int) -> tuple[str | None, int | None]:
        clip, time = self.at[index]
        return (None, None) if clip == "none" else (clip, time)

    def labelled(self, index: int) -> bool:
        return self.frame_ids[index] in self.with_label

    def label_count(self) -> int:
        return len(self.with_label)

    def load(self, index: int) -> Any:
        raise NotImplementedError("a plan opens no file")

    def identity(self) -> dict[str, Any]:
        return {}


def named(source: Clips, plan: PairPlan) -> dict[tuple[str, str], tuple[int, int]]:
    return {
        (source.frame_ids[a], source.frame_ids[b]): (int(offset), int(draw))
        for a, b, offset, draw in zip(plan.frame, plan.partner, plan.offset, plan.draw, strict=True)
    }


def test_a_labelled_frame_gets_one_neighbour_before_and_one_after_and_the_ways_back():
    source = Clips({"a": list(range(30))}, {"a_019"})
    found = named(source, plan := plan_pairs(source, PairsConfig(offsets=(1, 2, 3), draws=1)))
    drawn = {pair: row for pair, row in found.items() if row[1] != BACKWARD}
    assert len(found) == 4
    assert (plan.chosen, plan.lonely) == (1, 0)
    assert sorted(offset > 0 for offset, _ in drawn.values()) == [False, True]
    for (one, other), (offset, draw) in drawn.items():
        assert (one, draw) == ("a_019", 0)
        assert int(other[-3:]) - 19 == offset
        assert found[other, one] == (-offset, BACKWARD)
    assert len(plan_pairs(source, PairsConfig(draws=1, back=False))) == 2


def test_draws_are_different_neighbours_and_more_draws_only_add_to_them():
    source = Clips({"a": list(range(30))}, {f"a_{time:03d}" for time in range(5, 25, 4)})
    few = named(source, plan_pairs(source, PairsConfig(draws=1, back=False)))
    more = named(source, plan_pairs(source, PairsConfig(draws=2, back=False)))
    every = named(source, plan_pairs(source, PairsConfig(draws=9, back=False)))
    assert (len(few), len(more), len(every)) == (10, 20, 30)
    assert few.items() <= more.items() <= every.items()
    assert named(source, plan_pairs(source, PairsConfig(back=False))) == every


def test_offsets_are_drawn_from_the_name_and_spread_over_all_of_them():
    ids = {f"a_{time:03d}" for time in range(3, 197)}
    one, other = Clips({"a": list(range(200))}, ids), Clips({"b": [0], "a": list(range(200))}, ids)
    config = PairsConfig(draws=1, back=False)
    plan = plan_pairs(one, config)
    assert named(one, plan) == named(other, plan_pairs(other, config))
    counts = np.unique(plan.offset, return_counts=True)
    assert counts[0].tolist() == [-3, -2, -1, 1, 2, 3]
    assert counts[1].min() > 40  # of 194 a side, a third each


def test_offsets_past_an_end_are_drawn_again_and_a_frame_without_a_side_is_left_out():
    source = Clips({"a": list(range(8))}, {"a_000", "a_001", "a_006", "a_007"})
    found = named(source, plan := plan_pairs(source, PairsConfig(offsets=(1, 3), back=False)))
    assert (plan.chosen, plan.lonely) == (2, 2)
    assert found["a_001", "a_000"][0] == -1
    assert found["a_006", "a_007"][0] == 1
    assert {frame for frame, _ in found} == {"a_001", "a_006"}


def test_steps_are_the_clips_own_and_nothing_reaches_over_a_gap_or_into_another_clip():
    # 15 Hz of a 30 Hz clip; 108 is missing
    source = Clips({"a": [100, 102, 104, 106, 110, 112], "b": [114, 115, 116]})
    plan = plan_pairs(source, PairsConfig(of="all", offsets=(1,), back=False))
    assert set(named(source, plan)) == {
        ("a_102", "a_100"), ("a_102", "a_104"), ("a_104", "a_102"), ("a_104", "a_106"),
        ("b_115", "b_114"), ("b_115", "b_116"),
    }  # fmt: skip
    assert plan.lonely == 6
    # two steps from 106 are 110, whatever lies between
    far = plan_pairs(source, PairsConfig(of="all", offsets=(2,), back=False))
    assert named(source, far)["a_106", "a_110"] == (2, 0)


@pytest.mark.parametrize(
    ("times", "step"),
    [([], 1), ([5], 1), ([1, 3], 2), ([0, 2, 4, 5], 2), ([0, 1, 5, 9], 4), ([0, 3, 4, 7, 8], 1)],
)
def test_the_usual_step_is_the_most_frequent_and_the_least_of_several(times, step):
    assert usual_step(times) == (step, 0)


@pytest.mark.parametrize(
    ("times", "step"),
    [
        ([round(i * 1000 / 30) for i in range(50)], 33),
        ([round(i * 1000 / 60) for i in range(50)], 17),
        ([16 * 10**16 + 33_333_333 * i + 900_000 * (i % 3) for i in range(50)], 33_350_000),
    ],
)
def test_times_of_a_clock_are_steps_that_it_may_miss_by_an_eighth(times, step):
    found, jitter = usual_step(times)
    assert found == pytest.approx(step, rel=0.01)
    assert jitter == found // 8
    source = Clips({"a": times, "b": times[:20] + times[21:]})
    plan = plan_pairs(source, PairsConfig(of="all", offsets=(1, 3), draws=2, back=False))
    place = {(clip, time): times.index(time) for clip, time in source.at}
    apart = [
        place[source.at[other]] - place[source.at[frame]]
        for frame, other in zip(plan.frame, plan.partner, strict=True)
    ]
    assert apart == plan.offset.tolist()
    # at the two ends of each clip; no frame beside the gap has lost both of its offsets
    assert (plan.chosen, plan.lonely) == (95, 4)


def test_a_few_odd_numbers_do_not_make_a_clock_of_a_counter():
    times = [30 * i for i in range(20)] + [601] + [30 * i for i in range(21, 40)]  # CamVid's
    assert usual_step(times) == (30, 0)
    plan = plan_pairs(Clips({"a": times}), PairsConfig(of="all", offsets=(1,), back=False))
    assert (plan.chosen, plan.lonely) == (35, 5)


def test_a_source_without_labels_pairs_all_frames_and_one_without_clips_none():
    times = {"a": [0, 1, 2, 3]}
    assert plan_pairs(Clips(times, classes=None), PairsConfig()).chosen == 2
    assert plan_pairs(Clips(times), PairsConfig()).chosen == 0
    with_depth = Clips(times, {"a_001"}, classes=None)
    assert plan_pairs(with_depth, PairsConfig()).chosen == 1
    assert len(plan_pairs(Clips({"none": [0, 1, 2]}), PairsConfig(of="all"))) == 0


def test_a_pair_that_two_frames_want_is_there_once():
    source = Clips({"a": [0, 1, 2, 3]})
    plan = plan_pairs(source, PairsConfig(of="all", offsets=(1,)))
    pairs = list(zip(plan.frame.tolist(), plan.partner.tolist(), strict=True))
    assert pairs == sorted(set(pairs)) == [(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)]
    draws = dict(zip(pairs, plan.draw.tolist(), strict=True))
    # the middle two draw each other; the ends are only ways back
    assert draws[1, 2] == draws[2, 1] == 0
    assert draws[0, 1] == draws[3, 2] == BACKWARD


def test_two_frames_at_one_time_are_named():
    with pytest.raises(ConfigError, match=r"'a_001' and 'a_001' are both at time 1 of clip 'a'"):
        plan_pairs(Clips({"a": [0, 1, 1]}), PairsConfig())


@pytest.mark.parametrize(
    "given",
    [{"offsets": []}, {"offsets": [0]}, {"offsets": [-1]}, {"offsets": [1, 1]}, {"draws": 0},
     {"of": "some"}],
)  # fmt: skip
def test_what_is_no_plan_is_refused(given):
    with pytest.raises((ValidationError, ConfigError)):
        PairsConfig.model_validate(given)
