from __future__ import annotations

import io
import os
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from tiny_segformer import tiny_segformer
from torch import nn

from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.teachers.families import TeacherConfig
from stillroom.storage_specs.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
PIXELS = torch.from_numpy(FRAMES).permute(0, 3, 1, 2).float() / 255
KEYS = {"normalize": False, "scale": 1 / 255}


class Network(nn.Module):
    """Gives its grids in the container that is asked for."""

    def __init__(self, form: str = "tensor") -> None:
        super().__init__()
        self.form = form
        self.body = nn.Conv2d(3, 6, 4, stride=4)
        self.norm = nn.BatchNorm2d(6)
        self.classify = nn.Conv2d(6, 5, 1)

    def forward(self, images: torch.Tensor) -> Any:
        features = self.norm(self.body(images)) + torch.zeros(1, device=images.device)
        logits = self.classify(features)
        if self.form == "grids":
            return {"logits": logits, "features": {"penultimate": features}}
        if self.form == "out":
            return {"out": logits, "aux": features}
        if self.form == "tuple":
            return features, logits
        if self.form == "classes":
            return logits.argmax(1)
        return logits


def network(form: str = "tensor") -> Network:
    torch.manual_seed(1)
    return Network(form).eval()


def exported(path: Path, form: str = "tensor", *, batch: int | None = None) -> Path:
    """As torch.export.save writes it: of one batch and size, or of any."""
    auto = torch.export.Dim.AUTO
    sides = None if batch is not None else ({0: auto, 2: auto, 3: auto},)
    example = torch.rand(batch or 2, 3, 64, 96)
    program = torch.export.export(network(form), (example,), dynamic_shapes=sides)
    torch.export.save(program, path)
    return path


def scripted(path: Path, form: str = "tensor") -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        traced = torch.jit.trace(network(form), torch.rand(1, 3, 64, 96), strict=False)
        torch.jit.save(traced, path)
    return path


def config(path: Path, **changes: Any) -> TeacherConfig:
    section = {"kind": "export", "path": path, "classes": 5, "device": "cpu", **KEYS}
    parsed: TeacherConfig = TypeAdapter(TeacherConfig).validate_python({**section, **changes})
    return parsed


def expected() -> torch.Tensor:
    with torch.no_grad():
        return network()(PIXELS)


@pytest.mark.parametrize(
    ("make", "form", "keys"),
    [
        (exported, "tensor", {}),
        (exported, "grids", {}),
        (exported, "grids", {"output": "logits"}),
        (exported, "out", {"output": "out"}),
        (exported, "tuple", {"output": 1}),
        (scripted, "tensor", {}),
        (scripted, "out", {"output": "out"}),
        (scripted, "tuple", {"output": 1}),
    ],
)
def test_a_program_gives_the_logits_of_its_network(
    make: Callable[..., Path], form: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    teacher = build_teacher(config(make(tmp_path / "w", form), **keys))
    made = teacher(FRAMES)
    torch.testing.assert_close(made["logits"], expected(), rtol=1e-5, atol=1e-5)
    assert teacher.strides["logits"] == 4
    assert ("features/penultimate" in made) == (form == "grids" and not keys)
    assert teacher.module is not None
    assert sum(each.numel() for each in teacher.module.parameters()) == 341


@pytest.mark.parametrize("batch", [1, 2])
def test_a_program_of_one_batch_and_size_works_there(batch: int, tmp_path: Path) -> None:
    path = exported(tmp_path / "w.pt2", "grids", batch=batch)
    teacher = build_teacher(config(path), (64, 96))
    made = teacher(FRAMES)
    torch.testing.assert_close(made["logits"], expected(), rtol=1e-5, atol=1e-5)
    assert made["features/penultimate"].shape == (3, 6, 16, 24)
    with pytest.raises(
        ConfigError, match=r"fails on an input of 96x128.*\n.*\n.*`size = \[64, 96\]`"
    ):
        build_teacher(config(path), (72, 100))
    resized = build_teacher(config(path, size=[64, 96]), (128, 192))
    assert resized.strides["logits"] == 8


def test_a_model_of_transformers_takes_a_keyword_and_gives_its_own_output(tmp_path: Path) -> None:
    model = tiny_segformer(5)
    program = torch.export.export(model, (), {"pixel_values": PIXELS})
    torch.export.save(program, tmp_path / "w.pt2")
    made = build_teacher(config(tmp_path / "w.pt2"), (64, 96))(FRAMES)
    with torch.no_grad():
        torch.testing.assert_close(made["logits"], model(PIXELS).logits, rtol=1e-4, atol=1e-5)


class Bytes(nn.Module):
    """Takes bytes, channels last, and gives channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(images.permute(0, 3, 1, 2).float() / 255).permute(0, 2, 3, 1)


def test_bytes_with_their_channels_last_are_given_as_they_are(tmp_path: Path) -> None:
    example = torch.zeros(1, 64, 96, 3, dtype=torch.uint8)
    torch.export.save(torch.export.export(Bytes().eval(), (example,)), tmp_path / "w.pt2")
    made = build_teacher(config(tmp_path / "w.pt2", scale=1), (64, 96))(FRAMES)
    torch.testing.assert_close(made["logits"], expected(), rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="pixels as they are: set normalize = false"):
        build_teacher(config(tmp_path / "w.pt2"), (64, 96))


@pytest.mark.parametrize("script", [False, True])
def test_a_program_of_half_precision_gets_halves(script: bool, tmp_path: Path) -> None:
    half, example = network().bfloat16(), torch.rand(1, 3, 64, 96, dtype=torch.bfloat16)
    half = nn.Sequential(half.body, half.norm, half.classify)
    if script:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            torch.jit.save(torch.jit.trace(half, example), tmp_path / "w")
    else:
        torch.export.save(torch.export.export(half, (example,)), tmp_path / "w")
    made = build_teacher(config(tmp_path / "w"), (64, 96))(FRAMES)["logits"]
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, expected(), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("form", "keys", "message"),
    [
        ("out", {}, r"several outputs.*'out' \(1, 5, .*'aux'"),
        ("tuple", {}, r"several outputs.*0 \(1, 6"),
        ("tuple", {"output": 7}, "no output 7"),
        ("out", {"output": "logits"}, "no output 'logits'"),
        ("classes", {}, "expected logits, got torch.int64.*argmax"),
        ("tuple", {"output": 0}, r"expected \(B, 5, h, w\)"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(
    form: str, keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_teacher(config(exported(tmp_path / "w.pt2", form), **keys))


def test_files_that_are_no_program_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt2"
    torch.save(network().state_dict(), path)
    with pytest.raises(WeightsError, match=r"holds weights.*no program"):
        build_teacher(config(path))
    path.write_bytes(b"not a zip")
    with pytest.raises(WeightsError, match="truncated, or no program"):
        build_teacher(config(path))
    with pytest.raises(WeightsError, match="cannot be read"):
        build_teacher(config(tmp_path / "nowhere"))
    two = torch.export.export(Two(), (torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)))
    torch.export.save(two, path)
    with pytest.raises(WeightsError, match="of one input"):
        build_teacher(config(path))


class Two(nn.Module):
    def forward(self, images: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        return images + more


class RunsCode:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("place", ["sample_inputs/model.pt", "weights/model_weights_config.json"])
def test_pickled_objects_in_a_program_are_refused_before_they_are_loaded(
    place: str, tmp_path: Path
) -> None:
    evil = io.BytesIO()
    torch.save({"a": RunsCode(tmp_path / "ran")}, evil)
    with (
        zipfile.ZipFile(exported(tmp_path / "good.pt2")) as good,
        zipfile.ZipFile(tmp_path / "evil.pt2", "w") as bad,
    ):
        for name in good.namelist():
            data = good.read(name)
            if name.endswith(place) and place.endswith(".pt"):
                data = evil.getvalue()
            elif name.endswith(place):
                data = data.replace(b'"use_pickle": false', b'"use_pickle": true')
                assert data != good.read(name)
            elif "weights/weight_0" in name and place.endswith(".json"):
                data = evil.getvalue()
            bad.writestr(name, data)
    with pytest.raises(WeightsError, match=r"pickle|UnpicklingError"):
        build_teacher(config(tmp_path / "evil.pt2"))
    assert not (tmp_path / "ran").exists()


class Standardised(nn.Module):
    """Standardises its weights by batch normalisation without running statistics, as timm does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3, 4, 4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = self.weight.reshape(1, 5, -1)
        weight = nn.functional.batch_norm(flat, None, None, training=True).reshape(5, 3, 4, 4)
        return nn.functional.conv2d(images, weight, stride=4)


def test_a_network_that_was_exported_while_it_trains_is_refused(tmp_path: Path) -> None:
    path, example = tmp_path / "w.pt2", (torch.rand(2, 3, 64, 96),)
    dropout = nn.Sequential(nn.Conv2d(3, 5, 4, stride=4), nn.Dropout(0.5))
    for trains, operation in ((Network().train(), "batch_norm"), (dropout.train(), "dropout")):
        torch.export.save(torch.export.export(trains, example), path)
        with pytest.raises(WeightsError, match=rf"{operation}.* is in training mode"):
            build_teacher(config(path), (64, 96))
    for good in (dropout.eval(), Standardised()):
        torch.export.save(torch.export.export(good, example), path)
        build_teacher(config(path), (64, 96))


def test_torchscript_of_training_is_refused_where_it_was_traced(tmp_path: Path) -> None:
    path, example = tmp_path / "w.pt", torch.rand(2, 3, 64, 96)
    dropout = nn.Sequential(nn.Conv2d(3, 5, 4, stride=4), nn.Dropout(0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for trains, operation in ((Network().train(), "batch_norm"), (dropout.train(), "dropout")):
            torch.jit.save(torch.jit.trace(trains, example, check_trace=False), path)
            with pytest.raises(WeightsError, match=rf"{operation} is in training mode"):
                build_teacher(config(path), (64, 96))
        scripted_while_it_trains = torch.jit.script(dropout.train())
        for good in (torch.jit.trace(Standardised(), example), scripted_while_it_trains):
            torch.jit.save(good, path)
            teacher = build_teacher(config(path), (64, 96))
            assert torch.equal(teacher(FRAMES)["logits"], teacher(FRAMES)["logits"])


def test_compiled_code_in_a_program_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(exported(tmp_path / "w.pt2"), "a") as archive:
        archive.writestr("w/data/aotinductor/model/w.so", b"code")
    with pytest.raises(WeightsError, match="compiled code"):
        build_teacher(config(tmp_path / "w.pt2"))


def test_a_path_is_demanded(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="path"):
        TypeAdapter(TeacherConfig).validate_python({"kind": "export", "classes": 5})
