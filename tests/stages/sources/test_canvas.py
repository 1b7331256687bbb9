from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.stages.sources.canvas import fitted_size, to_canvas
from stillroom.stages.sources.source import Frame
from stillroom.storage_specs.errors import ConfigError, FrameError


def frame(height: int, width: int, *, labelled: bool = True) -> Frame:
    rng = np.random.default_rng(height * 1000 + width)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    label = rng.integers(0, 5, (height, width), dtype=np.uint8) if labelled else None
    return Frame("a", image, label)


def test_a_frame_of_the_canvas_size_passes_through_untouched() -> None:
    given_frame = frame(8, 12)
    out = to_canvas(given_frame, (8, 12))
    assert out.image is given_frame.image
    assert out.label is given_frame.label
    assert out.valid == (8, 12)
    assert out.frame_id == "a"


def test_what_lies_outside_the_valid_area_is_black_and_ignored() -> None:
    out = to_canvas(frame(20, 40), (16, 16))
    assert out.valid == (8, 16)
    assert out.image.shape == (16, 16, 3)
    assert out.image[:8].any()
    assert not out.image[8:].any()
    assert out.label is not None
    assert (out.label[:8] < 5).all()
    assert (out.label[8:] == 255).all()


def test_an_unlabelled_frame_stays_unlabelled() -> None:
    assert to_canvas(frame(20, 40, labelled=False), (16, 16)).label is None


def test_shrinking_by_a_whole_factor_averages_areas() -> None:
    source = frame(16, 24)
    out = to_canvas(source, (4, 6))
    mean = source.image.reshape(4, 4, 6, 4, 3).mean(axis=(1, 3))
    assert np.abs(out.image - mean).max() <= 0.51


def test_growing_by_a_whole_factor_repeats_labels() -> None:
    source = frame(5, 7)
    out = to_canvas(source, (15, 21))
    assert source.label is not None
    np.testing.assert_array_equal(out.label, np.kron(source.label, np.ones((3, 3), np.uint8)))


def test_labels_are_taken_at_pixel_centres_and_stay_under_their_image() -> None:
    label = np.zeros((9, 9), np.uint8)
    label[:, 5:] = 1
    image = np.repeat((label * 255)[:, :, None], 3, axis=2)
    out = to_canvas(Frame("a", image, label), (3, 3))
    # column 1 covers source columns 3..5; its centre, column 4, is class 0
    assert out.label is not None
    assert out.label.tolist() == [[0, 0, 1]] * 3
    assert ((out.image[:, :, 0] > 127) == (out.label == 1)).all()


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 600), st.integers(1, 600))
def test_a_fitted_frame_fills_one_side_and_keeps_its_proportions(
    rows: int, columns: int, height: int, width: int
) -> None:
    high, wide = fitted_size((rows, columns), (height, width))
    assert 1 <= high <= height
    assert 1 <= wide <= width
    assert high == height or wide == width
    exact = min(height / rows, width / columns)
    assert abs(high - max(rows * exact, 1)) <= 0.51
    assert abs(wide - max(columns * exact, 1)) <= 0.51


def test_an_extreme_strip_keeps_at_least_one_pixel() -> None:
    assert to_canvas(frame(1, 400), (8, 8)).valid == (1, 8)


def test_an_image_without_pixels_is_a_bad_frame() -> None:
    with pytest.raises(FrameError, match="no pixels"):
        to_canvas(Frame("a", np.zeros((0, 4, 3), np.uint8)), (8, 8))


@pytest.mark.parametrize("canvas", [(0, 8), (8, -1), (8,)])
def test_a_canvas_of_no_area_is_a_config_error(canvas: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="canvas is"):
        to_canvas(frame(4, 4), canvas)
