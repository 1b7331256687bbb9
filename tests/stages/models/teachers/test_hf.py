from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.teachers.families import TeacherConfig
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.storage_specs.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 70, 90, 3), dtype=np.uint8)


def config(path: Path | str, **changes: Any) -> TeacherConfig:
    section = {"kind": "hf", "path": str(path), "classes": 5, "device": "cpu"}
    parsed: TeacherConfig = TypeAdapter(TeacherConfig).validate_python({**section, **changes})
    return parsed


def test_a_saved_segformer_gives_its_own_logits_and_penultimate_features(
    model_folder: Path,
) -> None:
    import transformers

    section = config(model_folder, mean=[0, 0, 0], std=[255, 255, 255])
    teacher = build_teacher(section)
    output = teacher(FRAMES)
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(model_folder).eval()
    images = torch.from_numpy(FRAMES).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        logits = model(torch.nn.functional.pad(images, (0, 6, 0, 26))).logits[:, :, :18, :23]
        again = model.decode_head.classifier(output["features/penultimate"])
    assert teacher.strides == {"logits": 4, "features/penultimate": 4}
    torch.testing.assert_close(output["logits"], logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again, output["logits"], rtol=1e-4, atol=1e-5)


def test_the_classifier_is_told_from_an_auxiliary_one_and_its_upsampling_undone(
    tmp_path: Path,
) -> None:
    import_torchvision()
    transformers = pytest.importorskip("transformers", reason="the extra [hf] is not installed")
    backbone = transformers.ConvNextConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    settings = transformers.UperNetConfig(
        backbone_config=backbone, num_labels=5, hidden_size=12, auxiliary_channels=8,
        auxiliary_in_channels=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.UperNetForSemanticSegmentation(settings).eval()
    model.save_pretrained(tmp_path)
    teacher = build_teacher(config(tmp_path, mean=[0, 0, 0], std=[255, 255, 255]))
    frames = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    output = teacher(frames)
    with torch.no_grad():
        whole = model(torch.from_numpy(frames).permute(0, 3, 1, 2) / 255).logits
    upsampled = torch.nn.functional.interpolate(output["logits"], (64, 96), mode="bilinear")
    assert teacher.strides == {"logits": 4, "features/penultimate": 4}
    assert output["features/penultimate"].shape == (1, 12, 16, 24)
    torch.testing.assert_close(upsampled, whole, rtol=1e-4, atol=1e-5)


def test_identity_follows_the_files_and_not_their_place(model_folder: Path, model: Path) -> None:
    assert config(model).identity() == config(model_folder).identity()
    described = config(model, device="auto").identity()
    assert described == {**build_teacher(config(model, device="auto")).identity(), "device": "auto"}
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**settings, "decoder_hidden_size": 13}))
    assert config(model).identity() != config(model_folder).identity()


def test_identity_follows_only_files_that_are_read(model_folder: Path, model: Path) -> None:
    described = config(model_folder).identity()
    assert set(described["files_sha256"]) == {"config.json", "model.safetensors"}
    for name in ("training_args.bin", "optimizer.bin", "pytorch_model.bin"):
        (model / name).write_bytes(b"beside")
        assert config(model).identity() == described
    (model / "model.safetensors").unlink()
    old = config(model).identity()
    assert set(old["files_sha256"]) == {"config.json", "pytorch_model.bin"}


def test_other_classes_and_colours_than_the_runs_are_warned_of(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # the command line, called by an earlier test, leaves the level at INFO
    caplog.set_level(logging.WARNING, logger="stillroom")
    names = ["sky", "road", "car", "tree", "wall"]
    build_teacher(config(model, classes=names))
    assert not caplog.messages, "LABEL_0 and so on are no names, and nothing is said of colours"
    settings = json.loads((model / "config.json").read_text())
    settings["id2label"] = dict(enumerate(names))
    settings["label2id"] = {name: i for i, name in enumerate(names)}
    (model / "config.json").write_text(json.dumps(settings))
    colours = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (model / "preprocessor_config.json").write_text(json.dumps(colours))
    build_teacher(config(model, classes=names))
    build_teacher(config(model, classes=5))
    assert not caplog.messages
    build_teacher(config(model, classes=names[::-1], mean=[127, 127, 127]))
    classes, mean = caplog.messages
    assert "teacher  sky, road, car, tree, wall\n  run      wall, tree, car, road, sky" in classes
    assert "mean = [123.675, 116.28, 103.53], of RGB 0..255, the run has [127.0, 127.0, 12" in mean


def test_other_number_of_classes_is_said_in_those_words(model_folder: Path) -> None:
    with pytest.raises(WeightsError, match="has 5 classes, but 9 are configured"):
        build_teacher(config(model_folder, classes=9))


def test_files_that_do_not_fill_the_network_are_refused(model: Path) -> None:
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**settings, "depths": [1, 1, 1, 2]}))
    with pytest.raises(WeightsError, match="missing_keys"):
        build_teacher(config(model))


def test_damaged_or_absent_files_are_refused(model: Path, tmp_path: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(WeightsError, match="cannot be loaded"):
        build_teacher(config(model))
    weights.unlink()
    with pytest.raises(WeightsError, match=r"expected a folder with config\.json"):
        config(model).identity()
    with pytest.raises(WeightsError, match=r"expected a folder|cannot be loaded"):
        build_teacher(config(tmp_path / "nowhere"))


def test_absent_transformers_names_the_extra(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[hf\]"):
        build_teacher(config(model_folder))


@pytest.mark.parametrize("revision", [None, "main", "0" * 39])
def test_a_hub_id_without_a_full_commit_is_refused_when_read(revision: str | None) -> None:
    with pytest.raises(ValidationError, match="give the commit"):
        config("somebody/segformer", revision=revision)


def test_a_hub_id_is_described_by_its_commit() -> None:
    described = config("somebody/segformer", revision="a" * 40).identity()
    assert described["path"] == "somebody/segformer"
    assert described["revision"] == "a" * 40
