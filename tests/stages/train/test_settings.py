from __future__ import annotations

import pytest
from pydantic import ValidationError

from stillroom.stages.train.settings import TrainConfig

MINIMAL = {"path": "runs/a", "streams": {"camvid": {"batch": 2}}, "steps": 3}


def test_a_minimal_section_is_enough_and_survives_json():
    config = TrainConfig.model_validate({**MINIMAL, "validation": {"source": "camvid", "every": 5}})
    assert config.validation is not None
    assert config.validation.every == 5
    assert TrainConfig.model_validate(config.model_dump(mode="json")) == config
    assert TrainConfig.model_validate(config.model_dump(mode="json", by_alias=True)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 2}, "either steps or epochs"),
        ({"steps": None}, "either steps or epochs"),
        ({"steps": 0}, "greater than 0"),
        ({"streams": {}}, "at least 1"),
        ({"streams": {"camvid": {"batch": 0}}}, "greater than 0"),
        ({"streams": {"camvid": {"batch": 2, "complement": True}}}, "leaves none"),
        ({"streams": {"a": {"batch": 3, "mix": "cutmix"}}}, "batch must be even, got 3"),
        ({"streams": {"a": {"batch": 2, "mix": "mixup"}}}, "'cutmix' or 'classmix'"),
        ({"streams": {"a": {"batch": 2, "mix": "cutmix", "triplets": "dis"}}}, "single frames"),
        ({"stepps": 3}, "Extra inputs"),
        ({"jitter": {"brightness": 1.0}}, "less than 1"),
        ({"ema": 1.0}, "less than 1"),
        ({"optimiser": {"name": "adam"}}, "'sgd' or 'adamw'"),
        ({"optimiser": {"lr": float("nan")}}, "greater than 0|finite"),
        ({"unlabelled_weight": 0}, "greater than 0"),
        ({"amp": "on"}, "'auto', 'bfloat16' or 'off'"),
        ({"schedule": "step"}, "'poly', 'cosine', 'milestones' or 'constant'"),
        ({"schedule": "milestones"}, r"milestones, such as \[6000, 8000\], come together"),
        ({"milestones": [2]}, "come together"),
        ({"schedule": "cosine", "milestone_factor": 0.5}, "come together"),
        ({"schedule": "milestones", "milestones": [2, 1]}, r"rising steps, got \[2, 1\]"),
        ({"schedule": "milestones", "milestones": [0]}, "greater than 0"),
        ({"schedule": "cosine", "poly_power": 2.0}, 'poly_power is of schedule = "poly"'),
        ({"freeze_norm": "decoder"}, "'encoder' or 'all'"),
        ({"optimiser": {"lr_factors": {"encoder": 0}}}, "greater than 0"),
        ({"optimiser": {"decay": "biases"}}, "'kernels'"),
    ],
)
def test_nonsense_is_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate({**MINIMAL, **change})
