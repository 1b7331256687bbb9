"""Flow warping error: hand-made 2x2 signals, loops over pixels, frames along their own flow."""

from __future__ import annotations

import math

import pytest
import torch

from stillroom.stages.evaluate.warping_error import WarpingError, warping_error
from stillroom.stages.sources.demo import DemoConfig, DemoSource
from stillroom.stages.warp import warp
from stillroom.storage_specs.errors import ArtifactError


def signal(*channels: list[list[float]]) -> torch.Tensor:
    return torch.tensor([channels], dtype=torch.float32)


def test_it_is_the_mean_over_pixels_and_channels() -> None:
    now = signal([[1, 0], [0, 0]], [[0, 1], [1, 1]])
    later = signal([[0, 0], [0, 0]], [[1, 1], [1, 1]])  # one of four pixels turns round
    still = torch.zeros(1, 2, 2, 2)
    assert warping_error(now, later, still).tolist() == pytest.approx([2 / (2 * 4)])
    hidden = torch.tensor([[[[False, True], [True, True]]]])
    assert warping_error(now, later, still, visible=hidden).tolist() == [0]
    assert warping_error(now, later, still, visible=~hidden).tolist() == pytest.approx([1])


def test_what_leaves_the_frame_does_not_count() -> None:
    now = signal([[1, 5], [3, 5]])
    later = signal([[9, 1], [9, 3]])
    right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).repeat(1, 1, 2, 2)
    assert warping_error(now, later, right).tolist() == pytest.approx([0], abs=1e-12)
    assert math.isnan(warping_error(now, later, 5 * right).item())


def test_it_is_the_definition_pixel_by_pixel() -> None:
    torch.manual_seed(1)
    now, later = torch.rand(2, 2, 3, 5, 6, dtype=torch.float64)
    flow = 2 * torch.randn(2, 2, 5, 6, dtype=torch.float64)
    visible = torch.rand(2, 1, 5, 6) < 0.7
    warped = warp(later, flow)  # tests/stages/test_warp.py holds it to loops
    for b in range(2):
        total, counted = 0.0, 0
        for y in range(5):
            for x in range(6):
                at_x, at_y = x + flow[b, 0, y, x], y + flow[b, 1, y, x]
                if 0 <= at_x <= 5 and 0 <= at_y <= 4 and visible[b, 0, y, x]:
                    counted += 1
                    for c in range(3):
                        total += float(now[b, c, y, x] - warped[b, c, y, x]) ** 2
        assert counted > 5
        found = warping_error(now, later, flow, visible=visible)[b].item()
        assert found == pytest.approx(total / (3 * counted), rel=1e-10)


def test_a_clip_is_the_mean_over_its_pairs_and_a_hidden_pair_is_left_out() -> None:
    torch.manual_seed(2)
    now, later = torch.rand(2, 3, 2, 4, 4)
    flow = torch.zeros(3, 2, 4, 4)
    visible = torch.ones(3, 1, 4, 4, dtype=torch.bool)
    visible[1] = False
    visible[2, :, :, :3] = False  # a pair with few visible pixels weighs as much as another
    clip = WarpingError()
    clip.add(now[:2], later[:2], flow[:2], visible=visible[:2])
    clip.add(now[2:], later[2:], flow[2:], visible=visible[2:])
    first = (now[0] - later[0]).square().mean().item()
    third = (now[2] - later[2])[:, :, 3:].square().mean().item()
    assert warping_error(now, later, flow, visible=visible).isnan().tolist() == [False, True, False]
    assert clip.mean() == pytest.approx((first + third) / 2)


def test_a_steady_prediction_has_none_and_a_flickering_one_much() -> None:
    steady = torch.zeros(1, 4, 3, 3)
    steady[:, 0] = 1
    other = steady.roll(1, dims=1)
    flow = torch.zeros(1, 2, 3, 3)
    assert warping_error(steady, steady, flow).item() == pytest.approx(0, abs=1e-12)
    assert warping_error(steady, other, flow).item() == pytest.approx(2 / 4)


def test_frames_along_their_own_flow_differ_less_than_as_they_are() -> None:
    source = DemoSource(DemoConfig(clips=1, frames_per_clip=2))
    now, later = (
        torch.from_numpy(source.load(k).image.copy()).permute(2, 0, 1)[None] / 255 for k in (0, 1)
    )
    flow, seen = (torch.from_numpy(part)[None] for part in source.flow(0))
    along = warping_error(now, later, flow, visible=seen[:, None]).item()
    still = warping_error(now, later, torch.zeros_like(flow), visible=seen[:, None]).item()
    assert along < still / 2


def test_what_is_not_counted_may_be_anything() -> None:
    now, later = torch.rand(2, 1, 2, 3, 3)
    flow = torch.zeros(1, 2, 3, 3)
    visible = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    visible[0, 0, 0, 0] = False
    expected = warping_error(now, later, flow, visible=visible)
    now[0, :, 0, 0] = math.nan
    assert warping_error(now, later, flow, visible=visible).equal(expected)
    flow[0, 0, 0, 0] = math.nan
    assert warping_error(now, later, flow).equal(expected)


def test_what_does_not_fit_is_refused() -> None:
    now, flow = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    with pytest.raises(ArtifactError, match=r"\(1, 2, 3, 3\) and that at t\+1 \(1, 1, 3, 3\)"):
        warping_error(now, now[:, :1], flow)
    with pytest.raises(ArtifactError, match=r"sides of the flow \(1, 2, 6, 6\).*\(1, 2, 3, 3\)"):
        warping_error(now, now, torch.zeros(1, 2, 6, 6))
    with pytest.raises(ArtifactError, match=r"visible must be \(1, 1, 3, 3\) torch.bool.*float32"):
        warping_error(now, now, flow, visible=torch.ones(1, 1, 3, 3))
    empty = WarpingError()
    with pytest.raises(ArtifactError, match="no pixel of any pair stays in the frame"):
        empty.mean()
