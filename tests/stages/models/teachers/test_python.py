from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.teachers.families import TeacherConfig
from stillroom.storage_specs.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path

MODULE = """
import torch

def module(classes=4, channels=6):
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, channels, 4, stride=4), torch.nn.Conv2d(channels, classes, 1)
    )

def plain(gain=1.0):
    return lambda images: gain * images[:, [0, 1, 2, 0], ::2, ::2]

def with_features():
    def network(images):
        return {"logits": images[:, [0, 1, 2, 0], ::2, ::2],
                "features": {"deep": images[:, :, ::8, ::8]}}
    return network

def of_depth():
    return lambda images: {"depth": 1 + images[:, 0, ::4, ::4]}

def only_features():
    return lambda images: {"features": {"deep": images[:, :, ::8, ::8]}}

def ragged():
    return lambda images: torch.zeros(len(images), 4, images.shape[2] // 4, images.shape[3] // 5)

def fixed_grid(side=32):
    def network(images):
        return {"logits": torch.zeros(len(images), 4, images.shape[2] // 4, images.shape[3] // 4),
                "features": {"deep": torch.zeros(len(images), 2, side, 40)}}
    return network

def three_classes():
    return lambda images: images

def a_list():
    return lambda images: [images]

def failing():
    def network(images):
        raise RuntimeError("shapes do not match")
    return network

def mistaken(gain=1.0):
    return len(gain)

def first_only():
    return lambda images: {"logits": images[:, [0, 1, 2, 0], ::2, ::2],
                           "features": {"deep": images[:1, :, ::8, ::8]}}

def number():
    return 7

not_a_function = 3
"""
FRAMES = np.random.default_rng(0).integers(0, 256, (2, 70, 90, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def module_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "teacher_of_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "teacher_of_a_user", raising=False)


def config(function: str, **changes: Any) -> TeacherConfig:
    section = {"kind": "python", "target": f"teacher_of_a_user:{function}", "classes": 4,
               "mean": [0, 0, 0], "std": [255, 255, 255], "device": "cpu"}  # fmt: skip
    parsed: TeacherConfig = TypeAdapter(TeacherConfig).validate_python({**section, **changes})
    return parsed


def test_a_plain_callable_is_a_teacher_and_gets_its_options() -> None:
    teacher = build_teacher(config("plain", options={"gain": 2.0}))
    logits = teacher(FRAMES)["logits"]
    expected = (
        2 * torch.from_numpy(FRAMES).float().permute(0, 3, 1, 2)[:, [0, 1, 2, 0], ::2, ::2] / 255
    )
    assert teacher.strides == {"logits": 2}
    torch.testing.assert_close(logits, expected)


def test_named_features_come_with_their_own_stride() -> None:
    teacher = build_teacher(config("with_features"))
    assert teacher.strides == {"logits": 2, "features/deep": 8}
    assert teacher(FRAMES)["features/deep"].shape == (2, 3, 9, 12)


def test_a_teacher_may_give_no_logits_and_then_has_no_classes() -> None:
    for function, strides in (("only_features", {"features/deep": 8}),):
        for classes in (4, None):
            teacher = build_teacher(config(function, classes=classes))
            assert teacher.strides == strides
            assert list(teacher(FRAMES)) == list(strides)
            assert teacher.classes is None
            with pytest.raises(ConfigError, match="no logits of classes"):
                _ = teacher.num_classes


def test_classes_that_nobody_states_are_counted_in_the_logits() -> None:
    assert build_teacher(config("plain", classes=None)).num_classes == 4


def test_a_grid_of_one_size_whatever_the_frames_is_refused() -> None:
    teacher = build_teacher(config("fixed_grid"))  # 32x40 cells are stride 4 of 128x160 pixels
    assert teacher(np.zeros((1, 120, 150, 3), np.uint8))["features/deep"].shape == (1, 2, 30, 38)
    for height, width, cells in ((70, 90, "24x24"), (128, 200, "32x56"), (200, 160, "56x40")):
        with pytest.raises(ConfigError, match=f"features/deep: .*grid of 32x40.*expected {cells}"):
            teacher(np.zeros((1, height, width, 3), np.uint8))


def test_weights_are_loaded_into_a_module(tmp_path: Path) -> None:
    torch.manual_seed(9)
    trained = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 4, stride=4), torch.nn.Conv2d(6, 4, 1))
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    teacher = build_teacher(config("module", weights=tmp_path / "w.pth"))
    images = torch.nn.functional.pad(
        torch.from_numpy(FRAMES).permute(0, 3, 1, 2) / 255, (0, 6, 0, 26)
    )
    with torch.no_grad():
        expected = trained(images)[:, :, :18, :23]
    torch.testing.assert_close(teacher(FRAMES)["logits"], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(WeightsError, match="differently shaped"):
        build_teacher(config("module", weights=tmp_path / "w.pth", options={"channels": 7}))
    with pytest.raises(ConfigError, match="returns no torch module"):
        build_teacher(config("plain", weights=tmp_path / "w.pth"))


def test_version_and_options_are_part_of_the_identity() -> None:
    descriptions = [
        config("plain").identity(),
        config("plain", version="2").identity(),
        config("plain", options={"gain": 3.0}).identity(),
        config("with_features").identity(),
    ]
    assert all(a != b for i, a in enumerate(descriptions) for b in descriptions[:i])


def test_a_mistake_inside_the_function_keeps_its_own_words() -> None:
    with pytest.raises(TypeError, match=r"object of type 'float' has no len\(\)"):
        build_teacher(config("mistaken", options={"gain": 2.0}))


def test_a_grid_for_fewer_frames_than_were_given_is_refused() -> None:
    teacher = build_teacher(config("first_only"))
    assert teacher(FRAMES[:1])["features/deep"].shape == (1, 3, 9, 12)
    with pytest.raises(ConfigError, match=r"features/deep: 2 frames give .*\(1, 3, 12, 12\)"):
        teacher(FRAMES)


@pytest.mark.parametrize(
    ("function", "changes", "message"),
    [
        ("absent", {}, "has no function 'absent'"),
        ("not_a_function", {}, "has no function 'not_a_function'"),
        ("number", {}, "expected a module or callable, got int"),
        ("plain", {"options": {"gian": 1}}, r"does not take .*'gian'.* called as \(gain=1\.0\)"),
        ("three_classes", {}, r"expected \(B, 4, h, w\)"),
        ("a_list", {}, "a network must return logits.*got list"),
        ("ragged", {}, "no whole stride"),
        ("failing", {}, "fails on an input of 128x160.*shapes do not match"),
        ("plain", {"target": "no_such_module_anywhere:f"}, "cannot be imported.*PYTHONPATH"),
    ],
)
def test_what_is_no_teacher_is_a_config_error(
    function: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_teacher(config(function, **changes))


@pytest.mark.parametrize("target", ["module", "module:", ":function", "a b:c", "m:f()"])
def test_a_target_that_is_not_module_and_function_is_refused_when_read(target: str) -> None:
    with pytest.raises(ValidationError):
        config("plain", target=target)
