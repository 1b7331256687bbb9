"""MGD's term: alignment, hidden positions, and what trains."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stillroom.stages.train.losses.masked_generative import draw_keep, masked_generative
from stillroom.stages.train.losses.table import TermConfig
from stillroom.storage_specs.errors import ConfigError

TERMS = TypeAdapter(tuple[TermConfig, ...])


def make(**section):
    section = {"name": "masked_generative", "teacher": "fpn", "weight": 2.0, **section}
    return TERMS.validate_python([section])[0]


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({}, "fpn/features/penultimate"),
        ({"layer": "stage4", "teacher_layer": "deep", "ratio": 0.4}, "fpn/features/deep@8"),
    ],
)
def test_the_value_is_the_loss_of_aligned_features(make_input, section, key):
    given = make_input(make(**section))
    torch.manual_seed(5)
    value = given.term.value(given)
    torch.manual_seed(5)
    student = given.state.project(given.features.masked_fill(~given.mask, 0))
    expected = masked_generative(
        student,
        given.batch.artifacts[key],
        generate=given.state.generate,
        keep=draw_keep(student, section.get("ratio", 0.75)),
        mask=given.mask,
    )
    assert value.equal(expected)
    assert not given.term.value(given).equal(value)  # other positions are hidden


def test_alignment_and_generation_train_with_the_student(make_input):
    given = make_input(make())
    assert len(given.state.trained()) == 2 + 4
    given.term.value(given).backward()
    for parameter in (*given.state.trained(), given.features):
        assert parameter.grad.abs().max() > 0


def test_equal_channels_need_no_alignment(make_input, sizes):
    sizes.teachers["fpn/features/penultimate"] = 6
    try:
        assert len(make().state(sizes).trained()) == 4
    finally:
        sizes.teachers["fpn/features/penultimate"] = 5


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf")])
def test_masked_cells_do_not_reach_the_weights(make_input, rubbish):
    def gradients(spoil):
        given = make_input(make())
        if spoil:
            with torch.no_grad():
                given.features.masked_fill_(~given.mask, rubbish)
        given.features.grad = None
        torch.manual_seed(5)
        given.term.value(given).backward()
        return [*(one.grad for one in given.state.trained()), given.features.grad]

    for one, other in zip(gradients(spoil=False), gradients(spoil=True), strict=True):
        assert one.equal(other)


def test_features_in_half_precision_meet_weights_in_float32(make_input):
    given = make_input(make())
    given.output.grids["features/penultimate"] = given.features.detach().half()
    assert given.term.value(given).dtype == torch.float32


@pytest.mark.parametrize("section", [{"weight": 0}, {"ratio": 1.0}, {"ratio": -0.1}])
def test_impossible_options_are_refused(section):
    with pytest.raises(ValidationError):
        make(**section)
    with pytest.raises(ValidationError):  # no weight fits every teacher's features
        TERMS.validate_python([{"name": "masked_generative", "teacher": "fpn"}])


def test_a_layer_that_is_not_cached_is_refused_with_the_command(sizes):
    with pytest.raises(ConfigError, match=r"fpn/features/stage2.*`stillroom cache extend`"):
        make(teacher_layer="stage2").state(sizes)
