"""Measuring the terms of a run in its first steps."""

from __future__ import annotations

import math

import pytest
import torch

from stillroom.stages.train.check import check
from stillroom.stages.train.loop import train
from stillroom.stages.train.metrics import read_metrics

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
    _, measured = found
    terms = measured.terms
    assert [(one.stream, one.label, one.weight) for one in terms] == [
        ("camvid", "cross_entropy/fpn", 1.0),
        ("camvid", "probability_l2/fpn", 4.0),
        ("rest", "cross_entropy/fpn", 0.5),
        ("rest", "probability_l2/fpn", 2.0),
    ]
    assert 0 < measured.step_seconds < math.inf
    for one in terms:
        assert len(one.values) == len(one.gradients) == 3
        assert len(set(one.values)) == 3, "the student moves"
        assert min(one.values) > 0
        assert min(one.gradients) > 0
        assert 0 < one.seconds < math.inf
        # At least the student's probabilities on this stream: float32 at stride 4.
        assert one.peak_bytes >= 4 * STREAMS[one.stream]["batch"] * 4 * 6 * 8


def test_its_steps_are_those_of_training(make_job):
    """Of terms with random numbers and a state as well, whatever is measured beside them."""
    terms = (*TERMS, {"name": "auxiliary_cross_entropy", "layer": "penultimate"})
    options = {"streams": STREAMS, "unlabelled_weight": 0.5, "warmup_steps": 2}
    checked = check(make_job("checked", terms, seed=0, **options), 3)
    steps = []
    job = make_job("trained", terms, seed=0, gradients_every=1, on_step=steps.append, **options)
    train(job)
    norms = [line["gradients"] for line in read_metrics(job.settings.path) if "gradients" in line]
    for one in checked.terms:
        name = f"{one.stream}/{one.label}"
        assert one.values == [step.terms[name] for step in steps[:3]]
        assert one.gradients == [line[name] for line in norms[:3]]


def test_a_term_of_weights_is_in_a_step_once_whatever_the_streams(make_job):
    terms = (*TERMS, {"name": "network_slimming", "weight": 0.5})
    options = {"streams": STREAMS, "unlabelled_weight": 0.25}
    *_, measured = check(make_job("checked", terms, seed=0, **options), 2).terms
    steps = []
    train(make_job("trained", terms, seed=0, on_step=steps.append, **options))
    assert (measured.stream, measured.label, measured.weight) == ("", "network_slimming", 0.5)
    assert measured.values == [step.terms["network_slimming"] for step in steps[:2]]
    assert measured.values[0] == 6 + 8  # scales begin at 1
    assert measured.gradients[0] == pytest.approx(0.5 * 14**0.5)
    first = steps[0].terms
    labelled = first["camvid/cross_entropy/fpn"] + 4 * first["camvid/probability_l2/fpn"]
    rest = first["rest/cross_entropy/fpn"] + 4 * first["rest/probability_l2/fpn"]
    assert steps[0].loss == pytest.approx(labelled + 0.25 * rest + 0.5 * 14)


def test_a_check_writes_nothing_and_leaves_the_numbers_of_others_alone(make_job, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check(make_job("run", TERMS, streams=STREAMS), 1)
    assert torch.equal(torch.rand(3), expected)
    assert not (tmp_path / "run").exists()
