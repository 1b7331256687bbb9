from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from stillroom.stages.models.resized_input import grid_on_canvas, resize_frames, stride_on_canvas


def centres(cells: int, pixels: float) -> torch.Tensor:
    return (torch.arange(cells) + 0.5) * pixels


@pytest.mark.parametrize(
    ("stride", "size", "canvas", "expected"),
    [
        (4, (360, 480), (720, 960), 8),  # its own cells
        (4, (512, 512), (720, 960), 5),  # 5.6 x 7.5
        (16, (518, 518), (518, 518), 16),
        (4, (512, 512), (96, 128), 1),  # finer than pixels
        (1, (1024, 2048), (512, 1024), 1),
    ],
)
def test_the_stride_on_the_canvas_is_the_largest_that_loses_no_cell(
    stride: int, size: tuple[int, int], canvas: tuple[int, int], expected: int
) -> None:
    assert stride_on_canvas(stride, size, canvas) == expected


def test_cells_that_lie_right_on_the_canvas_are_kept_bit_for_bit() -> None:
    grid = torch.randn(2, 3, 9, 12)
    assert grid_on_canvas("logits", grid, (4, 8), ((36, 48), (72, 96))) is grid
    # the last cell reaches beyond the frame, in both
    assert grid_on_canvas("logits", grid, (4, 8), ((35, 46), (70, 92))) is grid


@pytest.mark.parametrize(
    ("stride", "size", "canvas"),
    [(4, (64, 64), (90, 130)), (8, (64, 96), (72, 100)), (16, (112, 112), (101, 350))],
)
def test_a_ramp_on_the_resized_frame_is_the_same_ramp_on_the_canvas(
    stride: int, size: tuple[int, int], canvas: tuple[int, int]
) -> None:
    cells = [-(-side // stride) for side in size]
    y, x = (
        centres(count, stride * there / seen)
        for count, seen, there in zip(cells, size, canvas, strict=True)
    )
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij"))[None]
    wanted = stride_on_canvas(stride, size, canvas)
    made = grid_on_canvas("logits", grid, (stride, wanted), (size, canvas))
    assert made.shape == (1, 2, -(-canvas[0] // wanted), -(-canvas[1] // wanted))
    rows = centres(made.shape[2], wanted).clamp(float(y[0]), float(y[-1]))
    columns = centres(made.shape[3], wanted).clamp(float(x[0]), float(x[-1]))
    torch.testing.assert_close(made[0, 0], rows[:, None].expand_as(made[0, 0]))
    torch.testing.assert_close(made[0, 1], columns.expand_as(made[0, 1]))


def test_a_grid_finer_than_the_canvas_is_averaged_and_not_thinned_out() -> None:
    grid = torch.zeros(1, 1, 64, 64)
    grid[..., ::4] = 4.0  # a comb whose mean is 1
    made = grid_on_canvas("logits", grid, (1, 1), ((64, 64), (16, 16)))
    assert made.shape == (1, 1, 16, 16)
    torch.testing.assert_close(made[..., 1:-1], torch.ones(1, 1, 16, 14), rtol=0, atol=0.07)


def test_holes_of_depth_are_not_mixed_with_its_values() -> None:
    depth = torch.full((1, 16, 16), 10.0)
    depth[:, :, 8:] = 0
    made = grid_on_canvas("depth", depth, (4, 5), ((64, 64), (90, 90)))
    assert made.shape == (1, 18, 18)
    assert set(made.round(decimals=4).unique().tolist()) == {0.0, 10.0}
    assert torch.equal(made[0, 0] > 0, torch.arange(18) < 9)


def test_frames_are_resized_as_pillow_does_it() -> None:
    # no extremes: Pillow cuts overshoot off after each axis
    frame = np.random.default_rng(0).integers(90, 166, (70, 90, 3), dtype=np.uint8)
    for size, name in itertools.product(((32, 48), (128, 100)), ("bilinear", "bicubic")):
        way = Image.Resampling[name.upper()]
        expected = Image.fromarray(frame).resize(size[::-1], way)
        made = resize_frames(torch.from_numpy(frame).permute(2, 0, 1)[None], size, name)
        difference = made[0].permute(1, 2, 0) - torch.from_numpy(np.array(expected)).float()
        assert difference.abs().max() <= 1
        assert difference.mean().abs() < 0.05
