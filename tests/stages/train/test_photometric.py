from __future__ import annotations

import numpy as np
import pytest
import torch

from stillroom.stages.train.photometric import PhotometricConfig, draw_light
from stillroom.stages.train.photometric import jitter as jitter_in_place


class Draws:
    """A generator whose next three uniform numbers are known."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def uniform(self, low: float, high: float, count: int) -> np.ndarray:
        assert (low, high, count) == (-1.0, 1.0, 3)
        return np.array(self.values)


def jitter(config, image, mask, rng):
    """A jittered copy."""
    copy = image.clone(memory_format=torch.contiguous_format)
    return jitter_in_place(config, copy, mask, draw_light(config, rng))


@pytest.fixture
def image():
    return torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0)) * 120 + 60


ALL = torch.ones(1, 6, 8, dtype=torch.bool)
LUMA = np.array([0.299, 0.587, 0.114])


def test_brightness_scales_and_clips(image):
    brighter = jitter(PhotometricConfig(brightness=0.5), image, ALL, Draws(1, 0, 0))
    torch.testing.assert_close(brighter, (image * 1.5).clamp(0, 255))
    assert brighter.max() == 255


def test_contrast_and_saturation_agree_with_numpy(image):
    config = PhotometricConfig(contrast=0.4, saturation=0.6)
    found = jitter(config, image, ALL, Draws(0.3, -0.5, -0.25)).numpy()
    x = image.numpy().astype(np.float64)
    middle = np.tensordot(LUMA, x, 1).mean()
    x = middle + (x - middle) * (1 - 0.5 * 0.4)
    grey = np.tensordot(LUMA, x, 1)
    x = grey + (x - grey) * (1 - 0.25 * 0.6)
    np.testing.assert_allclose(found, x, rtol=1e-5)


def test_padding_stays_black_and_does_not_count(image):
    mask = ALL.clone()
    mask[:, :, 5:] = False
    padded = image.where(mask, torch.zeros(()))
    config = PhotometricConfig(brightness=0.3, contrast=0.3, saturation=0.3)
    found = jitter(config, padded, mask, Draws(0.5, -0.5, 0.5))
    assert (found[:, :, 5:] == 0).all()
    alone = jitter(config, image[:, :, :5], ALL[:, :, :5], Draws(0.5, -0.5, 0.5))
    torch.testing.assert_close(found[:, :, :5], alone)


def test_switching_one_factor_off_moves_no_other(image):
    both = PhotometricConfig(brightness=0.3, saturation=0.5)
    one = PhotometricConfig(saturation=0.5)
    grey = image.mean(0, keepdim=True).expand(3, -1, -1)  # saturation does nothing to grey
    rng = [np.random.default_rng(4) for _ in range(2)]
    ratio = jitter(both, grey, ALL, rng[0]) / jitter(one, grey, ALL, rng[1])
    assert ratio.std() < 1e-5
    assert rng[0].random() == rng[1].random()


def test_no_strength_or_nothing_shown_changes_nothing(image):
    rng = np.random.default_rng(0)
    assert torch.equal(jitter(PhotometricConfig(), image, ALL, rng), image)
    strong = PhotometricConfig(brightness=0.5, contrast=0.5)
    assert torch.equal(jitter(strong, image, ~ALL, rng), image)


def test_the_image_itself_is_changed(image):
    before = image.clone()
    light = np.array([1.5, 1, 1], np.float32)
    assert jitter_in_place(PhotometricConfig(brightness=0.5), image, ALL, light) is image
    assert not torch.equal(image, before)


def pass_by_pass(config, image, mask, draws):
    """The same in torch, a pass over the image for each step."""
    strengths = config.brightness, config.contrast, config.saturation
    brightness, contrast, saturation = (1 + d * s for d, s in zip(draws, strengths, strict=True))
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    lit = image * brightness
    if config.contrast:
        middle = (lit * luma).sum(0, keepdim=True)[mask].mean()
        lit = middle + (lit - middle) * contrast
    if config.saturation:
        grey = (lit * luma).sum(0, keepdim=True)
        lit = grey + (lit - grey) * saturation
    return torch.where(mask, lit.clamp(0, 255), image)


@pytest.mark.parametrize("contrast", [0.0, 0.4])
def test_it_is_what_torch_computes_pass_by_pass(contrast):
    config = PhotometricConfig(brightness=0.4, contrast=contrast, saturation=0.6)
    rng = np.random.default_rng(5)
    for _ in range(20):
        image = torch.from_numpy(rng.uniform(0, 255, (3, 37, 41)).astype(np.float32))
        mask = torch.from_numpy(rng.random((1, 37, 41)) < 0.8)
        draws = rng.uniform(-1, 1, 3)
        found = jitter(config, image, mask, Draws(*draws))
        expected = pass_by_pass(config, image, mask, draws)
        # To the bit, but for the mean, which torch adds up in float32.
        tolerance = 1e-3 if contrast else 0
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
