"""Divergences against plain loops in float64; tallies against all frames at once."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from stillroom.stages.evaluate.equivariance import (
    FLIP,
    CachedFrame,
    ViewFidelity,
    ViewTally,
    read_view,
    recommend,
    views_of,
)
from stillroom.stages.evaluate.output_errors import FidelityTally, pixel_kl, spatial_kl
from stillroom.stages.pictures.equivariance_sheet import equivariance_sheet
from stillroom.stages.pictures.palette import heat
from stillroom.storage_specs.codecs.table import CODECS
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values.astype(np.float64))
    return powers / powers.sum()


def test_divergences_are_those_of_plain_loops() -> None:
    rng = np.random.default_rng(0)
    live, said = rng.normal(0, 3, (2, 4, 3, 5)).astype(np.float32)
    mask = rng.random((3, 5)) < 0.7
    per_pixel = [
        [kl(softmax(live[:, y, x]), softmax(said[:, y, x])) for x in range(5)] for y in range(3)
    ]
    np.testing.assert_allclose(pixel_kl(live, said), per_pixel, rtol=1e-9, atol=1e-12)
    per_channel = [
        kl(softmax(live[c][mask] / 4), softmax(said[c][mask] / 4)) for c in range(4)
    ]  # fmt: skip
    np.testing.assert_allclose(spatial_kl(live, said, mask), per_channel, rtol=1e-6, atol=1e-12)
    assert (spatial_kl(live, said, np.zeros((3, 5), bool)) == 0).all()
    assert pixel_kl(live * 1e4, said * 1e4).max() < np.inf, "large logits do not overflow"


def test_a_tally_is_all_frames_at_once() -> None:
    rng = np.random.default_rng(1)
    live = rng.normal(0, 5, (6, 4, 3, 5)).astype(np.float32)
    codec = CODECS["byte"]()
    encoded = [codec.encode(one) for one in live]
    said = np.stack([codec.decode(one.values, one.side) for one in encoded])
    mask = np.ones((3, 5), bool)
    mask[2] = False
    tally = FidelityTally("logits", "byte")
    for one, other in zip(live, said, strict=True):
        tally.add(one, other, codec.bound(one), mask, 60.0)
    found = tally.result()
    error = np.abs(live.astype(np.float64) - said)
    assert (found.frames, found.bytes) == (6, 60)
    assert found.max_error == error.max()
    assert found.mean_error == pytest.approx(error.mean())
    assert found.max_error <= found.bound
    assert 0.9 < found.of_bound <= 1
    kls = np.stack([pixel_kl(a, b) for a, b in zip(live, said, strict=True)])
    assert found.kl == pytest.approx(kls[:, mask].mean())
    agree = live.argmax(1) == said.argmax(1)
    assert found.agreement == pytest.approx(agree[:, mask].mean())


def test_a_tally_refuses_another_shape_and_no_frames() -> None:
    tally = FidelityTally("confidence", "unit")
    with pytest.raises(ArtifactError, match="the teacher says"):
        tally.add(np.zeros((2, 2)), np.zeros((2, 3)), 0.0, np.ones((2, 2), bool), 0)
    with pytest.raises(ArtifactError, match="no frame"):
        tally.result()
    tally.add(np.zeros((2, 2)), np.zeros((2, 2)), 0.0, np.ones((2, 2), bool), 0)
    assert tally.result().kl is None


def frame(stride: int = 1) -> CachedFrame:
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (16, 24, 3), np.uint8)
    label = rng.integers(0, 3, (16, 24)).astype(np.uint8)
    label[0, :3] = 255
    logits = pointwise(image)[:, ::stride, ::stride]
    return CachedFrame("a", image, label, np.ascontiguousarray(logits), stride, (16, 20))


def pointwise(image: np.ndarray) -> np.ndarray:
    """A teacher that looks at each pixel alone: it moves with any flip and whole shift."""
    return np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32) / 64


def test_a_teacher_that_moves_with_its_input_loses_nothing_by_flips_and_crops() -> None:
    views = views_of((16, 24))
    for name in ("as it is", "crop", FLIP):
        reading = read_view(views[name], frame(), pointwise)
        assert reading.kl.max() < 1e-12, name
        np.testing.assert_array_equal(reading.live, reading.cached)
        tally = ViewTally(name, 3)
        tally.add(reading)
        found = tally.result()
        assert found.agreement == 1
        assert found.live == found.cached
    assert not read_view(views[FLIP], frame(), pointwise).mask[:, :4].any(), "padding is left out"


def test_a_teacher_that_knows_left_from_right_is_found_out_by_flips() -> None:
    def lopsided(image: np.ndarray) -> np.ndarray:
        said = pointwise(image)
        said[0, :, : said.shape[2] // 2] += 8
        return said

    cached = frame()
    cached = CachedFrame(
        "a", cached.image, cached.label, lopsided(cached.image), 1, cached.valid
    )  # fmt: skip
    same = read_view(views_of((16, 24))["as it is"], cached, lopsided)
    mirrored = read_view(views_of((16, 24))[FLIP], cached, lopsided)
    assert same.kl.max() < 1e-12
    assert mirrored.kl[mirrored.mask].mean() > 0.5


def test_views_of_tiny_and_odd_canvases_can_be_looked_through() -> None:
    for canvas in ((2, 2), (5, 7), (33, 17)):
        image = np.zeros((*canvas, 3), np.uint8)
        cells = (-(-canvas[0] // 4), -(-canvas[1] // 4))
        cached = CachedFrame("a", image, None, np.zeros((3, *cells), np.float32), 4, canvas)

        def live(image: np.ndarray) -> np.ndarray:
            return np.zeros((3, -(-image.shape[0] // 4), -(-image.shape[1] // 4)), np.float32)

        for view in views_of(canvas).values():
            reading = read_view(view, cached, live)
            assert reading.classes(reading.live).shape == (view.out_height, view.out_width)


def scored(
    view: str, live: float | None, said: float, agreement: float = 0.9, error: float = 0.001
) -> ViewFidelity:
    if live is None:
        return ViewFidelity(view, 4, 0.1, agreement, None, None)
    from stillroom.stages.evaluate.confusion import Scores

    def scores(miou: float) -> Scores:
        return Scores(("a",), miou, miou, miou, (miou,), (miou,), (9,))

    return ViewFidelity(view, 4, 0.1, agreement, scores(live), scores(said), live - said, error)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (scored(FLIP, 0.7, 0.68), "train.view.flip = false"),
        (scored(FLIP, 0.7, 0.695), "costs nothing"),
        (scored(FLIP, 0.68, 0.7), "mirrored output is the better one"),
        (scored(FLIP, 0.7, 0.68, error=0.02), "4 frames cannot tell"),
        (scored(FLIP, None, 0, 0.9), "no label says who is right"),
        (scored(FLIP, None, 0, 0.99), "costs little"),
    ],
)
def test_what_is_recommended_about_flips(found: ViewFidelity, words: str) -> None:
    (line,) = recommend([found])
    assert words in line


def test_what_is_recommended_about_scales() -> None:
    views = [scored("scale 0.5", 0.7, 0.6), scored("scale 0.75", 0.7, 0.7),
             scored("scale 1.5", 0.7, 0.7), scored("scale 2", 0.7, 0.6)]  # fmt: skip
    assert "nowhere" in recommend([scored("scale 0.5", 0.7, 0.6, error=0.1)])[0]
    (line,) = recommend(views)
    assert "at 0.5, 2 the warped output" in line
    assert "train.view.scale = [0.75, 1.5]" in line
    assert "nowhere from 0.75 to 1.5" in recommend(views[1:3])[0]
    assert "keeps clear" in recommend([scored("scale 2", None, 0, 0.8)])[0]
    assert recommend([]) == []


def test_the_sheet_is_drawn_worst_first(tmp_path: Path) -> None:
    view = views_of((16, 24))[FLIP]
    good = replace(read_view(view, frame(), pointwise), frame_id="good")
    bad = replace(read_view(view, frame(), lambda image: pointwise(image) * 3), frame_id="bad")
    rows = [good, bad]
    path = equivariance_sheet(tmp_path / "x.png", rows, "abc", title="t")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert max(rows, key=lambda row: row.mean_kl).frame_id == "bad"
    with pytest.raises(ConfigError):
        equivariance_sheet(path, [], "abc", title="t")


@pytest.mark.parametrize("least", [1e-5, 3.0])
def test_the_sheets_colours_reach_from_0_to_the_highest_kl(
    tmp_path: Path, words: list[str], least: float
) -> None:
    reading = read_view(views_of((16, 24))[FLIP], frame(), pointwise)
    kl = np.full_like(reading.kl, least)
    kl[:, : kl.shape[1] // 2] = 0
    row = replace(reading, kl=kl, mask=np.ones_like(reading.mask))
    path = equivariance_sheet(tmp_path / "x.png", [row], "abc", title="t")
    said = {
        1e-5: {"mean 5.0e-06 nats", "1e-05 and more", "5e-06"},
        3.0: {"mean 1.500 nats", "3 and more", "1.5"},
    }
    assert said[least] <= set(words)
    colours = {colour for _, colour in Image.open(path).getcolors(2**20) or []}
    assert {tuple(heat()[0].tolist()), tuple(heat()[255].tolist())} <= colours
    equivariance_sheet(path, [replace(row, kl=0 * kl)], "abc", title="t")
    assert "mean 0.000 nats" in words


def test_upsampled_classes_cover_the_frame() -> None:
    reading = read_view(
        views_of((16, 24))["as it is"], frame(4), lambda x: pointwise(x)[:, ::4, ::4]
    )
    assert reading.classes(reading.cached).shape == (16, 24)
    assert torch.from_numpy(reading.cached).isfinite().all()
