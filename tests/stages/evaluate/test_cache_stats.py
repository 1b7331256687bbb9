"""Statistics in pieces against float64 NumPy on everything at once."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from stillroom.stages.evaluate.cache_stats import (
    BINS,
    THRESHOLDS,
    CacheStats,
    StatsFrame,
    stats_of_frame,
)
from stillroom.stages.evaluate.moments import Moments
from stillroom.stages.pictures.stats_chart import StatsRow, stats_chart
from stillroom.stages.upsample import upsample_logits
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from pathlib import Path

CLASSES, SIZE, VALID, STRIDE = 4, (16, 24), (16, 20), 4


def frames(count: int = 5, *, labelled: bool = True) -> list[StatsFrame]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        label = rng.integers(0, CLASSES, SIZE).astype(np.uint8)
        label[rng.random(SIZE) < 0.2] = 255
        label[:, VALID[1] :] = 255
        made.append(
            StatsFrame(
                label=label if labelled else None,
                pseudo_label=rng.choice([0, 1, 2, 3, 255], SIZE).astype(np.uint8),
                logits=rng.normal(0, 3, (CLASSES, 4, 6)).astype(np.float32),
                confidence=None,
                features=rng.normal(1000, 2, (7, 4, 6)).astype(np.float32),
                stride=STRIDE,
                features_stride=STRIDE,
                size=SIZE,
                valid=VALID,
            )
        )
    return made


def merged(made: list[StatsFrame]) -> CacheStats:
    return reduce(CacheStats.merge, [stats_of_frame(one, CLASSES) for one in made])


def test_moments_merge_to_those_of_everything_at_once() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(
        1e6, [0.5, 3, 100], (400, 3)
    )  # a mean far from 0, where sums of squares fail
    group = rng.integers(0, 5, 400)
    group[group == 4] = 9  # none of the groups
    pieces = [Moments.of(vectors[a:b], group[a:b], 4)
              for a, b in ((0, 1), (1, 1), (1, 130), (130, 400))]  # fmt: skip
    for order in (pieces, pieces[::-1]):
        found = reduce(Moments.merge, order, Moments.empty(4, 3))
        for index in range(4):
            mine = vectors[group == index]
            assert found.count[index] == len(mine)
            np.testing.assert_allclose(found.mean[index], mine.mean(0), rtol=1e-12)
            np.testing.assert_allclose(found.variance[index], mine.var(0), rtol=1e-8)
    whole = found.total()
    np.testing.assert_allclose(whole.variance[0], vectors[group < 4].var(0), rtol=1e-8)
    assert Moments.empty(2, 3).merge(Moments.empty(2, 3)).variance.tolist() == [[0] * 3] * 2
    with pytest.raises(ArtifactError):
        Moments.of(vectors, group[:-1], 4)


def test_counts_are_those_of_all_pixels_at_once() -> None:
    made = frames()
    found = merged(made)
    rows, columns = VALID
    label = np.stack([one.label for one in made])[:, :rows, :columns]
    logits = torch.from_numpy(np.stack([one.logits for one in made]))
    said = upsample_logits(logits, STRIDE, SIZE)[..., :rows, :columns].softmax(1).max(1)
    sure, best = said.values.numpy(), said.indices.numpy()
    assert found.frames == len(made)
    assert found.pixels == sure.size
    assert found.labelled == (label != 255).sum()
    for step, threshold in enumerate(THRESHOLDS):
        kept = sure >= np.float32(threshold)
        assert found.kept[step] == kept.sum()
        assert found.labelled_kept[step] == (kept & (label != 255)).sum()
        assert found.right[step] == (kept & (label == best)).sum()
    np.testing.assert_array_equal(found.confidence, np.histogram(sure, BINS, (0, 1))[0])
    np.testing.assert_array_equal(found.labels, np.bincount(label.ravel(), minlength=256))
    np.testing.assert_array_equal(found.best, np.bincount(best.ravel(), minlength=256))
    pseudo = np.stack([one.pseudo_label for one in made])[:, :rows, :columns]
    np.testing.assert_array_equal(found.pseudo_labels, np.bincount(pseudo.ravel(), minlength=256))


def test_features_go_to_the_class_under_each_cells_centre() -> None:
    made = frames()
    found = merged(made).features
    vectors, group = [], []
    for one in made:
        for y in range(4):
            for x in range(5):  # the sixth column's centre is padding
                vectors.append(one.features[:, y, x].astype(np.float64))
                group.append(one.label[4 * y + 2, 4 * x + 2])
    for index in (*range(CLASSES), 255):
        mine = np.array([v for v, g in zip(vectors, group, strict=True) if g == index])
        place = min(index, CLASSES)
        assert found.count[place] == len(mine)
        np.testing.assert_allclose(found.mean[place], mine.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.variance[place], mine.var(0), rtol=1e-8)


def test_confidence_and_pseudo_labels_stand_in_for_logits() -> None:
    (one,) = frames(1)
    confidence = np.full((4, 6), 0.72, np.float32)
    bare = StatsFrame(**{**one.__dict__, "logits": None, "confidence": confidence})
    found = stats_of_frame(bare, CLASSES)
    assert found.kept.tolist() == [16 * 20] * 5 + [0] * 5
    counted = (one.label != 255) & (one.pseudo_label != 255)
    counted[:, VALID[1] :] = False
    assert found.labelled_kept[0] == counted.sum()
    assert not found.best.any()
    nothing = StatsFrame(**{**bare.__dict__, "confidence": None, "features": None})
    assert stats_of_frame(nothing, CLASSES).to_dict("abcd")["thresholds"][0]["kept"] is None


@pytest.mark.parametrize("scores", ["logits", "confidence", None])
def test_thresholds_are_judged_by_the_confidence_of_pixels_where_it_is_cached(scores) -> None:
    (one,) = frames(1)
    rng = np.random.default_rng(3)
    sure = (rng.integers(90, 201, SIZE) / 200).astype(np.float32)  # often at a threshold itself
    of = {**one.__dict__, "pixel_confidence": sure}
    of["logits"] = one.logits if scores == "logits" else None
    of["confidence"] = np.full((4, 6), 0.01, np.float32) if scores == "confidence" else None
    found = stats_of_frame(StatsFrame(**of), CLASSES)
    rows, columns = VALID
    steps = np.rint(sure[:rows, :columns] * 200).astype(int)
    label = one.label[:rows, :columns]
    best = one.pseudo_label[:rows, :columns]
    if scores == "logits":
        logits = torch.from_numpy(one.logits[None])
        best = upsample_logits(logits, STRIDE, SIZE)[0, :, :rows, :columns].argmax(0).numpy()
    assert found.pixels == steps.size
    assert found.confidence.tolist() == np.bincount((steps // 10).clip(max=19).ravel()).tolist()
    for place, at in enumerate(range(100, 200, 10)):
        kept = steps >= at
        assert found.kept[place] == kept.sum()
        assert found.right[place] == (kept & (label == best) & (label != 255)).sum()


def test_the_chart_is_drawn_whatever_is_missing(tmp_path: Path) -> None:
    many = tuple(f"a class with quite a long name {index}" for index in range(90))
    rows = [
        StatsRow("all", ("a", "b", "c", "d"), merged(frames())),
        StatsRow("no labels", ("a", "b", "c", "d"), merged(frames(labelled=False))),
        StatsRow("many", many, merged(frames())),
        StatsRow("nothing", ("a",), CacheStats.empty(1, 0)),
    ]
    path = stats_chart(tmp_path / "stats.png", rows, title="t")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError):
        stats_chart(path, [], title="t")
