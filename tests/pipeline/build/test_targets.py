"""From RGB-D folders to depth in a batch: built here and on Ray's path alike, and its faults."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import stillroom
from stillroom.cli import main
from stillroom.stages.pictures.palette import PADDING
from stillroom.stages.pictures.picture_kinds import PICTURES, PictureContext
from stillroom.stages.train.dataset import CacheDataset
from stillroom.stages.view import ViewConfig
from stillroom.storage_specs.codecs.plain import Exact
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.manifest import FrameRow
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


def test_statistics_count_the_depth_of_the_frames_that_have_some(built: Path) -> None:
    frames = Cache.open(built / "kitchen.cache").artifact_set("kitchen", "frames")
    values = np.concatenate([frames.read("depth", index).ravel() for index in range(4)])
    there = values[values > 0].astype(np.float64)
    (one,) = said(f"stats {built / 'kitchen.cache'} --json")["sets"]
    found = one["ranges"]["depth"]
    assert (one["teacher"], found["frames"]) == ("frames", 2)
    assert found["present"] == there.size / values.size
    assert found["mean"] == pytest.approx(there.mean())
    for share in (5, 50, 95):
        expected = np.quantile(there, share / 100)
        assert found[f"quantile_{share:02}"] == pytest.approx(expected, rel=0.06)
    counts, edges = found["histogram"].values(), [float(edge) for edge in found["histogram"]]
    expected, _ = np.histogram(there, [*edges, np.inf])
    assert list(counts) == expected.tolist()
    text = said(f"stats {built / 'kitchen.cache'}")
    assert "of the positions have a value, in 2 frames" in text


@pytest.mark.parametrize("unit", [0.001, 0.00025])
def test_a_build_says_how_far_things_are_and_doubts_a_unit_that_makes_all_near(
    built: Path, unit: float
) -> None:
    place = built / f"{unit}.cache"
    options = f"--set sources.kitchen.unit={unit} --set cache.path={place}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(built)
        text = said(f"build run.toml {options}").partition("depth of kitchen: ")[2]
    shown = np.floor(1000 * METRES[1::2, 1::2]) * unit
    there = shown[shown > 0]
    numbers = re.match(r"(\S+) to (\S+) m, half below (\S+) m, in 2 frames", text)
    assert numbers is not None
    expected = there.min(), there.max(), np.median(there)
    assert [float(each) for each in numbers.groups()] == pytest.approx(expected, rel=0.03)
    assert ("is that so? Else mend sources.kitchen.unit" in text) == (there.max() < 1)


def test_previews_paint_depth_and_tell_a_teacher_s_from_the_true_one(built: Path) -> None:
    said(f"preview {built / 'kitchen.cache'} --out {built / 'alone.png'}")
    cache = Cache.open(built / "kitchen.cache")
    target = cache.define(
        "kitchen", "net", {}, 4, 4, [ArraySpec("depth", (6, 8), Exact(), attributes={"stride": 4})]
    )
    writer = target.writer(0)
    for index in range(4):
        writer.put(FrameRow(index, f"f_{index}"), {"depth": np.full((6, 8), 3, np.float32)})
    writer.commit()
    said(f"preview {built / 'kitchen.cache'} --out {built / 'both.png'}")
    alone, both = (np.asarray(Image.open(built / f"{name}.png")) for name in ("alone", "both"))
    assert alone.shape[0] == both.shape[0]
    assert alone.shape[1] < both.shape[1]


def test_a_picture_of_normals_shows_up_as_green_right_as_red_and_none_as_padding() -> None:
    normals = np.zeros((3, 1, 4), np.float32)
    normals[1, 0, 0], normals[0, 0, 1], normals[2, 0, 2] = -1, 1, -1
    context = PictureContext(np.array([[True] * 4]), np.zeros((0, 3), np.uint8))
    kind = PICTURES["normals"]
    expected = [(128, 255, 128), (255, 128, 128), (128, 128, 255), PADDING]
    assert list(map(tuple, kind.paint(normals, context)[0].tolist())) == expected
    assert kind.caption(normals, context) == "75.0% known"
