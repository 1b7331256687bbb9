"""Scores of depth and of normals against their formulas, written out pixel by pixel."""

from __future__ import annotations

import math
from statistics import fmean, pstdev

import numpy as np
import pytest

from stillroom.stages.evaluate.depth_scores import DepthTally
from stillroom.stages.evaluate.normals_scores import NormalsTally


def of_frames(tally, frames):
    for prediction, truth in frames:
        tally.add(prediction, truth)
    return tally


@pytest.fixture
def depths():
    rng = np.random.default_rng(3)
    found = []
    for size in ((4, 5), (3, 7)):
        truth = rng.uniform(0.4, 6, size).astype(np.float32)
        truth[rng.random(size) < 0.3] = 0
        guess = truth * np.exp(rng.normal(0, 0.3, size)) + (truth == 0)
        found.append((guess[None].astype(np.float32), truth))
    return found


def test_depth_scores_are_their_formulas(depths):
    frames = [
        [(float(p), float(d)) for p, d in zip(guess.ravel(), truth.ravel(), strict=True) if d > 0]
        for guess, truth in depths
    ]
    pixels = [pair for frame in frames for pair in frame]
    found = of_frames(DepthTally(), depths)
    expected = {
        "rel": fmean(abs(p - d) / d for p, d in pixels),
        "log10": fmean(abs(math.log10(p) - math.log10(d)) for p, d in pixels),
        "rms": math.sqrt(fmean((p - d) ** 2 for p, d in pixels)),
        "silog": fmean(pstdev([math.log(p) - math.log(d) for p, d in frame]) for frame in frames),
        "delta1": fmean(max(p / d, d / p) < 1.25 for p, d in pixels),
        "delta2": fmean(max(p / d, d / p) < 1.25**2 for p, d in pixels),
        "delta3": fmean(max(p / d, d / p) < 1.25**3 for p, d in pixels),
    }
    assert found.scores() == pytest.approx(expected, rel=1e-9)
    assert 0 < expected["delta1"] < expected["delta2"]
    assert (found.pixels, found.frames) == (len(pixels), 2)


def test_scaling_a_frame_moves_all_but_silog(depths):
    plain = of_frames(DepthTally(), depths).scores()
    scaled = of_frames(DepthTally(), [(1.5 * guess, truth) for guess, truth in depths]).scores()
    assert scaled["silog"] == pytest.approx(plain["silog"], rel=1e-5)
    assert scaled["rel"] > plain["rel"]


def test_a_frame_without_depth_counts_for_nothing_and_pieces_merge(depths):
    whole = of_frames(DepthTally(), [*depths, (np.ones((1, 2, 2)), np.zeros((2, 2)))])
    parts = of_frames(DepthTally(), depths[:1])
    parts.merge(of_frames(DepthTally(), depths[1:]))
    assert parts.scores() == whole.scores()
    assert whole.frames == 2


def test_a_depth_of_nothing_is_wrong_and_finite():
    tally = of_frames(DepthTally(), [(np.zeros((1, 1, 2), np.float32), np.ones((1, 2)))])
    assert tally.scores()["rel"] == pytest.approx(0.999)
    assert tally.scores()["delta3"] == 0


def turned(degrees):
    """A unit vector that lies so far from the camera's axis."""
    return [math.sin(math.radians(degrees)), 0.0, math.cos(math.radians(degrees))]


def test_normals_scores_are_of_known_angles():
    angles = [0, 5, 11, 12, 25, 90, 180, 40]
    truth = np.zeros((3, 2, 4))
    truth[2] = -1
    guess = -3 * np.array([turned(one) for one in angles]).T.reshape(3, 2, 4)  # of any length
    truth[:, 1, 3] = 0  # the one of 40 degrees has no truth
    tally = of_frames(NormalsTally(), [(guess, truth)])
    scores = tally.scores()
    assert tally.pixels == 7
    assert scores["mean_angle"] == pytest.approx(np.mean(angles[:-1]))
    assert scores["median_angle"] == pytest.approx(12, abs=0.06)
    shares = [scores[f"within_{limit}"] for limit in ("11.25", "22.5", "30")]
    assert shares == pytest.approx([3 / 7, 4 / 7, 5 / 7])


def test_no_direction_is_no_right_one():
    truth = np.ones((3, 1, 2))
    guess = truth * [[[1, 0]]]
    scores = of_frames(NormalsTally(), [(guess, truth)]).scores()
    assert scores["mean_angle"] == pytest.approx(45)
    assert scores["within_30"] == 0.5


def test_normals_of_two_pieces_are_those_of_the_whole():
    rng = np.random.default_rng(1)
    frames = [(rng.normal(size=(3, 4, 4)), rng.normal(size=(3, 4, 4))) for _ in range(2)]
    whole, parts = of_frames(NormalsTally(), frames), of_frames(NormalsTally(), frames[:1])
    parts.merge(of_frames(NormalsTally(), frames[1:]))
    assert parts.scores() == whole.scores()
    assert whole.scores()["median_angle"] == pytest.approx(90, abs=40)
