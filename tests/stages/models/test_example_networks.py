"""The networks of examples/networks: the papers' sizes, as students and teachers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.students.families import StudentConfig, build_student
from stillroom.stages.models.teachers.families import TeacherConfig

if TYPE_CHECKING:
    from stillroom.stages.models.student import Student

FOLDER = Path(__file__).parents[3] / "examples/networks"
HALF = {"encoder": "resnet18", "channels": 128, "widths": [32, 64, 128, 256]}


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


def build(target: str, num_classes: int, **options: Any) -> Student:
    section = {"kind": "python", "target": target, "options": options, "pad": 16}
    parsed: StudentConfig = TypeAdapter(StudentConfig).validate_python(section)
    torch.manual_seed(0)
    return build_student(parsed, num_classes)


def parameters(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "millions"),
    [({}, 65.71), ({"encoder": "resnet18", "channels": 256}, 15.25), (HALF, 3.83)],
)
def test_pspnets_have_the_size_of_the_thesis(options: dict[str, Any], millions: float) -> None:
    """Table 3.8 prints 70.43, 15.24 and 3.835 M; of the first its auxiliary head is a part."""
    student = build("pspnet:pspnet", 19, **options)
    assert round(parameters(student) / 1e6, 2) == millions
    assert student.stride == student.strides["features/stage5"] == 8
    assert student.strides["features/stage3"] == 8
    if not options:
        auxiliary = 9 * 1024 * 512 + 512 + 2 * 512 + 512 * 19 + 19  # 3x3 with bias, norm, 1x1
        assert (parameters(student) + auxiliary) // 10_000 == 7043


@pytest.mark.parametrize(
    ("options", "stride", "millions"),
    [
        ({}, 16, 2.11),
        ({"output_stride": 8}, 8, 2.11),
        ({"width": 1.3}, 16, 3.38),
        ({"encoder": "mobilenetv2_140"}, 16, 3.88),
    ],
)
def test_bare_mobilenets_have_the_size_of_the_paper(
    options: dict[str, Any], stride: int, millions: float
) -> None:
    """Table 1 of He et al. prints 2.11 M at strides of 16 and 8, table 2 3.38 and 3.88 M."""
    student = build("mobilenet_v2:mobilenet_v2", 21, **options)
    assert round(parameters(student) / 1e6, 2) == millions
    assert student.stride == stride


@pytest.mark.parametrize(("width", "millions"), [(None, 4.2), (0.75, 2.6), (0.5, 1.3)])
def test_mobilenets_of_deeplab_v2_have_the_size_of_their_paper(
    width: float | None, millions: float
) -> None:
    """Tables 6 and 7 of Howard et al. count a classifier of 1000 classes as well."""
    student = build("deeplab_v2:deeplab_v2", 21, encoder="mobilenetv1_100", width=width)
    encoder, features = student.network.encoder, student.channels["features/penultimate"]
    assert round((parameters(encoder) + 1001 * features) / 1e6, 1) == millions
    assert parameters(student) - parameters(encoder) == 4 * 21 * (9 * features + 1)
    assert student.stride == student.strides["features/stage3"] == 8


@pytest.mark.parametrize(
    ("target", "options", "count", "strides"),
    [
        ("espnet:espnet", {}, 363_462, (1, 8)),  # 0.3635 M in table 3.8 of the thesis
        ("espnet:espnet", {"decoder": False}, 349_193, (8, 8)),  # 0.3492 M there
        ("enet:enet", {}, 365_503, (1, 2)),  # 0.37 M in its paper
    ],
)
def test_networks_without_an_encoder_of_a_library_have_the_size_of_their_papers(
    target: str, options: dict[str, Any], count: int, strides: tuple[int, int]
) -> None:
    student = build(target, 19, **options)
    assert parameters(student) == count
    assert (student.stride, student.strides["features/penultimate"]) == strides
    images = 255 * torch.rand(2, 3, 52, 68)
    output = student(images)
    assert output.logits.shape[-2:] == tuple(-(-side // strides[0]) for side in (52, 68))
    (output.logits.square().mean() + sum(f.mean() for f in output.features.values())).backward()
    assert all(each.grad is not None for each in student.parameters())


def test_each_output_of_espnets_pyramid_sees_as_far_as_its_dilations() -> None:
    """The sum of branch k and those before it: 2^(k-1) positions to either side."""
    from espnet import Pyramid

    torch.manual_seed(0)
    pyramid = Pyramid(10, 10)
    pyramid.after = nn.Identity()
    features = torch.randn(1, 10, 41, 41, requires_grad=True)
    joined = pyramid(features) - features
    for place in range(5):
        (slope,) = torch.autograd.grad(joined[0, 2 * place, 20, 20], features, retain_graph=True)
        seen = slope.abs().sum((0, 1)).nonzero() - 20
        assert int(seen.abs().max()) == 2**place


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("pspnet:pspnet", HALF),
        ("mobilenet_v2:mobilenet_v2", {}),
        ("deeplab_v2:deeplab_v2", {"width": 0.5}),
    ],
)
def test_they_train_teach_and_take_encoder_weights(
    tmp_path: Path, target: str, options: dict[str, Any]
) -> None:
    student = build(target, 5, **options)
    images = 255 * torch.rand(2, 3, 64, 80)
    output = student(images)
    (output.logits.square().mean() + sum(f.mean() for f in output.features.values())).backward()
    assert all(each.grad is not None for each in student.parameters())
    if target != "deeplab_v2:deeplab_v2":  # it has four classifiers
        assert student.classifier_weight.shape == (5, output.features["penultimate"].shape[1])
    file = tmp_path / "encoder.pth"
    torch.save(student.network.encoder.state_dict(), file)
    other = build(target, 3, **options, encoder_weights=str(file))
    for name, value in student.network.encoder.state_dict().items():
        assert torch.equal(value, other.network.encoder.state_dict()[name]), name
    section = {
        "kind": "python", "target": target, "classes": 5, "pad": 16,
        "options": {**options, "num_classes": 5},
    }  # fmt: skip
    teacher = build_teacher(TypeAdapter(TeacherConfig).validate_python(section))
    assert teacher.strides == student.strides
