"""From files of boxes to a batch: built, drawn, read on either way, and their faults."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import stillroom
from stillroom.cli import main
from stillroom.stages.train.dataset import CacheDataset
from stillroom.stages.train.packed.packed_dataset import PackedDataset
from stillroom.stages.view import ViewConfig
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from pathlib import Path

RUN = """
[sources.photos]
kind = "boxes"
images = "photos"
boxes = "texts"
classes = ["cup", "cat"]
most = 4

[cache]
path = "boxes.cache"
canvas = [24, 32]
tile = [8, 8]
max_bad_fraction = 0.4
"""
NONE = [0, 0, 0, 0, -1]
BOXES = [[8, 6, 16, 18, 1], [0, 0, 32, 3, 0], NONE, NONE]  # on the canvas, of photos twice as large


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of four frames: with boxes, without a file, with a box of no size, with none."""
    folder = tmp_path_factory.mktemp("boxes")
    for place in ("photos", "texts"):
        (folder / place).mkdir()
    for name in "abcd":
        Image.new("RGB", (64, 48), (200, 40, 90)).save(folder / "photos" / f"{name}.png")
    texts = {"a": "1 .375 .5 .25 .5\n0 .5 .0625 1 .125\n", "c": "1 .5 .5 0 .5\n", "d": ""}
    for name, text in texts.items():
        (folder / "texts" / f"{name}.txt").write_text(text)
    (folder / "run.toml").write_text(RUN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert "1 bad label" in said("build run.toml")
    return folder


def said(line: str) -> Any:
    done = CliRunner().invoke(main, ["cache", *line.split()])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if "--json" in line else done.output


def test_boxes_lie_beside_the_frames_and_a_fault_costs_the_boxes_alone(built: Path) -> None:
    frames = Cache.open(built / "boxes.cache").artifact_set("photos", "frames")
    assert frames.usable().tolist() == [0, 1, 2, 3]
    assert frames.arrays["boxes"].attributes["classes"] == ["cup", "cat"]
    found = [frames.read("boxes", index).tolist() for index in range(4)]
    nothing = [[0] * 5] * 4
    assert found == [BOXES, nothing, nothing, [NONE] * 4]
    assert frames.rows()["reason"].to_pylist()[2].startswith("c.txt: 1 of 1 boxes")
    (one,) = said(f"info {built / 'boxes.cache'} --json")["sets"]
    assert list(one["bad_labels"]) == ["c"]
    assert said(f"verify {built / 'boxes.cache'} --json")["faults"] == []


def test_a_preview_draws_boxes_over_their_frames(built: Path) -> None:
    said(f"preview {built / 'boxes.cache'} --out {built / 'boxes.png'}")
    page = np.asarray(Image.open(built / "boxes.png"))[..., :3].reshape(-1, 3)
    faded = (np.array([200, 40, 90]) // 2 + 64).tolist()
    assert (page == faded).all(1).any()


def test_the_python_api_gives_boxes_and_their_classes(built: Path) -> None:
    data = stillroom.dataset(built / "boxes.cache", "photos", view={"crop": (24, 32), "flip": True})
    assert (data.classes, data.box_classes) == (None, ("cup", "cat"))
    mirrored = [[16, 6, 24, 18, 1], [0, 0, 32, 3, 0], NONE, NONE]
    drawn = set()
    for epoch in range(8):
        data.set_epoch(epoch)
        drawn.add(str(data[0]["boxes"].int().tolist()))
    assert drawn == {str(BOXES), str(mirrored)}


def test_a_device_gets_the_boxes_that_the_host_has(built: Path) -> None:
    frames = Cache.open(built / "boxes.cache").artifact_set("photos", "frames")
    view = ViewConfig(crop=(16, 16), scale=(0.7, 2), flip=True)
    needs = frozenset({"boxes"})
    host = CacheDataset("photos", frames, {}, needs=needs, view=view, labelled=False, out_stride=4)
    packed = PackedDataset(host)
    for epoch in range(3):
        batches = [each.empty(4) for each in (host, packed)]
        for each, batch in zip((host, packed), batches, strict=True):
            for place in range(4):
                each.fill(batch, place, epoch, place)
        expected, found = batches[0].targets["boxes"], batches[1].unpacked().targets["boxes"]
        assert expected.shape == (4, 4, 5)
        assert torch.equal(found, expected)
