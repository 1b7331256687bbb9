"""What holds for every loss of `LOSSES`: it is held to a formula, and its values obey some laws.

A new loss between two maps is tested here as it is called with nothing but the maps and a mask. One
that needs more has a line in CALLS, and one that compares other things than two maps in OTHERS.
"""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest
import torch

from stillroom.stages.train.loss_parts.augmentation import Augmentation
from stillroom.stages.train.losses.pairwise_affinity import AffinityGraph
from stillroom.stages.train.losses.table import LOSSES
from stillroom.storage_specs.errors import ArtifactError

HEADS = {"auxiliary_cross_entropy", "overparameterisation"}  # of another term's function
WITHOUT_MASK = {"holistic", "network_slimming"}
# Weights, labels, other targets, a memory or other frames come in too.
OTHERS = HEADS | {
    "network_slimming",
    "cross_entropy",
    "cross_image_memory",
    "cross_image_pixel",
    "depth_bins",
    "depth_regression",
    "holistic",
    "multi_frame",
    "normals_cosine",
    "pairwise_frame",
    "temporal",
}
OF_RELATIONS = {  # between positions: the two networks' channels need not agree
    "attention_transfer",
    "ifvd",
    "local_affinity",
    "pairwise_affinity",
}


def function_of(name):
    return getattr(import_module(LOSSES[name].__module__), name)


def called(name, **options):
    function = function_of(name)
    return lambda student, teacher, mask=None: function(student, teacher, mask=mask, **options)


def graph(**options):
    return called("pairwise_affinity", graphs=(AffinityGraph(**options),))


def unmoved(name, **options):
    """With strength 0, for what holds of all losses; test_augmented.py has the rest."""

    def loss(student, teacher, mask=None):
        batch, classes, *size = student.shape
        labels = torch.zeros(batch, *size, dtype=torch.int64)
        augmentation = Augmentation(*torch.ones(2, classes, 2), labels, 0.0)
        return called(name, augmentation=augmentation, **options)(student, teacher, mask)

    return loss


def classes_of_the_teacher(student, teacher, mask=None):
    """The labels are the teacher's own, so that they follow its frames."""
    labels = teacher[:, :3].argmax(dim=1)
    return called("ifvd", labels=labels, classes=4)(student, teacher, mask)


def generated(student, teacher, mask=None):
    keep = torch.ones_like(student[:, :1], dtype=torch.bool)
    loss = called("masked_generative", generate=lambda z: z, keep=keep)
    return loss(student, teacher, mask)


CALLS = {  # what a loss must be given beside two maps, and its variants
    "attention_transfer, power 3": called("attention_transfer", power=3),
    "augmented_channelwise": unmoved("augmented_channelwise"),
    "augmented_pixelwise": unmoved("augmented_pixelwise", temperature=2),
    "channelwise_kl, bhattacharyya": called(
        "channelwise_kl", variant="bhattacharyya", temperature=2
    ),
    "channelwise_kl, l2": called("channelwise_kl", variant="l2", temperature=2),
    "channelwise_kl, temperature 2": called("channelwise_kl", temperature=2),
    "channelwise_kl, l2_unnormalised": called("channelwise_kl", variant="l2_unnormalised"),
    "channelwise_kl, pixel_kl": called("channelwise_kl", variant="pixel_kl", temperature=2),
    "ifvd": classes_of_the_teacher,
    "masked_generative": generated,
    "pairwise_affinity, maxima": graph(patch=2, pool="max"),
    "pairwise_affinity, near": graph(patch=1, reach=2),
    "pairwise_affinity, single positions": graph(patch=1),
    "pixelwise_kl, standardised": called("pixelwise_kl", standardise=True, temperature=2),
    "pixelwise_kl, student as target": called(
        "pixelwise_kl", direction="student_teacher", temperature=2
    ),
    "pixelwise_kl, temperature 2": called("pixelwise_kl", temperature=2),
}
COMPARISONS = {name: called(name) for name in LOSSES if name not in OTHERS} | CALLS
every = pytest.mark.parametrize("loss", COMPARISONS.values(), ids=COMPARISONS.keys())


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(2)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = torch.rand(2, 1, 4, 5, generator=generator) < 0.6
    return 2 * normal(2, 3, 4, 5), 3 * normal(2, 3, 4, 5), mask


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_a_file_of_its_name_with_its_function_and_then_its_term(name):
    term = LOSSES[name]
    assert term.__module__.rpartition(".")[2] == name
    assert get_args(term.model_fields["name"].annotation) == (name,)
    made_here = [
        node.name
        for node in ast.parse(inspect.getsource(import_module(term.__module__))).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    if name not in HEADS:
        assert made_here.index(name) < made_here.index(term.__name__)
        assert "mask" in inspect.signature(function_of(name)).parameters or name in WITHOUT_MASK


def test_every_file_of_the_folder_is_a_loss():
    folder = Path(inspect.getfile(LOSSES["fitnet"])).parent
    assert {path.stem for path in folder.glob("*.py")} == {*LOSSES, "table", "__init__"}
    assert list(LOSSES) == sorted(LOSSES)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - HEADS))
def test_a_loss_is_held_to_its_formula_by_a_test_here(name):
    """By a file that imports the function, and has a test with "formula" in its name."""
    texts = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    own = [text for text in texts if f"losses.{name} import" in text]
    assert any(re.search(r"def test_\w*formula", text) for text in own), (
        f"tests/parity/test_{name}.py is to hold {name} to its formula: def test_it_is_the_formula"
    )


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
def test_maps_of_other_channels_are_refused_but_where_relations_are_compared(loss, sample, request):
    student, teacher, mask = sample
    more = torch.cat([teacher, 0 * teacher[:, :1]], dim=1)
    if request.node.callspec.id.partition(",")[0] in OF_RELATIONS:
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
