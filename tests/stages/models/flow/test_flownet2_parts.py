from __future__ import annotations

import numpy as np
import pytest
import torch

from stillroom.stages.models.flow.flownet2.cascade import centred, channel_norm
from stillroom.stages.models.flow.flownet2.correlation import correlation
from stillroom.stages.models.flow.flownet2.load import as_input


def correlation_by_loops(
    first: np.ndarray, second: np.ndarray, reach: int, step: int
) -> np.ndarray:
    batch, channels, height, width = first.shape
    lattice = range(-reach, reach + 1, step)
    out = np.zeros((batch, len(lattice) ** 2, height, width))
    for b in range(batch):
        for place, (dy, dx) in enumerate((dy, dx) for dy in lattice for dx in lattice):
            for y in range(height):
                for x in range(width):
                    if 0 <= y + dy < height and 0 <= x + dx < width:
                        for c in range(channels):
                            out[b, place, y, x] += first[b, c, y, x] * second[b, c, y + dy, x + dx]
    return out / channels


@pytest.mark.parametrize(
    ("size", "reach", "step"),
    [((5, 6), 4, 2), ((4, 7), 4, 2), ((3, 5), 3, 1), ((4, 8), 6, 3), ((1, 1), 4, 2)],
)
def test_correlation_is_the_formula(size: tuple[int, int], reach: int, step: int) -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 2, 3, *size, dtype=torch.float64)
    expected = correlation_by_loops(first.numpy(), second.numpy(), reach, step)
    found = correlation(first, second, reach, step)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-14)


def test_correlation_at_its_own_reach_is_the_formula() -> None:
    torch.manual_seed(1)
    first, second = torch.randn(2, 1, 2, 5, 9, dtype=torch.float64)
    found = correlation(first, second)
    assert found.shape == (1, 441, 5, 9)
    expected = correlation_by_loops(first.numpy(), second.numpy(), 20, 2)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-14)


@pytest.mark.parametrize("moved", [(4, -6), (0, 0), (-20, 20), (2, 18)])
def test_a_known_motion_peaks_in_its_channel(moved: tuple[int, int]) -> None:
    dy, dx = moved
    whole = torch.randn(1, 64, 90, 100, generator=torch.Generator().manual_seed(2))
    first = whole[:, :, 30:60, 30:70]
    second = whole[:, :, 30 - dy : 60 - dy, 30 - dx : 70 - dx]  # first's (y, x) is at (y+dy, x+dx)
    found = correlation(first, second)[0]
    rows, columns = slice(max(0, -dy), 30 - max(0, dy)), slice(max(0, -dx), 40 - max(0, dx))
    wanted = (dy // 2 + 10) * 21 + dx // 2 + 10
    assert (found[:, rows, columns].argmax(0) == wanted).all()


def test_correlation_has_the_gradient_of_the_formula() -> None:
    first, second = torch.randn(2, 1, 2, 3, 4, dtype=torch.float64).unbind(0)
    first.requires_grad_()
    second.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: correlation(a, b, 2, 1), (first, second))


def test_correlation_stays_float32_under_autocast() -> None:
    first = torch.full((1, 256, 4, 4), 40.0)
    with torch.autocast("cpu", dtype=torch.float16):
        found = correlation(first.half(), first.half())
    assert found.dtype == torch.float32
    assert found.max() == 1600.0


def test_channel_norm_is_the_length_of_each_pixels_vector() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    x[0, :, 1, 2] = 0
    expected = np.empty((2, 1, 4, 5))
    for b in range(2):
        for row in range(4):
            for column in range(5):
                expected[b, 0, row, column] = (
                    sum(float(v) ** 2 for v in x[b, :, row, column]) ** 0.5
                )
    np.testing.assert_allclose(channel_norm(x).numpy(), expected, atol=1e-14)
    x.requires_grad_()
    channel_norm(x).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_each_samples_mean_colour_over_both_frames_is_taken_off() -> None:
    first, second = torch.rand(2, 2, 3, 4, 5) * 255
    a, b = centred(first, second)
    for sample in range(2):
        for channel in range(3):
            pair = torch.cat([first[sample, channel].flatten(), second[sample, channel].flatten()])
            expected = (first[sample, channel] - pair.mean()) / 255
            torch.testing.assert_close(a[sample, channel], expected)
    torch.testing.assert_close((a + b).mean((2, 3)), torch.zeros(2, 3), atol=1e-6, rtol=0)


def test_the_legacy_input_is_normalised_before_it_is_divided_by_255() -> None:
    frames = torch.randint(0, 256, (1, 4, 5, 3), dtype=torch.uint8)
    plain = as_input(frames, "rgb")
    assert torch.equal(plain, frames.permute(0, 3, 1, 2).float())
    legacy = as_input(frames, "etc_legacy")
    for channel, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        expected = (plain[:, channel] / 255 - mean) / std
        torch.testing.assert_close(legacy[:, channel], expected, atol=1e-5, rtol=1e-5)
