from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file

from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.students.families import StudentConfig, build_student
from stillroom.stages.models.teachers.families import TeacherConfig
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.storage_specs.errors import ArtifactError, ConfigError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.stages.models.student import Student

PSPNET = {
    "kind": "smp",
    "architecture": "PSPNet",
    "encoder": "mobilenet_v2",
    "encoder_depth": 3,
    "options": {"psp_out_channels": 16, "psp_dropout": 0.0},
}
LITE0 = {**PSPNET, "encoder": "tu-tf_efficientnet_lite0"}
MODULE = """
import torch

class Tiny(torch.nn.Module):
    def __init__(self, num_classes, channels):
        super().__init__()
        self.body = torch.nn.Conv2d(3, channels, 8, stride=8)
        self.classifier = torch.nn.Conv2d(channels, num_classes, 1)

    def forward(self, images):
        penultimate = self.body(images)
        return {"logits": self.classifier(penultimate), "features": {"penultimate": penultimate}}

class Telling(Tiny):
    @property
    def classifier_weight(self):
        return self.classifier.weight[:, :, 0, 0]

def tiny(num_classes, channels=6):
    return Tiny(num_classes, channels)

def telling(num_classes):
    return Telling(num_classes, 6)

def function(num_classes):
    return lambda images: images
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "student_of_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "student_of_a_user", raising=False)
    return "student_of_a_user"


def build(section: dict[str, Any], num_classes: int = 5) -> Student:
    parsed: StudentConfig = TypeAdapter(StudentConfig).validate_python(section)
    torch.manual_seed(0)
    return build_student(parsed, num_classes)


def images(height: int = 60, width: int = 77, count: int = 2) -> torch.Tensor:
    return 255 * torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_grids_cover_any_image_and_no_padding() -> None:
    student = build(PSPNET).eval()
    output = student(images(60, 77))
    assert student.stride == 8
    assert output.logits.shape == (2, 5, 8, 10)
    assert output.features["penultimate"].shape == (2, 16, 8, 10)
    assert output.features["stage1"].shape[2:] == (30, 39)


def test_images_are_normalised_inside() -> None:
    student = build({**PSPNET, "mean": [10, 20, 30], "std": [2, 3, 4]}).eval()
    batch = images(64, 64)
    mean = torch.tensor([10.0, 20.0, 30.0]).view(1, 3, 1, 1)
    std = torch.tensor([2.0, 3.0, 4.0]).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = student.network((batch - mean) / std)
        upsampled = student.network.segmentation_head[1](student(batch).logits)
    torch.testing.assert_close(upsampled, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("encoder", ["mobilenet_v2", "tu-tf_efficientnet_lite0"])
def test_gradients_reach_every_parameter_but_those_counted_as_idle(encoder: str) -> None:
    student = build({**PSPNET, "encoder": encoder})
    student(images(64, 64)).logits.square().mean().backward()
    without = [value for value in student.parameters() if value.grad is None]
    assert sum(value.numel() for value in without) == student.idle_parameters > 2_000_000
    assert not any(value.requires_grad for value in without)
    assert student.network.training


def test_a_student_of_full_depth_has_no_idle_parameters() -> None:
    student = build({**PSPNET, "encoder_depth": 5, "options": {}, "architecture": "Linknet"})
    assert student.idle_parameters == 0
    assert all(value.requires_grad for value in student.parameters())


def test_building_leaves_no_trace_of_the_dry_run_in_the_batch_statistics() -> None:
    student = build(PSPNET)
    counters = [v for n, v in student.state_dict().items() if n.endswith("num_batches_tracked")]
    assert counters
    assert all(int(counter) == 0 for counter in counters)


def test_the_seed_decides_the_random_weights() -> None:
    first, second = build(PSPNET), build(PSPNET)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_a_deep_copy_runs_on_its_own_weights() -> None:
    student = build(PSPNET).eval()
    average = copy.deepcopy(student)
    with torch.no_grad():
        before = student(images()).logits.clone()
        for value in average.parameters():
            value.zero_()
        assert torch.equal(student(images()).logits, before)
        assert not average(images()).logits.any()
        assert not average.classifier_weight.any()


def test_classifier_weight_is_the_response_to_features_alike_around_a_pixel() -> None:
    student = build(PSPNET).eval()
    features = torch.rand(1, 16, 1, 1).expand(1, 16, 5, 5)
    with torch.no_grad():
        logits = student.network.segmentation_head[0](features)[0, :, 2, 2]
    bias = student.network.segmentation_head[0].bias
    assert student.classifier_weight.shape == (5, 16)
    torch.testing.assert_close(student.classifier_weight @ features[0, :, 2, 2] + bias, logits)


def test_what_a_student_exports_is_what_a_teacher_loads(tmp_path: Path) -> None:
    student = build(PSPNET).eval()
    save_file(student.network.state_dict(), tmp_path / "model.safetensors")
    section = {"kind": "smp", "architecture": "PSPNet", "encoder": "mobilenet_v2", "classes": 5,
               "options": {**PSPNET["options"], "encoder_depth": 3}, "device": "cpu",
               "weights": tmp_path / "model.safetensors"}  # fmt: skip
    parsed: TeacherConfig = TypeAdapter(TeacherConfig).validate_python({**section, "pad": 8})
    batch = images(60, 77).round()
    frames = batch.permute(0, 2, 3, 1).to(torch.uint8)
    with torch.no_grad():
        expected = student(batch).logits
    torch.testing.assert_close(build_teacher(parsed)(frames)["logits"], expected)
    again = build({**PSPNET, "weights": tmp_path / "model.safetensors"}).eval()
    assert torch.equal(again(batch).logits, expected)
    with pytest.raises(WeightsError, match="for 5 classes, but 6 are configured"):
        build({**PSPNET, "weights": tmp_path / "model.safetensors"}, num_classes=6)


def encoder_file(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A classifier's file with timm's own names, as pretrained weights are published."""
    import_torchvision()
    import timm

    torch.manual_seed(7)
    classifier = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = classifier.state_dict()
    save_file(state, tmp_path / "timm.safetensors")
    return tmp_path / "timm.safetensors", state


@pytest.mark.parametrize("depth", [3, 5])
def test_pretrained_encoder_is_loaded_by_name_and_the_rest_of_the_file_reported(
    tmp_path: Path, depth: int
) -> None:
    path, state = encoder_file(tmp_path)
    student = build({**LITE0, "encoder_depth": depth, "encoder_weights": path})
    inside = student.network.encoder.model.state_dict()
    for name, value in inside.items():
        assert torch.equal(value, state[name]), name
    fit = student.encoder_fit
    assert fit is not None
    assert fit.loaded == len(inside)
    assert set(fit.unused) == set(state) - set(inside)
    assert {"conv_head.weight", "classifier.bias"} <= set(fit.unused)


def test_encoder_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path, _ = encoder_file(tmp_path)
    with pytest.raises(WeightsError, match=r"0 of the encoder's \d+ tensors fit"):
        build({**PSPNET, "encoder_weights": path})


def test_an_encoder_file_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    path, state = encoder_file(tmp_path)
    del state["conv_stem.weight"]
    save_file(state, path)
    with pytest.raises(WeightsError, match=r"1 missing: model\.conv_stem\.weight"):
        build({**LITE0, "encoder_weights": path})


def test_users_own_student(user_module: str) -> None:
    section = {"kind": "python", "target": f"{user_module}:tiny", "options": {"channels": 7}}
    student = build({**section, "pad": 8})
    output = student(images(60, 77))
    assert output.logits.shape == (2, 5, 8, 10)
    assert output.features["penultimate"].shape == (2, 7, 8, 10)
    with pytest.raises(ConfigError, match="`classifier_weight` of shape"):
        _ = student.classifier_weight
    telling = build({"kind": "python", "target": f"{user_module}:telling"})
    assert telling.classifier_weight.shape == (5, 6)
    with pytest.raises(ConfigError, match="expected a torch module"):
        build({"kind": "python", "target": f"{user_module}:function"})


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 1, 64, 64), (2, 64, 64, 3)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArtifactError, match=r"expected \(B, 3, H, W\)"):
        build(PSPNET)(torch.zeros(shape))


@pytest.mark.parametrize(
    "change", [{"encoder_depth": 6}, {"kind": "onnx"}, {"encoder_weigths": "x"}, {"std": [0, 1, 1]}]
)
def test_faults_of_the_section_are_found_when_it_is_read(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build({**PSPNET, **change})


@pytest.mark.parametrize("part", ["encoder", "all"])
def test_frozen_normalisation_keeps_its_statistics_and_its_scale_still_learns(part: str) -> None:
    student = build(PSPNET)
    student.freeze_norm(part)
    for one in (student, copy.deepcopy(student)):  # a copy, as an average of the weights is
        one.train()
        before = copy.deepcopy(one.network.state_dict())
        one(images(64, 64)).logits.square().mean().backward()
        after = one.network.state_dict()
        moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
        statistics = {name for name in after if "running_" in name or "num_batches" in name}
        used = {name for name in statistics if not name.startswith("encoder.")}
        assert moved == (set() if part == "all" else used)
        norm = one.network.encoder.features[0][1]
        assert not norm.training
        assert norm.weight.grad.abs().sum() > 0
        assert one.network.encoder.features[0][0].training
    student.freeze_norm(None)
    assert student.train().network.encoder.features[0][1].training


def test_freezing_normalisation_that_is_not_there_is_refused(user_module: str) -> None:
    student = build({"kind": "python", "target": f"{user_module}:tiny", "pad": 8})
    for part in ("encoder", "all"):
        with pytest.raises(ConfigError, match=f"no batch normalisation in '{part}' of the .* Tiny"):
            student.freeze_norm(part)
