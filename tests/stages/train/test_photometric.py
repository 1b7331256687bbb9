from __future__ import annotations

import numpy as np
import pytest
import torch

from stillroom.stages.train.photometric import PhotometricConfig, jitter


class Draws:
    """A generator whose next three uniform numbers are known."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def uniform(self, low: float, high: float, count: int) -> np.ndarray:
        assert (low, high, count) == (-1.0, 1.0, 3)
        return np.array(self.values)


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
    assert jitter(PhotometricConfig(), image, ALL, rng) is image
    strong = PhotometricConfig(brightness=0.5, contrast=0.5)
    assert jitter(strong, image, ~ALL, rng) is image
