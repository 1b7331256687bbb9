"""Weights of tasks that are learned: their formula, what trains them, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import TypeAdapter

from stillroom.stages.models.student import StudentOutput
from stillroom.stages.train.batch import Batch
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.objective import Objective
from stillroom.stages.train.terms.term import Sizes
from stillroom.storage_specs.errors import ConfigError

TERMS = TypeAdapter(tuple[TermConfig, ...])
STRIDES = {"logits": 1, "depth": 1, "features/penultimate": 1}
SECTIONS = (
    {"name": "cross_entropy", "weight": 2.0},
    {"name": "depth_regression", "kind": "l1"},
    {"name": "fitnet", "teacher": "fpn", "weight": 3.0},
)


class Student:
    strides = STRIDES


def objective(*sections):
    made = Objective(TERMS.validate_python(sections), 0.5, uncertainty=True)
    channels = {"logits": 3, "depth": 1, "features/penultimate": 2}
    made.prepare(Sizes(3, channels, STRIDES, {"fpn/features/penultimate": 2}))
    return made


@pytest.fixture
def given():
    torch.manual_seed(0)
    output = StudentOutput(
        {
            "logits": torch.randn(2, 3, 4, 5, requires_grad=True),
            "depth": (1 + torch.rand(2, 1, 4, 5)).requires_grad_(),
            "features/penultimate": torch.randn(2, 2, 4, 5, requires_grad=True),
        }
    )
    batch = Batch(
        stream="rooms",
        labelled=True,
        images=torch.zeros(2, 3, 4, 5),
        labels=torch.randint(0, 3, (2, 4, 5)),
        mask=torch.ones(2, 1, 4, 5, dtype=torch.bool),
        artifacts={"fpn/features/penultimate": torch.randn(2, 2, 4, 5)},
        targets={"depth": 1 + torch.rand(2, 1, 4, 5)},
    )
    return output, batch


def test_the_loss_is_its_formula_and_features_belong_to_no_task(given):
    made, (output, batch) = objective(*SECTIONS), given
    with torch.no_grad():
        made.states["uncertainty"].log_variances["segmentation"].fill_(0.7)
        made.states["uncertainty"].log_variances["depth"].fill_(-0.4)
    loss, values = made(output, batch, Student())
    values = {label: value.item() for label, value in values.items()}
    weighted = (
        math.exp(-0.7) * 2 * values["cross_entropy"]
        + math.exp(0.4) * values["depth_regression"]
        + 3 * values["fitnet/fpn"]
    )
    assert loss.item() == pytest.approx(weighted, rel=1e-6)
    assert made.beside()["uncertainty"].item() == pytest.approx((0.7 - 0.4) / 2)
    shown = {name: value.item() for name, value in made.watched().items()}
    assert shown == pytest.approx({"uncertainty/depth": -0.4, "uncertainty/segmentation": 0.7})


def test_it_trains_to_the_logarithm_of_each_tasks_loss(given):
    """Where exp(-s) L + s / 2 is least: s = log 2 L."""
    made, (output, batch) = objective(*SECTIONS), given
    optimiser = torch.optim.SGD(made.trained(), 0.3)
    output = output.mapped(torch.Tensor.detach)
    for _ in range(200):
        optimiser.zero_grad()
        loss, values = made(output, batch, Student())
        (loss + made.beside()["uncertainty"]).backward()
        optimiser.step()
    for task, label, weight in (
        ("segmentation", "cross_entropy", 2),
        ("depth", "depth_regression", 1),
    ):
        learned = made.states["uncertainty"].log_variances[task].item()
        assert learned == pytest.approx(math.log(2 * weight * values[label].item()), abs=1e-3)


def test_without_it_nothing_is_beside_the_terms(given):
    plain, (output, batch) = Objective(TERMS.validate_python(SECTIONS[:2])), given
    plain.prepare(Sizes(3, {"logits": 3, "depth": 1}, STRIDES, {}))
    loss, values = plain(output, batch, Student())
    assert plain.beside() == {}
    assert "uncertainty" not in plain.states
    expected = 2 * values["cross_entropy"] + values["depth_regression"]
    assert loss.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("sections", [SECTIONS[:1], SECTIONS[2:]])
def test_one_task_is_refused(sections):
    with pytest.raises(ConfigError, match="weighs tasks against each other"):
        objective(*sections)
