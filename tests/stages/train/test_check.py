"""Measuring the terms of a run in its first steps."""

from __future__ import annotations

import pytest
import torch

from stillroom.stages.train.check import check

TERMS = (
    {"name": "cross_entropy", "teacher": "fpn"},
    {"name": "probability_l2", "teacher": "fpn", "weight": 4.0},
)
STREAMS = {
    "camvid": {"batch": 4, "every": 2},
    "rest": {"source": "camvid", "batch": 2, "every": 2, "complement": True, "labelled": False},
}


@pytest.fixture
def found(make_job):
    job = make_job("run", TERMS, seed=0, streams=STREAMS, unlabelled_weight=0.5)
    return job, check(job, 3)


def test_every_term_of_every_stream_is_measured_in_every_step(found):
    _, terms = found
    assert [(one.stream, one.label, one.weight) for one in terms] == [
        ("camvid", "cross_entropy/fpn", 1.0),
        ("camvid", "probability_l2/fpn", 4.0),
        ("rest", "cross_entropy/fpn", 0.5),
        ("rest", "probability_l2/fpn", 2.0),
    ]
    for one in terms:
        assert len(one.values) == len(one.gradients) == 3
        assert len(set(one.values)) == 3, "the student moves"
        assert min(one.values) > 0
        assert min(one.gradients) > 0
        assert 0 < one.seconds < 60
        # At least the student's probabilities on this stream: float32 at stride 4.
        assert one.peak_bytes >= 4 * STREAMS[one.stream]["batch"] * 4 * 6 * 8


def test_the_gradient_is_that_of_the_weighted_term_by_the_students_parameters(make_job, found):
    _, terms = found
    job = make_job("other", TERMS[1:], seed=0, streams={"camvid": STREAMS["camvid"]})
    alone = check(job, 1)[0]
    job.student.zero_grad()
    assert alone.label == "probability_l2/fpn"
    assert alone.gradients[0] > 0
    # Not the first value's sibling by chance: four times the weight is four times the gradient.
    light = make_job("light", ({**TERMS[1], "weight": 1.0},), seed=0, streams=job_streams())
    assert check(light, 1)[0].gradients[0] == pytest.approx(alone.gradients[0] / 4, rel=1e-5)
    assert terms[1].values[0] > 0


def job_streams():
    return {"camvid": STREAMS["camvid"]}


def test_a_check_writes_nothing_and_leaves_the_numbers_of_others_alone(make_job, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check(make_job("run", TERMS, streams=STREAMS), 1)
    assert torch.equal(torch.rand(3), expected)
    assert not (tmp_path / "run").exists()
