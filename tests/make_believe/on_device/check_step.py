"""Training on the make-believe device: the values of the CPU, and nothing that waits for it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from make_believe.record import RECORD

from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.adapt import adapt_cache
from stillroom.pipeline.run_file.sections import RunConfig
from stillroom.pipeline.training import prepare_job, train_run
from stillroom.stages.train.checkpoint import new_learner
from stillroom.stages.train.losses.table import LOSSES
from stillroom.stages.train.session import Session

if TYPE_CHECKING:
    from collections import Counter
    from pathlib import Path

    from stillroom.stages.train.job import Progress

STEPS = 4
DEPTH = {"bins": 6, "low": 3.0, "high": 250.0}
OF_TEACHERS = {"teacher": "tiny"}
SECTIONS: dict[str, dict[str, Any]] = {  # of terms that do not do with a teacher alone
    "auxiliary_cross_entropy": {"layer": "penultimate"},
    "consistency_l2": {**OF_TEACHERS, "weight": 5e-5},
    "cross_entropy": {},
    "cross_image_memory": {**OF_TEACHERS, "pixels": 16, "pixel_memory": 40, "region_memory": 8},
    "depth_bins": {},
    "depth_regression": {"kind": "berhu"},
    "holistic": {**OF_TEACHERS, "weight": 1e-3, "width": 4},
    "masked_generative": {**OF_TEACHERS, "weight": 1.0},
    "multi_frame": {**OF_TEACHERS, "weight": 0.1, "patch": 4},
    "normals_cosine": {},
    "overparameterisation": {
        "layers": ["penultimate"],
        "cells": [
            {
                "inputs": ["penultimate", "penultimate"],
                "adaptors": ["conv1x1", "separable3x3"],
                "aggregator": "concatenation",
            }
        ],
    },
    "temporal": {},
}
OF_NORMALISATION = {"network_slimming"}  # of which the run's student has none
TERMS = [
    {"name": name, **SECTIONS.get(name, OF_TEACHERS)}
    for name in LOSSES
    if name not in OF_NORMALISATION
]


@pytest.fixture
def document(
    run_file: Path, run_document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The run of every term; its cache, with code and flow, is made by the first test."""
    path = tmp_path_factory.getbasetemp() / "every_term.cache"
    found = copy.deepcopy(run_document)
    found["sources"]["street"] |= {"frames_per_clip": 4, "targets": ["depth", "normals"]}
    found["student"]["heads"] = {"segmentation": {}, "depth": DEPTH, "normals": {}}
    found["flows"] = {"dis": {"kind": "dis"}}
    found["cache"] |= {"path": str(path), "pairs": {"offsets": [1], "draws": 1}, "flows": ["dis"]}
    found["adapt"] = {"tiny": {"channels": 4, "strides": [2, 1, 1], "epochs": 1}}
    found["terms"] = TERMS
    found["train"] |= {
        "streams": {"street": {"batch": 2, "triplets": "dis"}, "more": {"batch": 2}},
        "view": {"crop": [32, 32], "scale": [0.75, 1.5], "flip": True},
        "steps": STEPS,
        "ema": 0.9,
        "optimiser": {"name": "adamw", "lr": 0.001, "clip": 10.0},
        "gradients_every": 0,
        "checkpoint_every": 100,
    }
    if not path.exists():
        run = RunConfig.model_validate(found)
        build(run)
        adapt_cache(run)
    return found


def trained(document: dict[str, Any], folder: str, **settings: Any) -> dict[int, Progress]:
    """Train, and return every step by its number."""
    steps: dict[int, Progress] = {}
    run = RunConfig.model_validate(
        {**document, "train": {**document["train"], "path": folder, **settings}}
    )
    train_run(run, lambda progress: steps.update({progress.step: progress}))
    return steps


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Counter[str], Counter[str]]]:
    """What each step waited for before its backward pass and in all: filled while a test trains."""
    found: list[tuple[Counter[str], Counter[str]]] = []
    step, backward = Session.step, torch.Tensor.backward

    def counted(session: Session, parts: Any) -> None:
        RECORD.clear()
        before: list[Counter[str]] = []
        with monkeypatch.context() as patch:

            def noted(*args: Any, **options: Any) -> None:
                before.append(RECORD.waits.copy())
                backward(*args, **options)

            patch.setattr(torch.Tensor, "backward", noted)
            step(session, parts)
        found.append((before[0], RECORD.waits.copy()))

    monkeypatch.setattr(Session, "step", counted)
    return found


def test_every_term_has_the_value_that_it_has_on_the_cpu(document):
    expected, found = (
        trained(document, device, device=device, amp="off") for device in ("cpu", "cuda")
    )
    assert list(found) == list(expected) == list(range(1, STEPS + 1))
    assert {"wait", "copy", "forward", "term temporal", "backward"} <= RECORD.ranges.keys()
    assert len(found[1].terms) >= len(TERMS)
    for step, progress in found.items():
        assert progress.terms == pytest.approx(expected[step].terms, rel=2e-3, abs=1e-5)


@pytest.mark.parametrize(("amp", "most"), [("off", 0), ("bfloat16", 0), ("auto", 2)])
def test_no_step_waits_for_the_device(document, waits, amp, most):
    """But for a GradScaler: are the gradients finite, and if not, is the scale too low already?"""
    trained(document, "run", amp=amp, steps=3)
    for before, whole in waits[1:]:  # the first one makes the state of the optimisers
        assert not before
        assert sum(whole.values()) <= most, whole


def test_a_teacher_in_the_step_makes_it_wait_for_nothing(document, waits):
    names = {"pixelwise_kl", "fitnet", "cross_entropy", "multi_frame", "temporal"}
    document["terms"] = [one for one in TERMS if one["name"] in names]
    del document["student"]["heads"]  # what no term teaches is refused
    document["teachers"] = {"tiny": {**document["teachers"]["tiny"], "device": "auto"}}
    online = {"amp": "off", "teacher": "online", "steps": 3}
    expected, found = (trained(document, each, device=each, **online) for each in ("cpu", "cuda"))
    assert "teacher" in RECORD.ranges
    for step, progress in found.items():
        assert progress.terms == pytest.approx(expected[step].terms, rel=2e-3, abs=1e-5)
    assert not any(sum(whole.values()) for _, whole in waits[-2:]), waits[-2:]


def test_half_precision_is_near_and_scales_its_loss(document):
    whole, half = (trained(document, amp, amp=amp, steps=1) for amp in ("off", "auto"))
    assert half[1].terms != whole[1].terms
    assert half[1].terms == pytest.approx(whole[1].terms, rel=0.05, abs=1e-3)
    state = torch.load("auto/last.pt", weights_only=True)
    assert state["scaler"]["scale"] >= 1
    assert {value.dtype for value in state["student"].values()} == {torch.float32}


def test_a_resumed_run_is_the_run_that_was_not_interrupted(document):
    whole = trained(document, "whole")

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    settings = {**document["train"], "path": "parts"}
    with pytest.raises(KeyboardInterrupt):
        train_run(RunConfig.model_validate({**document, "train": settings}), stop)
    rest = trained(document, "parts")
    assert max(rest) == STEPS > len(rest) > 0
    for step, progress in rest.items():
        assert (progress.loss, progress.terms) == (whole[step].loss, whole[step].terms)


def test_weights_lie_in_the_order_of_their_images(document):
    document["student"] = {"kind": "smp", "architecture": "FPN", "encoder": "mobilenet_v2"}
    document["terms"] = [{"name": "cross_entropy", "teacher": "tiny"}]
    job = prepare_job(RunConfig.model_validate(document))
    learner = new_learner(job.student, job.objective, job.settings, torch.device("cuda"))
    for students in (learner.student, learner.ema.student):
        kernels = [one for one in students.parameters() if one.ndim == 4 and one.shape[1] > 1]
        assert kernels
        for one in kernels:
            assert one.is_contiguous(memory_format=torch.channels_last)
