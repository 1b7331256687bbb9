"""Depth, normals and classes from run files: trained, scored, taught, and refused in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from stillroom.pipeline.build.run import build
from stillroom.pipeline.depth_writer import DepthWriter
from stillroom.pipeline.evaluation import EvaluationOptions, evaluate_model
from stillroom.pipeline.export_student import ExportOptions, export_student
from stillroom.pipeline.open_model import open_model, open_trained
from stillroom.pipeline.predict_frames import predict
from stillroom.pipeline.run_file.loading import parse_run
from stillroom.pipeline.training import train_run
from stillroom.stages.evaluate.depth_scores import DepthTally
from stillroom.stages.sources.open import open_source
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.pipeline.run_file.sections import RunConfig

pytestmark = pytest.mark.slow
SCENES = {"kind": "demo", "frames_per_clip": 2, "height": 64, "width": 96}
PSPNET = {
    "kind": "smp",
    "architecture": "PSPNet",
    "encoder": "mobilenet_v2",
    "options": {"psp_out_channels": 16, "psp_dropout": 0.0},
}
DEPTH = {"depth": {"bins": 12, "low": 1.0, "high": 100.0}}
BOTH = ["depth", "normals"]


def run_file(folder: Path, **changes: Any) -> RunConfig:
    document: dict[str, Any] = {
        "sources": {
            "street": {**SCENES, "clips": 4, "seed": 1, "targets": BOTH},
            "plain": {**SCENES, "clips": 2, "seed": 2},
            "unseen": {**SCENES, "clips": 2, "seed": 3, "targets": BOTH},
        },
        "cache": {
            "path": str(folder / "frames.cache"),
            "canvas": [64, 96],
            "sources": ["street", "plain"],
        },
        "student": {**PSPNET, "encoder_depth": 3, "heads": DEPTH},
        "terms": [{"name": "depth_bins"}],
        "train": {
            "path": str(folder / "student"),
            "streams": {"street": {"batch": 2}},
            "steps": 3,
            "view": {"crop": [64, 64], "scale": [0.8, 1.3], "flip": True},
        },
        "evaluate": {"source": "unseen"},
        **changes,
    }
    return parse_run(document, "run.toml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of frames, and a student of depth that was trained from it."""
    made = tmp_path_factory.mktemp("tasks")
    run = run_file(made)
    build(run)
    train_run(run)
    return made


def test_a_student_of_depth_is_scored_on_what_it_says(folder: Path) -> None:
    run = run_file(folder)
    sheet = folder / "depth.png"
    found = evaluate_model(run, str(folder / "student"), EvaluationOptions(sheet=sheet))
    assert found.segmentation is None
    with Image.open(sheet) as drawn:
        assert len(drawn.getcolors(2**20) or []) > 50
    source, tally = open_source(run.sources["unseen"]), DepthTally()
    student = open_trained(folder / "student").student.eval()
    for index in range(len(source)):
        frame = source.load(index)
        with torch.inference_mode():
            image = torch.from_numpy(frame.image.copy()).permute(2, 0, 1)[None].float()
            said = student(image).grids["depth"]
        assert said.min() > 1
        assert said.max() < 100
        full = torch.nn.functional.interpolate(said, scale_factor=8, mode="bilinear")
        tally.add(full[0].numpy(), frame.targets["depth"])
    assert found.tasks["depth"].scores == pytest.approx(tally.scores(), rel=1e-4)
    assert found.tasks["depth"].size == "canvas 64x96"
    document = json.loads(json.dumps(found.to_dict()))
    assert document["depth"]["frames"] == len(source)
    assert "miou" not in document


def test_three_tasks_train_at_once_are_validated_and_scored(folder: Path) -> None:
    heads = {"segmentation": {}, **DEPTH, "normals": {}}
    train = {
        "path": str(folder / "joint"),
        "streams": {"street": {"batch": 2}},
        "steps": 2,
        "task_weights": "uncertainty",
        "validation": {"source": "unseen"},
    }
    names = ("cross_entropy", "depth_regression", "normals_cosine")
    run = run_file(
        folder,
        student={**PSPNET, "encoder_depth": 3, "heads": heads},
        terms=[{"name": name} for name in names],
        train=train,
    )
    result = train_run(run)
    assert set(result.losses) == {"loss", *(f"street/{name}" for name in names)}
    assert result.score == "miou"
    assert result.best_score is not None
    lines = [json.loads(one) for one in (folder / "joint/metrics.jsonl").read_text().splitlines()]
    (scores,) = [line["scores"] for line in lines if "scores" in line]
    assert {"miou", "depth/rel", "normals/mean_angle"} <= scores.keys()
    watched = [line["watched"] for line in lines if "watched" in line][-1]
    assert set(watched) == {f"uncertainty/{task}" for task in ("depth", "normals", "segmentation")}
    found = evaluate_model(run, str(folder / "joint"))
    assert found.result.scores.miou == pytest.approx(scores["miou"])
    assert found.tasks["normals"].scores["mean_angle"] == pytest.approx(
        scores["normals/mean_angle"], rel=1e-6
    )
    assert list(found.tasks) == ["depth", "normals"]


def test_a_trained_student_teaches_depth_and_its_features_and_depth_map_are_learned(
    folder: Path,
) -> None:
    teacher = {**PSPNET, "weights": str(folder / "student/model.safetensors"), "heads": DEPTH}
    teacher["options"] = {**PSPNET["options"], "encoder_depth": 3}
    cache = {
        "path": str(folder / "taught.cache"),
        "canvas": [64, 96],
        "sources": ["street", "plain"],
        "artifacts": ["depth", "features/penultimate"],
    }
    terms = [
        {"name": "depth_bins"},
        {"name": "depth_regression", "teacher": "old"},
        {"name": "pairwise_affinity", "teacher": "old"},
        {"name": "holistic", "teacher": "old", "on": "depth", "width": 4, "weight": 0.01},
    ]
    train = {
        "path": str(folder / "taught"),
        "streams": {"street": {"batch": 2}, "plain": {"batch": 2, "labelled": False}},
        "steps": 2,
    }
    run = run_file(folder, teachers={"old": teacher}, cache=cache, terms=terms, train=train)
    build(run)
    result = train_run(run)
    assert "plain/holistic/old" in result.losses
    assert "plain/depth_bins" not in result.losses
    assert all(np.isfinite(value) for value in result.losses.values())
    student, old = (
        evaluate_model(run, model).tasks["depth"].scores
        for model in (str(folder / "student"), "teacher:old")
    )
    assert student == pytest.approx(old, rel=1e-5)  # of the same weights


def test_a_student_of_depth_predicts_millimetres_at_each_images_own_size(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(run_file(folder).sources["unseen"])
    images = tmp_path / "photos"
    images.mkdir()
    frame = source.load(0).image
    Image.fromarray(frame).save(images / "a.png")
    Image.fromarray(frame[:, :48].copy()).save(images / "b.png")
    found = predict(folder / "student", [images], tmp_path / "out")
    assert (found.predicted, found.skipped) == (2, {})
    student = open_trained(folder / "student").student.eval()
    with torch.inference_mode():
        said = student(torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float())
    full = torch.nn.functional.interpolate(said.grids["depth"], scale_factor=8, mode="bilinear")
    with Image.open(tmp_path / "out/depth/a.png") as stored:
        assert np.abs(np.asarray(stored) - 1000 * full[0, 0].numpy()).max() <= 1
    with Image.open(tmp_path / "out/depth/b.png") as stored:
        assert stored.size == (48, 64)
    with Image.open(tmp_path / "out/overlays/a.png") as picture:
        assert picture.mode == "RGB"
    assert predict(folder / "student", [images], tmp_path / "out").found == 2
    metres = np.linspace(60, 70, 64 * 96).reshape(64, 96)
    monkeypatch.setattr(DepthWriter, "depth_of", lambda *_: metres)
    predict(folder / "student", [images / "a.png"], tmp_path / "far")
    with Image.open(tmp_path / "far/depth/a.png") as stored:
        assert (np.asarray(stored)[metres > 65.535] == 65535).all()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"train.streams": {"plain": {"batch": 2}}}, "has no depth in the cache"),
        ({"terms": [{"name": "depth_regression", "teacher": "other"}]}, "no teacher 'other'"),
        ({"terms": [{"name": "normals_cosine"}]}, "heads.depth: no term teaches it"),
        (
            {"terms": [{"name": "depth_bins"}, {"name": "normals_cosine"}]},
            "compares on the student's normals",
        ),
        ({"student.heads": {"depth": {"bins": 0}}}, "compares on the student's depth_logits"),
        ({"train.task_weights": "uncertainty"}, "weighs tasks against each other"),
        ({"student.heads": {"depth": {"low": 500.0, "high": 900.0}}}, "100% of its depth lies"),
        ({"train.validation": {"source": "plain"}}, "'plain' has no depth"),
        ({"train.streams": {"street": {"batch": 2, "labelled": False}}}, "feeds no term"),
    ],
)
def test_what_cannot_be_learned_is_said_before_the_first_step(
    folder: Path, changes: dict[str, Any], fault: str
) -> None:
    document = run_file(folder).model_dump(mode="json", exclude_unset=True)
    document["train"]["path"] = str(folder / "refused")
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = document
        for name in sections:
            section = section[name]
        section[last] = value
    with pytest.raises(ConfigError, match=fault):
        train_run(parse_run(document, "run.toml"))
    assert not (folder / "refused/last.pt").exists()


def test_bins_that_some_of_the_data_leaves_are_warned_of(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    student = {**PSPNET, "encoder_depth": 3, "heads": {"depth": {"low": 1.0, "high": 12.0}}}
    train = {"path": str(folder / "near"), "streams": {"street": {"batch": 2}}, "steps": 1}
    train_run(run_file(folder, student=student, train=train))
    (said,) = [one.getMessage() for one in caplog.records if "lies beyond" in one.getMessage()]
    assert "student.heads.depth.low = 1 and high = 12 m" in said


def test_what_only_students_of_classes_can_do_is_refused_in_words(folder: Path) -> None:
    model = str(folder / "student")
    with pytest.raises(ConfigError, match="tells depth, and no classes"):
        export_student(folder / "student", "safetensors", ExportOptions(frames=1))
    with pytest.raises(ConfigError, match=r"'plain' has no depth, which .* is scored on"):
        evaluate_model(run_file(folder, evaluate={"source": "plain"}), model)
    with pytest.raises(ConfigError, match="not scored on classes, which --video"):
        evaluate_model(run_file(folder, evaluate={"source": "unseen", "flip": True}), model)
    with pytest.raises(ConfigError, match="was scored on depth, and no classes"):
        _ = evaluate_model(run_file(folder), model).result
    assert list(open_model(run_file(folder), model).tasks) == ["depth"]
