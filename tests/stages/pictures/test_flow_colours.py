"""The colour code of optical flow, against the published rule written out pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stillroom.stages.pictures.flow_colours import flow_colours, flow_picture, wheel_picture
from stillroom.storage_specs.errors import ArtifactError


def published_wheel() -> list[tuple[int, int, int]]:
    """The six arcs of Baker et al.'s colour code, one by one, in whole numbers."""
    hues = [(255, 255 * i // 15, 0) for i in range(15)]
    hues += [(255 - 255 * i // 6, 255, 0) for i in range(6)]
    hues += [(0, 255, 255 * i // 4) for i in range(4)]
    hues += [(0, 255 - 255 * i // 11, 255) for i in range(11)]
    hues += [(255 * i // 13, 0, 255) for i in range(13)]
    return hues + [(255, 0, 255 - 255 * i // 6) for i in range(6)]


def published_colour(u: float, v: float) -> list[int]:
    """Of a vector whose length is told in full hues."""
    hues = published_wheel()
    length = math.hypot(u, v)
    position = (math.atan2(-v, -u) / math.pi + 1) / 2 * (len(hues) - 1)
    lower = int(position)
    upper, share = (lower + 1) % len(hues), position - lower
    found = []
    for channel in range(3):
        full = (1 - share) * hues[lower][channel] / 255 + share * hues[upper][channel] / 255
        full = 1 - length * (1 - full) if length <= 1 else 0.75 * full
        found.append(int(255 * full))
    return found


def test_every_vector_has_the_published_colour() -> None:
    flow = 8 * np.random.default_rng(0).normal(size=(2, 12, 15))
    found = flow_colours(flow, longest=10.0)
    lengths = np.hypot(*flow)
    assert (lengths > 10).sum() > 10
    for y, x in np.ndindex(12, 15):
        expected = published_colour(flow[0, y, x] / 10, flow[1, y, x] / 10)
        assert np.abs(found[y, x].astype(int) - expected).max() <= 1  # rounding of the last bit


@pytest.mark.parametrize(
    ("u", "v", "colour"),
    [(1, 0, "red"), (0, 1, "yellow"), (-1, 0, "blue or green"), (0, -1, "blue or magenta")],
)
def test_directions_have_the_hues_that_readers_know(u: float, v: float, colour: str) -> None:
    red, green, blue = flow_colours(np.full((2, 1, 1), 1.0) * [[[u]], [[v]]])[0, 0].tolist()
    known = {
        "red": red == 255 and green < 30 and blue < 30,
        "yellow": red > 200 and green > 200 and blue < 30,
        "blue or green": red < 30 and green > 100 and blue > 200,
        "blue or magenta": green < 30 and blue == 255,
    }
    assert known[colour], (red, green, blue)


def test_no_flow_is_white_and_the_longest_vector_a_full_hue() -> None:
    assert (flow_colours(np.zeros((2, 3, 4))) == 255).all()
    flow = np.zeros((2, 1, 3), np.float32)
    flow[0, 0] = 0, 2, 4
    assert flow_colours(flow).tolist()[0][2] == [255, 0, 0]
    assert flow_colours(flow)[0, 1].tolist() == pytest.approx([255, 127, 127], abs=1)
    assert flow_colours(flow, longest=2.0).tolist()[0][1:] == [[255, 0, 0], [191, 0, 0]]


def test_unknown_flow_is_black_and_does_not_set_the_scale() -> None:
    flow = np.full((2, 1, 5), 3.0)
    flow[0, 0, 0], flow[1, 0, 1], flow[0, 0, 2] = math.nan, math.inf, 2e9
    found = flow_colours(flow)
    assert (found[0, :3] == 0).all()
    assert found[0, 3].tolist() == flow_colours(np.full((2, 1, 1), 3.0))[0, 0].tolist()
    assert (flow_colours(np.full((2, 2, 2), math.nan)) == 0).all()


def test_the_wheels_picture_is_a_disc_with_right_to_the_right() -> None:
    wheel, disc = wheel_picture(41)
    assert wheel.shape == (41, 41, 3)
    assert not disc[0, 0]
    assert disc[20].all()
    assert (wheel[20, 20] == 255).all()
    assert wheel[20, 40].tolist() == [255, 0, 0]
    assert wheel_picture(1)[0].shape == (1, 1, 3)


def test_a_flows_picture_has_the_wheel_in_its_lower_left_corner() -> None:
    right = np.zeros((2, 48, 64), np.float32)
    right[0] = 3
    picture = flow_picture(right, longest=3.0)
    red = (picture == (255, 0, 0)).all(2)
    assert not red[36:46, 2:12].all()
    assert red[:30].all()
    assert red[:, 20:].all()
    assert (flow_picture(right[:, :20], longest=3.0) == (255, 0, 0)).all()  # too small for one


def test_what_is_no_flow_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"\(2, H, W\), floating; got \(3, 4, 5\)"):
        flow_colours(np.zeros((3, 4, 5)))
    with pytest.raises(ArtifactError, match=r"floating; got .* int64"):
        flow_colours(np.zeros((2, 4, 5), np.int64))
    with pytest.raises(ArtifactError, match="above 0 pixels, got 0"):
        flow_colours(np.zeros((2, 4, 5)), longest=0)
