"""Students of torchvision: their grids, their classifier, the weights that they take and give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file

from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.students.families import StudentConfig, build_student
from stillroom.stages.models.teachers.families import TeacherConfig
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.stages.train.optimiser import build_optimiser
from stillroom.stages.train.settings import OptimiserConfig
from stillroom.storage_specs.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.stages.models.student import Student

SMALL = ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"]


def build(architecture: str, **section: Any) -> Student:
    whole = {"kind": "torchvision", "architecture": architecture, **section}
    parsed: StudentConfig = TypeAdapter(StudentConfig).validate_python(whole)
    torch.manual_seed(0)
    return build_student(parsed, 5)


def images(height: int = 72, width: int = 100) -> torch.Tensor:
    return 255 * torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("architecture", "stride"),
    [("lraspp_mobilenet_v3_large", 8), ("deeplabv3_mobilenet_v3_large", 16),
     pytest.param("fcn_resnet50", 8, marks=pytest.mark.slow)],
)  # fmt: skip
def test_logits_are_the_networks_own_before_it_upsamples_them(
    architecture: str, stride: int
) -> None:
    student = build(architecture).eval()
    with torch.no_grad():
        output = student(images(64, 96))
        whole = student.network(student.normalise(images(64, 96)))["out"]
    assert student.stride == stride
    assert output.logits.shape == (2, 5, 64 // stride, 96 // stride)
    upsampled = torch.nn.functional.interpolate(output.logits, (64, 96), mode="bilinear")
    torch.testing.assert_close(upsampled, whole, rtol=1e-3, atol=1e-4)
    features = output.features["penultimate"]
    weighted = torch.einsum("ca,bahw->bchw", student.classifier_weight, features)
    bias = (output.logits - weighted).mean((0, 2, 3), keepdim=True)  # one number a class
    torch.testing.assert_close(weighted + bias, output.logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("architecture", SMALL)
def test_every_parameter_trains_at_the_rate_of_its_part(architecture: str) -> None:
    student = build(architecture)
    student(images()).logits.square().mean().backward()
    assert all(each.grad is not None for each in student.parameters())
    student.freeze_norm("encoder")
    student.train()
    norms = [m for m in student.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    inside = {id(m) for m in student.network.backbone.modules()}
    assert {norm.training for norm in norms if id(norm) in inside} == {False}
    assert {norm.training for norm in norms if id(norm) not in inside} == {True}
    groups = build_optimiser(student, OptimiserConfig(encoder_lr_factor=0.1)).param_groups
    slow = {id(each) for each in groups[1]["params"]}
    assert groups[1]["lr_factor"] == 0.1
    assert slow == {id(each) for each in student.network.backbone.parameters()}


def test_a_trained_student_is_a_teacher_and_the_start_of_another(tmp_path: Path) -> None:
    student = build(SMALL[0]).eval()
    file = tmp_path / "model.safetensors"
    save_file(student.network.state_dict(), file)
    teacher = build_teacher(
        TypeAdapter(TeacherConfig).validate_python({
            "kind": "torchvision", "architecture": SMALL[0], "weights": file, "classes": 5,
            "pad": 16, "device": "cpu",
        })
    )  # fmt: skip
    frames = images(64, 96).round().to(torch.uint8)
    with torch.no_grad():
        mine = student(frames.float()).logits
    theirs = teacher(frames.permute(0, 2, 3, 1).contiguous())["logits"]
    torch.testing.assert_close(theirs, mine, rtol=1e-3, atol=1e-4)
    again = build(SMALL[0], weights=file).eval()
    with torch.no_grad():
        assert torch.equal(again(frames.float()).logits, mine)
    whole = {"kind": "torchvision", "architecture": SMALL[0], "weights": file}
    parsed: StudentConfig = TypeAdapter(StudentConfig).validate_python(whole)
    with pytest.raises(WeightsError, match="are for 5 classes, but 7"):
        build_student(parsed, 7)


def test_the_backbone_takes_the_file_of_a_classifier(tmp_path: Path) -> None:
    import_torchvision()
    from torchvision.models import mobilenet_v3_large

    file = tmp_path / "mobilenet.pth"
    torch.manual_seed(9)
    classifier = mobilenet_v3_large(weights=None)
    torch.save(classifier.state_dict(), file)
    student = build(SMALL[0], encoder_weights=file)
    assert student.encoder_fit is not None
    assert student.encoder_fit.loaded == len(student.network.backbone.state_dict())
    first = classifier.state_dict()["features.0.0.weight"]
    assert torch.equal(student.network.backbone.state_dict()["0.0.weight"], first)


def test_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="networks of torchvision have none, got aux_loss"):
        build(SMALL[0], options={"aux_loss": True})
