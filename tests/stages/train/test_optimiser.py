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


@pytest.mark.parametrize(
    ("schedule", "options", "make"),
    [
        ("poly", {"power": 0.7}, lambda o: torch.optim.lr_scheduler.PolynomialLR(o, 20, 0.7)),
        ("cosine", {}, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20)),
        (
            "milestones",
            {"milestones": (5, 12), "drop": 0.3},
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [5, 12], 0.3),
        ),
        ("constant", {}, lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda _: 1.0)),
    ],
)
def test_schedules_are_those_of_torch(schedule, options, make):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    scheduler = make(optimiser)
    for step in range(20):
        found = learning_rate(step, 20, base=0.2, schedule=schedule, **options)
        assert found == pytest.approx(scheduler.get_last_lr()[0], rel=1e-6), step
        optimiser.step()
        scheduler.step()


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


def test_parts_learn_at_their_own_rates_and_the_inner_part_counts(make_student):
    student = make_student()
    factors = {"encoder.3": 0.01, "classifier": 2.0}
    config = OptimiserConfig(lr=0.2, encoder_lr_factor=0.1, lr_factors=factors)
    groups = build_optimiser(student, config).param_groups
    rates = {id(each): group["lr_factor"] for group in groups for each in group["params"]}
    for name, parameter in student.network.named_parameters():
        expected = 2.0 if name.startswith("classifier.") else 0.1
        expected = 0.01 if name.startswith("encoder.3.") else expected
        assert rates[id(parameter)] == expected, name


def test_weight_decay_of_kernels_alone_spares_biases_and_normalisation(make_student):
    student, beside = make_student(), torch.nn.Conv2d(2, 3, 1)
    config = OptimiserConfig(name="adamw", weight_decay=0.3, decay="kernels", encoder_lr_factor=0.5)
    groups = build_optimiser(student, config, list(beside.parameters())).param_groups
    decays = {id(each): group["weight_decay"] for group in groups for each in group["params"]}
    modules = [*student.network.modules(), beside]
    kernels = [m.weight for m in modules if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert {decays[id(kernel)] for kernel in kernels} == {0.3}
    others = set(decays) - {id(kernel) for kernel in kernels}
    assert {decays[other] for other in others} == {0.0}
    assert len(decays) == len(list(student.parameters())) + 2


def test_a_rate_for_a_part_that_is_not_there_is_refused(make_student):
    with pytest.raises(ConfigError, match=r"lies in 'encoder.layer9'; its parts are .*encoder"):
        build_optimiser(make_student(), OptimiserConfig(lr_factors={"encoder.layer9": 0.1}))


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
