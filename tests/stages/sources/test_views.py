"""Sources of views: their frames, their names, and what a teacher that sees them says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.pipeline.training import train_run
from stillroom.stages.models.build_teacher import build_teacher
from stillroom.storage_specs.errors import CacheMismatch, ConfigError
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.stages.sources.source import Source

VIEWS = 'sources.seen={kind="views", of="street", count=3, scale=[1.0, 2.0], flip=true}'
MIRROR = 'sources.seen={kind="views", of="street", flip="always"}'
TARGETS = 'sources.street.targets=["depth", "normals"]'


def sources(run_file: Path, *overrides: str) -> dict[str, Source]:
    return open_run(load_run(run_file, overrides)).sources


def test_a_mirrored_source_has_every_frame_mirrored_with_its_targets(run_file: Path) -> None:
    found = sources(run_file, MIRROR, TARGETS)
    street, seen = found["street"], found["seen"]
    assert seen.frame_ids == tuple(f"{name}@0" for name in street.frame_ids)
    assert (seen.classes, seen.label_count()) == (street.classes, street.label_count())
    one, other = street.load(3), seen.load(3)
    assert other.frame_id == f"{one.frame_id}@0"
    assert np.array_equal(other.image, one.image[:, ::-1])
    assert other.label is not None
    assert one.label is not None
    assert np.array_equal(other.label, one.label[:, ::-1])
    assert np.array_equal(other.targets["depth"], one.targets["depth"][:, ::-1])
    assert other.targets["normals"].shape == one.targets["normals"].shape
    # x of a normal points the other way in a mirror
    assert np.allclose(other.targets["normals"][0], -one.targets["normals"][0][:, ::-1], atol=1e-6)


def test_views_are_drawn_by_seed_and_name_alone(run_file: Path) -> None:
    street, seen = (sources(run_file, VIEWS)[name] for name in ("street", "seen"))
    again = sources(run_file, VIEWS)["seen"]
    other = sources(run_file, VIEWS, "sources.seen.seed=1")["seen"]
    assert len(seen) == 3 * len(street)
    assert seen.frame_ids[4] == f"{street.frame_ids[1]}@1"
    assert seen.position(4) == (None, None)
    images = [seen.load(index).image for index in range(6)]
    assert all(image.shape == (32, 48, 3) for image in images)
    assert len({image.tobytes() for image in images}) == 6
    assert np.array_equal(images[4], again.load(4).image)
    assert not np.array_equal(images[4], other.load(4).image)
    # A longer source, and more views of a frame, leave what was drawn as it was.
    more = sources(run_file, VIEWS, "sources.street.clips=7", "sources.seen.count=4")["seen"]
    assert np.array_equal(images[4], more.load(5).image)
    label = seen.load(4).label
    assert label is not None
    assert set(np.unique(label)) <= set(np.unique(street.load(1).label))
    assert seen.identity() == {
        **street.identity(),
        "views": {"count": 3, "scale": [1.0, 2.0], "flip": True, "seed": 0},
    }


def test_the_teacher_is_asked_of_each_view_and_a_student_learns_from_all(run_file: Path) -> None:
    exact = [MIRROR, 'cache.preset="exact"', 'cache.artifacts=["logits"]', "train.view={}"]
    run = load_run(run_file, [*exact, "train.streams={street={batch=3}, seen={batch=2}}"])
    build(run)
    cache = Cache.open("street.cache")
    frame = cache.artifact_set("street", "frames").read("frames", 4)
    mirrored = build_teacher(run.teacher("tiny"), (32, 48))(frame[None, :, ::-1].copy())["logits"]
    found = torch.from_numpy(cache.artifact_set("seen", "tiny").read("logits", 4))
    torch.testing.assert_close(found, mirrored[0], atol=1e-5, rtol=0)
    losses = train_run(run).losses
    assert losses.keys() >= {"seen/cross_entropy", "seen/probability_l2/tiny"}
    with pytest.raises(CacheMismatch, match=r"source\.views\.flip"):
        build(load_run(run_file, [*exact, "sources.seen.flip=true", "sources.seen.scale=[1, 2]"]))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"of": "streat", "flip": "always"}, "seen.of: no such section, sources.streat; did you"),
        ({"of": "seen", "flip": "always"}, "'seen' is of views; name the source"),
        ({"of": "street"}, "would be alike"),
        ({"of": "street", "count": 2, "flip": "always"}, "would be alike"),
        ({"of": "street", "scale": [0.5, 2.0]}, "1 and above"),
        ({"of": "street", "scale": [2.0, 1.5]}, "1 and above"),
    ],
)
def test_views_that_cannot_be_shown_are_refused(
    run_file: Path, section: dict[str, Any], message: str
) -> None:
    given = [f"sources.seen.{key}={value!r}".replace("'", '"') for key, value in section.items()]
    with pytest.raises(ConfigError, match=message):
        load_run(run_file, ["sources.seen.kind=views", *given])
