"""feature_match against the formula, in float64, value by value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stillroom.stages.train.losses.feature_match import feature_match
from stillroom.stages.train.losses.table import TermConfig


def reference(student, teacher, mask, cosine, smooth_l1):
    found = []
    for b, y, x in zip(*np.nonzero(mask[:, 0]), strict=True):
        s, t = student[b, :, y, x], teacher[b, :, y, x]
        angle = 1 - s @ t / np.sqrt((s @ s) * (t @ t))
        steps = [d * d / 2 if d < 1 else d - 0.5 for d in abs(s - t)]
        found.append(cosine * angle + smooth_l1 * sum(steps) / len(steps))
    return np.mean(found)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("parts", [(0.9, 0.1), (1.0, 0.0), (0.0, 2.0)])
def test_it_is_the_formula(masked, parts):
    rng = np.random.default_rng(9)
    student, teacher = rng.normal(0, 1, (2, 5, 4, 7)), rng.normal(0.5, 1, (2, 5, 4, 7))
    mask = rng.random((2, 1, 4, 7)) < 0.6 if masked else np.ones((2, 1, 4, 7), dtype=bool)
    found = feature_match(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        mask=torch.from_numpy(mask) if masked else None,
        cosine=parts[0],
        smooth_l1=parts[1],
    )
    assert found.item() == pytest.approx(reference(student, teacher, mask, *parts), rel=1e-12)


def test_the_angle_does_not_depend_on_the_size_of_features():
    student, teacher = torch.randn(2, 2, 5, 4, 7, dtype=torch.float64)
    found = feature_match(7 * student, teacher, smooth_l1=0)
    assert found.item() == pytest.approx(feature_match(student, teacher, smooth_l1=0).item())


def test_a_term_that_compares_nothing_is_refused():
    section = {"name": "feature_match", "teacher": "dino", "cosine": 0, "smooth_l1": 0}
    with pytest.raises(ValidationError, match="both 0, and nothing is compared"):
        TypeAdapter(TermConfig).validate_python(section)
