"""Sources of clips in a run: cached with labels where frames have one, read when they are gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from stillroom.pipeline.build.run import build
from stillroom.pipeline.identity import readable_identity
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.storage_specs.errors import CacheMismatch, ConfigError
from stillroom.storage_specs.store import Cache

STREETS = (
    'sources={streets={kind="clips", root="clips", labels="labels", classes=["a","b","c"], '
    "around_labels=1}}"
)
OTHERS = [
    "teachers={}",
    'terms=[{name="cross_entropy"}]',
    "train.streams={streets={batch=1}}",
    "evaluate.source=streets",
]


@pytest.fixture
def cached(run_file: Path) -> Path:
    """A cache of one clip of 5 frames, of which that at time 2 has a label."""
    Path("clips/tram").mkdir(parents=True)
    Path("labels/tram").mkdir(parents=True)
    for time in range(5):
        cv2.imwrite(f"clips/tram/{time}.png", np.full((32, 48, 3), 10 * time, np.uint8))
    cv2.imwrite("labels/tram/2.png", np.full((32, 48), 1, np.uint8))
    report = build(load_run(run_file, [STREETS, *OTHERS]))
    assert report is not None
    return run_file


def test_frames_without_a_label_are_cached_as_ignored_and_none_is_bad(cached: Path) -> None:
    frames = Cache.open("street.cache").artifact_set("streets", "frames")
    assert frames.count == 3
    assert frames.rows()["frame_id"].to_pylist() == ["tram/1", "tram/2", "tram/3"]
    assert frames.rows()["status"].unique().to_pylist() == ["ok"]
    assert [int(frames.read("frames", index)[0, 0, 0]) for index in range(3)] == [10, 20, 30]
    found = [np.unique(frames.read("labels", index)).tolist() for index in range(3)]
    assert found == [[255], [1], [255]]


def test_a_source_whose_folders_are_gone_is_read_from_the_cache(cached: Path) -> None:
    run = load_run(cached, [STREETS, *OTHERS])
    shutil.rmtree("clips")
    with pytest.raises(ConfigError, match="clips does not exist"):
        open_run(run, must_exist=False)
    shutil.rmtree("labels")
    opened = open_run(run, must_exist=False)
    frames = Cache.open("street.cache").artifact_set("streets", "frames")
    artifacts = opened.artifacts("streets", "frames")
    frames.require(readable_identity(opened, "streets", "frames", artifacts))
    other = load_run(cached, [STREETS.replace('"b","c"', '"c","b"'), *OTHERS])
    with pytest.raises(CacheMismatch, match=r"source\.classes"):
        frames.require(
            readable_identity(open_run(other, must_exist=False), "streets", "frames", artifacts)
        )


def test_classes_and_absence_are_known_of_every_kind(run_file: Path) -> None:
    run = load_run(
        run_file,
        [
            'sources.clips={kind="clips", root="nowhere"}',
            'sources.known={kind="clips", root="nowhere", labels="nothing", classes=["a"]}',
            'sources.city={kind="cityscapes_sequence", root="nowhere"}',
            'sources.films={kind="video", root=["nowhere", "nor.mp4"], fps=5}',
        ],
    )
    counts = {name: len(run.classes_of(name) or ()) for name in run.sources}
    assert counts == {"street": 9, "more": 0, "clips": 0, "known": 1, "city": 19, "films": 0}
    opened = open_run(run, must_exist=False)
    assert set(opened.absent) == {"clips", "known", "city", "films"}
    assert opened.absent["city"]["split"] == "train"
    assert opened.absent["films"]["fps"] == 5
