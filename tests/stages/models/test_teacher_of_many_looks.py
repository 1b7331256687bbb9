"""Teachers whose logits are a mean over several looks, from the section to the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.loading import load_run
from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.teachers.families import TEACHERS
from stillroom.stages.upsample import upsample_logits
from stillroom.storage_specs.errors import CacheMismatch, ConfigError
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.stages.models.teacher import Teacher

FRAMES = np.random.default_rng(2).integers(0, 256, (2, 30, 44, 3)).astype(np.uint8)


@pytest.fixture
def teacher(run_file: Path) -> Any:
    section, _ = TEACHERS["python"]

    def built(**looks: Any) -> Teacher:
        told = {
            "kind": "python",
            "target": "tiny_networks:teacher",
            "device": "cpu",
            "classes": 9,
            "pad": 4,
        }
        return build_teacher(section(**told, **looks), (30, 44))

    return built


def probabilities(one: Teacher, frames: np.ndarray) -> torch.Tensor:
    """Of every pixel, by one look."""
    size = frames.shape[1], frames.shape[2]
    return upsample_logits(one(frames)["logits"], 4, size).softmax(1)


def at_centres(found: torch.Tensor) -> torch.Tensor:
    """The mean of the four pixels around the middle of each cell of 4 x 4."""
    edges = found[..., [*range(found.shape[-2]), -1, -1], :]  # 30 rows are 7.5 cells
    middle = edges[..., 1::4, :] + edges[..., 2::4, :]
    return (middle[..., 1::4] + middle[..., 2::4]) / 4


def test_mirrored_looks_are_averaged_and_kept_on_the_teachers_grid(teacher: Any) -> None:
    plain, mirrored = teacher(), teacher(flip=True)
    there, back = probabilities(plain, FRAMES), probabilities(plain, FRAMES[:, :, ::-1].copy())
    found = mirrored(FRAMES)
    assert found["logits"].shape == plain(FRAMES)["logits"].shape == (2, 9, 8, 11)
    expected = at_centres((there + back.flip(3)) / 2)
    torch.testing.assert_close(found["logits"].exp(), expected, atol=1e-5, rtol=0)
    # Other outputs are of the frame as it is.
    features = "features/penultimate"
    assert torch.equal(found[features], plain(FRAMES)[features])


def test_windows_are_averaged_where_they_overlap(teacher: Any) -> None:
    plain, sums, counts = teacher(), torch.zeros(2, 9, 30, 44), torch.zeros(30, 1)
    for top in (0, 6, 12, 18):  # windows of 12 rows, each half over the one before
        sums[:, :, top : top + 12] += probabilities(plain, FRAMES[:, top : top + 12])
        counts[top : top + 12] += 1
    found = teacher(tile=[12, 44], overlap=0.5)(FRAMES)["logits"]
    torch.testing.assert_close(found.exp(), at_centres(sums / counts), atol=1e-5, rtol=0)


def test_other_scales_change_what_is_said(teacher: Any) -> None:
    plain, scaled = teacher()(FRAMES)["logits"], teacher(scales=[0.5, 1, 1.5])(FRAMES)["logits"]
    assert scaled.shape == plain.shape
    assert scaled.exp().sum(1).numpy() == pytest.approx(np.ones((2, 8, 11)), abs=1e-4)
    assert (scaled - plain.log_softmax(1)).abs().mean() > 0.01


def test_improbable_classes_do_not_widen_the_range_of_logits(teacher: Any) -> None:
    assert teacher(flip=True)(FRAMES)["logits"].min() >= np.log(1e-8) - 1e-4


def test_looks_are_part_of_the_identity_and_no_look_is_none(teacher: Any) -> None:
    plain = teacher().identity()
    assert not {"flip", "scales", "tile", "overlap"} & set(plain)
    assert teacher(flip=True, scales=[1, 2]).identity() == {
        **plain, "flip": True, "scales": [1.0, 2.0],
    }  # fmt: skip


def test_a_cache_of_another_look_is_refused(run_file: Path) -> None:
    build(load_run(run_file))
    before = Cache.open("street.cache").artifact_set("street", "tiny").read("logits", 0)
    several = ["teachers.tiny.flip=true", "teachers.tiny.scales=[1, 1.5]"]
    with pytest.raises(CacheMismatch, match="flip"):
        build(load_run(run_file, several))
    build(load_run(run_file, [*several, "cache.path=looks.cache"]))
    found = Cache.open("looks.cache").artifact_set("street", "tiny").read("logits", 0)
    assert found.shape == before.shape
    assert not np.allclose(found, before, atol=0.05)


@pytest.mark.parametrize(
    ("looks", "message"),
    [
        ({"size": [32, 32], "scales": [1, 2]}, "size .* is what the network gets"),
        ({"size": [32, 32], "tile": [16, 16]}, "leave `scales` and `tile` out"),
        ({"overlap": 0.5}, "overlap: says how windows of a `tile` overlap"),
        ({"scales": []}, "at least 1 item"),
        ({"scales": [0]}, "greater than 0"),
    ],
)
def test_looks_that_cannot_be_taken_are_refused(
    looks: dict[str, Any], message: str, run_file: Path
) -> None:
    section, _ = TEACHERS["python"]
    with pytest.raises((ConfigError, ValueError), match=message):
        section(kind="python", target="tiny_networks:teacher", classes=9, **looks)


def test_its_own_upsampling_is_of_one_look(teacher: Any) -> None:
    with pytest.raises(ConfigError, match="several looks has no upsampling"):
        teacher(flip=True).own_logits(FRAMES)
