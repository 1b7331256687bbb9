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
def test_the_value_is_the_loss_of_aligned_features(make_seen, section, key):
    seen = make_seen(make(**section))
    torch.manual_seed(5)
    value = seen.term.value(seen)
    torch.manual_seed(5)
    student = seen.state.project(seen.features.masked_fill(~seen.mask, 0))
    expected = masked_generative(
        student,
        seen.batch.artifacts[key],
        generate=seen.state.generate,
        keep=draw_keep(student, section.get("ratio", 0.75)),
        mask=seen.mask,
    )
    assert value.equal(expected)
    assert not seen.term.value(seen).equal(value)  # other positions are hidden


def test_alignment_and_generation_train_with_the_student(make_seen):
    seen = make_seen(make())
    assert len(seen.state.trained()) == 2 + 4
    seen.term.value(seen).backward()
    for parameter in (*seen.state.trained(), seen.features):
        assert parameter.grad.abs().max() > 0


def test_equal_channels_need_no_alignment(make_seen, sizes):
    sizes.teachers["fpn/features/penultimate"] = 6
    try:
        assert len(make().state(sizes).trained()) == 4
    finally:
        sizes.teachers["fpn/features/penultimate"] = 5


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf")])
def test_masked_cells_do_not_reach_the_weights(make_seen, rubbish):
    def gradients(spoil):
        seen = make_seen(make())
        if spoil:
            with torch.no_grad():
                seen.features.masked_fill_(~seen.mask, rubbish)
        seen.features.grad = None
        torch.manual_seed(5)
        seen.term.value(seen).backward()
        return [*(one.grad for one in seen.state.trained()), seen.features.grad]

    for one, other in zip(gradients(spoil=False), gradients(spoil=True), strict=True):
        assert one.equal(other)


def test_features_in_half_precision_meet_weights_in_float32(make_seen):
    seen = make_seen(make())
    seen.output.features["penultimate"] = seen.features.detach().half()
    assert seen.term.value(seen).dtype == torch.float32


@pytest.mark.parametrize("section", [{"weight": 0}, {"ratio": 1.0}, {"ratio": -0.1}])
def test_impossible_options_are_refused(section):
    with pytest.raises(ValidationError):
        make(**section)
    with pytest.raises(ValidationError):  # no weight fits every teacher's features
        TERMS.validate_python([{"name": "masked_generative", "teacher": "fpn"}])


def test_a_layer_that_is_not_cached_is_refused_with_the_command(sizes):
    with pytest.raises(ConfigError, match=r"fpn/features/stage2.*`stillroom cache extend`"):
        make(teacher_layer="stage2").state(sizes)
