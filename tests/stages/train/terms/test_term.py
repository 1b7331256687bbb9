"""What terms are given: grids, masks, labels, channels; and the cross-entropy of inner layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stillroom.stages.train.losses.auxiliary_cross_entropy import AuxiliaryCrossEntropyTerm
from stillroom.stages.train.losses.cross_entropy import cross_entropy
from stillroom.stages.train.losses.pixelwise_kl import pixelwise_kl
from stillroom.stages.train.losses.probability_l2 import probability_l2
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.objective import Objective
from stillroom.stages.train.terms.feature_term import FeatureTerm
from stillroom.stages.upsample import upsample_logits
from stillroom.storage_specs.errors import ArtifactError, ConfigError

TERMS = TypeAdapter(tuple[TermConfig, ...])
FINE = FeatureTerm(name="fine", teacher="fpn")
COARSE = FeatureTerm(name="coarse", teacher="fpn", layer="stage4", teacher_layer="deep")


def make(**section):
    return TERMS.validate_python([section])[0]


@pytest.mark.parametrize("term", [FINE, COARSE])
def test_a_feature_term_sees_both_networks_on_the_grid_of_the_students_layer(term, make_input):
    given = make_input(term)
    theirs = given.artifact(term.artifact)
    assert given.features is given.output.features[term.layer]
    assert theirs.shape[2:] == given.features.shape[2:] == given.mask.shape[2:]
    assert given.stride == {"penultimate": 4, "stage4": 8}[term.layer]


def test_labels_of_cells_are_those_below_their_centres(make_input):
    for term in (FINE, COARSE):
        given = make_input(term)
        found, stride = given.labels_on_grid(), given.stride
        assert found.shape == given.mask[:, 0].shape
        for b in range(2):
            for y in range(found.shape[1]):
                for x in range(found.shape[2]):
                    row, column = y * stride + stride // 2, x * stride + stride // 2
                    inside = row < 16 and column < 22 and bool(given.mask[b, 0, y, x])
                    expected = int(given.batch.labels[b, row, column]) if inside else 255
                    assert found[b, y, x] == expected
        assert (found != 255).any()


def test_cells_of_an_unlabelled_batch_have_the_teachers_labels(make_input):
    given = make_input(FINE, labelled=False, labels=None)
    assert torch.equal(given.label_map(), given.batch.artifacts["fpn/pseudo_label"])
    known = given.labels_on_grid() != 255
    assert torch.equal(known, given.mask[:, 0] & (given.labels_on_grid() < 3))
    assert known.any()


def test_a_layer_that_the_student_does_not_have_is_refused_naming_those_it_has(make_input, sizes):
    term = FeatureTerm(name="lost", teacher="fpn", layer="stage9")
    for ask in (lambda: make_input(term).features, lambda: sizes.channels(term, term.grid)):
        with pytest.raises(ConfigError, match=r"lost/fpn .*features/stage9.*features/stage4"):
            ask()
    with pytest.raises(ConfigError, match=r"auxiliary.*features/stage9; this student has logits"):
        Objective([make(name="auxiliary_cross_entropy", layer="stage9")]).needs(True, sizes.strides)


def test_a_teachers_layer_that_is_not_cached_is_refused_with_the_command(sizes):
    term = FeatureTerm(name="lost", teacher="fpn", teacher_layer="stage2")
    with pytest.raises(ConfigError, match=r"fpn/features/stage2.*`stillroom cache extend`"):
        sizes.teacher_channels(term, term.artifact)
    assert sizes.teacher_channels(COARSE, COARSE.artifact) == 9


def test_a_batch_without_a_mask_of_the_grid_is_refused(make_input):
    with pytest.raises(ArtifactError, match=r"masks at strides \[4\], and none at 8"):
        _ = make_input(COARSE, masks={}).mask


def test_an_objective_asks_for_artifacts_on_the_grid_of_each_term(sizes):
    objective = Objective([FINE, COARSE, make(name="cross_entropy", teacher="fpn")])
    assert objective.needs(False, sizes.strides) == {
        "fpn/features/penultimate",
        "fpn/features/deep@8",
        "fpn/pseudo_label",  # at the pixels of the image, whatever the grid
    }
    assert objective.artifacts(True) == {"fpn/features/penultimate", "fpn/features/deep"}


# auxiliary head


def test_an_auxiliary_head_is_a_classifier_of_the_layer(make_input):
    term = make(name="auxiliary_cross_entropy", layer="stage4")
    assert term.weight == 0.4
    given = make_input(term)
    given.state.eval()  # dropout would draw again
    value = term.value(given)
    logits = given.state.layers(given.output.features["stage4"])
    expected = cross_entropy(upsample_logits(logits, 8, (16, 22)), given.batch.labels)
    assert value.item() == pytest.approx(expected.item())
    value.backward()
    assert given.output.features["stage4"].grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in given.state.trained())


def test_an_auxiliary_head_learns_pseudo_labels_of_a_coarser_grid(make_input):
    term = AuxiliaryCrossEntropyTerm(
        name="auxiliary_cross_entropy", layer="stage4", teacher="fpn", threshold=0.5
    )
    confidence = torch.full((2, 1, 16, 22), 0.9)
    confidence[1] = 0
    artifacts = make_input(term).batch.artifacts | {"fpn/pixel_confidence": confidence}
    given = make_input(term, labelled=False, labels=None, artifacts=artifacts)
    assert term.reads(labelled=False) == {"fpn/pseudo_label", "fpn/pixel_confidence"}
    given.state.eval()
    logits = upsample_logits(given.state(given.features), 8, (16, 22))
    expected = cross_entropy(logits[:1], artifacts["fpn/pseudo_label"][:1])
    assert term.value(given).item() == pytest.approx(expected.item(), rel=1e-5)


# several teachers


@pytest.mark.parametrize("name", ["probability_l2", "pixelwise_kl"])
def test_the_mean_of_teachers_is_that_of_their_probabilities(name, make_input):
    term = make(name=name, mean_of={"fpn": 3.0, "psp": 1.0})
    assert term.label == f"{name}/fpn+psp"
    assert term.reads(labelled=True) == {"fpn/logits", "psp/logits"}
    given = make_input(term)
    mine = [given.batch.artifacts[f"{one}/logits"].double().softmax(1) for one in ("fpn", "psp")]
    mean = 0.75 * mine[0] + 0.25 * mine[1]
    loss = {"probability_l2": probability_l2, "pixelwise_kl": pixelwise_kl}[name]
    expected = loss(given.output.logits.double(), mean.log(), mask=given.mask)
    assert term.value(given).item() == pytest.approx(expected.item(), rel=1e-5)


def test_teachers_are_named_in_one_way_and_known():
    for section in (
        {"name": "probability_l2", "teacher": "fpn", "mean_of": {"fpn": 1, "psp": 1}},
        {"name": "probability_l2", "mean_of": {"fpn": 1}},
        {"name": "probability_l2", "mean_of": {"fpn": 1, "psp": 0}},
        {"name": "consistency_l2", "weight": 1, "mean_of": {"fpn": 1, "psp": 1}},
    ):
        with pytest.raises(ValidationError):
            make(**section)
    objective = Objective([make(name="probability_l2", mean_of={"fpn": 1, "pps": 2})])
    held = {"camvid": {"labels", "fpn/logits", "psp/logits"}}
    with pytest.raises(ConfigError, match=r"unknown teacher \(did you mean 'psp'\?\)"):
        objective.check(held, {"fpn": 3, "psp": 3}, 3)


def test_features_may_be_those_of_a_teacher_with_other_classes():
    held = {"camvid": {"labels", "coco/features/penultimate"}}
    objective = Objective([FINE.model_copy(update={"teacher": "coco"})])
    objective.check(held, {"coco": 133}, 3)
    with pytest.raises(ConfigError, match="coco has 133 classes, the student 3"):
        Objective([make(name="probability_l2", teacher="coco")]).check(held, {"coco": 133}, 3)


# states


def test_an_objective_keeps_the_states_of_its_terms_in_their_places(sizes, make_input):
    head = {"name": "auxiliary_cross_entropy", "layer": "stage4"}
    objective = Objective(TERMS.validate_python([{"name": "cross_entropy"}, head, head]))
    objective.prepare(sizes)
    assert list(objective.states) == ["1", "2"]
    one, two = (dict(objective.states[place].named_parameters()) for place in "12")
    assert len(objective.trained()) == len(one) + len(two)
    given = make_input(objective.terms[0])
    values = objective.values(given.output, given.batch, given.student)
    assert list(values) == ["cross_entropy", head["name"], head["name"] + "#2"]
    assert values[head["name"]] != values[head["name"] + "#2"]


def test_after_each_step_every_state_has_its_turn(sizes):
    objective = Objective([make(name="auxiliary_cross_entropy", layer="stage4")])
    objective.prepare(sizes)
    turns = []
    objective.states["0"].after_step = lambda: turns.append(1)
    objective.after_step()
    assert turns == [1]


def test_a_batch_moves_with_its_masks(make_input):
    batch = make_input(FINE).batch
    assert replace(batch).to("meta").masks[8].device.type == "meta"
