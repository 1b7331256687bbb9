"""Public data sets and shards from their files to a scored student, through the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from data_set_trees import OTHERS, SIZE, TREES, expected, pack, plant

from stillroom.cli import main

if TYPE_CHECKING:
    from pathlib import Path

REAL = "real photos of COCO"


LAYOUTS = TREES | OTHERS
KINDS = (*LAYOUTS, "webdataset", "hf_dataset", REAL)


@pytest.fixture(
    params=[pytest.param(kind, marks=() if kind == "voc" else pytest.mark.slow) for kind in KINDS]
)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def run_document(
    kind: str, request: pytest.FixtureRequest, run_document: dict[str, Any], tmp_path: Path
) -> dict[str, Any]:
    """The run on the train split of a data set, scored on its val split."""
    splits = {name: {"split": name} for name in ("train", "val")}
    if kind in LAYOUTS:
        classes = plant(kind, tmp_path / "data").classes
        section: dict[str, Any] = {"kind": kind, "root": str(tmp_path / "data")}
        if kind == "image_mask":
            section["classes"] = classes
            splits = {name: {"root": str(tmp_path / "data" / name)} for name in splits}
    elif kind == REAL:
        classes, section = 133, real_photos(request.getfixturevalue("shared_data"), tmp_path)
    else:
        classes, section = 3, pack(kind, tmp_path / "data")
    run_document["sources"] = {
        "train": {**section, **splits["train"], "take": 2},
        "rest": {**section, **splits["train"], "skip": 2, "take": 1},
        "val": {**section, **splits["val"], "take": 1},
    }
    run_document["teachers"]["tiny"]["options"] = {"classes": classes}
    run_document["cache"] |= {"path": "data.cache", "sources": ["train", "rest"], "threshold": 0.0}
    streams = {"train": {"batch": 2}, "rest": {"batch": 1, "labelled": False}}
    run_document["train"] |= {"streams": streams, "steps": 1}
    run_document["evaluate"] = {"source": "val", "sheet_frames": 1, "size": "own"}
    return run_document


def real_photos(shared_data: Path, folder: Path) -> dict[str, str]:
    """Link those photos of COCO that have a label map, as its archives lay them out."""
    for split in ("train2017", "val2017"):
        (folder / "coco" / split).mkdir(parents=True)
        labels = shared_data / "coco" / f"semantic_{split}"
        (folder / "coco" / labels.name).symlink_to(labels)
        for label in labels.glob("*.png"):
            photo = shared_data / "coco" / split / f"{label.stem}.jpg"
            (folder / "coco" / split / photo.name).symlink_to(photo)
    return {"kind": "coco_panoptic", "root": str(folder / "coco")}


def test_a_data_set_is_built_looked_at_trained_on_and_scored(kind: str, run_file: Path) -> None:
    said = {}
    for command in (
        ["cache", "build"],
        ["cache", "preview", "--out", "sheet.png"],
        ["train"],
        ["eval", "run", "--json"],
    ):
        done = CliRunner().invoke(main, [*command, str(run_file)])
        assert done.exit_code == 0, f"{command}: {done.stderr}"
        said[command[-1]] = done
    assert "bad" not in said["build"].stderr
    sheets = {path.name for path in run_file.parent.glob("*.png")}
    assert sheets == {"sheet-train-tiny.png", "sheet-rest-tiny.png"}
    scores = json.loads(said["--json"].stdout)
    assert scores["frames"] == 1
    assert 0 <= scores["miou"] <= 1
    pixels = sum(each["pixels"] for each in scores["classes"])
    if kind != REAL:  # as many as the label has, whatever the canvas
        labelled = expected(LAYOUTS[kind]) != 255 if kind in LAYOUTS else np.ones(SIZE)
        assert pixels == labelled.sum()
