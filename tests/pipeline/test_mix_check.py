"""A stream whose frames are mixed, from the run file to its losses, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import TypeAdapter

from stillroom.pipeline.build.run import build
from stillroom.pipeline.mix_check import mix_needs
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import prepare_job, train_run
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.objective import Objective
from stillroom.stages.train.settings import StreamConfig
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def objective(*terms: dict[str, object]) -> Objective:
    return Objective(TypeAdapter(tuple[TermConfig, ...]).validate_python(terms))


KL = {"name": "pixelwise_kl", "teacher": "second"}
LABELS = {"name": "cross_entropy"}
CRITIC = {"name": "holistic", "teacher": "fpn", "weight": 1e-3}
OWN_TEACHER = {"name": "cross_entropy", "teacher": "fpn"}


def needs(mix: str | None, *terms: dict[str, object], labelled: bool = False) -> frozenset[str]:
    stream = StreamConfig.model_validate({"batch": 2, "mix": mix})
    return mix_needs(objective(*terms), "coco", stream, labelled=labelled)


def test_classmix_reads_the_pseudo_label_of_the_first_teacher() -> None:
    assert needs("classmix", LABELS, KL, OWN_TEACHER) == {"second/pseudo_label"}
    assert needs("cutmix", LABELS, KL) == frozenset()
    assert needs(None, CRITIC, labelled=True) == frozenset()


def test_what_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"coco: mix = 'cutmix' is of unlabelled streams"):
        needs("cutmix", LABELS, labelled=True)
    with pytest.raises(ConfigError, match=r"'classmix': holistic/fpn judges frames as a whole"):
        needs("classmix", KL, CRITIC)


def test_a_student_learns_from_mixed_frames(run_file: Path) -> None:
    streams = 'train.streams={street={batch=2}, more={batch=2, mix="classmix"}}'
    build(load_run(run_file))
    job = prepare_job(load_run(run_file, [streams]))
    assert job.streams["more"].needs == {"tiny/logits", "tiny/pseudo_label"}
    assert job.streams["street"].needs == {"tiny/logits"}
    assert "more/probability_l2/tiny" in train_run(load_run(run_file, [streams])).losses
    with pytest.raises(ConfigError, match=r"another config\n  train.streams.more.mix"):
        train_run(load_run(run_file, ["train.streams={street={batch=2}, more={batch=2}}"]))
