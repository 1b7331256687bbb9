"""A raised threshold keeps the pixels of a build at that threshold, whatever grid a student has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from student_output import student_output

from stillroom.stages.cache.producers import TeacherArtifacts
from stillroom.stages.sources.canvas import CanvasFrame
from stillroom.stages.train.batch import Batch
from stillroom.stages.train.dataset import CacheDataset
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.objective import Objective
from stillroom.stages.upsample import upsample_logits
from stillroom.stages.view import ViewConfig
from stillroom.storage_specs.codecs.table import codec_from_dict
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.manifest import FrameRow
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from pathlib import Path

CANVAS, VALID, STRIDE, CLASSES = (96, 128), (83, 101), 8, 4
GRID = (CANVAS[0] // STRIDE, CANVAS[1] // STRIDE)
CODECS = {"pseudo_label": "raw", "pixel_confidence": "floor", "confidence": "unit"}
MOVING = ViewConfig(crop=(62, 75), scale=(0.5, 1.8), flip=True)  # beyond the frame, too
PIXELS, LABEL, COARSE = "fpn/pixel_confidence", "fpn/pseudo_label", "fpn/confidence"
STRIDES = pytest.mark.parametrize("stride", [4, 8, 16, 32])


class Teacher:
    """Logits of which a few places are unsure."""

    device = "cpu"

    def __init__(self) -> None:
        self.strides = {"logits": STRIDE}

    def __call__(self, frames: np.ndarray | torch.Tensor) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(int(frames[0, 0, 0, 0]))
        return {"logits": 4 * torch.randn(len(frames), CLASSES, *GRID, generator=generator)}


def frame_of(index: int) -> CanvasFrame:
    return CanvasFrame(f"f{index}", np.full((*CANVAS, 3), index, np.uint8), None, VALID)


def cached(path: Path, threshold: float, artifacts: tuple[str, ...] = tuple(CODECS)) -> Cache:
    """What a build with this threshold leaves: four frames."""
    cache, produce = Cache.create(path), TeacherArtifacts(Teacher(), artifacts, threshold)
    raw = codec_from_dict("raw")
    specs = {
        "frames": [ArraySpec("frames", (*CANVAS, 3), raw)],
        "fpn": [
            ArraySpec(name, shape, codec_from_dict(CODECS[name]), attributes={"stride": stride})
            for name, (shape, stride) in produce.shapes(CANVAS).items()
        ],
    }
    for name, arrays in specs.items():
        writer = cache.define("street", name, {"threshold": threshold}, 4, 4, arrays).writer(0)
        for index in range(4):
            frame = frame_of(index)
            row = FrameRow(index, frame.frame_id, valid_height=VALID[0], valid_width=VALID[1])
            writer.put(row, {"frames": frame.image} if name == "frames" else produce([frame])[0])
        writer.commit()
    return cache


def opened(cache: Cache, needs: set[str], stride: int, view: ViewConfig = MOVING) -> CacheDataset:
    sets = [cache.artifact_set("street", name) for name in ("frames", "fpn")]
    return CacheDataset(
        "street",
        sets[0],
        {"fpn": sets[1]},
        needs=frozenset(needs),
        view=view,
        labelled=False,
        out_stride=stride,
    )


@dataclass
class Network:
    strides: dict[str, int]


def value(dataset: CacheDataset, epoch: int, place: int, **section: float) -> float:
    """The cross entropy with the pseudo labels of a view, of a student's logits written here."""
    sample = dataset.sample(epoch, place)
    batch = Batch(
        "street",
        False,
        sample.image[None],
        None,
        sample.mask[None],
        {key: each[None] for key, each in sample.artifacts.items()},
    )
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(1, CLASSES, *sample.mask.shape[1:], generator=generator)
    sections = [{"name": "cross_entropy", "teacher": "fpn", **section}]
    objective = Objective(TypeAdapter(tuple[TermConfig, ...]).validate_python(sections))
    student = Network({"logits": dataset.out_stride})
    return objective(student_output(logits), batch, student)[0].item()  # type: ignore[arg-type]


@STRIDES
@pytest.mark.parametrize("threshold", [0.755, 0.8, 0.9, 0.95])
def test_it_keeps_the_pixels_of_a_build_at_that_threshold(
    tmp_path: Path, threshold: float, stride: int
) -> None:
    low = opened(cached(tmp_path / "low", 0.7), {LABEL, PIXELS}, stride)
    high = opened(cached(tmp_path / "high", threshold), {LABEL}, stride)
    for epoch in range(3):
        for place in range(len(low)):
            raised, built = (one.sample(epoch, place).artifacts for one in (low, high))
            kept = raised[PIXELS][0] >= threshold
            assert 0 < kept.sum() < (raised[LABEL] != 255).sum()
            assert torch.equal(raised[LABEL].masked_fill(~kept, 255), built[LABEL])
            found = value(low, epoch, place, threshold=threshold)
            assert found == pytest.approx(value(high, epoch, place), rel=1e-6)


def test_a_threshold_between_two_steps_is_that_of_the_upper_one(tmp_path: Path) -> None:
    low = opened(cached(tmp_path / "low", 0.7), {LABEL, PIXELS}, 8)
    high = opened(cached(tmp_path / "high", 0.905), {LABEL}, 8)
    for place in range(len(low)):
        expected = value(high, 0, place)
        for between in (0.901, 0.9049):
            assert value(low, 0, place, threshold=between) == pytest.approx(expected, rel=1e-6)


@STRIDES
def test_without_it_the_teachers_grid_stands_in_upsampled_in_one_step(
    tmp_path: Path, stride: int
) -> None:
    still = ViewConfig()
    cache = cached(tmp_path / "old", 0.7, ("pseudo_label", "confidence"))
    old = opened(cache, {LABEL, PIXELS}, stride, still)
    assert old.stand_ins == {PIXELS: f"{COARSE}@1"}
    assert opened(cache, {LABEL, COARSE}, stride).stand_ins == {}
    stored = torch.from_numpy(cache.artifact_set("street", "fpn").read("confidence", 2))
    expected = upsample_logits(stored[None, None], STRIDE, CANVAS)[0]
    torch.testing.assert_close(old.sample(0, 2).artifacts[PIXELS], expected)


def test_a_cache_without_any_confidence_is_refused_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"add 'pixel_confidence' to .* `stillroom cache extend`"):
        opened(cached(tmp_path / "c", 0.7, ("pseudo_label",)), {PIXELS}, 8)


def test_what_is_cached_itself_has_no_stand_in(tmp_path: Path) -> None:
    assert opened(cached(tmp_path / "c", 0.7), {PIXELS, LABEL}, 8).stand_ins == {}
