"""Classes from run file to student: mapped, renamed, known by number, drawn by their own names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.preview import draw_preview
from stillroom.pipeline.evaluation import EvaluationOptions, evaluate_model
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import train_run
from stillroom.stages.class_lists import CLASS_LISTS
from stillroom.stages.scenes.classes import CLASSES
from stillroom.stages.sources.open import open_source
from stillroom.storage_specs.errors import CacheMismatch, ConfigError
from stillroom.storage_specs.store import Cache

CITYSCAPES = CLASS_LISTS["cityscapes"]
GROUPS = {
    "sky": ["sky"],
    "building": ["building", "wall", "fence"],
    "road": ["road"],
    "pavement": ["sidewalk"],
    "tree": ["vegetation", "terrain"],
    "pole": ["pole"],
    "sign": ["traffic light", "traffic sign"],
    "car": ["car", "truck", "bus"],
    "pedestrian": ["person", "rider"],
}
DROPPED = ["train", "motorcycle", "bicycle"]


def mapped(groups: dict[str, Any], dropped: list[Any], classes: str = '"cityscapes"') -> list[str]:
    table = ", ".join(f"{name} = {of}" for name, of in groups.items())
    outputs = 19 if "city" in classes else classes
    return [
        f"teachers.tiny.options={{classes={outputs}}}",
        f"teachers.tiny.classes={classes}",
        f"teachers.tiny.mapping={{{table}}}",
        f"teachers.tiny.mapping_drop={dropped}",
    ]


def stored() -> Any:
    return Cache.open("street.cache").artifact_set("street", "tiny")


def test_network_of_cityscapes_teaches_a_student_of_the_runs_classes(run_file: Path) -> None:
    backwards = dict(reversed(GROUPS.items()))
    run = load_run(run_file, mapped(backwards, DROPPED))
    build(run)
    logits = stored().arrays["logits"]
    assert logits.shape[0] == 9
    assert tuple(logits.attributes["classes"]) == CLASSES
    train_run(run)
    for model in ("teacher:tiny", "run"):
        assert evaluate_model(run, model, EvaluationOptions(limit=2)).result.frames == 2
    # 20 outputs, the first of them background, by number
    numbers = {name: [1 + CITYSCAPES.index(one) for one in of] for name, of in GROUPS.items()}
    dropped = [0, *(1 + CITYSCAPES.index(one) for one in DROPPED)]
    twenty = [*mapped(numbers, dropped, "20"), "cache.path=twenty.cache", "train.path=twenty"]
    build(load_run(run_file, twenty))
    train_run(load_run(run_file, twenty))


def test_mapping_of_other_classes_than_the_runs_is_refused(run_file: Path) -> None:
    lacking = {name: of for name, of in GROUPS.items() if name != "sky"}
    with pytest.raises(ConfigError, match=r"teachers\.tiny\.mapping: sky: not given; \[\] stands"):
        build(load_run(run_file, mapped(lacking, [*DROPPED, "sky"])))
    other = {**lacking, "heaven": ["sky"]}
    with pytest.raises(ConfigError, match="'heaven': no class of this run; sky: not given"):
        build(load_run(run_file, mapped(other, DROPPED)))
    assert not Path("street.cache").exists()


def test_another_mapping_is_another_teacher(run_file: Path) -> None:
    build(load_run(run_file, mapped(GROUPS, DROPPED)))
    moved = {**GROUPS, "road": ["road", "train"]}
    with pytest.raises(CacheMismatch, match=r"teacher\.mapping"):
        build(load_run(run_file, mapped(moved, DROPPED[1:])))


RENAMED = [
    'teachers.tiny.classes=["a","b","c","d","e","f","g","h","i"]',
    "train.streams={more={batch=3}}",
    'terms=[{name="pixelwise_kl", teacher="tiny"}]',
]


def test_class_of_another_name_computes_nothing_anew(run_file: Path) -> None:
    build(load_run(run_file))
    before = stored().fingerprint
    for override in (RENAMED, ["teachers.tiny.classes=9", *RENAMED[1:]]):
        run = load_run(run_file, override)
        assert build(run).shards == 0
        assert stored().fingerprint == before
    train_run(load_run(run_file, RENAMED))
    assert '"a"' in Path("run/config.json").read_text()


def test_half_a_cache_is_finished_under_new_names(run_file: Path) -> None:
    build(load_run(run_file))
    whole = stored().fingerprint
    assert stored().discard(1)
    assert build(load_run(run_file, RENAMED)).shards == 1
    assert stored().fingerprint == whole


def test_name_that_has_moved_to_another_class_is_refused(run_file: Path) -> None:
    build(load_run(run_file))
    names = [CLASSES[1], CLASSES[0], *CLASSES[2:]]
    with pytest.raises(CacheMismatch, match=r"teacher\.classes"):
        build(load_run(run_file, [f"teachers.tiny.classes={names}".replace("'", '"')]))


def test_number_of_classes_without_names_trains_a_student(run_file: Path) -> None:
    nameless = [
        "teachers.tiny.classes=9",
        "sources.street.labelled=false",
        "train.streams={more={batch=3}}",
        'terms=[{name="cross_entropy", teacher="tiny"}, {name="pixelwise_kl", teacher="tiny"}]',
    ]
    build(load_run(run_file, nameless))
    train_run(load_run(run_file, nameless))
    # The student's classes are numbers: it is scored on as many with names.
    assert evaluate_model(load_run(run_file), "run", EvaluationOptions(limit=2)).result.frames == 2


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    import cv2

    for name in ("images", "masks"):
        (tmp_path / "town" / name).mkdir(parents=True)
    for number in range(6):
        image = np.full((32, 48, 3), 40 * number, np.uint8)
        mask = np.zeros((32, 48), np.uint8)  # 0 is unlabelled; classes are 1, 2, 3
        if number not in (0, 2):
            mask[8:, :], mask[16:, :], mask[24:, :] = 1, 2, 3
        cv2.imwrite(str(tmp_path / "town" / "images" / f"{number}.png"), image)
        cv2.imwrite(str(tmp_path / "town" / "masks" / f"{number}.png"), mask)
    return tmp_path / "town"


def town(masks: Path) -> list[str]:
    source = f'{{kind="image_mask", root="{masks}", classes=3, ids_from=1}}'
    return [
        f"sources={{street={source}}}",
        "teachers.tiny.options={classes=3}",
        "train.streams={street={batch=3}}",
    ]


def test_masks_whose_ids_start_at_1_are_read_by_two_keys(run_file: Path, masks: Path) -> None:
    run = load_run(run_file, town(masks))
    source = open_source(run.sources["street"])
    assert source.classes == ("0", "1", "2")
    label = source.load(1).label
    assert label is not None
    assert label[::8, 0].tolist() == [255, 0, 1, 2]
    build(run)
    train_run(run)
    assert evaluate_model(run, "run").result.frames == 4


def test_source_whose_classes_get_names_is_extended_and_learnt_from(
    run_file: Path, masks: Path
) -> None:
    first, both = ('cache.artifacts=["logits"]', 'cache.artifacts=["logits", "confidence"]')
    build(load_run(run_file, [*town(masks), first]))
    named = [each.replace("classes=3, ids", 'classes=["a","b","c"], ids') for each in town(masks)]
    assert build(load_run(run_file, [*named, first])).shards == 0
    assert build(load_run(run_file, [*named, both]), extend=True).shards == 2
    run = load_run(run_file, [*named, both, "train.threads=1"])
    train_run(run)
    assert '"classes": [\n    "a",' in Path("run/config.json").read_text()
    assert evaluate_model(run, "run").result.scores.classes == ("a", "b", "c")


def test_sheet_of_few_frames_shows_those_that_were_scored(
    run_file: Path, masks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[str]] = []

    def note(path: Path, frames: Any, *_: Any, **__: Any) -> Path:
        drawn.append([frame.frame_id for frame in frames])
        return path

    monkeypatch.setattr("stillroom.pipeline.prediction_pictures.prediction_sheet", note)
    run = load_run(run_file, [*town(masks), "evaluate.sheet_frames=3"])
    for limit in (2, 4, None):
        evaluate_model(run, "teacher:tiny", EvaluationOptions(limit=limit, sheet=Path("s.png")))
    assert drawn == [["1"], ["1", "3"], ["1", "3", "5"]]  # 0 and 2 have no labelled pixel


def test_preview_draws_labels_and_teacher_by_their_own_classes(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets: list[Any] = []
    monkeypatch.setattr(
        "stillroom.stages.pictures.sheet.Sheet.save", lambda sheet, path: sheets.append(sheet)
    )
    named = "teachers.tiny.classes=" + str(list(CITYSCAPES)).replace("'", '"')
    build(load_run(run_file, ["teachers.tiny.options={classes=19}", named]))
    draw_preview("street.cache", "street", 1, Path("p.png"))
    (sheet,) = sheets
    assert tuple(sheet.classes[:19]) == CITYSCAPES
    column = sheet.columns.index("labels") - 1
    shown = sheet.rows[0].cells[column].array
    kept = Cache.open("street.cache").artifact_set("street", "frames").read("labels", 0)
    for value in np.unique(kept[kept != 255]).tolist():
        (place,) = np.unique(shown[kept == value]).tolist()
        assert sheet.classes[place] == CLASSES[value]
