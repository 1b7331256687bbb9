"""The real CamVid teacher and the real pretrained encoder; skipped where they are not at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter

from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.students.families import StudentConfig, build_student
from stillroom.stages.models.teachers.families import TeacherConfig
from stillroom.storage_specs.errors import WeightsError

if TYPE_CHECKING:
    from pathlib import Path

FRAMES = 4
ENCODER = "tu-tf_efficientnet_lite0"


def section(shared_data: Path, classes: int = 11) -> TeacherConfig:
    parsed: TeacherConfig = TypeAdapter(TeacherConfig).validate_python(
        {
            "kind": "smp",
            "architecture": "FPN",
            "encoder": ENCODER,
            "classes": classes,
            "weights": shared_data / "weights" / "camvid_fpn_lite0.safetensors",
            "mean": [127, 127, 127],
            "std": [128, 128, 128],
        }
    )
    return parsed


def test_the_camvid_teacher_sees_what_is_in_test_frames(shared_data: Path) -> None:
    teacher = build_teacher(section(shared_data))
    paths = sorted((shared_data / "camvid" / "test").iterdir())[:: 233 // FRAMES][:FRAMES]
    frames = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    labels = np.stack(
        [
            np.asarray(Image.open(shared_data / "camvid" / "testannot" / f"{path.stem}.png"))
            for path in paths
        ]
    )
    logits = teacher(frames)["logits"]
    assert logits.shape == (FRAMES, 11, 90, 120)
    full = torch.nn.functional.interpolate(
        logits, scale_factor=4, mode="bilinear", align_corners=False
    )
    predicted, known = full.argmax(1).cpu().numpy(), labels < 11
    assert (predicted == labels)[known].mean() > 0.85


def test_the_camvid_teacher_is_not_for_twelve_classes(shared_data: Path) -> None:
    with pytest.raises(WeightsError, match="for 11 classes, but 12 are configured"):
        build_teacher(section(shared_data, classes=12))


def test_the_imagenet_encoder_fills_a_student(shared_data: Path) -> None:
    parsed: StudentConfig = TypeAdapter(StudentConfig).validate_python(
        {
            "kind": "smp",
            "architecture": "FPN",
            "encoder": ENCODER,
            "encoder_weights": shared_data
            / "weights"
            / "tf_efficientnet_lite0_imagenet.safetensors",
        }
    )
    fit = build_student(parsed, 11).encoder_fit
    assert fit is not None
    assert {name.split(".")[0] for name in fit.unused} == {"conv_head", "bn2", "classifier"}
    assert len(fit.unused) + fit.loaded == 296
