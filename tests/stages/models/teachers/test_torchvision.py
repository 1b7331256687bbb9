from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.teachers.families import TeacherConfig
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.storage_specs.errors import WeightsError

if TYPE_CHECKING:
    from pathlib import Path

FRAMES = np.random.default_rng(0).integers(0, 256, (1, 96, 128, 3), dtype=np.uint8)


def config(architecture: str, **changes: Any) -> TeacherConfig:
    section = {"kind": "torchvision", "architecture": architecture, "classes": 5, "device": "cpu"}
    parsed: TeacherConfig = TypeAdapter(TeacherConfig).validate_python({**section, **changes})
    return parsed


def reference(architecture: str, classes: int = 5, **options: Any) -> torch.nn.Module:
    import_torchvision()
    from torchvision.models import segmentation

    torch.manual_seed(2)
    network: torch.nn.Module = getattr(segmentation, architecture)(
        weights=None, weights_backbone=None, num_classes=classes, **options
    )
    return network.eval()


@pytest.mark.parametrize(
    "architecture", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"]
)
def test_logits_are_the_classifiers_and_upsample_to_the_networks_own(
    architecture: str, tmp_path: Path
) -> None:
    network = reference(architecture)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    section = config(architecture, weights=tmp_path / "w.pth", mean=[0, 0, 0], std=[255, 255, 255])
    teacher = build_teacher(section)
    output = teacher(FRAMES)
    with torch.no_grad():
        whole = network(torch.from_numpy(FRAMES).permute(0, 3, 1, 2) / 255)["out"]
    upsampled = torch.nn.functional.interpolate(output["logits"], (96, 128), mode="bilinear")
    torch.testing.assert_close(upsampled, whole, rtol=1e-3, atol=1e-4)
    stride = teacher.strides["logits"]
    assert stride == teacher.strides["features/penultimate"]
    assert output["logits"].shape == (1, 5, 96 // stride, 128 // stride)


def test_penultimate_features_and_the_classifiers_make_the_logits() -> None:
    torch.manual_seed(0)
    teacher = build_teacher(config("lraspp_mobilenet_v3_large"))
    output = teacher(FRAMES)
    torch.manual_seed(0)  # the seed of teachers without weights
    head = reference_head()
    weight = torch.cat([head.low_classifier.weight, head.high_classifier.weight], dim=1)
    bias = head.low_classifier.bias + head.high_classifier.bias
    logits = torch.nn.functional.conv2d(output["features/penultimate"], weight, bias)
    torch.testing.assert_close(logits, output["logits"], rtol=1e-4, atol=1e-4)


def reference_head() -> Any:
    import_torchvision()
    from torchvision.models import segmentation

    torch.manual_seed(0)
    return segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5
    ).classifier


def test_an_auxiliary_head_in_the_file_is_passed_over(tmp_path: Path) -> None:
    network = reference("deeplabv3_mobilenet_v3_large", aux_loss=True)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    teacher = build_teacher(config("deeplabv3_mobilenet_v3_large", weights=tmp_path / "w.pth"))
    assert teacher.module is not None
    loaded = teacher.module.state_dict()
    assert loaded
    assert not any(name.startswith("aux_classifier") for name in loaded)
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in loaded.items())


def test_weights_for_another_number_of_classes_are_refused(tmp_path: Path) -> None:
    network = reference("lraspp_mobilenet_v3_large", classes=21)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="for 21 classes, but 5 are configured"):
        build_teacher(config("lraspp_mobilenet_v3_large", weights=tmp_path / "w.pth"))
