"""What a teacher of any kind is shown: channels, scale, normalisation, size."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.teachers.families import TeacherConfig
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

MODULE = """
import torch
from torch import nn

class Vit(nn.Module):
    '''A transformer's table of positions for 128x128 pixels, patches of 16.'''

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 16, 16)
        self.positions = nn.Parameter(torch.randn(1, 64, 8))
        self.classify = nn.Conv2d(8, 3, 1)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        return self.classify(tokens.transpose(1, 2).reshape(len(images), 8, 8, 8))

def vit():
    return Vit()

def seen(stride=1):
    '''The very input as its logits.'''
    return lambda images: images[:, :, ::stride, ::stride]

def on_its_side():
    return lambda images: images[:, :, ::4, ::4].transpose(2, 3)

def inner_size():
    return lambda images: nn.functional.interpolate(images, (64, 64))

ERRORS = {"assert": AssertionError, "key": KeyError, "type": TypeError}

def strange(error):
    def network(images):
        if images.shape[-1] != 96:
            raise ERRORS[error]("made for 96")
        return images[:, :, ::4, ::4]
    return network
"""
FRAMES = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
PIXELS = torch.from_numpy(FRAMES).permute(0, 3, 1, 2).float()


@pytest.fixture(autouse=True)
def module_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "teacher_of_one_size.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "teacher_of_one_size", raising=False)


def config(function: str = "seen", **changes: Any) -> TeacherConfig:
    section = {
        "kind": "python",
        "target": f"teacher_of_one_size:{function}",
        "classes": 3,
        "device": "cpu",
    }
    parsed: TeacherConfig = TypeAdapter(TeacherConfig).validate_python({**section, **changes})
    return parsed


MEAN, STD = [10.0, 20.0, 30.0], [2.0, 3.0, 4.0]
UNIT = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"mean": MEAN, "std": STD}, lambda x, mean, std: (x - mean) / std),
        ({"normalize": False, "scale": 1}, lambda x, mean, std: x),
        ({"normalize": False, "scale": 1 / 255}, lambda x, mean, std: x / 255),
        (
            {"scale": 1 / 255, **UNIT},
            lambda x, mean, std: (
                (x / 255 - torch.tensor(UNIT["mean"]).view(3, 1, 1))
                / torch.tensor(UNIT["std"]).view(3, 1, 1)
            ),
        ),
        (
            {"mean": MEAN, "std": STD, "channels": "bgr"},
            lambda x, mean, std: ((x - mean) / std)[:, [2, 1, 0]],
        ),
        (
            {"normalize": False, "scale": 1 / 255, "channels": "bgr"},
            lambda x, mean, std: x[:, [2, 1, 0]] / 255,
        ),
    ],
)
def test_the_network_gets_what_the_keys_say(keys: dict[str, Any], expected: Any) -> None:
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))
    seen = build_teacher(config(**keys))(FRAMES)["logits"]
    torch.testing.assert_close(seen, expected(PIXELS, mean, std), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"channels": "gbr"}, "'rgb' or 'bgr'"),
        ({"scale": 0}, "greater than 0"),
        ({"scale": float("inf")}, "finite"),
        ({"scale": 1 / 255}, "give both"),
        ({"scale": 1 / 255, "mean": [0.5] * 3}, "give both"),
        ({"normalize": False}, "0.00392156862745098"),
        ({"normalize": False, "scale": 1, "mean": MEAN}, "mean would do nothing"),
        ({"channels": "bgr", "mean": [103.53, 116.28, 123.675]}, "looks like one of B, G, R"),
        ({"size": [0, 64]}, "greater than 0"),
        ({"size": [64]}, "size"),
        ({"size": [100, 128], "pad": 32}, "does not divide it"),
        ({"resample": "bicubic"}, "there is none"),
        ({"size": [64, 64], "resample": "nearest"}, "'bilinear' or 'bicubic'"),
        ({**UNIT}, "multiply both by 255"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**keys)


def test_new_keys_are_in_the_identity_only_where_they_are_set() -> None:
    plain = config().identity()
    assert not {"channels", "scale", "normalize", "size"} & set(plain)
    assert config(channels="rgb", scale=1, normalize=True, size=None).identity() == plain
    for keys in ({"channels": "bgr"}, {"normalize": False, "scale": 0.5}, {"size": [32, 64]}):
        described = config(**keys).identity()
        assert {key: described[key] for key in keys} == keys
        assert described != plain


def test_a_network_of_one_size_runs_on_a_canvas_of_it_and_by_size_on_any() -> None:
    frames = np.random.default_rng(1).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    on_canvas = build_teacher(config("vit"), (128, 128))
    assert on_canvas.strides == {"logits": 16}
    resized = build_teacher(config("vit", size=[128, 128]), (256, 256))
    assert resized.strides == {"logits": 32}
    doubled = frames.repeat(2, axis=1).repeat(2, axis=2)
    torch.manual_seed(0)
    assert resized(doubled)["logits"].shape == (2, 3, 8, 8)
    same = build_teacher(config("vit", size=[128, 128]))
    assert same.strides == {"logits": 16}
    assert torch.equal(same(frames)["logits"], on_canvas(frames)["logits"])
    wide = build_teacher(config("vit", size=[128, 128]), (90, 130))
    assert wide.strides == {"logits": 11}
    logits = wide(frames[:, :90, :].repeat(2, axis=2)[:, :, :130])["logits"]
    assert logits.shape == (2, 3, 9, 12)
    assert torch.isfinite(logits).all()


def test_a_network_of_one_size_says_what_to_do_elsewhere() -> None:
    advice = r"fails on an input of 96x128.*\(72x100, filled up\)[\s\S]*`size = \[H, W\]`"
    with pytest.raises(ConfigError, match=advice):
        build_teacher(config("vit"), (72, 100))
    with pytest.raises(ConfigError, match="`size = "):
        build_teacher(config("vit"))


@pytest.mark.parametrize("error", ["assert", "key", "type"])
def test_whatever_a_network_raises_at_the_first_look_is_one_error(error: str) -> None:
    network = config("strange", options={"error": error})
    with pytest.raises(ConfigError, match=r"(Assertion|Key|Type)Error: '?made for 96"):
        build_teacher(network)
    assert build_teacher(network, (64, 96)).strides == {"logits": 4}


def test_a_teacher_with_a_size_takes_frames_of_other_sizes_at_its_stride() -> None:
    teacher = build_teacher(config(size=[32, 48]), (64, 96))
    assert teacher(FRAMES)["logits"].shape == (2, 3, 32, 48)
    assert teacher.strides == {"logits": 2}
    assert teacher(FRAMES[:, :33, :40])["logits"].shape == (2, 3, 17, 20)
    assert teacher.takes((33, 40))
    assert not build_teacher(config("vit"), (128, 128)).takes((96, 128))


def test_a_size_must_fit_the_levels_of_the_network() -> None:
    section = {"kind": "smp", "architecture": "FPN", "encoder": "mobilenet_v2", "classes": 3}
    adapter = TypeAdapter(TeacherConfig)
    with pytest.raises(ConfigError, match=r"size=\[100, 128\].* multiples of 32"):
        build_teacher(adapter.validate_python({**section, "size": [100, 128]}))
    small = adapter.validate_python({**section, "size": [64, 96], "device": "cpu"})
    teacher = build_teacher(small, (128, 192))
    frame = np.random.default_rng(2).integers(0, 256, (1, 128, 192, 3), dtype=np.uint8)
    assert teacher(frame)["logits"].shape == (1, 3, 16, 24)
    assert teacher.own_logits(frame).shape == (1, 3, 128, 192)


def test_a_grid_on_its_side_is_refused_on_a_square_canvas_too() -> None:
    for canvas in (None, (64, 96), (64, 64)):
        with pytest.raises(ConfigError, match=r"whole stride|height and width exchanged"):
            build_teacher(config("on_its_side"), canvas)
    # one that brings whatever it gets to a square of its own is another thing
    assert build_teacher(config("inner_size"), (128, 128)).strides == {"logits": 2}
