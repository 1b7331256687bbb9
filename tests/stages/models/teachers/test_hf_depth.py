"""Teachers of depth from transformers: very small ones with random weights, saved and loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from stillroom.stages.models.teachers.families import TEACHERS, TeacherConfig
from stillroom.stages.models.teachers.hf_depth import of_inverse
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.storage_specs.errors import WeightsError

if TYPE_CHECKING:
    from pathlib import Path

NECK = {"neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8}


@pytest.fixture(scope="module")
def transformers() -> Any:
    import_torchvision()
    return pytest.importorskip("transformers", reason="the extra [hf] is not installed")


def depth_anything(transformers: Any, folder: Path, kind: str) -> Any:
    torch.manual_seed(0)
    body = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False,
    )  # fmt: skip
    settings = transformers.DepthAnythingConfig(
        backbone_config=body, reassemble_hidden_size=16, head_hidden_size=8,
        depth_estimation_type=kind, max_depth=20, **NECK,
    )  # fmt: skip
    model = transformers.DepthAnythingForDepthEstimation(settings).eval()
    model.save_pretrained(folder)
    return model


def teacher(folder: Path, **keys: Any) -> Any:
    from stillroom.stages.models.build_teacher import build_teacher

    section = {"kind": "hf", "path": str(folder), "task": "depth", "device": "cpu", **keys}
    return build_teacher(TypeAdapter(TeacherConfig).validate_python(section))


def test_metres_are_the_models_own(transformers: Any, tmp_path: Path) -> None:
    model = depth_anything(transformers, tmp_path, "metric")
    made = teacher(tmp_path, pad=14)
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3)).astype(np.uint8)
    found = made(frames)
    assert set(found) == {"depth"}
    assert made.strides == {"depth": 1}
    assert made.classes is None
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in made._config.colours())
    padded = torch.nn.functional.pad((images - mean) / std, (0, 0, 0, 2))  # to 42 rows
    with torch.no_grad():
        expected = model(pixel_values=padded).predicted_depth[:, :40]
    torch.testing.assert_close(found["depth"], expected, rtol=1e-4, atol=1e-5)
    assert found["depth"].min() > 0


def test_relative_depth_is_told_in_medians_with_a_warning(
    transformers: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    settings = transformers.DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=16, backbone_out_indices=[0, 1, 2, 3], **NECK,
    )  # fmt: skip
    transformers.DPTForDepthEstimation(settings).save_pretrained(tmp_path)
    made = teacher(tmp_path, size=[32, 32])
    assert any("no metres" in one.getMessage() for one in caplog.records)
    depth = made(np.full((1, 48, 64, 3), 99, np.uint8))["depth"]
    assert depth.shape == (1, 48, 64)
    assert depth.isfinite().all()


def test_inverse_depth_becomes_depth_of_a_median_of_1() -> None:
    inverse = torch.tensor([[[4.0, 2.0, 1.0, 0.0, 400.0]], [[-1.0, -2.0, -3.0, -4.0, 1.0]]])
    found = of_inverse(inverse)
    assert found[0, 0].tolist() == pytest.approx([0.5, 1.0, 2.0, 1000.0, 0.1])
    assert found[1].eq(0).all()


def test_the_task_is_in_the_identity_of_models_of_depth_alone(tmp_path: Path) -> None:
    settings, _ = TEACHERS["hf"]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    plain = {"kind": "hf", "path": str(tmp_path), "classes": 3}
    assert "task" not in settings.model_validate(plain).identity()
    assert settings.model_validate({**plain, "task": "depth"}).identity()["task"] == "depth"


def test_a_model_of_classes_is_refused(tmp_path: Path) -> None:
    from tiny_segformer import tiny_segformer

    tiny_segformer(3).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="cannot be loaded"):
        teacher(tmp_path)
