"""A student of features alone: built, trained and probed without a label until the last."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from stillroom.cli import main
from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.fidelity import FidelityRequest, measure_fidelity
from stillroom.pipeline.cache_tools.preview import draw_preview
from stillroom.pipeline.evaluation import evaluate_model
from stillroom.pipeline.export_student import export_student
from stillroom.pipeline.run_file.loading import parse_run
from stillroom.pipeline.training import prepare_job, train_run
from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.train.metrics import read_metrics
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.pipeline.run_file.sections import RunConfig

pytestmark = pytest.mark.slow
SCENES = {"kind": "demo", "frames_per_clip": 2, "height": 64, "width": 96}
TINY = {"kind": "timm", "architecture": "vit_tiny_patch16_224", "device": "cpu"}
HEADS = {"features": {}}


def vit(patch: int, width: int, **keys: Any) -> dict[str, Any]:
    options = {"patch_size": patch, "embed_dim": width, "depth": 1, "num_heads": 2}
    return {**TINY, "options": {**options, "img_size": keys.get("size", [64, 96])}, **keys}


def run_file(folder: Path, **changes: Any) -> RunConfig:
    document: dict[str, Any] = {
        "sources": {
            "street": {**SCENES, "clips": 3, "seed": 1, "labelled": False},
            "known": {**SCENES, "clips": 2, "seed": 2},
        },
        "teachers": {"one": vit(16, 16), "other": vit(8, 8, size=[32, 48])},
        "cache": {
            "path": str(folder / "features.cache"),
            "canvas": [64, 96],
            "artifacts": ["features/penultimate"],
        },
        "student": {
            "kind": "smp",
            "architecture": "PSPNet",
            "encoder": "mobilenet_v2",
            "encoder_depth": 3,
            "options": {"psp_out_channels": 16, "psp_dropout": 0.0},
            "heads": HEADS,
        },
        "terms": [
            {"name": "feature_match", "teacher": name, "layer": "stage3"}
            for name in ("one", "other")
        ],
        "train": {
            "path": str(folder / "student"),
            "streams": {"street": {"batch": 2}},
            "steps": 3,
            "view": {"crop": [64, 64]},
        },
        "evaluate": {"source": "known"},
    }
    return parse_run({**document, **changes}, "run.toml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of two transformers' features, and a student of both."""
    made = tmp_path_factory.mktemp("features")
    run = run_file(made)
    build(run)
    train_run(run)
    return made


def test_each_teachers_tokens_are_cached_as_a_grid_of_the_canvas(folder: Path) -> None:
    cache = Cache.open(folder / "features.cache")
    found = {
        name: cache.artifact_set("street", name).arrays["features/penultimate"]
        for name in ("one", "other")
    }
    shapes = {name: (one.shape, one.attributes["stride"]) for name, one in found.items()}
    assert shapes == {"one": ((16, 4, 6), 16), "other": ((8, 4, 6), 16)}


def test_a_preview_shows_features_in_the_colours_of_their_components(folder: Path) -> None:
    (sheet, _) = draw_preview(folder / "features.cache", "street", 2, folder / "preview.png")
    with Image.open(sheet) as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    right = pixels[:, pixels.shape[1] * 2 // 3 :]  # the last of three columns
    assert (right.max(-1) - right.min(-1) > 100).mean() > 0.02


def test_fidelity_measures_codecs_and_mirrors_by_their_cosine(folder: Path) -> None:
    run = run_file(folder)
    one, _ = measure_fidelity(run, FidelityRequest(2, "street", codecs=True))
    (stored,) = one.artifacts
    assert (stored.codec, stored.artifact) == ("byte", "features/penultimate")
    codecs = {each.codec: each for each in one.others}
    assert set(codecs) == {"half", "exact", "fp8"}
    assert codecs["exact"].cosine == pytest.approx(1, abs=1e-12)
    assert 0.99 < codecs["fp8"].cosine < codecs["half"].cosine < 1
    assert 0.99 < stored.cosine < codecs["half"].cosine
    assert stored.bytes < codecs["half"].bytes < codecs["exact"].bytes
    cache, teacher = Cache.open(run.cache.path), build_teacher(run.teacher("one"), (64, 96))
    found = []
    for index in (0, 5):  # of six frames, spread evenly
        image = cache.artifact_set("street", "frames").read("frames", index)
        live = teacher(image[None, :, ::-1].copy())["features/penultimate"][0].double()
        held = cache.artifact_set("street", "one").read("features/penultimate", index)
        mirrored = torch.from_numpy(held[..., ::-1].copy()).double()
        found.append(torch.cosine_similarity(live, mirrored, dim=0).mean().item())
    assert one.mirrored["features/penultimate"] == pytest.approx(np.mean(found), abs=1e-3)
    assert one.to_dict()["mirrored"] == dict(one.mirrored)
    (advice,) = one.recommendation
    assert ("train.view.flip = false" in advice) == (one.mirrored["features/penultimate"] < 0.95)


def test_a_student_learns_from_both_without_labels(folder: Path) -> None:
    config = json.loads((folder / "student" / "config.json").read_text())
    assert config["classes"] == []
    lines = [line for line in read_metrics(folder / "student") if "terms" in line]
    assert set(lines[-1]["terms"]) == {"street/feature_match/one", "street/feature_match/other"}
    job = prepare_job(run_file(folder))
    begun, learned = (
        job.student.network.state_dict(),
        load_file(folder / "student/model.safetensors"),
    )
    assert begun.keys() == learned.keys()
    moved = {name.partition(".")[0] for name in begun if not begun[name].equal(learned[name])}
    assert "encoder" in moved
    assert "segmentation_head" not in moved
    assert not any(p.requires_grad for p in job.student.network.segmentation_head.parameters())
    assert job.student.idle_parameters > 0
    with torch.no_grad():
        grids = job.student.eval()(torch.zeros(1, 3, 64, 64)).grids
    assert "logits" not in grids


def test_its_encoder_begins_a_student_of_classes_that_is_scored(folder: Path) -> None:
    called = ["export", str(folder / "student"), "--to", "encoder", "--json"]
    exported = json.loads(CliRunner().invoke(main, called, catch_exceptions=False).output)
    file = folder / "student" / "encoder.safetensors"
    assert exported == {
        "path": str(file),
        "to": "encoder",
        "encoder": "mobilenet_v2",
        "tensors": len(load_file(file)),
        "bytes": file.stat().st_size,
    }
    probe = run_file(
        folder,
        teachers={},
        student={
            "kind": "smp",
            "architecture": "PSPNet",
            "encoder": "mobilenet_v2",
            "encoder_depth": 3,
            "encoder_weights": str(file),
            "options": {"psp_out_channels": 16, "psp_dropout": 0.0},
        },
        terms=[{"name": "cross_entropy"}],
        train={
            "path": str(folder / "probe"),
            "streams": {"known": {"batch": 2}},
            "steps": 1,
            "view": {"crop": [64, 64]},
        },
    )
    student = prepare_job(probe).student
    learned = load_file(folder / "student" / "model.safetensors")
    for name, tensor in student.network.encoder.state_dict().items():
        assert tensor.equal(learned[f"encoder.{name}"]), name
    train_run(probe)
    assert 0 <= evaluate_model(probe, str(folder / "probe")).result.scores.miou <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terms": [{"name": "fitnet", "teacher": "one", "on": "logits"}]}, "no term teaches it"),
        (
            {"student": {"heads": {**HEADS, "depth": {}}}},
            "features is of a student of features alone; leave it out",
        ),
        (
            {"train": {"validation": {"source": "known", "every": 1}}},
            "train.validation: a student of features alone says nothing that can be scored",
        ),
    ],
)
def test_what_it_cannot_do_is_refused(folder: Path, changes: Any, message: str) -> None:
    document = json.loads(run_file(folder).model_dump_json(exclude_unset=True))
    merged = {
        key: {**document[key], **value} if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    with pytest.raises(ConfigError, match=message):
        prepare_job(run_file(folder, **merged))


def test_it_is_neither_scored_nor_exported(folder: Path) -> None:
    message = "a student of features alone says nothing that can be scored; `stillroom export --to"
    with pytest.raises(ConfigError, match=message):
        evaluate_model(run_file(folder), str(folder / "student"))
    with pytest.raises(ConfigError, match=message):
        export_student(folder / "student", "onnx")
