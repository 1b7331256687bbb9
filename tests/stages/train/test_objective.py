"""The objective: what it adds up, what it reads, and what it refuses before the first step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from student_output import student_output

from stillroom.stages.train.batch import Batch
from stillroom.stages.train.losses.consistency_l2 import consistency_l2
from stillroom.stages.train.losses.cross_entropy import cross_entropy
from stillroom.stages.train.losses.pixelwise_kl import pixelwise_kl
from stillroom.stages.train.losses.probability_l2 import probability_l2
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.objective import Objective
from stillroom.stages.upsample import upsample_logits
from stillroom.storage_specs.errors import ArtifactError, ConfigError

STRIDE, SIZE, CELLS = 4, (16, 22), (4, 6)  # 22 is no multiple of the stride


@dataclass
class Student:
    stride: int
    layers: dict[str, int] = field(default_factory=dict)

    @property
    def strides(self):
        return {"logits": self.stride, **{f"features/{k}": v for k, v in self.layers.items()}}


STUDENT = Student(STRIDE)
TERMS = TypeAdapter(tuple[TermConfig, ...])


def objective(*sections, unlabelled_weight=1.0):
    return Objective(TERMS.validate_python(sections), unlabelled_weight)


XIE = (
    {"name": "cross_entropy", "teacher": "fpn"},
    {"name": "probability_l2", "teacher": "fpn", "weight": 4.0},
    {"name": "consistency_l2", "teacher": "fpn", "weight": 0.4},
)


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def output():
    return student_output((2 * normal(2, 3, *CELLS, seed=0)).requires_grad_())


@pytest.fixture
def labelled():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (2, *SIZE), generator=generator)
    labels[:, :, :3] = 255
    mask = torch.rand(2, 1, *CELLS, generator=generator) < 0.7
    return Batch(
        stream="camvid",
        labelled=True,
        images=torch.zeros(2, 3, *SIZE),
        labels=labels,
        mask=mask,
        artifacts={
            "fpn/logits": 3 * normal(2, 3, *CELLS, seed=2),
            "fpn/pixel_confidence": torch.rand(2, 1, *SIZE, generator=generator),
            "fpn/pseudo_label": torch.randint(0, 3, (2, *SIZE), generator=generator),
        },
        frame_ids=["a", "b"],
    )


@pytest.fixture
def unlabelled(labelled):
    return replace(labelled, stream="coco", labelled=False, labels=None)


# what it adds up


def test_it_is_the_weighted_sum_of_its_terms(output, labelled):
    loss, values = objective(*XIE)(output, labelled, STUDENT)
    teacher, mask = labelled.artifacts["fpn/logits"], labelled.mask
    expected = {
        "cross_entropy/fpn": cross_entropy(
            upsample_logits(output.logits, STRIDE, SIZE), labelled.labels
        ),
        "probability_l2/fpn": probability_l2(output.logits, teacher, mask=mask),
        "consistency_l2/fpn": consistency_l2(output.logits, teacher, mask=mask),
    }
    assert values.keys() == expected.keys()
    for label, value in expected.items():
        assert values[label].item() == pytest.approx(value.item())
    weights = (1, 4, 0.4)
    total = sum(w * v.item() for w, v in zip(weights, expected.values(), strict=True))
    assert loss.item() == pytest.approx(total)
    loss.backward()
    assert output.logits.grad.abs().sum() > 0


def test_an_unlabelled_batch_learns_pseudo_labels_with_the_weight_of_its_stream(output, unlabelled):
    loss, values = objective(*XIE, unlabelled_weight=0.25)(output, unlabelled, STUDENT)
    pseudo = cross_entropy(
        upsample_logits(output.logits, STRIDE, SIZE), unlabelled.artifacts["fpn/pseudo_label"]
    )
    assert values["cross_entropy/fpn"].item() == pytest.approx(pseudo.item())
    total = (
        values["cross_entropy/fpn"]
        + 4 * values["probability_l2/fpn"]
        + 0.4 * values["consistency_l2/fpn"]
    )
    assert loss.item() == pytest.approx(0.25 * total.item())


def test_labels_are_preferred_to_pseudo_labels_where_there_are_any(output, labelled):
    without = replace(labelled, artifacts={})
    _, values = objective(XIE[0])(output, without, STUDENT)
    assert values["cross_entropy/fpn"] > 0


def test_pixels_with_a_pseudo_label_count_whatever_the_students_grid_shows(output, unlabelled):
    # The frame ends within a cell whose centre does not show it: padding has no pseudo label.
    pseudo = unlabelled.artifacts["fpn/pseudo_label"]
    pseudo[:, :, 9:] = 255
    unlabelled.mask = torch.zeros_like(unlabelled.mask)
    unlabelled.mask[:, :, :, :2] = True
    full = upsample_logits(output.logits, STRIDE, SIZE)
    expected = cross_entropy(full[..., :9], pseudo[..., :9])
    value = objective(XIE[0])(output, unlabelled, STUDENT)[1]["cross_entropy/fpn"]
    assert value.item() == pytest.approx(expected.item())


def test_a_threshold_leaves_out_pseudo_labels_of_less_confidence(output, unlabelled):
    confidence = torch.full((2, 1, *SIZE), 0.9)  # at the threshold
    confidence[:, :, :, 13:] = 0.895
    unlabelled.artifacts["fpn/pixel_confidence"] = confidence
    section = {"name": "cross_entropy", "teacher": "fpn", "threshold": 0.9}
    _, values = objective(section)(output, unlabelled, STUDENT)
    full = upsample_logits(output.logits, STRIDE, SIZE)
    pseudo = unlabelled.artifacts["fpn/pseudo_label"]
    expected = cross_entropy(full[..., :13], pseudo[..., :13])
    assert values["cross_entropy/fpn"].item() == pytest.approx(expected.item())


def test_options_of_a_term_reach_its_loss(output, labelled):
    section = {
        "name": "pixelwise_kl",
        "teacher": "fpn",
        "temperature": 4.0,
        "direction": "student_teacher",
    }
    loss, _ = objective(section)(output, labelled, STUDENT)
    expected = pixelwise_kl(
        output.logits,
        labelled.artifacts["fpn/logits"],
        temperature=4.0,
        direction="student_teacher",
        mask=labelled.mask,
    )
    assert loss.item() == pytest.approx(expected.item())


def test_equal_labels_are_numbered_so_that_no_value_is_lost(output, labelled):
    kl = {"name": "pixelwise_kl", "teacher": "fpn"}
    _, values = objective(kl, {**kl, "temperature": 4.0})(output, labelled, STUDENT)
    assert list(values) == ["pixelwise_kl/fpn", "pixelwise_kl/fpn#2"]


def test_a_wholly_masked_batch_costs_nothing_and_can_be_differentiated(output, labelled):
    labelled.mask = torch.zeros_like(labelled.mask)
    labelled.labels = torch.full_like(labelled.labels, 255)
    loss, _ = objective(*XIE)(output, labelled, STUDENT)
    loss.backward()
    assert loss.item() == 0
    assert output.logits.grad.equal(torch.zeros_like(output.logits))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_a_float32_loss(output, unlabelled, dtype):
    exact, _ = objective(*XIE)(student_output(output.logits.to(dtype).float()), unlabelled, STUDENT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, values = objective(*XIE)(student_output(output.logits.to(dtype)), unlabelled, STUDENT)
    assert loss.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in values.values())
    assert loss.equal(exact)


def test_a_term_without_anything_to_read_on_a_stream_is_left_out_of_its_values(output, unlabelled):
    sections = ({"name": "cross_entropy"}, {"name": "probability_l2", "teacher": "fpn"})
    _, values = objective(*sections)(output, unlabelled, STUDENT)
    assert list(values) == ["probability_l2/fpn"]


# what it reads


def test_it_needs_what_its_terms_read():
    xie = objective(*XIE)
    assert xie.needs(True, STUDENT.strides) == {"fpn/logits"}
    assert xie.needs(False, STUDENT.strides) == {"fpn/logits", "fpn/pseudo_label"}
    assert objective({"name": "cross_entropy"}).needs(True, STUDENT.strides) == frozenset()
    strict = objective({"name": "cross_entropy", "teacher": "fpn", "threshold": 0.9})
    assert strict.needs(False, STUDENT.strides) == {"fpn/pseudo_label", "fpn/pixel_confidence"}


def test_a_step_reads_nothing_that_it_did_not_ask_for(output, labelled, unlabelled):
    sections = (*XIE, {"name": "pixelwise_kl", "teacher": "fpn"})
    for batch in (labelled, unlabelled):
        asked = objective(*sections).needs(batch.labelled, STUDENT.strides)
        held = {key: value for key, value in batch.artifacts.items() if key in asked}
        full, _ = objective(*sections)(output, batch, STUDENT)
        least, _ = objective(*sections)(output, replace(batch, artifacts=held), STUDENT)
        assert least.equal(full)


# what it refuses while training


def test_logits_at_another_stride_are_refused_naming_term_stream_and_both_shapes(output, labelled):
    labelled.artifacts["fpn/logits"] = torch.zeros(2, 3, 8, 11)
    with pytest.raises(ArtifactError) as error:
        objective(XIE[1])(output, labelled, STUDENT)
    for part in ("probability_l2/fpn", "camvid", "(2, 3, 4, 6)", "(2, 3, 8, 11)"):
        assert part in str(error.value)


def test_a_batch_without_the_artifact_is_refused(output, labelled):
    del labelled.artifacts["fpn/logits"]
    with pytest.raises(ArtifactError, match=r"probability_l2/fpn reads 'fpn/logits'.*camvid"):
        objective(XIE[1])(output, labelled, STUDENT)


def test_a_stride_that_does_not_fit_the_student_is_refused(output, labelled):
    with pytest.raises(ArtifactError, match="logits at stride 8 for 16x22 pixels"):
        objective(XIE[0])(output, labelled, Student(8))


def test_a_batch_that_feeds_no_term_is_refused_rather_than_skipped(output, unlabelled):
    with pytest.raises(ConfigError, match="stream coco feeds no term"):
        objective({"name": "cross_entropy"})(output, unlabelled, STUDENT)


def test_a_labelled_batch_has_labels(unlabelled):
    with pytest.raises(ArtifactError, match="'coco' is labelled, and its batch has no labels"):
        replace(unlabelled, labelled=True)


def test_a_batch_moves_whole_and_leaves_the_original(unlabelled):
    moved = unlabelled.to("meta")
    tensors = (moved.images, moved.mask, *moved.artifacts.values())
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert moved.labels is None
    assert (moved.stream, moved.frame_ids) == ("coco", ["a", "b"])
    assert unlabelled.images.device.type == "cpu"


# what it refuses before the first step

HELD = {"camvid": {"labels", "fpn/logits"}, "coco": {"fpn/logits", "fpn/pseudo_label"}}


def check(*sections, available=HELD, classes=None, student=3, **options):
    objective(*sections).check(available, classes or {"fpn": 3}, student, **options)


def test_an_objective_that_can_be_fed_passes():
    check(*XIE)
    check({"name": "cross_entropy"}, available={"camvid": {"labels"}})


def test_a_term_that_needs_a_teacher_and_names_none_is_refused_listing_the_teachers():
    with pytest.raises(ConfigError, match=r"pixelwise_kl .* names none.*: fpn, psp$"):
        check({"name": "pixelwise_kl"}, classes={"psp": 3, "fpn": 3})
    with pytest.raises(ConfigError, match="names none"):
        objective({"name": "pixelwise_kl"}).needs(True, STUDENT.strides)


def test_an_unknown_teacher_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"probability_l2/fpm .*mean 'fpn'.*: fpn$"):
        check({"name": "probability_l2", "teacher": "fpm"})


@pytest.mark.parametrize("name", ["cross_entropy", "probability_l2"])
def test_other_classes_than_the_students_are_refused_with_both_counts(name):
    with pytest.raises(ConfigError, match="fpn has 19 classes, the student 3"):
        check({"name": name, "teacher": "fpn"}, classes={"fpn": 19})


@pytest.mark.parametrize(
    "section",
    [
        {"name": "consistency_l2", "weight": 1.0},
        {"name": "pixelwise_kl", "temperature": 4.0},
        {"name": "pixelwise_kl", "direction": "student_teacher"},
    ],
)
def test_a_term_that_needs_whole_logits_is_refused_where_only_the_likeliest_are(section):
    with pytest.raises(ConfigError, match=r"needs the logits of teacher fpn .*codec kl"):
        check({**section, "teacher": "fpn"}, softmax_only={"fpn"})
    check({**section, "teacher": "fpn"})


@pytest.mark.parametrize("name", ["probability_l2", "pixelwise_kl"])
def test_a_term_on_the_softmax_does_with_the_likeliest_classes(name):
    check({"name": name, "teacher": "fpn"}, softmax_only={"fpn"})


def test_an_artifact_that_is_not_cached_is_refused_with_the_next_command():
    section = {"name": "cross_entropy", "teacher": "fpn", "threshold": 0.9}
    with pytest.raises(ConfigError) as error:
        check(section)
    for part in (
        "fpn/pixel_confidence",
        "coco",
        "fpn/logits, fpn/pseudo_label",
        "add 'pixel_confidence' to cache.artifacts",
        "`stillroom cache extend`",
    ):
        assert part in str(error.value)


def test_every_fault_is_told_at_once():
    available = {"camvid": {"labels"}, "coco": {"fpn/logits"}}
    with pytest.raises(ConfigError) as error:
        check(*XIE, available=available)
    faults = str(error.value).splitlines()
    assert len(faults) == 3  # both logits terms on camvid, pseudo labels on coco


def test_a_stream_that_feeds_no_term_is_refused():
    with pytest.raises(ConfigError, match="stream coco feeds no term of cross_entropy"):
        check({"name": "cross_entropy"})


def test_a_term_that_no_stream_feeds_is_refused():
    sections = ({"name": "cross_entropy"}, {"name": "probability_l2", "teacher": "fpn"})
    with pytest.raises(ConfigError, match="term cross_entropy has nothing to read"):
        check(*sections, available={"coco": {"fpn/logits"}})


def test_a_threshold_below_the_one_of_the_cache_is_refused():
    section = {"name": "cross_entropy", "teacher": "fpn", "threshold": 0.5}
    available = {"coco": {"fpn/pseudo_label", "fpn/pixel_confidence"}}
    with pytest.raises(ConfigError, match=r"threshold 0\.5 is below 0\.7"):
        check(section, available=available, teacher_thresholds={"fpn": 0.7})
    check(section, available=available, teacher_thresholds={"fpn": 0.5})


def test_a_threshold_that_the_cached_confidence_cannot_tell_from_1_is_refused():
    section = {"name": "cross_entropy", "teacher": "fpn", "threshold": 0.999}
    available = {"coco": {"fpn/pseudo_label", "fpn/pixel_confidence"}}
    with pytest.raises(ConfigError, match=r"threshold 0\.999 is above 0\.995.*codec exact"):
        check(section, available=available, highest_confidence={"fpn": 0.995})
    check({**section, "threshold": 0.995}, available=available, highest_confidence={"fpn": 0.995})
    check(section, available=available)


def test_a_run_without_terms_is_refused():
    with pytest.raises(ConfigError, match="no terms"):
        objective()


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf")])
def test_a_weight_of_unlabelled_frames_must_do_something(weight):
    with pytest.raises(ConfigError, match="unlabelled_weight must be above 0"):
        objective(*XIE, unlabelled_weight=weight)


@pytest.mark.parametrize(
    "section",
    [
        {"name": "cross_entrpy"},
        {"weight": 1.0},
        {"name": "cross_entropy", "temperature": 2.0},
        {"name": "cross_entropy", "threshold": 0.9},
        {"name": "cross_entropy", "teacher": "fpn", "threshold": 1.5},
        {"name": "probability_l2", "teacher": "fpn", "weight": 0},
        {"name": "probability_l2", "teacher": "fpn", "weight": float("nan")},
        {"name": "consistency_l2", "teacher": "fpn"},  # no weight fits every number of classes
        {"name": "holistic", "teacher": "fpn"},  # nor every size of a map
        {"name": "pixelwise_kl", "teacher": "fpn", "temperature": 0},
        {"name": "pixelwise_kl", "teacher": "fpn", "direction": "forward"},
    ],
)
def test_a_section_that_makes_no_term_is_refused(section):
    with pytest.raises(ValidationError):
        TERMS.validate_python([section])
