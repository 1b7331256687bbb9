"""Terms that draw, train or remember: a resumed run repeats, to the last bit."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from pydantic import TypeAdapter

from stillroom.stages.train.batch import Batch, Triplets
from stillroom.stages.train.checkpoint import load_checkpoint, new_learner, save_last
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.objective import Objective
from stillroom.stages.train.settings import TrainConfig
from stillroom.stages.train.step import take_step
from stillroom.stages.train.terms.term import Sizes

TERMS = TypeAdapter(tuple[TermConfig, ...])
SECTIONS = {
    "augmented_pixelwise": {},
    "augmented_channelwise": {},
    "dist": {},
    "masked_generative": {"weight": 1.0},
    "cross_image_pixel": {"pixels": 12},
    "cross_image_memory": {"pixels": 12, "pixel_memory": 20, "weight": 1.0, "pixel_contrast": 16},
    "temporal": {"teacher": None},
    "pairwise_frame": {},
    "multi_frame": {"weight": 0.1, "patch": 2},
}
OF_CLIPS = {"temporal", "pairwise_frame", "multi_frame"}
STEPS, CLASSES, SIZE = 6, 4, (16, 20)


def batches(step):
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(0, CLASSES, (2, *SIZE), generator=generator)
    labels[:, :3] = 255
    mask = torch.ones(2, 1, 4, 5, dtype=torch.bool)
    mask[1, :, :, 3:] = False
    labelled = Batch(
        stream="camvid",
        labelled=True,
        images=255 * torch.rand(2, 3, *SIZE, generator=generator),
        labels=labels,
        mask=mask,
        artifacts={
            "fpn/logits": 3 * torch.randn(2, CLASSES, 4, 5, generator=generator),
            "fpn/pseudo_label": labels.roll(1, 2),
            "fpn/features/penultimate": torch.randn(2, 5, 4, 5, generator=generator),
        },
    )
    unlabelled = replace(labelled, stream="rest", labelled=False, labels=None)
    return [labelled, unlabelled, clip(generator)]


def clip(generator):
    """One triplet, beside streams of single frames."""
    return Batch(
        stream="city",
        labelled=False,
        images=255 * torch.rand(3, 3, *SIZE, generator=generator),
        labels=None,
        mask=torch.ones(3, 1, 4, 5, dtype=torch.bool),
        artifacts={
            "fpn/logits": 3 * torch.randn(3, CLASSES, 4, 5, generator=generator),
            "fpn/pseudo_label": torch.randint(0, CLASSES, (3, *SIZE), generator=generator),
            "fpn/features/penultimate": torch.randn(3, 5, 4, 5, generator=generator),
        },
        triplets=Triplets(
            frames=torch.tensor([[1, 0, 2]]),
            pairs=torch.tensor([[0, 1], [0, 2]]),
            flow=2 * torch.randn(2, 2, *SIZE, generator=generator),
            visible=torch.ones(2, 1, *SIZE, dtype=torch.bool),
        ),
    )


@pytest.fixture
def begin(tmp_path, make_student):
    settings = TrainConfig.model_validate(
        {
            "path": tmp_path,
            "streams": {
                "camvid": {"batch": 2},
                "rest": {"batch": 2, "labelled": False},
                "city": {"batch": 1, "labelled": False},
            },
            "steps": STEPS,
            "optimiser": {"lr": 0.05},
        }
    )

    def make(section, seed):
        torch.manual_seed(seed)
        sections = [{"teacher": "fpn", **section}]
        if section["name"] in OF_CLIPS:  # single frames must feed something as well
            sections.append({"name": "cross_entropy", "teacher": "fpn"})
        objective = Objective(TERMS.validate_python(sections))
        student = make_student(seed)
        student_sizes = {"logits": CLASSES, "features/penultimate": 8}
        teachers = {"fpn/logits": CLASSES, "fpn/features/penultimate": 5}
        objective.prepare(Sizes(CLASSES, student_sizes, student.strides, teachers))
        job = SimpleNamespace(
            objective=objective, settings=settings, steps=STEPS, parts=1, live=None
        )
        return job, new_learner(student, objective, settings, torch.device("cpu"))

    return make


def run(job, learner, until):
    found = []
    while learner.step < until:
        found.append(
            take_step(job, learner, [batches(learner.step)], 0.05, gradients=True).values()
        )
        learner.step += 1
    return found


@pytest.mark.parametrize("name", SECTIONS)
def test_a_resumed_run_is_the_one_that_was_not_interrupted(begin, tmp_path, name):
    section = {"name": name, **SECTIONS[name]}
    job, whole = begin(section, seed=0)
    expected = run(job, whole, STEPS)
    job, half = begin(section, seed=0)
    found = run(job, half, 3)
    save_last(tmp_path / "last.pt", half, {})
    job, rest = begin(section, seed=1)  # another start, to be overwritten
    torch.rand(7)
    rest.restore(load_checkpoint(tmp_path / "last.pt"))
    found += run(job, rest, STEPS)
    assert found == expected  # losses, terms and the norm of each term's gradient
    for name_of, one, other in (
        ("student", whole.student, rest.student),
        ("terms", whole.terms, rest.terms),
    ):
        for key, value in one.state_dict().items():
            assert other.state_dict()[key].equal(value), f"{name_of}.{key}"


@pytest.mark.parametrize("name", SECTIONS)
def test_every_term_moves_the_student(begin, name):
    job, learner = begin({"name": name, **SECTIONS[name]}, seed=0)
    before = [parameter.clone() for parameter in learner.student.parameters()]
    steps = run(job, learner, 3)
    assert all(value > 0 for value in steps[-1].gradients.values())
    moved = zip(before, learner.student.parameters(), strict=True)
    assert any(not one.equal(other) for one, other in moved)
