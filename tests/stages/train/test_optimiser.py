from __future__ import annotations

import pytest
import torch

from stillroom.stages.train.optimiser import build_optimiser, learning_rate, set_learning_rate
from stillroom.stages.train.settings import OptimiserConfig
from stillroom.storage_specs.errors import ConfigError


def test_poly_falls_from_the_base_towards_zero():
    rates = [learning_rate(step, 10, base=0.1, power=0.9) for step in range(10)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[5] == pytest.approx(0.1 * 0.5**0.9)
    assert rates[9] == pytest.approx(0.1 * 0.1**0.9)
    assert learning_rate(7, 10, base=0.1, power=0) == pytest.approx(0.1)


def test_warm_up_is_linear_and_joins_the_schedule():
    warm = [learning_rate(s, 100, base=1.0, power=1.0, warmup_steps=4) for s in range(6)]
    plain = [learning_rate(s, 100, base=1.0, power=1.0) for s in range(6)]
    shares = [w / p for w, p in zip(warm, plain, strict=True)]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_the_encoder_learns_at_its_own_rate(make_student):
    student = make_student()
    optimiser = build_optimiser(student, OptimiserConfig(lr=0.2, encoder_lr_factor=0.1))
    set_learning_rate(optimiser, 0.1)
    rates = {
        id(parameter): group["lr"]
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    for name, parameter in student.named_parameters():
        expected = 0.01 if ".encoder." in name else 0.1
        assert rates[id(parameter)] == pytest.approx(expected), name
    assert len(rates) == len(list(student.parameters()))


def test_options_reach_the_optimiser(make_student):
    sgd = build_optimiser(make_student(), OptimiserConfig(momentum=0.8, weight_decay=0.01))
    assert isinstance(sgd, torch.optim.SGD)
    group = sgd.param_groups[0]
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.8, 0.01, False)
    adamw = build_optimiser(make_student(), OptimiserConfig(name="adamw", weight_decay=0.02))
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.param_groups[0]["weight_decay"] == 0.02


def test_frozen_parameters_are_left_out_and_a_student_of_nothing_else_is_refused(make_student):
    student = make_student()
    student.network.encoder.requires_grad_(False)
    (group,) = build_optimiser(student, OptimiserConfig()).param_groups
    assert len(group["params"]) == 2
    student.requires_grad_(False)
    with pytest.raises(ConfigError, match="no trainable"):
        build_optimiser(student, OptimiserConfig())


def test_a_factor_for_an_encoder_that_is_not_there_is_refused(make_student):
    student = make_student()
    student.network.encoder = None
    with pytest.raises(ConfigError, match="encoder_lr_factor"):
        build_optimiser(student, OptimiserConfig(encoder_lr_factor=0.1))
