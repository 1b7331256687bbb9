"""From RGB-D folders to depth in a batch: built here and on Ray's path alike, and its faults."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import stillroom
from stillroom.cli import main
from stillroom.stages.train.dataset import CacheDataset
from stillroom.stages.view import ViewConfig
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from pathlib import Path

RUN = """
[sources.kitchen]
kind = "rgbd"
root = "kitchen"

[cache]
path = "kitchen.cache"
canvas = [24, 32]
max_bad_fraction = 0.4
"""
SIZE = (48, 64)  # twice the canvas
ROWS, COLUMNS = np.indices(SIZE)
METRES = np.where((ROWS < 12) & (COLUMNS < 12), 0, 2 + COLUMNS / 64 + ROWS / 100)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of four frames: with depth, without, with negative depth, with depth."""
    folder = tmp_path_factory.mktemp("kitchen")
    for place in ("color", "depth"):
        (folder / "kitchen" / place).mkdir(parents=True)
    brightness = np.repeat((3 * COLUMNS).astype(np.uint8)[..., None], 3, axis=2)
    for time in range(4):
        Image.fromarray(brightness).save(folder / "kitchen" / "color" / f"f_{time}.png")
    for time in (0, 3):
        millimetres = (1000 * METRES).astype(np.uint16)
        Image.fromarray(millimetres).save(folder / "kitchen" / "depth" / f"f_{time}.png")
    np.save(folder / "kitchen" / "depth" / "f_2.npy", -METRES)
    (folder / "run.toml").write_text(RUN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert "1 bad label" in said("build run.toml")
    return folder


def said(line: str) -> Any:
    done = CliRunner().invoke(main, ["cache", *line.split()])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if "--json" in line else done.output


def test_depth_lies_beside_the_frames_and_a_fault_costs_the_depth_alone(built: Path) -> None:
    frames = Cache.open(built / "kitchen.cache").artifact_set("kitchen", "frames")
    assert frames.usable().tolist() == [0, 1, 2, 3]
    assert [bool(frames.read("depth", i).any()) for i in range(4)] == [True, False, False, True]
    reasons = frames.rows()["reason"].to_pylist()
    assert reasons[:2] == ["", ""]
    assert reasons[2].startswith("f_2.npy: 2928 of 3072 depths are negative")
    # Each pixel of a canvas half as large has the depth of the nearest one, in millimetres.
    nearest = np.floor(1000 * METRES[1::2, 1::2]) / 1000
    np.testing.assert_allclose(frames.read("depth", 3), nearest, rtol=7.1e-5)
    (one,) = said(f"info {built / 'kitchen.cache'} --json")["sets"]
    assert list(one["bad_labels"]) == ["f_2"]
    assert said(f"verify {built / 'kitchen.cache'} --json")["faults"] == []


@pytest.mark.parametrize("flip", [False, True])
def test_a_batch_has_the_depth_of_what_its_images_show(built: Path, flip: bool) -> None:
    frames = Cache.open(built / "kitchen.cache").artifact_set("kitchen", "frames")
    dataset = CacheDataset(
        "kitchen",
        frames,
        {},
        needs=frozenset({"depth"}),
        view=ViewConfig(crop=(16, 20), scale=(1.5, 1.5), flip=flip),
        labelled=False,
        out_stride=4,
    )
    assert (dataset.targets, dataset.labelled) == (("depth",), True)
    assert list(dataset.bad_labels) == ["f_2"]
    batch = dataset.empty(4)
    for place in range(4):
        dataset.fill(batch, place, 1, place)
    depth = batch.targets["depth"]
    assert (batch.labelled, batch.labels, depth.shape) == (True, None, (4, 1, 16, 20))
    assert not depth[1:3].any()
    for place in (0, 3):
        view, known = dataset.shown(1, place)[0].view, (depth[place, 0] > 0).numpy()
        column = batch.images[place, 0].numpy() / 3  # of the photo, by its brightness
        row = 2 * (view.top + (np.arange(16)[:, None] + 0.5) / 1.5) - 0.5
        expected = (2 + column / 64 + row / 100) / 1.5
        assert np.abs(depth[place, 0].numpy() - expected)[known].max() < 0.03
        assert known.mean() > 0.7


def test_the_python_api_gives_depth(built: Path) -> None:
    data = stillroom.dataset(built / "kitchen.cache", "kitchen")
    assert (data.classes, list(data[0])) == (None, ["frame_id", "image", "depth", "mask"])
    assert data[0]["depth"].shape == (1, 24, 32)
    assert "depth" not in stillroom.dataset(built / "kitchen.cache", "kitchen", labels=False)[0]


def test_a_teacher_of_a_target_s_name_is_refused_before_anything_is_built(built: Path) -> None:
    run = (built / "run.toml").read_text() + '[flows.depth]\nkind = "dis"\n'
    (built / "two.toml").write_text(run)
    done = CliRunner().invoke(main, ["cache", "build", str(built / "two.toml")])
    assert done.exit_code == 2
    assert "'depth' is what a source labels its frames with" in done.output
