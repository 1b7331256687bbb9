"""CIRKD's terms: which pixels are compared, what is remembered and when."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stillroom.stages.train.loss_parts.similarities import draw_pixels
from stillroom.stages.train.losses.cross_image_memory import cross_image_memory
from stillroom.stages.train.losses.cross_image_pixel import cross_image_pixel
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.terms.class_queue import regions, some_of_each_class
from stillroom.storage_specs.artifacts import LABELS

TERMS = TypeAdapter(tuple[TermConfig, ...])
COARSE = {"layer": "stage4", "teacher_layer": "deep"}
grids = pytest.mark.parametrize(
    ("section", "key"), [({}, "fpn/features/penultimate"), (COARSE, "fpn/features/deep@8")]
)


def make(name, **section):
    return TERMS.validate_python([{"name": name, "teacher": "fpn", **section}])[0]


@grids
def test_pixels_of_the_batch_are_compared_on_the_layers_grid(make_input, section, key):
    given = make_input(make("cross_image_pixel", pixels=4, temperature=0.2, **section))
    torch.manual_seed(3)
    value = given.term.value(given)
    torch.manual_seed(3)
    expected = cross_image_pixel(
        given.features,
        given.batch.artifacts[key],
        temperature=0.2,
        chosen=draw_pixels(given.mask, 4),
        mask=given.mask,
    )
    assert value.equal(expected)
    assert not given.term.value(given).equal(value)  # other pixels are drawn


def test_it_needs_no_weights_and_no_labels(make_input, sizes):
    term = make("cross_image_pixel")
    assert term.state(sizes) is None
    assert term.reads(labelled=True) == term.reads(labelled=False) == {"fpn/features/penultimate"}


@grids
def test_pixels_are_compared_with_what_was_remembered(make_input, section, key):
    term = make(
        "cross_image_memory",
        pixels=6,
        pixel_contrast=7,
        region_contrast=4,
        region_weight=0.5,
        temperature=0.3,
        **section,
    )
    given = make_input(term)
    memory, teacher = given.state, given.batch.artifacts[key]
    term.value(given)
    memory.after_step()
    memory.eval()  # batch normalisation would otherwise depend on how often it has run
    torch.manual_seed(3)
    value = term.value(given)
    torch.manual_seed(3)
    student = memory.head(given.features, given.mask)
    chosen = draw_pixels(given.mask, 6)
    parts = [
        cross_image_memory(
            student,
            teacher,
            memory=queue.drawn(number)[0],
            temperature=0.3,
            chosen=chosen,
            mask=given.mask,
        )
        for queue, number in ((memory.pixels, 7), (memory.regions, 4))
    ]
    assert value.item() == pytest.approx((parts[0] + 0.5 * parts[1]).item(), rel=1e-6)
    assert parts[0].item() > 0.01
    assert parts[1].item() > 0.01


@grids
def test_a_batch_is_remembered_after_its_step_and_not_before(make_input, section, key):
    term = make("cross_image_memory", remembered=3, **section)
    given = make_input(term)
    labels, teacher = given.labels_on_grid(), given.batch.artifacts[key]
    value = term.value(given)
    assert value.item() == 0  # nothing is remembered yet
    value.backward()
    assert given.state.pixels.filled.eq(0).all()
    given.state.after_step()
    expected = some_of_each_class(teacher, labels, 3, 3)[1].bincount(minlength=4)[:3]
    assert expected.sum() > 3
    assert given.state.pixels.filled.equal(expected)
    vectors, of = regions(teacher, labels, 3)
    assert given.state.regions.filled.equal(of.bincount(minlength=4)[:3])
    for c in range(3):
        count = int((of == c).sum())
        assert given.state.regions.vectors[c, :count].equal(vectors[of == c])
    before = given.state.pixels.filled.clone()
    given.state.after_step()  # a step in which nothing was noted
    assert given.state.pixels.filled.equal(before)


def test_all_streams_of_a_step_are_remembered(make_input):
    term = make("cross_image_memory")
    given, other = make_input(term), make_input(term, labelled=False, labels=None)
    term.value(given)
    given.state.after_step()
    alone = given.state.pixels.filled.clone()
    both = make_input(term)
    term.value(both)
    unlabelled = type(given)(term, other.output, other.batch, other.student, both.state, 0.0)
    term.value(unlabelled)
    both.state.after_step()
    assert (both.state.pixels.filled > alone).all()


def test_the_memory_is_of_the_teacher_and_the_head_trains(make_input):
    term = make("cross_image_memory")
    assert term.reads(labelled=True) == {"fpn/features/penultimate", LABELS}
    assert term.reads(labelled=False) == {"fpn/features/penultimate", "fpn/pseudo_label"}
    given = make_input(term)
    term.value(given)
    given.state.after_step()
    term.value(given).backward()
    assert {name for name, _ in given.state.named_parameters()} == {
        "head.layers.0.weight",
        "head.layers.1.weight",
        "head.layers.1.bias",
        "head.layers.3.weight",
    }
    for parameter in (*given.state.trained(), given.features):
        assert parameter.grad.abs().max() > 0
    held = dict(given.state.named_buffers())
    assert {"pixels.vectors", "pixels.filled", "pixels.place", "regions.vectors"} <= held.keys()


def test_without_regions_only_pixels_are_compared(make_input):
    values = []
    for region_weight in (0.0, 1.0):
        given = make_input(make("cross_image_memory", region_weight=region_weight))
        torch.manual_seed(0)
        given.term.value(given)
        given.state.after_step()
        torch.manual_seed(0)
        values.append(given.term.value(given).item())
    assert 0.01 < values[0] < values[1]


def test_features_in_half_precision_meet_weights_in_float32(make_input):
    given = make_input(make("cross_image_memory"))
    given.output.grids["features/penultimate"] = given.features.detach().half()
    for _ in range(2):
        assert given.term.value(given).dtype == torch.float32
        given.state.after_step()


@pytest.mark.parametrize("name", ["cross_image_pixel", "cross_image_memory"])
@pytest.mark.parametrize("section", [{"pixels": 0}, {"temperature": 0}])
def test_impossible_options_are_refused(name, section):
    with pytest.raises(ValidationError):
        make(name, **section)


@pytest.mark.parametrize(
    "option",
    ["pixel_contrast", "region_contrast", "pixel_memory", "region_memory", "remembered"],
)
def test_a_memory_of_nothing_is_refused(option):
    with pytest.raises(ValidationError):
        make("cross_image_memory", **{option: 0})
