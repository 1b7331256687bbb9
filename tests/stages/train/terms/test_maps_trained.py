"""Every term between maps, read from a cache and trained: a run that was stopped repeats itself."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter

from stillroom.stages.train.job import TrainJob
from stillroom.stages.train.loop import train
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.objective import Objective
from stillroom.stages.train.open_dataset import is_labelled, open_dataset
from stillroom.stages.train.settings import TrainConfig
from stillroom.stages.train.terms.term import Sizes
from stillroom.storage_specs.store import Cache

DEEP = {"teacher": "fpn", "teacher_layer": "deep"}
TERMS = (
    {"name": "cross_entropy"},
    {"name": "channelwise_kl", "teacher": "fpn", "weight": 3},
    {"name": "channelwise_kl", "on": "features", **DEEP},
    {"name": "fitnet", **DEEP},
    {"name": "attention_transfer", **DEEP},
    {"name": "local_affinity", **DEEP},
    {"name": "pairwise_affinity", "patch": [1, 2], "reach": [2, 1], **DEEP},
    {"name": "pairwise_affinity", "teacher": "fpn", "on": "logits"},
    {"name": "ifvd", **DEEP},
)
STREAMS = {
    "camvid": {"batch": 4, "every": 2},
    "rest": {"source": "camvid", "batch": 2, "every": 2, "complement": True, "labelled": False},
}


@pytest.fixture
def make_run(tmp_path, make_cache, make_student):
    cache = make_cache(tmp_path / "cache", features=True)
    channels = cache.artifact_set("camvid", "fpn").arrays["features/deep"].shape[0]

    def make(name, student_seed, on_step=None):
        settings = TrainConfig.model_validate(
            {
                "path": tmp_path / name,
                "streams": STREAMS,
                "steps": 4,
                "log_every": 1,
                "view": {"crop": [16, 20], "flip": True},
                "optimiser": {"name": "adamw", "lr": 0.01},
            }
        )
        student = make_student(student_seed)
        objective = Objective(TypeAdapter(tuple[TermConfig, ...]).validate_python(TERMS))
        teachers = {"fpn/logits": 4, "fpn/features/deep": channels}
        objective.prepare(Sizes(4, student.channels, student.strides, teachers))
        opened = Cache.open(tmp_path / "cache")
        streams = {}
        for stream, section in settings.streams.items():
            needs = objective.needs(is_labelled(opened, stream, section), student.strides)
            streams[stream] = open_dataset(opened, stream, settings, needs, student.stride)
        config = {"train": settings.model_dump(mode="json"), "terms": list(TERMS)}
        return TrainJob(student, objective, streams, settings, config, on_step=on_step)

    return make


def stop(progress):
    if progress.step == 2:
        raise KeyboardInterrupt


def test_a_run_with_projectors_that_was_stopped_ends_as_one_that_was_not(make_run, tmp_path):
    torch.manual_seed(0)
    whole = make_run("whole", 0)
    projectors = [part.clone() for part in whole.objective.trained()]
    assert [part.dim() for part in projectors] == [4, 4, 1]  # of channelwise_kl, of fitnet
    train(whole)
    for before, after in zip(projectors, whole.objective.trained(), strict=True):
        assert not torch.equal(before, after)
    torch.manual_seed(0)
    parts = make_run("parts", 0, stop)
    with pytest.raises(KeyboardInterrupt):
        train(parts)
    resumed = make_run("parts", 1)  # begins with other weights, and another generator
    train(resumed)
    for one, other in (
        (whole.student.state_dict(), resumed.student.state_dict()),
        (whole.objective.states.state_dict(), resumed.objective.states.state_dict()),
    ):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
