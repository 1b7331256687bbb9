"""What holds for every loss between two maps of logits or features."""

from __future__ import annotations

import pytest
import torch

from stillroom.stages.train.losses import LOSSES
from stillroom.stages.train.losses.augmented import Augmentation
from stillroom.stages.train.losses.pairwise_affinity import AffinityGraph
from stillroom.storage_specs.errors import ArtifactError


def unmoved(student):
    """Strength 0, for what holds of all losses; test_augmented.py has the rest."""
    batch, classes, *size = student.shape
    labels = torch.zeros(batch, *size, dtype=torch.int64)
    return Augmentation(torch.ones(classes, 2), torch.ones(classes, 2), labels, 0.0)


def class_by_teacher(name, **options):
    """A loss that takes labels too: the teacher's own, so that they follow its frames."""

    def loss(student, teacher, mask=None):
        labels = teacher[:, :3].argmax(dim=1)
        return LOSSES[name](student, teacher, labels, mask=mask, **options)

    return loss


def affinity(**graph):
    graphs = (AffinityGraph(**graph),)
    return lambda s, t, mask=None: LOSSES["pairwise_affinity"](s, t, graphs=graphs, mask=mask)


def channelwise(variant):
    return lambda s, t, mask=None: LOSSES["channelwise_kl"](
        s, t, temperature=2, variant=variant, mask=mask
    )


OF_RELATIONS = {  # between cells: the two networks' channels need not agree
    "attention_transfer": LOSSES["attention_transfer"],
    "attention_transfer, power 3": lambda s, t, mask=None: LOSSES["attention_transfer"](
        s, t, power=3, mask=mask
    ),
    "ifvd": class_by_teacher("ifvd", classes=4),
    "local_affinity": LOSSES["local_affinity"],
    "pairwise_affinity": LOSSES["pairwise_affinity"],
    "pairwise_affinity, single cells": affinity(patch=1),
    "pairwise_affinity, maxima": affinity(patch=2, pool="max"),
    "pairwise_affinity, near": affinity(patch=1, reach=2),
}
COMPARISONS = OF_RELATIONS | {
    "channelwise_kl": channelwise("kl"),
    "channelwise_kl, bhattacharyya": channelwise("bhattacharyya"),
    "channelwise_kl, l2": channelwise("l2"),
    "channelwise_kl, l2_unnormalised": channelwise("l2_unnormalised"),
    "channelwise_kl, pixel_kl": channelwise("pixel_kl"),
    "adaptation": LOSSES["adaptation"],
    "affinity": LOSSES["affinity"],
    "consistency_l2": LOSSES["consistency_l2"],
    "dist": LOSSES["dist"],
    "fitnet": LOSSES["fitnet"],
    "pixelwise_kl": lambda s, t, mask=None: LOSSES["pixelwise_kl"](s, t, temperature=2, mask=mask),
    "pixelwise_kl, student as target": lambda s, t, mask=None: LOSSES["pixelwise_kl"](
        s, t, temperature=2, direction="student_teacher", mask=mask
    ),
    "pixelwise_kl, standardised": lambda s, t, mask=None: LOSSES["pixelwise_kl"](
        s, t, temperature=2, standardise=True, mask=mask
    ),
    "probability_l2": LOSSES["probability_l2"],
    "masked_generative": lambda s, t, mask=None: LOSSES["masked_generative"](
        s, t, generate=lambda z: z, keep=torch.ones_like(s[:, :1], dtype=torch.bool), mask=mask
    ),
    "augmented_pixelwise": lambda s, t, mask=None: LOSSES["augmented_pixelwise"](
        s, t, augmentation=unmoved(s), temperature=2, mask=mask
    ),
    "augmented_channelwise": lambda s, t, mask=None: LOSSES["augmented_channelwise"](
        s, t, augmentation=unmoved(s), mask=mask
    ),
}
# Labels, a memory or other frames come in too; each has a module of its own here.
OF_MORE_THAN_TWO_MAPS = {
    "cross_entropy",
    "cross_image_memory",
    "cross_image_pixel",
    "multi_frame",
    "pairwise_frame",
    "temporal",
}
every = pytest.mark.parametrize("loss", COMPARISONS.values(), ids=COMPARISONS.keys())


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(2)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = torch.rand(2, 1, 4, 5, generator=generator) < 0.6
    return 2 * normal(2, 3, 4, 5), 3 * normal(2, 3, 4, 5), mask


def test_every_loss_has_a_parity_test_here():
    named = {name.partition(",")[0] for name in COMPARISONS} | OF_MORE_THAN_TWO_MAPS
    assert named == set(LOSSES)


@every
def test_equal_logits_cost_nothing(loss, sample):
    student, _, mask = sample
    student = student.requires_grad_()
    value = loss(student, student.detach(), mask=mask)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-15)
    assert student.grad.abs().max() < 1e-14


@every
def test_other_logits_cost_more_than_nothing(loss, sample):
    student, teacher, mask = sample
    assert loss(student, teacher, mask=mask) > 0.01


@every
def test_the_gradient_is_that_of_the_value(loss, sample):
    student, teacher, mask = sample
    student = student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, teacher, mask=mask), (student,))


@every
def test_no_gradient_reaches_the_teacher(loss, sample):
    student, teacher, mask = sample
    teacher = teacher.requires_grad_()
    loss(student.requires_grad_(), teacher, mask=mask).backward()
    assert teacher.grad is None


@every
def test_nothing_counted_gives_zero_that_can_be_differentiated(loss, sample):
    student, teacher, mask = sample
    student = student.requires_grad_()
    value = loss(student, teacher, mask=torch.zeros_like(mask))
    value.backward()
    assert value.item() == 0
    assert student.grad.equal(torch.zeros_like(student))


@every
@pytest.mark.parametrize("rubbish", [1e30, float("nan"), float("inf")])
def test_what_is_masked_out_reaches_neither_value_nor_gradient(loss, sample, rubbish):
    student, teacher, mask = sample

    def value_and_gradient(target):
        leaf = student.clone().requires_grad_()
        value = loss(leaf, target, mask=mask)
        value.backward()
        return value, leaf.grad

    value, gradient = value_and_gradient(teacher)
    spoilt, spoilt_gradient = value_and_gradient(teacher.masked_fill(~mask, rubbish))
    assert spoilt.equal(value)
    assert spoilt_gradient.equal(gradient)
    assert gradient[(~mask).expand_as(gradient)].eq(0).all()


@every
def test_a_full_mask_is_no_mask(loss, sample):
    student, teacher, mask = sample
    found = loss(student, teacher, mask=torch.ones_like(mask))
    assert found.item() == pytest.approx(loss(student, teacher).item(), rel=1e-12)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, sample, dtype):
    mask = sample[2]
    student, teacher = (part.to(dtype) for part in sample[:2])
    found = loss(student, teacher, mask=mask)
    assert found.dtype == torch.float32
    assert found.equal(loss(student.float(), teacher.float(), mask=mask))
    assert loss(student, teacher.float(), mask=mask).equal(found)


@every
def test_autocast_changes_nothing(loss, sample):
    student, teacher, mask = sample[0].float(), sample[1].float(), sample[2]
    expected = loss(student, teacher, mask=mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(student, teacher, mask=mask)
    assert found.dtype == torch.float32
    assert found.equal(expected)


@every
def test_the_order_of_classes_and_frames_does_not_matter(loss, sample):
    student, teacher, mask = sample
    classes, frames = torch.tensor([2, 0, 1]), torch.tensor([1, 0])
    shuffled = loss(student[frames][:, classes], teacher[frames][:, classes], mask=mask[frames])
    assert shuffled.item() == pytest.approx(loss(student, teacher, mask=mask).item(), rel=1e-12)


@every
def test_the_same_frame_twice_is_the_same_loss(loss, sample):
    student, teacher, mask = sample
    doubled = loss(
        student.repeat(2, 1, 1, 1), teacher.repeat(2, 1, 1, 1), mask=mask.repeat(2, 1, 1, 1)
    )
    assert doubled.item() == pytest.approx(loss(student, teacher, mask=mask).item(), rel=1e-12)


@every
@pytest.mark.parametrize("shape", [(2, 3, 8, 10), (1, 3, 4, 5), (2, 3, 20)])
def test_maps_of_another_shape_are_refused_naming_both(loss, sample, shape):
    with pytest.raises(ArtifactError) as error:
        loss(sample[0], torch.zeros(shape))
    assert "(2, 3, 4, 5)" in str(error.value)
    assert str(shape) in str(error.value)


@every
def test_maps_of_other_channels_are_refused_but_where_relations_are_compared(loss, sample):
    student, teacher, mask = sample
    more = torch.cat([teacher, 0 * teacher[:, :1]], dim=1)
    if loss in OF_RELATIONS.values():
        found = loss(student, more, mask=mask)  # a channel of zeros changes no relation
        assert found.item() == pytest.approx(loss(student, teacher, mask=mask).item(), rel=1e-12)
        return
    with pytest.raises(ArtifactError, match=r"\(2, 3, 4, 5\).*\(2, 4, 4, 5\)"):
        loss(student, more, mask=mask)


@every
@pytest.mark.parametrize(
    "mask", [torch.ones(2, 1, 8, 10, dtype=torch.bool), torch.ones(2, 1, 4, 5)]
)
def test_a_mask_of_another_size_or_kind_is_refused(loss, sample, mask):
    with pytest.raises(ArtifactError, match=r"mask must be \(2, 1, 4, 5\) torch.bool"):
        loss(sample[0], sample[1], mask=mask)
