"""Public data sets and shards from their files to a scored student, through the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from data_set_trees import TREES, pack, plant

from stillroom.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(
    params=[
        pytest.param(kind, marks=() if kind == "voc" else pytest.mark.slow)
        for kind in (*TREES, "webdataset", "hf_dataset")
    ]
)
def run_document(
    request: pytest.FixtureRequest, run_document: dict[str, Any], tmp_path: Path
) -> dict[str, Any]:
    """The run on the train split of a data set, scored on its val split."""
    kind = request.param
    if kind in TREES:
        classes = plant(kind, tmp_path / "data").classes
        section = {"kind": kind, "root": str(tmp_path / "data")}
    else:
        classes, section = 3, pack(kind, tmp_path / "data")
    run_document["sources"] = {
        "train": {**section, "split": "train", "take": 2},
        "rest": {**section, "split": "train", "skip": 2},
        "val": {**section, "split": "val"},
    }
    run_document["teachers"]["tiny"]["options"] = {"classes": classes}
    run_document["cache"] |= {"path": "data.cache", "sources": ["train", "rest"], "threshold": 0.0}
    streams = {"train": {"batch": 2}, "rest": {"batch": 1, "labelled": False}}
    run_document["train"] |= {"streams": streams, "steps": 1}
    run_document["evaluate"] = {"source": "val", "sheet_frames": 1}
    return run_document


def test_a_data_set_is_built_looked_at_trained_on_and_scored(run_file: Path) -> None:
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
