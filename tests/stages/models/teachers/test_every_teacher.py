"""What holds for every family of teachers; a new one needs its sample in `SAMPLES`."""

from __future__ import annotations

import json
import shutil
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from tiny_segformer import tiny_segformer

from stillroom.stages.models.smp_network import SmpDesign, build_smp
from stillroom.stages.models.teacher import build_teacher
from stillroom.stages.models.teachers.families import TEACHERS, TeacherConfig
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.storage_specs.errors import ArtifactError, ConfigError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stillroom.stages.models.teacher_settings import TeacherSettings

CLASSES = 5
FRAMES = np.random.default_rng(0).integers(0, 256, (2, 70, 90, 3), dtype=np.uint8)
MODULE = """
from torch import nn

def network():
    return nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 1))
"""


def smp(folder: Path) -> dict[str, Any]:
    network = build_smp(SmpDesign("FPN", "mobilenet_v2", CLASSES))
    save_file(network.state_dict(), folder / "w.safetensors")
    return {"architecture": "FPN", "encoder": "mobilenet_v2", "weights": folder / "w.safetensors"}


def torchvision(folder: Path) -> dict[str, Any]:
    import_torchvision()
    from torchvision.models import segmentation

    name = "lraspp_mobilenet_v3_large"
    network = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=CLASSES)
    save_file(network.state_dict(), folder / "w.safetensors")
    return {"architecture": name, "weights": folder / "w.safetensors"}


def hf(folder: Path) -> dict[str, Any]:
    tiny_segformer(CLASSES).save_pretrained(folder)
    return {"path": str(folder)}


def python(folder: Path) -> dict[str, Any]:
    (folder / "every_teacher_of_a_user.py").write_text(MODULE)
    inner: dict[str, Any] = {}
    exec(MODULE, inner)
    save_file(inner["network"]().state_dict(), folder / "w.safetensors")
    return {"target": "every_teacher_of_a_user:network", "weights": folder / "w.safetensors"}


def program(spoil: bool = False) -> torch.nn.Module:
    inner: dict[str, Any] = {}
    exec(MODULE, inner)
    network: torch.nn.Module = inner["network"]().eval()
    if spoil:
        torch.nn.init.constant_(network[2].weight, torch.nan)
    return network


def export(folder: Path, spoil: bool = False) -> dict[str, Any]:
    sides = {
        0: torch.export.Dim("batch"),
        2: 4 * torch.export.Dim("h"),
        3: 4 * torch.export.Dim("w"),
    }
    exported = torch.export.export(
        program(spoil), (torch.rand(2, 3, 64, 96),), dynamic_shapes=(sides,)
    )
    torch.export.save(exported, folder / "w.pt2")
    return {"path": folder / "w.pt2"}


def onnx(folder: Path, spoil: bool = False) -> dict[str, Any]:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="the extra [onnx] is not installed")
    with warnings.catch_warnings():
        # the exporter without further packages
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.onnx.export(
            program(spoil),
            (torch.rand(1, 3, 64, 96),),
            folder / "w.onnx",
            input_names=["images"],
            dynamic_axes={"images": {0: "batch", 2: "height", 3: "width"}},
            dynamo=False,
        )
    return {"path": folder / "w.onnx"}


PROGRAMS: dict[str, Callable[..., dict[str, Any]]] = {"export": export, "onnx": onnx}
"""Kinds whose weights are part of a program, which has their shapes: a sample, whole or spoilt."""

SAMPLES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "smp": smp,
    "torchvision": torchvision,
    "hf": hf,
    "python": python,
    **PROGRAMS,
}
WEIGHTS = {".safetensors", ".pt2", ".onnx"}
every_kind = pytest.mark.parametrize("kind", TEACHERS)


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """The section of a small teacher of a kind, with its files, one of weights, in `tmp_path`."""

    def make(kind: str) -> dict[str, Any]:
        assert kind in SAMPLES, (
            f"no sample of the teacher kind {kind!r}: add to SAMPLES of {__file__} a function that "
            f"saves a small one of {CLASSES} classes (its weights as safetensors) and returns its "
            "section's keys"
        )
        torch.manual_seed(1)
        monkeypatch.syspath_prepend(tmp_path)
        return {"kind": kind, "classes": CLASSES, "device": "cpu", **SAMPLES[kind](tmp_path)}

    return make


def read(section: dict[str, Any]) -> TeacherSettings:
    config: TeacherSettings = TypeAdapter(TeacherConfig).validate_python(section)
    return config


def weights_in(folder: Path) -> Path:
    (file,) = (each for each in folder.iterdir() if each.suffix in WEIGHTS)
    return file


def moved(section: dict[str, Any], folder: Path, other: Path) -> dict[str, Any]:
    """The same teacher with copies of its files in another folder."""
    shutil.copytree(folder, other)
    return {
        key: str(value).replace(str(folder), str(other)) if str(folder) in str(value) else value
        for key, value in section.items()
    }


@every_kind
def test_grids_have_the_size_of_their_strides(kind: str, sample: Any) -> None:
    teacher = build_teacher(read(sample(kind)))
    grids = teacher(FRAMES)
    assert set(grids) == set(teacher.strides)
    assert grids["logits"].shape[1] == CLASSES
    for name, grid in grids.items():
        stride = teacher.strides[name]
        assert grid.shape[2:] == (-(-70 // stride), -(-90 // stride)), name
        assert grid.dtype == torch.float32
        assert torch.isfinite(grid).all()
        alone = teacher(FRAMES[1:])[name]
        torch.testing.assert_close(alone, grid[1:], rtol=1e-4, atol=1e-4)
    with pytest.raises(ArtifactError, match=r"expected uint8 \(B, H, W, 3\)"):
        teacher(FRAMES.astype(np.float32))


@every_kind
def test_the_identity_follows_the_bytes_of_the_files_and_not_their_place(
    kind: str, sample: Any, tmp_path: Path
) -> None:
    section = sample(kind)
    described = read(section).identity()
    assert build_teacher(read(section)).identity() == described
    assert json.loads(json.dumps(described)) == described
    assert str(tmp_path) not in json.dumps(described)
    other = tmp_path.with_name(tmp_path.name + "-moved")
    elsewhere = moved(section, tmp_path, other)
    assert read(elsewhere).identity() == described
    weights = weights_in(other)
    weights.write_bytes(weights.read_bytes()[:-4] + b"\1\2\3\4")
    assert read(elsewhere).identity() != described


@every_kind
def test_damaged_or_foreign_weights_are_refused(kind: str, sample: Any, tmp_path: Path) -> None:
    section = sample(kind)
    with pytest.raises((WeightsError, ConfigError), match=rf"{CLASSES + 1}"):
        build_teacher(read({**section, "classes": CLASSES + 1}))
    weights = weights_in(tmp_path)
    data = weights.read_bytes()
    if kind in PROGRAMS:
        PROGRAMS[kind](tmp_path, spoil=True)
    else:
        state = load_file(weights)
        name = max(state, key=lambda each: state[each].numel())
        spoilt = {**state, name: torch.full_like(state[name], torch.nan)}
        save_file(spoilt, weights, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="not finite"):
        build_teacher(read(section))
    if kind not in PROGRAMS:
        save_file({**state, name: state[name][:-1].clone()}, weights, metadata={"format": "pt"})
        with pytest.raises(WeightsError, match=rf"differently shaped|mismatched|{name}"):
            build_teacher(read(section))
    weights.write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match=r"truncated|cannot be loaded"):
        build_teacher(read(section))
    weights.unlink()
    with pytest.raises(WeightsError, match=r"no such file|cannot be read|expected a folder"):
        read(section).identity()
