"""channelwise_kl against the formulas, in float64, channel by channel and pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stillroom.stages.train.losses.channelwise_kl import channelwise_kl
from stillroom.stages.train.losses.fitnet import fitnet
from stillroom.stages.train.losses.pixelwise_kl import pixelwise_kl
from stillroom.storage_specs.errors import ArtifactError, ConfigError


def distribution(values, temperature):
    exponentials = [math.exp(z / temperature) for z in values]
    return [value / sum(exponentials) for value in exponentials]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def bhattacharyya(p, q):
    return -math.log(sum(math.sqrt(a * b) for a, b in zip(p, q, strict=True)))


def l2(p, q):
    return sum((a - b) ** 2 for a, b in zip(p, q, strict=True))


def counted_cells(mask, frame, shape):
    return [
        (y, x)
        for y in range(shape[2])
        for x in range(shape[3])
        if mask is None or mask[frame, 0, y, x]
    ]


def over_frames(distance, student, teacher, temperature, mask=None):
    total, frames = 0.0, 0
    for b in range(student.shape[0]):
        cells = counted_cells(mask, b, student.shape)
        if not cells:
            continue
        frames += 1
        for c in range(student.shape[1]):
            p = distribution([teacher[b, c, y, x] for y, x in cells], temperature)
            q = distribution([student[b, c, y, x] for y, x in cells], temperature)
            total += distance(p, q) / student.shape[1]
    return temperature**2 * total / frames


def unnormalised(student, teacher, temperature, mask=None):
    del temperature
    cells = [
        (b, y, x) for b in range(student.shape[0]) for y, x in counted_cells(mask, b, student.shape)
    ]
    squares = [
        (student[b, c, y, x] - teacher[b, c, y, x]) ** 2
        for b, y, x in cells
        for c in range(student.shape[1])
    ]
    return sum(squares) / len(squares)


def over_channels(student, teacher, temperature, mask=None):
    cells = [
        (b, y, x) for b in range(student.shape[0]) for y, x in counted_cells(mask, b, student.shape)
    ]
    pixels = [
        kl(
            distribution(teacher[b, :, y, x], temperature),
            distribution(student[b, :, y, x], temperature),
        )
        for b, y, x in cells
    ]
    return temperature**2 * sum(pixels) / len(pixels)


REFERENCES = {
    "kl": lambda *arguments: over_frames(kl, *arguments),
    "bhattacharyya": lambda *arguments: over_frames(bhattacharyya, *arguments),
    "l2": lambda *arguments: over_frames(l2, *arguments),
    "l2_unnormalised": unnormalised,
    "pixel_kl": over_channels,
}
BY_CHANNEL = ["kl", "bhattacharyya", "l2"]


@pytest.fixture
def sample():
    rng = np.random.default_rng(5)
    mask = rng.random((3, 1, 4, 7)) < 0.6
    mask[1] = False  # a frame of which nothing counts is no part of the mean
    return rng.normal(0, 3, (3, 5, 4, 7)), rng.normal(1, 4, (3, 5, 4, 7)), mask


def tensors(sample):
    return tuple(torch.from_numpy(part) for part in sample)


@pytest.mark.parametrize("variant", REFERENCES)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_formula(sample, variant, temperature, masked):
    student, teacher, mask = sample
    mask = mask if masked else None
    expected = REFERENCES[variant](student, teacher, temperature, mask)
    found = channelwise_kl(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        temperature=temperature,
        variant=variant,
        mask=None if mask is None else torch.from_numpy(mask),
    )
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_it_is_the_kl_at_a_temperature_of_4_unless_told_otherwise(sample):
    student, teacher, mask = sample
    found = channelwise_kl(*tensors(sample)[:2], mask=torch.from_numpy(mask)).item()
    assert found == pytest.approx(over_frames(kl, student, teacher, 4.0, mask), rel=1e-12)
    assert found != pytest.approx(over_frames(kl, teacher, student, 4.0, mask), rel=0.01)


@pytest.mark.parametrize("variant", BY_CHANNEL)
def test_a_constant_added_to_a_channel_changes_nothing_one_added_to_a_pixel_does(sample, variant):
    student, teacher, mask = tensors(sample)
    expected = channelwise_kl(student, teacher, variant=variant, mask=mask).item()
    channel = 5 * torch.randn(3, 5, 1, 1, dtype=torch.float64)
    found = channelwise_kl(student + channel, teacher - channel, variant=variant, mask=mask).item()
    assert found == pytest.approx(expected, rel=1e-10)
    pixel = 5 * torch.randn(3, 1, 4, 7, dtype=torch.float64)
    found = channelwise_kl(student + pixel, teacher, variant=variant, mask=mask).item()
    assert found != pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("variant", BY_CHANNEL)
def test_where_in_the_frame_pixels_lie_does_not_matter(sample, variant):
    student, teacher, mask = tensors(sample)
    order = torch.randperm(28)

    def shuffled(maps):
        return maps.flatten(2)[..., order].unflatten(2, (4, 7))

    expected = channelwise_kl(student, teacher, variant=variant, mask=mask).item()
    found = channelwise_kl(
        shuffled(student), shuffled(teacher), variant=variant, mask=shuffled(mask)
    ).item()
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("variant", BY_CHANNEL)
def test_a_masked_pixel_is_as_good_as_one_cut_off(sample, variant):
    student, teacher, _ = tensors(sample)
    mask = torch.ones(3, 1, 4, 7, dtype=torch.bool)
    mask[..., 5:] = False
    expected = channelwise_kl(student[..., :5], teacher[..., :5], variant=variant).item()
    found = channelwise_kl(student, teacher, variant=variant, mask=mask).item()
    assert found == pytest.approx(expected, rel=1e-12)


def test_near_the_teacher_bhattacharyya_is_a_quarter_of_the_kl(sample):
    _, teacher, mask = tensors(sample)
    student = teacher + 1e-4 * torch.randn(3, 5, 4, 7, dtype=torch.float64)
    quarter = channelwise_kl(student, teacher, mask=mask).item() / 4
    found = channelwise_kl(student, teacher, variant="bhattacharyya", mask=mask).item()
    assert found == pytest.approx(quarter, rel=1e-3)


def test_bhattacharyya_and_l2_are_symmetric_and_the_kl_is_not(sample):
    student, teacher, mask = tensors(sample)
    for variant, same in (("bhattacharyya", True), ("l2", True), ("kl", False)):
        one = channelwise_kl(student, teacher, variant=variant, mask=mask).item()
        other = channelwise_kl(teacher, student, variant=variant, mask=mask).item()
        assert (one == pytest.approx(other, rel=1e-10)) is same


def test_two_variants_are_other_losses_by_name(sample):
    student, teacher, mask = tensors(sample)
    found = channelwise_kl(student, teacher, variant="l2_unnormalised", mask=mask)
    assert found.equal(fitnet(student, teacher, mask=mask))
    found = channelwise_kl(student, teacher, variant="pixel_kl", temperature=3, mask=mask)
    assert found.equal(pixelwise_kl(student, teacher, temperature=3, mask=mask))


@pytest.mark.parametrize("variant", BY_CHANNEL)
@pytest.mark.parametrize("masked", [False, True])
def test_peaked_channels_stay_finite_in_float32(variant, masked):
    student = torch.zeros(1, 1, 2, 3)
    student[0, 0, 0, 0] = 3e4  # the other pixels' share is 0 in float32; a log of it would be -inf
    mask = torch.ones(1, 1, 2, 3, dtype=torch.bool) if masked else None
    if mask is not None:
        mask[0, 0, 1, 2] = False
    leaf = student.clone().requires_grad_()
    loss = channelwise_kl(leaf, student.flip(3), temperature=1, variant=variant, mask=mask)
    loss.backward()
    expected = {"kl": 3e4, "bhattacharyya": 1.5e4 - math.log(2), "l2": 2.0}[variant]
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("variant", REFERENCES)
@pytest.mark.parametrize("temperature", [0, -1.0])
def test_a_temperature_must_be_above_zero(sample, variant, temperature):
    student, teacher, _ = tensors(sample)
    with pytest.raises(ConfigError, match="temperature must be above 0"):
        channelwise_kl(student, teacher, temperature=temperature, variant=variant)


def test_an_unknown_variant_is_refused_naming_those_there_are(sample):
    student, teacher, _ = tensors(sample)
    with pytest.raises(ConfigError, match=r"kl, bhattacharyya, l2, .* got 'l1'") as error:
        channelwise_kl(student, teacher, variant="l1")
    assert all(variant in str(error.value) for variant in REFERENCES)


@pytest.mark.parametrize("variant", REFERENCES)
def test_features_of_other_channels_want_a_projector(sample, variant):
    student, teacher, _ = tensors(sample)
    with pytest.raises(ArtifactError, match=r"\(3, 4, 4, 7\).*\(3, 5, 4, 7\)"):
        channelwise_kl(student[:, :4], teacher, variant=variant)
