"""What a build has to do, and what it finds out before it does anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from stillroom.pipeline.build.plan import plan_build
from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.storage_specs.errors import ConfigError, WeightsError


def test_a_plan_lists_every_set_with_its_shards(run_file: Path) -> None:
    plans = plan_build(open_run(load_run(run_file)))
    assert [(plan.source, plan.set_name, plan.missing) for plan in plans] == [
        ("street", "frames", (0, 1, 2)), ("more", "frames", (0, 1)),
        ("street", "tiny", (0, 1, 2)), ("more", "tiny", (0, 1)),
    ]  # fmt: skip
    assert [plan.missing_frames for plan in plans] == [10, 6, 10, 6]


def test_weights_that_are_not_there_are_found_before_anything_is_cached(run_file: Path) -> None:
    run = load_run(run_file, ['teachers.tiny.weights="nowhere.pth"'])
    with pytest.raises(WeightsError, match=r"nowhere\.pth"):
        plan_build(open_run(run))
    with pytest.raises(WeightsError, match=r"nowhere\.pth"):
        build(run)
    assert not Path("street.cache").exists()


def test_more_classes_than_a_pseudo_label_can_say_are_refused_before_anything_is_cached(
    run_file: Path,
) -> None:
    many = ["teachers.tiny.classes=256", "teachers.tiny.options={classes=256}"]
    with pytest.raises(ConfigError, match=r"teachers\.tiny: 256 classes.*pseudo_label"):
        build(load_run(run_file, many))
    assert not Path("street.cache").exists()
    build(load_run(run_file, [*many, 'cache.artifacts=["logits"]', 'cache.sources=["more"]']))


def test_classes_are_known_without_the_files(run_file: Path) -> None:
    run = load_run(
        run_file,
        [
            'sources.camvid={kind="camvid", root="nowhere"}',
            'sources.masks={kind="image_mask", root="nowhere", classes=["a", "b"]}',
            'sources.photos={kind="images", root="nowhere"}',
        ],
    )
    counts = {name: len(run.classes_of(name) or ()) for name in run.sources}
    assert counts == {"street": 9, "more": 0, "camvid": 11, "masks": 2, "photos": 0}


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ([], False),
        (["teachers.tiny.classes=150"], True),
        (["teachers.tiny.classes=150", 'cache.artifacts=["features/penultimate"]'], False),
    ],
)
def test_a_teacher_of_other_classes_than_the_labels_is_warned_of(
    run_file: Path, caplog: pytest.LogCaptureFixture, given: list[str], warned: bool
) -> None:
    plan_build(open_run(load_run(run_file, given)))
    assert ("tiny has 150 classes, the labels 9: " in caplog.text) == warned
    assert ("`mapping`" in caplog.text) == warned
