from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from stillroom.pipeline.build.run import build
from stillroom.pipeline.evaluation import EvaluationOptions, evaluate_model
from stillroom.pipeline.export_student import ExportOptions, export_student
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import check_terms, train_run
from stillroom.storage_specs.errors import CacheIncomplete, CacheMismatch, ConfigError


@pytest.fixture
def built(run_file: Path) -> Path:
    build(load_run(run_file))
    return run_file


def test_a_student_is_trained_from_the_cache_and_scored(built: Path) -> None:
    run = load_run(built, ['train.validation={source="street", every=3}'])
    result = train_run(run)
    assert result.steps == 6
    assert result.best_score is not None
    assert set(result.losses) >= {
        "loss", "street/cross_entropy", "street/probability_l2/tiny", "more/probability_l2/tiny",
    }  # fmt: skip
    for model in ("run", "run/last.pt", "run/best.pt", "teacher:tiny"):
        found = evaluate_model(run, model, EvaluationOptions(limit=4))
        assert 0 <= found.result.scores.miou <= 1
        assert found.result.frames == 4
    assert json.loads(Path("run/fingerprints.json").read_text()).keys() == {
        "street/frames", "street/tiny", "more/frames", "more/tiny", "validation/street",
    }  # fmt: skip


def test_a_device_that_is_not_there_is_refused(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="train: device = 'cuda', but torch sees no CUDA device"):
        train_run(load_run(built, ["train.device=cuda"]))


def test_the_model_that_is_scored_is_the_one_that_was_trained(built: Path) -> None:
    labels_only = ['terms=[{name="cross_entropy"}]', "train.streams={street={batch=5}}"]
    fast = 'train.optimiser={name="adamw", lr=0.02}'

    def score(path: str, steps: int) -> float:
        run = load_run(built, [*labels_only, fast, f"train.path={path}", f"train.steps={steps}"])
        train_run(run)
        return evaluate_model(run, path).result.scores.pixel_accuracy

    assert score("long", steps=80) > score("short", steps=1) + 0.1


def test_a_module_beside_the_student_leaves_no_byte_in_what_is_exported(built: Path) -> None:
    cell = '{inputs=["penultimate","penultimate"],adaptors=["conv1x1","skip"],aggregator="sum"}'
    module = f'{{name="overparameterisation",layers=["penultimate"],cells=[{cell}]}}'
    found = {}
    for path, terms in (("plain", ""), ("beside", f",{module}")):
        overrides = [f'terms=[{{name="cross_entropy"}}{terms}]', f"train.path={path}"]
        run = load_run(built, [*overrides, "train.streams={street={batch=3}}", "train.steps=2"])
        train_run(run)
        exported = export_student(Path(path), "safetensors", ExportOptions(frames=1))
        cost = evaluate_model(run, path, EvaluationOptions(limit=1)).cost
        found[path] = exported.bytes, cost.parameters, cost.flops
    assert found["beside"] == found["plain"]
    kept = torch.load("beside/last.pt", weights_only=True)["terms"]
    assert "1.module.head.weight" in kept


def test_a_trained_student_can_be_the_next_teacher(built: Path) -> None:
    train_run(load_run(built))
    run = load_run(
        built,
        [
            'teachers={old={kind="python", target="tiny_networks:teacher", device="cpu",'
            'weights="run/model.safetensors"}}',
            "cache.path=next.cache",
            'terms=[{name="cross_entropy"}, {name="pixelwise_kl", teacher="old"}]',
            "train.path=next",
        ],
    )
    build(run)
    assert "street/pixelwise_kl/old" in train_run(run).losses


def test_labels_alone_train_a_baseline_without_any_teacher(run_file: Path) -> None:
    run = load_run(
        run_file,
        ["teachers={}", 'terms=[{name="cross_entropy"}]', "train.streams={street={batch=3}}"],
    )
    build(run)
    assert set(train_run(run).losses) == {"loss", "street/cross_entropy"}


@pytest.mark.parametrize(
    "streams", ["{more={batch=3}}", "{street={batch=3, labelled=false}, more={batch=2}}"]
)
def test_a_teacher_alone_trains_a_student_of_its_classes(built: Path, streams: str) -> None:
    terms = 'terms=[{name="pixelwise_kl", teacher="tiny"}]'
    result = train_run(load_run(built, [terms, f"train.streams={streams}"]))
    assert "more/pixelwise_kl/tiny" in result.losses
    assert evaluate_model(load_run(built), "run", EvaluationOptions(limit=2)).result.frames == 2


def test_without_labels_and_without_a_teacher_a_student_has_no_classes(built: Path) -> None:
    terms = 'terms=[{name="cross_entropy"}]'
    with pytest.raises(ConfigError, match="the student has no classes; give one of them"):
        train_run(load_run(built, [terms, "train.streams={more={batch=3}}"]))


@pytest.fixture
def photos(run_file: Path) -> list[str]:
    """A cache of files beside a drawn source, and the overrides that it was built with."""
    import cv2
    import numpy as np

    for name, channels in (("images", 3), ("masks", 1)):
        Path("photos", name).mkdir(parents=True)
        for number in range(6):
            image = np.full((32, 48, channels), number % 3, np.uint8)
            cv2.imwrite(f"photos/{name}/{number}.png", image)
    overrides = [
        'sources={photos={kind="image_mask", root="photos", classes=["a","b","c"]}, '
        'more={kind="demo", clips=2, frames_per_clip=2, height=32, width=48, labelled=false}}',
        'teachers.tiny={kind="python", target="tiny_networks:teacher", device="cpu", '
        "options={classes=3}}",
        "train.streams={photos={batch=3}}",
        "evaluate.source=photos",
    ]
    build(load_run(run_file, overrides))
    return overrides


def test_training_needs_no_source_once_the_cache_is_built(
    run_file: Path, photos: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = load_run(run_file, photos)
    shutil.rmtree("photos")
    assert train_run(run).steps == 6
    assert (
        "source photos: photos/images and photos/masks do not exist; its frames are taken from "
        "street.cache unchecked (correct sources.photos.root if that is a typing mistake)"
    ) in caplog.text


@pytest.mark.parametrize(
    ("crop", "scale", "told"),
    [("[32,64]", "[1,1]", True), ("[32,48]", "[0.5,1]", False), ("[64,96]", "[2,2]", False)],
)
def test_a_crop_that_the_canvas_does_not_fill_is_told_of(
    run_file: Path, crop: str, scale: str, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    build(load_run(run_file))
    check_terms(load_run(run_file, [f"train.view.crop={crop}", f"train.view.scale={scale}"]))
    said = "train.view.crop 32x64 is larger than cache.canvas 32x48 (height x width)"
    assert caplog.text.count(said) == told
    assert ("partly padding" in caplog.text) == told


@pytest.mark.parametrize("gone", ["photos/masks", "photos/images"])
def test_a_source_of_which_something_is_left_is_broken_and_not_absent(
    run_file: Path, photos: list[str], gone: str
) -> None:
    shutil.rmtree(gone)
    with pytest.raises(ConfigError, match=f"{gone} does not exist"):
        train_run(load_run(run_file, photos))


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ('sources.photos.classes=["a","c","b"]', r"source\.classes"),
        ("sources.photos.mapping={0=1, 1=0, 2=2}", r"source\.ids"),
        ('sources.photos={kind="camvid", root="photos"}', r"source\.kind"),
        ("teachers.tiny.classes=4", r"teacher\.classes"),
    ],
)
def test_of_an_absent_source_what_needs_no_files_is_compared(
    run_file: Path, photos: list[str], override: str, field: str
) -> None:
    shutil.rmtree("photos")
    with pytest.raises(CacheMismatch, match=field):
        train_run(load_run(run_file, [*photos, override]))


def test_sets_of_one_source_must_be_of_the_same_frames(run_file: Path, photos: list[str]) -> None:
    shutil.copytree("street.cache", "other.cache")
    shutil.rmtree("street.cache")
    Path("photos/images/0.png").unlink()
    Path("photos/masks/0.png").unlink()
    build(load_run(run_file, photos))
    for folder in ("photos/tiny", "manifest/photos/tiny"):
        shutil.rmtree(f"street.cache/{folder}")
        shutil.copytree(f"other.cache/{folder}", f"street.cache/{folder}")
    shutil.rmtree("photos")
    with pytest.raises(CacheMismatch, match=r"source\.frames +frames 5 +tiny 6"):
        train_run(load_run(run_file, photos))


@pytest.mark.parametrize("term", ["probability_l2", "cross_entropy"])
def test_a_teacher_of_the_same_classes_in_another_order_is_refused(
    run_file: Path, photos: list[str], term: str
) -> None:
    streams = "train.streams={photos={batch=3}, more={batch=2}}"
    terms = f'terms=[{{name="cross_entropy"}}, {{name="{term}", teacher="tiny"}}]'
    other = ['teachers.tiny.classes=["c","a","b"]', "cache.path=other.cache", streams, terms]
    run = load_run(run_file, [*photos, *other])
    build(run)
    with pytest.raises(ConfigError, match=r"(?s)teacher  c, a, b.*student  a, b, c"):
        train_run(run)


def test_a_resumed_run_must_be_validated_on_the_same_frames(
    run_file: Path, photos: list[str]
) -> None:
    shutil.copytree("photos", "val")
    validation = [
        'sources.val={kind="image_mask", root="val", classes=["a","b","c"]}',
        'cache.sources=["photos"]',
        'train.validation={source="val", every=3}',
    ]
    run = load_run(run_file, [*photos, *validation])
    train_run(run)
    assert "validation/val" in json.loads(Path("run/fingerprints.json").read_text())
    Path("val/images/0.png").unlink()
    with pytest.raises(CacheMismatch, match="validation/val"):
        train_run(run)


def test_a_cache_of_another_teacher_is_refused_with_both_values(built: Path) -> None:
    with pytest.raises(CacheMismatch) as caught:
        train_run(load_run(built, ["teachers.tiny.options={seed=3}"]))
    assert "teacher.options" in str(caught.value)
    assert "street.cache" in str(caught.value)
    assert "cache build" in str(caught.value)


def test_another_canvas_is_refused(built: Path) -> None:
    with pytest.raises(CacheMismatch, match=r"canvas\.height +cache 32 +run 64"):
        train_run(load_run(built, ["cache.canvas=[64, 96]"]))


def test_a_cache_that_is_not_there_or_not_whole_says_what_to_run(run_file: Path) -> None:
    with pytest.raises(CacheIncomplete, match="stillroom cache build"):
        train_run(load_run(run_file))
    build(load_run(run_file))
    next(Path("street.cache/manifest/street/tiny").glob("*.parquet")).unlink()
    with pytest.raises(CacheIncomplete, match="2 of 3 shards"):
        train_run(load_run(run_file))


def test_a_term_without_its_artifact_fails_before_the_first_step(built: Path) -> None:
    run = load_run(
        built, ['cache.artifacts=["confidence", "pseudo_label"]', "cache.path=few.cache"]
    )
    build(run)
    with pytest.raises(ConfigError, match=r"probability_l2.*tiny/logits|'tiny/logits'"):
        train_run(run)


def test_a_raised_threshold_trains_as_a_build_at_it_does_once_the_cache_holds_it(
    built: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raised = 'terms=[{name="cross_entropy", teacher="tiny", threshold=0.3}]'
    held = 'cache.artifacts=["logits", "pseudo_label", "confidence"%s]'
    low = ["cache.threshold=0.28", "cache.path=low.cache", held % ""]
    build(load_run(built, low))
    said = (
        "stream more: tiny/pixel_confidence is not cached; tiny/confidence, upsampled, stands in",
        "add 'pixel_confidence' to cache.artifacts and run `stillroom cache extend`",
    )
    for place, start in enumerate((check_terms, train_run)):
        start(load_run(built, [*low, raised, "train.path=before"]))
        assert [caplog.text.count(each) for each in said] == [place + 1] * 2
    caplog.clear()
    more = held % ', "pixel_confidence"'
    build(load_run(built, [*low, more]), extend=True)
    losses = train_run(load_run(built, [*low, more, raised, "train.path=after"])).losses
    assert not any(each in caplog.text for each in said)
    with pytest.raises(ConfigError, match=r"threshold 0\.999 is above 0\.995"):
        check_terms(load_run(built, [*low, more, raised.replace("0.3", "0.999")]))
    high = ["cache.threshold=0.3", "cache.path=high.cache"]
    build(load_run(built, high))
    plain = 'terms=[{name="cross_entropy", teacher="tiny"}]'
    assert train_run(load_run(built, [*high, plain, "train.path=high"])).losses == losses
    of_low = train_run(load_run(built, [*low, plain, "train.path=low"])).losses
    assert 0 < losses["more/cross_entropy/tiny"] != of_low["more/cross_entropy/tiny"]


def test_a_run_without_a_student_says_which_section_is_missing(built: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.toml"
    lines = built.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("student", "terms"))]
    bare.write_text("\n".join(kept))
    with pytest.raises(ConfigError, match="student, terms"):
        train_run(load_run(bare))


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ("nowhere", "no such run folder or checkpoint"),
        ("teacher:huge", "no teacher 'huge'.*tiny"),
        (".", "no run folder"),
    ],
)
def test_a_model_that_is_not_there_is_named(built: Path, model: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        evaluate_model(load_run(built), model)


def test_a_model_of_other_classes_is_not_scored(built: Path) -> None:
    run = load_run(built)
    train_run(run)
    document = json.loads(Path("run/config.json").read_text())
    document["classes"] = document["classes"][::-1]
    Path("run/config.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="different classes"):
        evaluate_model(run, "run")
