from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from stillroom.stages.sources.demo import DemoConfig, DemoSource
from stillroom.stages.warp import (
    inside_frame,
    photometric_weight,
    visible,
    warp,
    warp_labels,
)
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def random_flow(batch: int, height: int, width: int, reach: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(batch, 2, height, width, dtype=torch.float64, generator=generator)
    return (noise * 2 - 1) * reach


def constant_flow(u: float, v: float, height: int, width: int) -> Tensor:
    return torch.tensor([float(u), float(v)]).view(1, 2, 1, 1).repeat(1, 1, height, width)


def warp_by_loops(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The formula, pixel by pixel: four neighbours, each clamped to the frame."""
    batch, _, height, width = image.shape
    out = np.empty_like(image)
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                at_x, at_y = x + flow[b, 0, y, x], y + flow[b, 1, y, x]
                left, top = math.floor(at_x), math.floor(at_y)
                value = np.zeros(image.shape[1])
                for row, down in ((top, 1 - (at_y - top)), (top + 1, at_y - top)):
                    for column, across in ((left, 1 - (at_x - left)), (left + 1, at_x - left)):
                        row_in, column_in = (
                            np.clip(row, 0, height - 1),
                            np.clip(column, 0, width - 1),
                        )
                        value += down * across * image[b, :, row_in, column_in]
                out[b, :, y, x] = value
    return out


@pytest.mark.parametrize("size", [(5, 7), (1, 6), (6, 1), (1, 1)])
def test_warping_is_the_formula_inside_and_far_outside(size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size, dtype=torch.float64)
    flow = random_flow(2, *size, reach=6.0)
    expected = warp_by_loops(image.numpy(), flow.numpy())
    np.testing.assert_allclose(warp(image, flow).numpy(), expected, atol=1e-12)


def test_u_is_to_the_right_and_v_down() -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4)
    right = warp(image, constant_flow(1, 0, 3, 4))[0, 0]
    down = warp(image, constant_flow(0, 1, 3, 4))[0, 0]
    assert right[0].tolist() == pytest.approx([1, 2, 3, 3], abs=1e-5)
    assert down[:, 0].tolist() == pytest.approx([4, 8, 8], abs=1e-5)


def test_warping_is_differentiable_in_image_and_flow() -> None:
    image = torch.rand(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    flow = random_flow(1, 4, 5, reach=1.3, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(warp, (image, flow))


def test_warping_half_precision_is_done_in_float32() -> None:
    image = torch.rand(1, 1, 8, 700)
    flow = random_flow(1, 8, 700, reach=300.0).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        warped = warp(image.half(), flow)
    assert warped.dtype == torch.float32
    torch.testing.assert_close(warped, warp(image.half().float(), flow.float()))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_labels_are_looked_up_at_the_nearest_pixel(dtype: torch.dtype) -> None:
    labels = torch.randint(0, 11, (2, 6, 8)).to(dtype)
    flow = random_flow(2, 6, 8, reach=5.0, seed=1)
    found = warp_labels(labels, flow)
    edge = warp_labels(labels, flow, outside="edge")
    assert found.dtype == dtype
    outside = 0
    for b in range(2):
        for y in range(6):
            for x in range(8):
                column = math.floor(x + float(flow[b, 0, y, x]) + 0.5)
                row = math.floor(y + float(flow[b, 1, y, x]) + 0.5)
                nearest = labels[b, min(max(row, 0), 5), min(max(column, 0), 7)]
                inside = 0 <= column < 8 and 0 <= row < 6
                outside += not inside
                assert edge[b, y, x] == nearest
                assert found[b, y, x] == (nearest if inside else 255)
    assert outside > 10


def test_a_flow_that_is_not_finite_points_nowhere() -> None:
    labels = torch.ones(1, 2, 3, dtype=torch.uint8)
    flow = torch.zeros(1, 2, 2, 3)
    flow[0, 0, 0, 0] = torch.nan
    flow[0, 1, 1, 2] = torch.inf
    for outside in ("ignore", "edge"):
        assert warp_labels(labels, flow, outside=outside)[0].tolist() == [[255, 1, 1], [1, 1, 255]]
    assert inside_frame(flow)[0, 0].tolist() == [[False, True, True], [True, True, False]]
    assert visible(flow, torch.zeros_like(flow))[0, 0].tolist()[0] == [False, True, True]


def test_a_target_is_inside_up_to_the_last_pixels_centre() -> None:
    flow = torch.zeros(1, 2, 1, 4)
    flow[0, 0, 0] = torch.tensor([3.0, 2.01, -2.0, -3.01])
    assert inside_frame(flow)[0, 0, 0].tolist() == [True, False, True, False]
    assert not inside_frame(constant_flow(0, 0.01, 1, 4)).any()


def test_what_the_other_frame_shows_goes_there_and_back() -> None:
    there, back = constant_flow(3, -1, 8, 12), constant_flow(-3, 1, 8, 12)
    seen = visible(there, back)[0, 0]
    assert seen[1:, :9].all()
    assert not seen[0].any(), "a row above the frame"
    assert not seen[:, 9:].any(), "columns beyond the frame"
    assert not visible(there, constant_flow(-1, 1, 8, 12)).any()


@pytest.mark.parametrize("length", [0.0, 10.0, 40.0])
def test_the_threshold_of_visibility_is_that_of_the_paper(length: float) -> None:
    # Along x: |e|^2 < 0.01 * (length^2 + (length - e)^2) + 0.5, with e the gap.
    for gap in torch.linspace(0.1, 7, 30).tolist():
        there = constant_flow(length, 0, 1, 100)
        back = constant_flow(gap - length, 0, 1, 100)
        expected = gap**2 < 0.01 * (length**2 + (length - gap) ** 2) + 0.5
        assert bool(visible(there, back)[0, 0, 0, 5]) == expected, gap


def test_the_photometric_weight_is_the_formula() -> None:
    image, other = torch.rand(2, 3, 4, 5, dtype=torch.float64), torch.rand(2, 3, 4, 5).double()
    flow = random_flow(2, 4, 5, reach=2.0, seed=2)
    warped = warp_by_loops(other.numpy(), flow.numpy())
    apart, summed = np.empty((2, 1, 4, 5)), np.empty((2, 1, 4, 5))
    for b in range(2):
        for y in range(4):
            for x in range(5):
                differences = [float(image[b, c, y, x]) - warped[b, c, y, x] for c in range(3)]
                apart[b, 0, y, x] = math.exp(-sum(map(abs, differences)))
                summed[b, 0, y, x] = math.exp(-abs(sum(differences)))
    np.testing.assert_allclose(photometric_weight(image, other, flow).numpy(), apart, rtol=1e-10)
    released = photometric_weight(image, other, flow, channels="summed")
    np.testing.assert_allclose(released.numpy(), summed, rtol=1e-10)
    still = photometric_weight(image, image, torch.zeros_like(flow))
    torch.testing.assert_close(still, torch.ones_like(still))


def test_the_exact_flow_of_drawn_clips_brings_back_frames_and_labels() -> None:
    source = DemoSource(DemoConfig(clips=1, frames_per_clip=2))
    now, then = source.load(0), source.load(1)
    exact, shown = source.flow(0)
    flow, seen = torch.from_numpy(exact)[None], torch.from_numpy(shown)
    assert now.label is not None
    assert then.label is not None
    labels, here = torch.from_numpy(then.label)[None], torch.from_numpy(now.label)
    assert (warp_labels(labels, flow)[0] == here)[seen].all()
    assert (labels[0] == here)[seen].float().mean() < 0.99, "the scene moves"
    image, other = (
        torch.from_numpy(frame.image).permute(2, 0, 1)[None].float() for frame in (now, then)
    )
    error = (warp(other, flow) - image).abs().mean(1)[0][seen].mean()
    assert error < 0.6 * (other - image).abs().mean(1)[0][seen].mean()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda flow: warp(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), flow), "floating; got"),
        (lambda flow: warp(torch.zeros(1, 3, 4, 5), flow), r"sides of the flow \(1, 2, 4, 4\)"),
        (lambda flow: warp(torch.zeros(2, 3, 4, 4), flow), r"got \(2, 3, 4, 4\)"),
        (lambda flow: warp(torch.zeros(1, 3, 4, 4), flow[:, :1]), r"a flow is \(B, 2, H, W\)"),
        (lambda flow: warp(torch.zeros(1, 3, 4, 4), flow.long()), "torch.int64"),
        (lambda flow: warp_labels(torch.zeros(1, 4, 4), flow), "uint8 or wider"),
        (lambda flow: warp_labels(torch.zeros(1, 4, 4, dtype=torch.int8), flow), "torch.int8"),
        (lambda flow: warp_labels(torch.zeros(1, 1, 4, 4).byte(), flow), r"\(1, 1, 4, 4\)"),
        (lambda flow: visible(flow, flow[..., 1:]), r"\(1, 2, 4, 3\)"),
        (
            lambda flow: photometric_weight(torch.zeros(1, 3, 4, 3), torch.zeros(1, 3, 4, 4), flow),
            r"\(1, 3, 4, 3\)",
        ),
    ],
)
def test_arrays_that_do_not_go_together_are_refused(
    call: Callable[[Tensor], Tensor], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        call(torch.zeros(1, 2, 4, 4))
