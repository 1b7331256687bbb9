"""The terms on codes: what they read, on which grid they compare, and what they train."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from student_output import student_output

from stillroom.stages.train.batch import Batch
from stillroom.stages.train.job import TrainJob
from stillroom.stages.train.loop import train
from stillroom.stages.train.loss_parts.downsample import downsample_by_means
from stillroom.stages.train.losses.adaptation import adaptation
from stillroom.stages.train.losses.affinity import affinity
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.objective import Objective
from stillroom.stages.train.open_dataset import open_dataset
from stillroom.stages.train.settings import TrainConfig
from stillroom.stages.train.terms.term import Sizes
from stillroom.storage_specs.codecs.table import codec_from_dict
from stillroom.storage_specs.errors import ArtifactError, ConfigError
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.manifest import FrameRow

if TYPE_CHECKING:
    from stillroom.storage_specs.store import Cache

CODE = "fpn/code/penultimate"
LOSSES = {"adaptation": adaptation, "affinity": affinity}
both = pytest.mark.parametrize("name", LOSSES)


@dataclass
class Student:
    """Layers of some strides; 5 channels each."""

    layers: dict[str, int] = field(default_factory=lambda: {"penultimate": 4})

    @property
    def strides(self):
        return {"logits": 4, **{f"features/{name}": each for name, each in self.layers.items()}}


def objective(*sections, student=None, code_stride=16):
    made = Objective(TypeAdapter(tuple[TermConfig, ...]).validate_python(sections))
    student = student or Student()
    cached = {} if code_stride is None else {CODE: code_stride}
    channels = dict.fromkeys(student.strides, 5)
    made.prepare(Sizes(3, channels, student.strides, {CODE: 7, "fpn/logits": 3}, cached))
    return made


def a_batch(read=f"{CODE}@16", cells=(2, 3), masks=None):
    mask = torch.ones(2, 1, 8, 11, dtype=torch.bool)
    masks = {16: torch.rand(2, 1, *cells) < 0.8} if masks is None else masks
    return Batch(
        stream="camvid",
        labelled=False,
        images=torch.zeros(2, 3, 32, 44),
        labels=None,
        mask=mask,
        artifacts={read: torch.rand(2, 7, *cells)},
        masks=masks,
    )


def an_output(size=(8, 11)):
    features = {"penultimate": torch.randn(2, 5, *size, requires_grad=True)}
    return student_output(torch.randn(2, 3, 8, 11), features)


@both
def test_it_reads_the_code_on_the_codes_own_grid(name):
    made, strides = objective({"name": name, "teacher": "fpn"}), Student().strides
    for labelled in (True, False):
        assert made.artifacts(labelled) == {CODE}
        assert made.needs(labelled, strides, {CODE: 16}) == {f"{CODE}@16"}
        assert made.needs(labelled, strides, {CODE: 4}) == {CODE}
    named = {"name": name, "teacher": "fpn", "teacher_layer": "small"}
    assert objective(named | {"teacher_layer": "penultimate"}).needs(True, strides, {CODE: 8}) == {
        f"{CODE}@8"
    }
    small = TypeAdapter(TermConfig).validate_python(named)
    assert small.reads(True) == {"fpn/code/small"}


@pytest.mark.parametrize(
    ("layer", "code", "expected"),
    [(4, 32, 32), (8, 8, 8), (16, 8, 16), (8, 12, 8), (4, None, 4)],
)
def test_they_meet_on_the_coarser_grid_and_on_the_students_where_the_factor_is_not_whole(
    layer, code, expected
):
    term = TypeAdapter(TermConfig).validate_python({"name": "affinity", "teacher": "fpn"})
    cached = {} if code is None else {CODE: code}
    assert term.stride(Student({"penultimate": layer}).strides, cached) == expected


@both
def test_the_value_is_the_loss_of_coarser_adapted_features_and_code(name):
    made, batch, output = objective({"name": name, "teacher": "fpn"}), a_batch(), an_output()
    state = made.states["0"]
    value = made.values(output, batch, Student())[f"{name}/fpn"]
    # the 8 x 11 cells of stride 4 make 2 x 3 of stride 16; the last column has 3 of 4
    adapted = state(downsample_by_means(output.features["penultimate"], 4), batch.masks[16])
    assert adapted.shape == (2, 7, 2, 3)
    expected = LOSSES[name](adapted, batch.artifacts[f"{CODE}@16"], mask=batch.masks[16])
    torch.testing.assert_close(value, expected)
    value.backward()
    gradient = output.features["penultimate"].grad
    assert gradient.abs().sum() > 0
    shown = batch.masks[16].repeat_interleave(4, 2).repeat_interleave(4, 3)[..., :8, :11]
    assert gradient[(~shown).expand_as(gradient)].eq(0).all()
    assert all(parameter.grad is not None for parameter in state.parameters())


def test_at_equal_strides_nothing_is_averaged():
    made = objective({"name": "adaptation", "teacher": "fpn"}, code_stride=4)
    batch, output = a_batch(CODE, (8, 11), {}), an_output()
    value = made.values(output, batch, Student())["adaptation/fpn"]
    adapted = made.states["0"](output.features["penultimate"], batch.mask)
    torch.testing.assert_close(value, adaptation(adapted, batch.artifacts[CODE], mask=batch.mask))


def test_the_weights_are_the_papers_and_the_norms_reach_the_loss():
    sections = ({"name": "adaptation", "teacher": "fpn"}, {"name": "affinity", "teacher": "fpn"})
    made = objective(*sections)
    assert [term.weight for term in made.terms] == [50, 1]
    other = objective({"name": "adaptation", "teacher": "fpn", "p": 2, "q": 1})
    batch, output = a_batch(), an_output()
    adapted = other.states["0"](
        downsample_by_means(output.features["penultimate"], 4), batch.masks[16]
    )
    expected = adaptation(adapted, batch.artifacts[f"{CODE}@16"], p=2, q=1, mask=batch.masks[16])
    found = other.values(output, batch, Student())["adaptation/fpn"]
    torch.testing.assert_close(found, expected)
    for wrong in ({"p": 0.5}, {"q": 0}, {"p": float("inf")}):
        with pytest.raises(ValidationError):
            objective({"name": "adaptation", "teacher": "fpn", **wrong})


def test_each_term_trains_an_adapter_of_its_own():
    made = objective(*({"name": name, "teacher": "fpn"} for name in LOSSES))
    shapes = [tuple(parameter.shape) for parameter in made.trained()]
    assert shapes == 2 * [(7, 5, 3, 3), (7,), (7,)]
    first, second = made.states["0"].adapter, made.states["1"].adapter
    assert not first.convolution.weight.equal(second.convolution.weight)


@both
def test_a_wholly_masked_batch_costs_nothing_and_can_be_differentiated(name):
    made, output = objective({"name": name, "teacher": "fpn"}), an_output()
    batch = a_batch(masks={16: torch.zeros(2, 1, 2, 3, dtype=torch.bool)})
    value = made.values(output, batch, Student())[f"{name}/fpn"]
    value.backward()
    assert value.item() == 0
    assert output.features["penultimate"].grad.eq(0).all()


@both
def test_half_precision_features_give_a_float32_loss(name):
    made, batch, output = objective({"name": name, "teacher": "fpn"}), a_batch(), an_output()
    output.features["penultimate"] = output.features["penultimate"].detach().bfloat16()
    exact = student_output(output.logits, {"penultimate": output.features["penultimate"].float()})
    expected = made.values(exact, batch, Student())[f"{name}/fpn"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = made.values(output, batch, Student())[f"{name}/fpn"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


@both
def test_a_code_that_is_not_cached_is_refused_with_the_command_that_makes_it(name):
    made = Objective(
        TypeAdapter(tuple[TermConfig, ...]).validate_python([{"name": name, "teacher": "fpn"}])
    )
    command = r"give the run file a section \[adapt.fpn\] and run `stillroom cache adapt`"
    with pytest.raises(ConfigError, match=command):
        made.prepare(Sizes(3, {"features/penultimate": 5}, {}, {"fpn/logits": 3}))
    with pytest.raises(ConfigError, match=command):
        made.check({"camvid": {"fpn/logits"}}, {"fpn": 3}, 3)


def test_a_code_of_another_shape_is_refused_naming_term_and_stream():
    made, output = objective({"name": "affinity", "teacher": "fpn"}), an_output()
    with pytest.raises(ArtifactError, match=r"affinity/fpn on stream camvid: .*\(2, 7, 3, 3\)"):
        made.values(output, a_batch(cells=(3, 3), masks={16: a_batch().masks[16]}), Student())


def test_a_crop_that_is_too_small_for_the_codes_cells_is_refused():
    made, output = objective({"name": "affinity", "teacher": "fpn"}, code_stride=64), an_output()
    batch = a_batch(f"{CODE}@64", (1, 1), {64: torch.zeros(2, 1, 1, 1, dtype=torch.bool)})
    with pytest.raises(
        ConfigError, match=r"cells of 64 pixels, .* in a crop of 32 x 44: use a lar"
    ):
        made.values(output, batch, Student())


def test_a_teacher_of_other_classes_may_give_codes():
    made = objective({"name": "adaptation", "teacher": "fpn"})
    made.check({"camvid": {CODE}}, {"fpn": 19}, 3)


@pytest.fixture
def cache_with_codes(tmp_path, make_cache) -> Cache:
    """10 frames of 24 x 32; codes of 6 channels at stride 8 in an extension of "fpn"."""
    cache = make_cache(tmp_path / "cache")
    spec = ArraySpec(
        "code/penultimate", (6, 3, 4), codec_from_dict("byte"), attributes={"stride": 8}
    )
    made = cache.define("camvid", "fpn.0123abcd", {"of": "codes"}, 10, 4, [spec])
    for shard in range(made.shards):
        writer = made.writer(shard)
        for index in made.shard_range(shard):
            row = FrameRow(index, f"camvid_{index:03d}", valid_height=24, valid_width=32)
            code = np.random.default_rng(index).random((6, 3, 4)).astype(np.float32)
            writer.put(row, {"code/penultimate": code})
        writer.commit()
    return cache


def test_a_student_learns_from_codes_and_a_resumed_run_repeats(
    tmp_path, cache_with_codes, make_student
):
    terms = ({"name": "adaptation", "teacher": "fpn"}, {"name": "affinity", "teacher": "fpn"})

    def job(folder, on_step=None):
        torch.manual_seed(3)
        settings = TrainConfig.model_validate(
            {
                "path": tmp_path / folder,
                "streams": {"camvid": {"batch": 4}},
                "steps": 12,
                "log_every": 1,
                "view": {"crop": [20, 28], "flip": True},
                "optimiser": {"name": "sgd", "lr": 0.01},
            }
        )
        made = Objective(TypeAdapter(tuple[TermConfig, ...]).validate_python(terms))
        student = make_student(0)
        cached = {CODE: 8}
        needs = made.needs(True, student.strides, cached)
        dataset = open_dataset(cache_with_codes, "camvid", settings, needs, student.stride)
        made.prepare(Sizes(4, student.channels, student.strides, {CODE: 6}, cached))
        sample = dataset.sample(0, 0)
        assert sample.artifacts[f"{CODE}@8"].shape == (6, 3, 4)  # ceil(20 / 8), ceil(28 / 8)
        assert sample.masks[8].shape == (1, 3, 4)
        return TrainJob(
            student=student,
            objective=made,
            streams={"camvid": dataset},
            settings=settings,
            config={},
            on_step=on_step,
        )

    given = []
    whole = job("whole", lambda progress: given.append(progress.loss))
    train(whole)
    assert sum(given[-4:]) < 0.95 * sum(given[:4]), given

    def stop(progress):
        if progress.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(job("parts", stop))
    parts = job("parts")
    train(parts)
    for one, other in (
        (whole.student, parts.student),
        (whole.objective.states, parts.objective.states),
    ):
        for key, value in one.state_dict().items():
            assert other.state_dict()[key].equal(value), key
