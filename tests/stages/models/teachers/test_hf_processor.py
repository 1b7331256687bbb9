"""A model of transformers is shown what the processor beside it would give it."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.teachers import hf_processor
from stillroom.stages.models.teachers.families import TeacherConfig
from stillroom.storage_specs.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path

FRAMES = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
NO_PLACE = {"do_resize": False, "do_center_crop": False, "do_pad": False}
UNIT = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
FILES: dict[str, dict[str, Any]] = {
    "segformer": {"image_processor_type": "SegformerImageProcessor"},
    "not normalised": {"image_processor_type": "SegformerImageProcessor", "do_normalize": False},
    "another scale": {
        "image_processor_type": "SegformerImageProcessor",
        "do_normalize": False,
        "rescale_factor": 1 / 127.5,
    },
    "another scale, normalised": {
        "image_processor_type": "SegformerImageProcessor",
        "rescale_factor": 1 / 127.5,
        **UNIT,
    },
    "mean of 0..255": {
        "image_processor_type": "SegformerImageProcessor",
        "do_rescale": False,
        "image_mean": [104.0, 117.0, 124.0],
        "image_std": [58.0, 57.0, 56.0],
    },
    "beit": {"image_processor_type": "BeitImageProcessor", **UNIT},
    "bgr": {"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": True},
    "bgr by its class": {"image_processor_type": "MobileViTImageProcessor"},
    "normalises never": {
        "image_processor_type": "MobileViTImageProcessor",
        "do_normalize": True,
        **UNIT,
    },
    "rgb of a bgr class": {
        "image_processor_type": "MobileViTImageProcessor",
        "do_flip_channel_order": False,
    },
    "an old file": {"feature_extractor_type": "MobileViTFeatureExtractor", "size": 288},
    "tips": {"image_processor_type": "Tipsv2DptImageProcessor"},
}


def put(model: Path, processor: dict[str, Any]) -> None:
    (model / hf_processor.NAME).write_text(json.dumps(processor))


def config(path: Path | str, **changes: Any) -> TeacherConfig:
    section = {"kind": "hf", "path": str(path), "classes": 5, "device": "cpu"}
    parsed: TeacherConfig = TypeAdapter(TeacherConfig).validate_python({**section, **changes})
    return parsed


def seen_by(path: Path, frames: np.ndarray = FRAMES, **keys: Any) -> torch.Tensor:
    return build_teacher(config(path, **keys))._images(frames)


@pytest.mark.parametrize("name", FILES)
def test_the_network_sees_what_its_processor_gives(
    name: str, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import transformers

    put(model, FILES[name])
    kind = FILES[name].get("image_processor_type", "MobileViTImageProcessor")
    processor = getattr(transformers, kind).from_pretrained(model)
    expected = processor(images=FRAMES[0], return_tensors="pt", **NO_PLACE)["pixel_values"]
    torch.testing.assert_close(seen_by(model), expected.float(), rtol=1e-4, atol=1e-4)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_what_is_taken_and_what_is_left_out_is_told(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    place = {"do_resize": True, "do_center_crop": True, "size": {"height": 48, "width": 64}}
    put(model, {**FILES["bgr"], **place})
    build_teacher(config(model))
    told, device = caplog.messages
    assert device.startswith("a teacher of kind hf runs on ")
    assert "channels = bgr, normalize = False, scale = 0.00392156862745098, without its" in told
    assert "do_resize, do_center_crop: it sees the whole canvas (`size = [48, 64]` resizes)" in told
    caplog.clear()
    put(model, {**FILES["segformer"], "do_resize": False})
    build_teacher(config(model))
    assert len(caplog.messages) == 1, "all of it is the run's own default"


def test_every_processor_of_such_models_is_read_as_it_is_saved(model: Path) -> None:
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES as MODELS,
    )

    kinds = {
        name
        for model_type in MODELS
        for name in [IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {}).get("torchvision")]
        if name is not None
    }
    assert len(kinds) > 4
    for kind in sorted(kinds):
        processor = getattr(transformers, kind)()
        processor.save_pretrained(model)
        expected = processor(images=FRAMES[0], return_tensors="pt", **NO_PLACE)["pixel_values"]
        torch.testing.assert_close(
            seen_by(model),
            expected.float(),
            rtol=1e-4,
            atol=1e-4,
            msg=lambda m, k=kind: f"{k}: {m}",
        )


def test_a_processor_inside_the_newer_file_comes_first(model: Path) -> None:
    put(model, FILES["segformer"])
    newer = {"image_processor": FILES["not normalised"], "processor_class": "SomeProcessor"}
    (model / hf_processor.PROCESSORS).write_text(json.dumps(newer))
    assert config(model).identity()["normalize"] is False
    (model / hf_processor.PROCESSORS).write_text(json.dumps({"processor_class": "SomeProcessor"}))
    assert "normalize" not in config(model).identity()


def test_what_is_read_is_in_the_identity_as_if_it_were_written(model: Path) -> None:
    plain = config(model).identity()
    put(model, FILES["segformer"])
    assert config(model).identity() == plain, "the run's own defaults: the teacher of before"
    put(model, FILES["another scale"])
    stated = config(model, normalize=False, scale=1 / 127.5)
    assert config(model).identity() == stated.identity() != plain
    put(model, FILES["bgr"])
    stated = config(model, normalize=False, scale=1 / 255, channels="bgr")
    assert config(model).identity() == stated.identity() == build_teacher(config(model)).identity()
    put(model, FILES["beit"])
    stated = config(model, mean=[127.5, 102, 76.5], std=[51, 76.5, 102])
    assert config(model).identity() == stated.identity()


def test_the_section_has_the_last_word_and_is_warned_of(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(model, FILES["bgr"])
    seen = seen_by(model, channels="rgb", mean=[0, 0, 0], std=[1, 1, 1])
    assert torch.equal(seen[0].permute(1, 2, 0), torch.from_numpy(FRAMES[0]).float())
    channels, std = [each.getMessage() for each in caplog.records if each.levelno > logging.INFO]
    assert "channels = 'bgr', the run has 'rgb'" in channels
    assert "std = [255.0, 255.0, 255.0], of RGB 0..255, the run has [1.0, 1.0, 1.0]" in std


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        ({"do_color_quantize": True}, "do_color_quantize"),
        ({"do_rescale": True, "offset": True}, "offset"),
        ({"do_flip_channel_order": True, **UNIT}, "turns channels round and normalises"),
        ({"image_mean": [0.5]}, "three numbers as image_mean"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std above 0"),
        ({"image_mean": [0.5, float("nan"), 0.5]}, "three numbers as image_mean"),
        ({"rescale_factor": 0}, "rescale_factor > 0, got 0"),
        ({"rescale_factor": "1/255"}, "rescale_factor > 0, got '1/255'"),
    ],
)
def test_what_no_key_can_say_is_refused_by_name(
    processor: dict[str, Any], message: str, model: Path
) -> None:
    put(model, processor)
    with pytest.raises(ConfigError, match=message):
        build_teacher(config(model))
    with pytest.raises(ConfigError, match=message):
        config(model).identity()


def test_a_damaged_file_is_said_and_a_full_section_needs_none(model: Path) -> None:
    (model / hf_processor.NAME).write_text("{")
    with pytest.raises(WeightsError, match=r"preprocessor_config\.json: cannot be read"):
        build_teacher(config(model))
    keys = {"channels": "rgb", "normalize": False, "scale": 1}
    assert torch.equal(seen_by(model, **keys), torch.from_numpy(FRAMES).permute(0, 3, 1, 2).float())


def test_a_network_of_one_size_is_advised_its_own(model: Path) -> None:
    transformers = pytest.importorskip("transformers")
    settings = transformers.DPTConfig(
        num_labels=5, hidden_size=16, num_hidden_layers=4, num_attention_heads=2,
        intermediate_size=32, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=16, image_size=128, patch_size=16, is_hybrid=False,
    )  # fmt: skip
    transformers.DPTForSemanticSegmentation(settings).save_pretrained(model)
    put(model, {"image_processor_type": "DPTImageProcessor", **UNIT})
    with pytest.raises(ConfigError, match=r"set `size = \[128, 128\]`"):
        build_teacher(config(model), (96, 160))
    teacher = build_teacher(config(model, size=[128, 128]), (96, 160))
    frames = np.zeros((1, 96, 160, 3), np.uint8)
    stride = teacher.strides["logits"]
    logits = teacher(frames)["logits"]
    assert logits.shape == (1, 5, -(-96 // stride), -(-160 // stride))
    assert "features/penultimate" in teacher.strides, "its classifier was found at its size"


@pytest.mark.parametrize("resample", [2, 3])
def test_at_the_size_of_its_processor_it_sees_what_that_gives(model: Path, resample: int) -> None:
    import transformers

    put(model, {**FILES["segformer"], "size": {"height": 40, "width": 56}, "resample": resample})
    processor = transformers.SegformerImageProcessor.from_pretrained(model)
    frames = 90 + FRAMES // 4  # no extremes: some cut overshoot off after each axis
    expected = processor(images=frames[0], return_tensors="pt")["pixel_values"]
    # whole pixels of 0..255, which two ways to add up round to either side
    seen = seen_by(model, frames, size=[40, 56])
    torch.testing.assert_close(seen, expected, rtol=0, atol=1.01 / 57)


def test_another_way_of_resizing_matters_only_where_something_is_resized(model: Path) -> None:
    put(model, {**FILES["segformer"], "resample": 0})
    build_teacher(config(model))
    with pytest.raises(ConfigError, match="state resample = 'bilinear' or 'bicubic'"):
        build_teacher(config(model, size=[64, 96]))
    build_teacher(config(model, size=[64, 96], resample="bicubic"))


@pytest.mark.parametrize(
    ("processor", "size"),
    [
        ({"size": 512}, (512, 512)),
        ({"size": {"height": 480, "width": 640}}, (480, 640)),
        ({"size": {"shortest_edge": 544}}, None),
        ({"size": 512, "do_resize": False}, None),
        ({}, None),
    ],
)
def test_the_size_of_a_processor(processor: dict[str, Any], size: Any) -> None:
    assert hf_processor.size_of(processor) == size


def test_the_file_of_a_hub_model_is_asked_for_once_and_by_builds_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    put(tmp_path, FILES["not normalised"])
    asked: list[str] = []
    kept: dict[str, Any] = {}

    def download(path: str, name: str, *, revision: str) -> str:
        asked.append(path)
        if path == "one/offline":
            raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")
        if name != hf_processor.NAME or path == "one/without":
            kept[path + name] = object()
            raise huggingface_hub.errors.EntryNotFoundError("no such file")
        kept[path + name] = str(tmp_path / name)
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda path, name, revision: kept.get(path + name),
    )

    def hub(path: str, **keys: Any) -> TeacherConfig:
        return config(path, revision="a" * 40, **keys)

    for path in ("one/plain", "one/without", "one/offline"):
        assert "normalize" not in hub(path).identity()
    assert asked == []
    assert hub("one/plain").completed().normalize is False
    assert hub("one/plain").identity()["normalize"] is False
    assert hub("one/without").completed() == hub("one/without")
    for _ in range(2):
        with pytest.raises(WeightsError, match="no connection"):
            build_teacher(hub("one/offline"))
    stated = hub("one/offline", channels="rgb", normalize=False, scale=1)
    assert stated.completed() == stated
    assert asked == 2 * ["one/plain"] + 2 * ["one/without"] + ["one/offline"]
