"""What holds for every family of teachers; a new one needs its sample in `SAMPLES`."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from tiny_segformer import tiny_segformer

from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.smp_network import SmpDesign, build_smp
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

def network(classes):
    layers = nn.Conv2d(3, 6, 4, stride=4), nn.BatchNorm2d(6), nn.Conv2d(6, classes, 1)
    return nn.Sequential(*layers)
"""


def smp(folder: Path, classes: int) -> dict[str, Any]:
    network = build_smp(SmpDesign("FPN", "mobilenet_v2", classes))
    save_file(network.state_dict(), folder / "w.safetensors")
    return {"architecture": "FPN", "encoder": "mobilenet_v2", "weights": folder / "w.safetensors"}


def torchvision(folder: Path, classes: int) -> dict[str, Any]:
    import_torchvision()
    from torchvision.models import segmentation

    name = "lraspp_mobilenet_v3_large"
    network = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=classes)
    save_file(network.state_dict(), folder / "w.safetensors")
    return {"architecture": name, "weights": folder / "w.safetensors"}


def hf(folder: Path, classes: int) -> dict[str, Any]:
    tiny_segformer(classes).save_pretrained(folder)
    return {"path": str(folder)}


def network(classes: int) -> torch.nn.Module:
    inner: dict[str, Any] = {}
    exec(MODULE, inner)
    made: torch.nn.Module = inner["network"](classes)
    return made


def python(folder: Path, classes: int) -> dict[str, Any]:
    (folder / "every_teacher_of_a_user.py").write_text(MODULE)
    save_file(network(classes).state_dict(), folder / "w.safetensors")
    target = {"target": "every_teacher_of_a_user:network", "options": {"classes": classes}}
    return {**target, "weights": folder / "w.safetensors"}


def program(classes: int, spoil: bool) -> torch.nn.Module:
    module = network(classes).eval()
    if spoil:
        torch.nn.init.constant_(module.get_parameter("2.weight"), torch.nan)
    return module


def export(folder: Path, classes: int, spoil: bool = False) -> dict[str, Any]:
    sides = {
        0: torch.export.Dim("batch"),
        2: 4 * torch.export.Dim("h"),
        3: 4 * torch.export.Dim("w"),
    }
    exported = torch.export.export(
        program(classes, spoil), (torch.rand(2, 3, 64, 96),), dynamic_shapes=(sides,)
    )
    torch.export.save(exported, folder / "w.pt2")
    return {"path": folder / "w.pt2"}


def onnx(folder: Path, classes: int, spoil: bool = False) -> dict[str, Any]:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="the extra [onnx] is not installed")
    with warnings.catch_warnings():
        # the exporter without further packages
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.onnx.export(
            program(classes, spoil),
            (torch.rand(1, 3, 64, 96),),
            folder / "w.onnx",
            input_names=["images"],
            dynamic_axes={"images": {0: "batch", 2: "height", 3: "width"}},
            dynamo=False,
        )
    return {"path": folder / "w.onnx"}


PROGRAMS: dict[str, Callable[..., dict[str, Any]]] = {"export": export, "onnx": onnx}
"""Kinds whose weights are part of a program, which has their shapes: a sample, whole or spoilt."""

SAMPLES: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "smp": smp,
    "torchvision": torchvision,
    "hf": hf,
    "python": python,
    **PROGRAMS,
}
WEIGHTS = {".safetensors", ".pt2", ".onnx"}
FEATURES_ALONE = {"timm"}  # these have no classes: test_features.py
every_kind = pytest.mark.parametrize("kind", [k for k in TEACHERS if k not in FEATURES_ALONE])


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """The section of a small teacher of a kind, with its files, one of weights, in `tmp_path`."""

    def make(kind: str, classes: int = CLASSES) -> dict[str, Any]:
        assert kind in SAMPLES, (
            f"no sample of the teacher kind {kind!r}: add to SAMPLES of {__file__} a function that "
            "saves a small one of some classes (its weights as safetensors) and returns its "
            "section's keys"
        )
        torch.manual_seed(1)
        monkeypatch.syspath_prepend(tmp_path)
        keys = SAMPLES[kind](tmp_path, classes)
        return {"kind": kind, "classes": classes, "device": "cpu", **keys}

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
        PROGRAMS[kind](tmp_path, CLASSES, spoil=True)
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


@every_kind
def test_one_channel_is_two_classes_on_request(kind: str, sample: Any) -> None:
    section = sample(kind, classes=1)
    two = {**section, "classes": ["nothing", "thing"], "binary": True}
    teacher = build_teacher(read(two))
    assert (teacher.classes, teacher.num_classes) == (("nothing", "thing"), 2)
    own, grids = teacher.run(FRAMES)
    height, width = grids["logits"].shape[2:]
    z = own["logits"][:, 0, :height, :width].double().numpy()
    assert np.ptp(z) > 0
    found = grids["logits"].double().softmax(1).numpy()
    np.testing.assert_allclose(found[:, 1], 1 / (1 + np.exp(-z)), rtol=1e-5)
    np.testing.assert_allclose(found[:, 0], 1 / (1 + np.exp(z)), rtol=1e-5)
    mapped = {**two, "mapping": {"thing": "thing", "road": [], "rest": "nothing"}}
    other = build_teacher(read(mapped))(FRAMES)["logits"]
    torch.testing.assert_close(other[:, [2, 0]], grids["logits"])
    assert read(mapped).identity()["mapping"] == [[1], [], [0]]
    identity = read(two).identity()
    assert identity.pop("binary") is True
    assert {**identity, "classes": 1} == read(section).identity()  # it was never in there before


@every_kind
def test_one_channel_is_refused_without_the_key_for_it(kind: str, sample: Any) -> None:
    section = sample(kind, classes=1)
    for classes in (1, 2, ["nothing", "thing"]):
        with pytest.raises((ConfigError, WeightsError), match="`binary = true`"):
            build_teacher(read({**section, "classes": classes}))
    with pytest.raises(ValidationError, match=r"binary = true: .* are 1; give both names"):
        read({**section, "binary": True})
    two = sample(kind, classes=2)
    with pytest.raises((ConfigError, WeightsError)) as caught:
        build_teacher(read({**two, "binary": True}))
    assert re.search(r"\(B, 1, h, w\)|2 classes, but 1 are", str(caught.value))
