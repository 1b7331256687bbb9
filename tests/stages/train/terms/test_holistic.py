"""The holistic term: a critic that learns beside the student, and comes back as it was."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest
import torch
from pydantic import TypeAdapter
from student_output import student_output

from stillroom.stages.models.critic import Critic
from stillroom.stages.train.batch import Batch
from stillroom.stages.train.job import TrainJob
from stillroom.stages.train.loop import train
from stillroom.stages.train.losses.holistic import CriticState, holistic, maps_of
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.objective import Objective
from stillroom.stages.train.open_dataset import is_labelled, open_dataset
from stillroom.stages.train.settings import TrainConfig
from stillroom.stages.train.terms.term import Sizes
from stillroom.storage_specs.errors import ArtifactError, ConfigError

SECTION = {"name": "holistic", "teacher": "fpn", "width": 4, "weight": 0.1}


@dataclass
class Student:
    strides: dict[str, int]


STUDENT = Student({"logits": 4})


def objective(**changes):
    made = Objective(TypeAdapter(tuple[TermConfig, ...]).validate_python([{**SECTION, **changes}]))
    made.prepare(Sizes(3, {"logits": 3}, STUDENT.strides, {"fpn/logits": 3}))
    made.states.train()
    return made


def a_batch(stream="camvid", teacher=None, size=(6, 7)):
    labelled = stream == "camvid"
    height, width = 4 * size[0], 4 * size[1] - 1
    return Batch(
        stream=stream,
        labelled=labelled,
        images=255 * torch.rand(3, 3, height, width),
        labels=torch.zeros(3, height, width, dtype=torch.long) if labelled else None,
        mask=torch.rand(3, 1, *size) < 0.8,
        artifacts={"fpn/logits": torch.randn(3, 3, *size) if teacher is None else teacher},
    )


def an_output(size=(6, 7)):
    return student_output(torch.randn(3, 3, *size, requires_grad=True), {})


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_it_reads_logits_on_every_stream_and_must_have_them_whole():
    made = objective()
    for labelled in (True, False):
        assert made.needs(labelled, STUDENT.strides) == {"fpn/logits"}
    with pytest.raises(ConfigError, match=r"holistic/fpn needs the logits of teacher fpn themselv"):
        made.check({"camvid": {"fpn/logits"}}, {"fpn": 3}, 3, softmax_only={"fpn"})


def test_the_value_is_the_negative_score_and_the_critic_gets_no_gradient_from_it():
    made, batch, output = objective(), a_batch(), an_output()
    critic = made.states["0"].critic
    value = made.values(output, batch, STUDENT)["holistic/fpn"]
    maps = maps_of(output.logits, batch.artifacts["fpn/logits"], batch.images, 4, batch.mask)
    torch.testing.assert_close(value, holistic(critic, maps))
    value.backward()
    assert output.logits.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in critic.parameters())
    assert all(parameter.requires_grad for parameter in critic.parameters())


def test_the_students_optimiser_does_not_train_the_critic():
    assert objective().trained() == []


def test_after_a_step_the_critic_and_only_it_has_learnt():
    made, batch, output = objective(), a_batch(), an_output()
    made.values(output, batch, STUDENT)
    before = {name: value.clone() for name, value in made.states.named_parameters()}
    made.after_step()
    assert output.logits.grad is None
    changed = [name for name, value in made.states.named_parameters() if
               not value.equal(before[name])]  # fmt: skip
    assert "0.critic.last.weight" in changed
    assert "0.critic.convolutions.0.weight" in changed
    after = {name: value.clone() for name, value in made.states.named_parameters()}
    made.after_step()  # nothing was scored since
    assert all(value.equal(after[name]) for name, value in made.states.named_parameters())


def test_several_streams_make_one_step_of_the_critic_and_the_students_gradient_still_flows():
    made, outputs = objective(), [an_output(), an_output()]
    batches = [a_batch(), a_batch("coco")]
    values = [
        made.values(output, batch, STUDENT)["holistic/fpn"]
        for output, batch in zip(outputs, batches, strict=True)
    ]
    sum(values).backward()
    assert all(output.logits.grad.abs().max() > 0 for output in outputs)
    made.after_step()
    steps = [each["step"].item() for each in
             made.states["0"].get_extra_state()["state"].values()]  # fmt: skip
    assert set(steps) == {1}
    assert made.states["0"].critic.normalise.observed == 4  # student and teacher of two streams


@pytest.mark.parametrize("design", ["paper", "released"])
def test_the_critic_learns_to_tell_two_distributions_apart(design):
    """Teacher's maps are smooth, the student's are noise of the same mean and deviation."""
    critic = Critic(3, design=design, width=8)
    state = CriticState(critic, 2e-3)
    images, mask = torch.zeros(8, 3, 16, 16), torch.ones(8, 1, 16, 16, dtype=torch.bool)

    def draw():
        rough = torch.randn(8, 3, 16, 16)
        smooth = torch.nn.functional.avg_pool2d(torch.randn(8, 3, 18, 18), 3, stride=1) * 3
        return rough, smooth

    for _ in range(100):
        rough, smooth = draw()
        state(maps_of(rough, smooth, images, 1, mask))
        state.after_step()
    rough, smooth = draw()
    with torch.no_grad():
        student, teacher = (critic(maps, images, mask) for maps in (rough, smooth))
    assert teacher.min() > student.max(), (teacher, student)


def test_a_student_that_pleases_the_critic_comes_closer_to_the_teacher():
    """Logits that are free to move: all that they know of the teacher is the critic's score."""
    made = objective(critic_lr=2e-3, width=8)
    teacher = torch.full((3, 3, 8, 8), 2.0)
    logits = torch.nn.Parameter(-teacher.clone())
    optimiser = torch.optim.Adam([logits], 0.05)
    for _ in range(80):
        batch = a_batch(teacher=teacher, size=(8, 8))
        batch.mask[:] = True
        optimiser.zero_grad()
        made.values(student_output(logits, {}), batch, STUDENT)["holistic/fpn"].backward()
        optimiser.step()
        made.after_step()
    assert (logits - teacher).abs().mean() < 2  # it was 4


def test_a_state_goes_through_a_file_and_repeats_to_the_last_bit():
    made, other = objective(), objective()
    batches, outputs = [a_batch() for _ in range(4)], [an_output() for _ in range(4)]

    def steps(of, numbers):
        found = []
        for number in numbers:
            torch.manual_seed(number)
            found.append(of.values(outputs[number], batches[number], STUDENT)["holistic/fpn"])
            of.after_step()
        return torch.stack(found)

    steps(made, (0, 1))
    file = io.BytesIO()
    torch.save(made.states.state_dict(), file)
    expected = steps(made, (2, 3))
    file.seek(0)
    other.states.load_state_dict(torch.load(file, weights_only=True))
    assert steps(other, (2, 3)).equal(expected)
    for name, value in made.states.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert other.states.state_dict()[name].equal(value), name
    mine, theirs = (of.states["0"].get_extra_state()["state"] for of in (made, other))
    for place in mine:
        for name in mine[place]:
            assert mine[place][name].equal(theirs[place][name])


def test_a_wholly_masked_batch_costs_nothing_and_teaches_nothing():
    made, batch, output = objective(), a_batch(), an_output()
    batch.mask[:] = False
    before = {name: value.clone() for name, value in made.states.named_parameters()}
    value = made.values(output, batch, STUDENT)["holistic/fpn"]
    value.backward()
    made.after_step()
    assert value.item() == 0
    assert output.logits.grad.eq(0).all()
    assert all(each.equal(before[name]) for name, each in made.states.named_parameters())


def test_half_precision_logits_are_scored_in_float32():
    made, batch, output = objective(), a_batch(), an_output()
    output.grids["logits"] = output.logits.detach().bfloat16()
    exact = student_output(output.logits.float(), {})
    made.states.eval()
    expected = made.values(exact, batch, STUDENT)["holistic/fpn"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = made.values(output, batch, STUDENT)["holistic/fpn"]
    assert found.dtype == torch.float32
    assert found.equal(expected)


def test_logits_at_another_stride_are_refused_naming_term_and_stream():
    made, batch = objective(), a_batch()
    batch.artifacts["fpn/logits"] = torch.zeros(3, 3, 12, 14)
    with pytest.raises(ArtifactError, match=r"holistic/fpn on stream camvid: .*\(3, 3, 12, 14\)"):
        made.values(an_output(), batch, STUDENT)


@pytest.mark.parametrize("design", ["paper", "released"])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(
    tmp_path, make_cache, make_student, design
):
    cache = make_cache(tmp_path / "cache")
    terms = [{"name": "cross_entropy"}, {**SECTION, "design": design}]

    def job(folder, on_step=None, seed=0):
        settings = TrainConfig.model_validate(
            {
                "path": tmp_path / folder,
                "streams": {
                    "camvid": {"batch": 3},
                    "rest": {"source": "camvid", "batch": 2, "labelled": False},
                },
                "steps": 6,
                "log_every": 1,
                "view": {"crop": [16, 20], "flip": True},
                "optimiser": {"name": "sgd", "lr": 0.05, "clip": 1.0},
            }
        )
        made = Objective(TypeAdapter(tuple[TermConfig, ...]).validate_python(terms))
        student = make_student(seed)
        torch.manual_seed(seed)
        made.prepare(Sizes(4, student.channels, student.strides, {"fpn/logits": 4}))
        streams = {}
        for name, stream in settings.streams.items():
            needs = made.needs(is_labelled(cache, name, stream), student.strides)
            streams[name] = open_dataset(cache, name, settings, needs, student.stride)
        return TrainJob(
            student=student,
            objective=made,
            streams=streams,
            settings=settings,
            config={},
            on_step=on_step,
        )

    def stop(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    whole = job("whole")
    result = train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(job("parts", stop))
    parts = job("parts", seed=7)  # drawn anew, as in another process, and restored
    assert train(parts).losses == result.losses
    for one, other in (
        (whole.student, parts.student),
        (whole.objective.states, parts.objective.states),
    ):
        theirs = other.state_dict()
        for key, value in one.state_dict().items():
            if isinstance(value, torch.Tensor):
                assert theirs[key].equal(value), key
