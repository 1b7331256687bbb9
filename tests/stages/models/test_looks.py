"""Means over looks against Pillow, NumPy and loops over windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from stillroom.stages.models.looks import Looks, windows
from stillroom.stages.models.looks_settings import LooksSettings
from stillroom.storage_specs.errors import ArtifactError, ConfigError


class Model:
    """Three logits a cell, from its first pixel and its place; remembers what it was given."""

    def __init__(self, stride: int = 1) -> None:
        self.stride, self.seen = stride, []

    def __call__(self, frames: np.ndarray | torch.Tensor) -> tuple[torch.Tensor, int]:
        frames = np.asarray(frames)
        assert frames.dtype == np.uint8
        self.seen.append(frames.shape)
        cells = torch.from_numpy(frames[:, :: self.stride, :: self.stride].astype(np.float32) / 50)
        columns = torch.arange(cells.shape[2]) / 7
        return torch.stack([cells[..., 0], cells[..., 1] + columns, cells[..., 2]], 1), self.stride


def frame(height: int = 12, width: int = 18) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def plain(image: np.ndarray) -> np.ndarray:
    """(C, H, W) float64 probabilities of a model of stride 1."""
    logits = Model()(image[None])[0][0].double().numpy()
    weights = np.exp(logits - logits.max(0))
    return weights / weights.sum(0)


def mean(image: np.ndarray, **looks) -> np.ndarray:
    logits, stride = Looks(Model(), LooksSettings(**looks))(image[None])
    assert stride == 1
    assert logits.shape == (1, 3, *image.shape[:2])
    return logits[0].double().exp().numpy()


def test_one_look_is_the_model_itself_and_need_not_be_wrapped() -> None:
    assert mean(frame()) == pytest.approx(plain(frame()), abs=1e-6)
    assert not LooksSettings().several()
    for looks in ({"flip": True}, {"scales": (0.5, 1)}, {"scales": (2,)}, {"tile": (8, 8)}):
        assert LooksSettings(**looks).several()


def test_both_mirror_images_count_alike() -> None:
    image = frame()
    expected = (plain(image) + plain(image[:, ::-1])[:, :, ::-1]) / 2
    assert mean(image, flip=True) == pytest.approx(expected, abs=1e-6)


def test_every_size_is_resized_back_and_counts_alike() -> None:
    image, expected = frame(), np.zeros((3, 12, 18))
    for scale in (0.5, 1, 1.5):
        size = round(18 * scale), round(12 * scale)
        found = plain(np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)))
        back = [
            resized(resized(one.T, 18).T, 12)  # columns, then rows
            for one in found
        ]
        expected += np.stack(back) / 3
    # the two may round a pixel of the resized image to either side
    assert mean(image, scales=(0.5, 1, 1.5)) == pytest.approx(expected, abs=0.01)


def resized(rows: np.ndarray, count: int) -> np.ndarray:
    """Linear between the centres of rows, (n, m) to (count, m)."""
    centres = (np.arange(count) + 0.5) * len(rows) / count - 0.5
    columns = [np.interp(centres, np.arange(len(rows)), column) for column in rows.T]
    return np.stack(columns, 1)


def test_windows_are_averaged_where_they_overlap() -> None:
    image = frame()
    sums, counts = np.zeros((3, 12, 18)), np.zeros((12, 18))
    for top in (0, 4):  # 8 of 12 rows, a step of 4; 10 of 18 columns, a step of 5
        for left in (0, 5, 8):
            sums[:, top : top + 8, left : left + 10] += plain(
                image[top : top + 8, left : left + 10]
            )
            counts[top : top + 8, left : left + 10] += 1
    found = mean(image, tile=(8, 10), overlap=0.5)
    assert found == pytest.approx(sums / counts, abs=1e-6)
    assert counts.max() == 6


@pytest.mark.parametrize(
    ("size", "tile", "overlap", "starts"),
    [
        ((12, 18), (12, 18), 0.5, [(0, 0)]),
        ((12, 18), (64, 9), 0.0, [(0, 0), (0, 9)]),  # no window is larger than the frame
        ((10, 6), (4, 6), 0.0, [(0, 0), (4, 0), (6, 0)]),
        ((5, 3), (3, 3), 0.99, [(0, 0), (1, 0), (2, 0)]),  # a step is a pixel at least
    ],
)
def test_windows_step_by_what_does_not_overlap_and_end_at_the_edge(
    size, tile, overlap, starts
) -> None:
    found = list(windows(size, LooksSettings(tile=tile, overlap=overlap)))
    assert [(rows.start, columns.start) for rows, columns in found] == starts
    for rows, columns in found:
        assert rows.stop - rows.start == min(size[0], tile[0])
        assert columns.stop - columns.start == min(size[1], tile[1])


def test_windows_and_mirror_images_are_the_batch_and_all_looks_go_together() -> None:
    model, image = Model(stride=2), frame(16, 24)
    settings = LooksSettings(flip=True, scales=(1, 0.5), tile=(8, 8), overlap=0.5)
    logits, _ = Looks(model, settings, batch=7)(np.stack([image, image]))
    assert logits.shape == (2, 3, 16, 24)
    assert torch.equal(logits[0], logits[1])
    assert logits.exp().sum(1) == pytest.approx(1, abs=1e-5)
    # 3 x 5 windows and 1 x 2 of the half size, twice each
    assert [shape[0] for shape in model.seen] == [7, 7, 7, 7, 2, 4] * 2
    assert {shape[1:] for shape in model.seen} == {(8, 8, 3)}


def test_a_probability_of_zero_has_a_finite_logarithm() -> None:
    def sure(frames: np.ndarray) -> tuple[torch.Tensor, int]:
        return torch.tensor([0.0, 500.0]).view(1, 2, 1, 1).expand(len(frames), 2, 4, 4), 1

    logits, _ = Looks(sure, LooksSettings(flip=True))(frame(4, 4)[None])
    assert torch.isfinite(logits).all()


def test_a_model_of_one_size_is_told_what_to_do() -> None:
    def only(frames: np.ndarray) -> tuple[torch.Tensor, int]:
        if frames.shape[1:3] != (12, 18):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return torch.zeros(len(frames), 3, 12, 18), 1

    Looks(only, LooksSettings(flip=True))(frame()[None])
    with pytest.raises(ConfigError, match=r"look of 6x9: RuntimeError: mat1.*\n.* takes `tile`"):
        Looks(only, LooksSettings(scales=(0.5,)))(frame()[None])


def test_logits_of_another_shape_than_their_stride_says_are_refused() -> None:
    def wrong(frames: np.ndarray) -> tuple[torch.Tensor, int]:
        return torch.zeros(len(frames), 3, 5, 5), 2

    with pytest.raises(ArtifactError, match="logits at stride 2 for 12x18"):
        Looks(wrong, LooksSettings(flip=True))(frame()[None])


@pytest.mark.parametrize(
    "looks",
    [{"scales": ()}, {"scales": (0,)}, {"scales": (9,)}, {"tile": (0, 8)}, {"tile": (8,)},
     {"overlap": 1}, {"overlap": -0.1}, {"flip": "often"}],
)  # fmt: skip
def test_looks_that_cannot_be(looks) -> None:
    with pytest.raises(ValidationError):
        LooksSettings(**looks)
