"""Labels that show too little are said, and nothing to learn from is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from stillroom.pipeline.build.run import build
from stillroom.pipeline.label_check import MOST, _spread
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import prepare_job, train_run
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.store import Cache
from tests.conftest import as_toml

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stillroom.pipeline.build.report import BuildReport

    Masks = Callable[..., Path]


TWO = 'sources.{}={{kind="image_mask", root="{}", classes=["ground", "object"]}}'


def write_masks(folder: str, ids_of: Sequence[tuple[int, ...]]) -> None:
    """Write a frame for each tuple, whose mask has its ids in columns, each as often."""
    for kind in ("images", "masks"):
        Path(folder, kind).mkdir(parents=True, exist_ok=True)
    for i, ids in enumerate(ids_of):
        image = np.random.default_rng(i).integers(0, 255, (32, 48, 3), np.uint8)
        Image.fromarray(image).save(f"{folder}/images/{i:03}.png")
        mask = np.tile(np.repeat(np.array(ids, np.uint8), 48 // len(ids)), (32, 1))
        Image.fromarray(mask).save(f"{folder}/masks/{i:03}.png")


@pytest.fixture
def masks(run_file: Path, run_document: dict[str, Any]) -> Masks:
    """Writes frames whose masks hold these ids, six of one tuple, and the run file of a cache."""

    def write(*ids: tuple[int, ...]) -> Path:
        write_masks("town", ids if len(ids) > 1 else ids * 6)
        document = run_document
        document["sources"] = {
            "town": {"kind": "image_mask", "root": "town", "classes": ["ground", "object"]}
        }
        document["teachers"]["tiny"]["options"] = {"classes": 2}
        document["cache"]["shard_frames"] = 2
        document["terms"] = [{"name": "cross_entropy"}]
        document["train"]["streams"] = {"town": {"batch": 2}}
        document["evaluate"] = {"source": "town"}
        run_file.write_text(as_toml(document))
        return run_file

    return write


def built(path: Path, *changes: str) -> BuildReport:
    return build(load_run(path, list(changes)))


def test_a_build_says_which_class_its_labels_never_show_and_what_may_be_the_cause(
    masks: Masks, caplog: pytest.LogCaptureFixture
) -> None:
    report = built(masks((0, 255)))
    assert "source town: no pixel of its 6 frames has the class object; " in caplog.text
    assert "by default `ignore` is [255], to which masks of 0 and 255 lose their" in caplog.text
    assert report.to_dict()["label_pixels"] == {"town": {"ground": 6 * 32 * 24, "object": 0}}


def test_a_build_of_masks_of_0_and_255_that_are_mapped_as_advised_says_nothing(
    masks: Masks, caplog: pytest.LogCaptureFixture
) -> None:
    path = masks((0, 0, 255))
    changes = ["sources.town.ignore=[]", "sources.town.mapping={0=0, 255=1}"]
    assert built(path, *changes).label_pixels == {"town": {0: 6 * 32 * 32, 1: 6 * 32 * 16}}
    assert "no pixel" not in caplog.text


def test_a_build_says_that_a_source_has_no_labelled_pixel_at_all(
    masks: Masks, caplog: pytest.LogCaptureFixture
) -> None:
    report = built(masks((255,)))
    assert "source town: no pixel of its 6 frames has a label; " in caplog.text
    assert report.to_dict()["label_pixels"] == {"town": {"ground": 0, "object": 0}}


def test_what_an_earlier_build_counted_is_looked_for_in_its_labels(
    masks: Masks, caplog: pytest.LogCaptureFixture
) -> None:
    path = masks((0,), (0, 1), (0,), (0,), (0,), (0,))
    built(path)
    frames = Cache.open("street.cache").artifact_set("town", "frames")
    frames.discard(2)
    caplog.clear()
    assert built(path).label_pixels["town"] == {0: 2 * 32 * 48}
    assert "no pixel" not in caplog.text
    frames.discard(0)  # the one shard that has the other class
    write_masks("town", [(0,), (0, 255)])
    assert built(path).label_pixels["town"] == {0: 32 * 48 + 32 * 24}
    assert "source town: no pixel of its 6 frames has the class object; " in caplog.text


def test_a_build_that_has_nothing_to_do_for_a_source_does_not_look_at_it(
    masks: Masks, caplog: pytest.LogCaptureFixture
) -> None:
    path = masks((0,))
    built(path)
    caplog.clear()
    assert built(path).to_dict()["label_pixels"] == {}
    assert "no pixel" not in caplog.text
    Cache.open("street.cache").artifact_set("town", "tiny").discard(1)
    built(path)  # as one does that was stopped before it could say so
    assert "source town: no pixel of its 6 frames has the class object; " in caplog.text


def test_frames_that_cannot_be_used_are_not_counted(masks: Masks) -> None:
    path = masks((0, 1), (0, 1))
    Path("town/images/001.png").write_bytes(b"torn")
    report = built(path, "cache.max_bad_fraction=1")
    assert report.to_dict()["label_pixels"] == {"town": {"ground": 32 * 24, "object": 32 * 24}}


def test_masks_whose_object_has_the_ignored_id_are_said_to_lack_it(
    masks: Masks, caplog: pytest.LogCaptureFixture
) -> None:
    built(path := masks((0, 255)))
    caplog.clear()
    prepare_job(load_run(path))
    assert (
        "stream town: no pixel of its 6 frames has the class object; labels alone do" in caplog.text
    )
    assert "masks of 0 and 255" in caplog.text


def test_labels_that_show_every_class_are_not_spoken_of(
    masks: Masks, caplog: pytest.LogCaptureFixture
) -> None:
    built(path := masks((0, 1)))
    with caplog.at_level(logging.WARNING):
        prepare_job(load_run(path))
    assert "no pixel" not in caplog.text


def test_a_run_without_a_labelled_pixel_is_refused_where_no_teacher_helps(
    masks: Masks, caplog: pytest.LogCaptureFixture
) -> None:
    built(path := masks((255,)))
    expected = (
        r"no pixel of town has a label .*nothing to learn.* \(by default `ignore` is \[255\], "
    )
    with pytest.raises(ConfigError, match=expected + "to which masks of 0 and 255 lose"):
        train_run(load_run(path))
    assert not Path("run").exists()
    taught = 'terms=[{name="cross_entropy"}, {name="probability_l2", teacher="tiny"}]'
    caplog.clear()
    prepare_job(load_run(path, [taught]))
    assert "stream town: no pixel of its 6 frames has a label" in caplog.text


def test_a_run_that_learns_one_class_from_labels_alone_is_refused(masks: Masks) -> None:
    path = masks((0, 255))
    changes = ['sources.town.classes=["object"]', "teachers={}", 'cache.artifacts=["logits"]']
    report = built(path, *changes)
    assert report.label_pixels["town"] == {0: 6 * 32 * 24}  # of what is not the object
    with pytest.raises(ConfigError, match="'object' is the one class, which every pixel is of"):
        prepare_job(load_run(path, changes))


def test_one_of_two_labelled_streams_may_be_empty_and_is_named(
    masks: Masks, caplog: pytest.LogCaptureFixture
) -> None:
    path = masks((0, 1))
    write_masks("void", [(255,)] * 3)
    changes = [TWO.format("void", "void"), "train.streams={town={batch=2}, void={batch=1}}"]
    built(path, *changes)
    caplog.clear()
    prepare_job(load_run(path, changes))
    assert "stream void: no pixel of its 3 frames has a label" in caplog.text
    assert "stream town" not in caplog.text
    with pytest.raises(ConfigError, match="no pixel of void has a label and every term reads"):
        prepare_job(load_run(path, [*changes, "train.streams={void={batch=1}}"]))


def test_a_class_first_seen_behind_the_frames_looked_at_is_said_of_those_alone(
    masks: Masks, caplog: pytest.LogCaptureFixture
) -> None:
    count = 2 * MOST  # looked at are 0, 2, 4, ...
    path = masks(*[(0, 1) if index == 101 else (0,) for index in range(count)])
    run = load_run(path, ["cache.shard_frames=128"])
    build(run)
    assert "no pixel" not in caplog.text  # what passes is counted whole
    prepare_job(run)
    said = f"stream town: no pixel of {MOST} of its {count} frames has the class object; "
    assert said in caplog.text


def test_frames_that_a_stream_leaves_out_are_not_looked_at(
    masks: Masks, caplog: pytest.LogCaptureFixture
) -> None:
    path = masks((0,), (1,), (0,), (1,), (0,))
    built(path)
    half = ["train.streams={town={batch=2, every=2}}"]
    prepare_job(load_run(path, half))
    assert "stream town: no pixel of its 3 frames has the class object; " in caplog.text
    caplog.clear()
    prepare_job(load_run(path))
    assert "no pixel" not in caplog.text


def test_first_frames_looked_at_lie_all_over_the_stream() -> None:
    order = _spread(np.arange(1000))
    assert sorted(order) == list(range(1000))
    assert order[200] > 500
    assert list(_spread(np.arange(3))) == [0, 1, 2]
