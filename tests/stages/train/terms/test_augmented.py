"""FAKD's terms: what reaches the bounds, how strong it is when, and what is kept."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stillroom.stages.train.loss_parts.augmentation import Augmentation
from stillroom.stages.train.losses.augmented_channelwise import augmented_channelwise
from stillroom.stages.train.losses.augmented_pixelwise import augmented_pixelwise
from stillroom.stages.train.losses.channelwise_kl import channelwise_kl
from stillroom.stages.train.losses.pixelwise_kl import pixelwise_kl
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.terms.augmented_term import ramped
from stillroom.stages.train.terms.class_covariance import ClassCovariance
from stillroom.storage_specs.artifacts import LABELS
from stillroom.storage_specs.errors import ArtifactError, ConfigError

TERMS = TypeAdapter(tuple[TermConfig, ...])
LOSSES = {
    "augmented_pixelwise": (augmented_pixelwise, {"temperature": 2.0, "covariance_of": "target"}),
    "augmented_channelwise": (
        augmented_channelwise,
        {"temperature": 3.0, "variance_over": "temperature_squared"},
    ),
}
both = pytest.mark.parametrize("name", LOSSES)


def make(name, **section):
    return TERMS.validate_python([{"name": name, "teacher": "fpn", **section}])[0]


@both
@pytest.mark.parametrize("given", [False, True])
def test_the_value_is_the_loss_with_statistics_that_know_the_batch(make_input, name, given):
    loss, options = LOSSES[name]
    options = options if given else {}
    given = make_input(make(name, ramp="linear", strength=2.0, **options), progress=0.25)
    value = given.term.value(given)
    statistics = ClassCovariance(3, 6)
    statistics.update(given.output.features["penultimate"], given.labels_on_grid())
    assert statistics.count.sum() > 20
    expected = loss(
        given.output.logits,
        given.batch.artifacts["fpn/logits"],
        augmentation=Augmentation(
            given.student.classifier_weight, statistics.variance, given.labels_on_grid(), 0.5
        ),
        mask=given.batch.mask,
        **options,
    )
    assert value.equal(expected)
    for key, held in statistics.state_dict().items():
        assert given.state.state_dict()[key].equal(held)


def test_the_defaults_are_the_papers():
    pixelwise, channelwise = make("augmented_pixelwise"), make("augmented_channelwise")
    assert (pixelwise.strength, pixelwise.ramp) == (1.0, "cosine")
    assert (pixelwise.temperature, pixelwise.covariance_of) == (1.0, "label")
    assert (channelwise.weight, channelwise.temperature) == (3.0, 4.0)
    assert channelwise.variance_over == "temperature"


def test_at_the_beginning_of_a_ramp_they_are_the_plain_losses(make_input):
    for name, plain in (
        ("augmented_pixelwise", pixelwise_kl),
        ("augmented_channelwise", channelwise_kl),
    ):
        given = make_input(make(name), progress=0.0)
        logits, teacher = given.output.logits, given.batch.artifacts["fpn/logits"]
        expected = plain(logits, teacher, mask=given.mask)
        assert given.term.value(given).item() == pytest.approx(expected.item(), rel=1e-5)
        later = replace(given, progress=0.7)
        assert later.term.value(later).item() > 1.1 * expected.item()


@pytest.mark.parametrize(
    ("ramp", "values"),
    [
        ("cosine", [0, (1 - math.sqrt(0.5)) / 2, 0.5, 1]),
        ("linear", [0, 0.25, 0.5, 1]),
        ("constant", [1, 1, 1, 1]),
    ],
)
def test_ramps(ramp, values):
    found = [ramped(ramp, progress) for progress in (0, 0.25, 0.5, 1)]
    assert found == pytest.approx(values)


@both
def test_the_gradient_reaches_logits_and_classifier_but_not_the_statistics(make_input, name):
    given = make_input(make(name), progress=0.5)
    given.student.classifier_weight.requires_grad_()
    given.term.value(given).backward()
    assert given.output.logits.grad.abs().max() > 0
    assert given.student.classifier_weight.grad.abs().max() > 0
    assert given.output.features["penultimate"].grad is None
    assert given.state.trained() == []


@both
def test_without_labels_the_teachers_pseudo_labels_tell_the_classes(make_input, name):
    term = make(name)
    assert term.reads(labelled=True) == {"fpn/logits", LABELS}
    assert term.reads(labelled=False) == {"fpn/logits", "fpn/pseudo_label"}
    given = make_input(term, progress=1.0, labelled=False, labels=None)
    by_teacher = term.value(given)
    pseudo = given.batch.artifacts["fpn/pseudo_label"]
    labelled = make_input(term, progress=1.0, labels=pseudo)
    assert by_teacher.equal(term.value(labelled))


@both
def test_two_streams_in_a_step_do_not_disturb_each_others_gradient(make_input, name):
    """The second changes the statistics that the first was computed with, before the backward."""
    given = make_input(make(name, ramp="constant"))
    weight = given.student.classifier_weight.requires_grad_()
    first = given.term.value(given)
    (expected,) = torch.autograd.grad(first, weight, retain_graph=True)
    given.term.value(given)
    (found,) = torch.autograd.grad(first, weight)
    assert found.equal(expected)


@both
def test_it_may_begin_with_moments_of_a_cache(make_input, sizes, tmp_path, name):
    path = tmp_path / "stats.npz"
    arrays = {
        "camvid/fpn/class_count": np.array([100.0, 0, 50]),
        "camvid/fpn/class_mean": np.ones((3, 6)),
        "camvid/fpn/class_variance": np.full((3, 6), 0.5),
    }
    np.savez(path, **arrays)
    state = make(name, start=path).state(sizes)
    assert state.count.tolist() == [100, 0, 50]
    assert state.variance.eq(0.5).all()
    np.savez(path, **{key: value[:2] for key, value in arrays.items()})
    with pytest.raises(ConfigError, match="moments of 2 classes and 6 channels; this student has"):
        make(name, start=path).state(sizes)


def test_a_document_of_the_term_is_json(tmp_path):
    term = make("augmented_pixelwise", start=tmp_path / "stats.npz", start_set="camvid/fpn")
    assert make(**{**term.model_dump(mode="json")}) == term


@both
def test_a_student_without_penultimate_features_is_refused(make_input, name):
    given = make_input(make(name))
    del given.output.grids["features/penultimate"]
    with pytest.raises(ConfigError, match=r"features 'penultimate'; this student has stage4"):
        given.term.value(given)


@both
def test_features_on_another_grid_than_the_logits_are_refused(make_input, name):
    given = make_input(make(name))
    given.output.grids["features/penultimate"] = torch.zeros(2, 6, 2, 3)
    with pytest.raises(ArtifactError, match=rf"term {name}/fpn on stream camvid: features are"):
        given.value()


@both
def test_a_classifier_of_other_channels_is_refused(make_input, name):
    given = make_input(make(name))
    given.student.classifier_weight = torch.zeros(3, 9)
    with pytest.raises(ArtifactError, match=r"must both be \(3, A\) .* got \(3, 9\) and \(3, 6\)"):
        given.term.value(given)


@pytest.mark.parametrize(
    "section",
    [
        {"strength": 0},
        {"strength": float("inf")},
        {"ramp": "sine"},
        {"temperature": 0},
        {"covariance_of": "teacher"},
        {"start_set": "camvid/fpn"},
        {"mean_of": {"a": 1, "b": 1}},
    ],
)
def test_impossible_options_are_refused(section):
    with pytest.raises(ValidationError):
        make("augmented_pixelwise", **section)


def test_only_pixelwise_at_temperature_1_is_content_with_a_softmax():
    assert not make("augmented_pixelwise").whole_logits()
    assert make("augmented_pixelwise", temperature=2).whole_logits()
    assert make("augmented_channelwise").whole_logits()
