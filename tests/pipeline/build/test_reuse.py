"""`cache.reuse`: a source that has grown costs its new frames only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.verify import verify_cache
from stillroom.pipeline.run_file.loading import load_run
from stillroom.stages.cache.producers import TeacherArtifacts
from stillroom.storage_specs.errors import CacheMismatch
from stillroom.storage_specs.store import Cache

GROWN = ["sources.street.clips=7", 'cache.path="grown.cache"']
REUSE = 'cache.reuse="street.cache"'


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the frames that a teacher sees from now on."""
    seen: list[str] = []
    run = TeacherArtifacts.__call__

    def counted(self: TeacherArtifacts, frames: list) -> list:
        seen.extend(frame.frame_id for frame in frames)
        return run(self, frames)

    monkeypatch.setattr(TeacherArtifacts, "__call__", counted)
    return seen


def test_only_new_frames_are_taught_and_all_are_there(run_file: Path, taught: list[str]) -> None:
    build(load_run(run_file))
    taught.clear()
    build(load_run(run_file, [*GROWN, REUSE]))
    assert len(taught) == 4, "two clips of two frames; the unlabelled source has not grown"
    grown = Cache.open("grown.cache").artifact_set("street", "tiny")
    fresh_run = load_run(run_file, [*GROWN[:1], 'cache.path="fresh.cache"'])
    build(fresh_run)
    fresh = Cache.open("fresh.cache").artifact_set("street", "tiny")
    assert grown.fingerprint == fresh.fingerprint
    columns = ["index", "frame_id", "status", "crc32c"]
    assert grown.rows().select(columns).to_pylist() == fresh.rows().select(columns).to_pylist()
    means = [of.rows()["confidence"].to_pylist() for of in (grown, fresh)]
    np.testing.assert_allclose(*means, atol=0.5 / 255)  # that of a taken frame is of its steps
    for index in range(grown.count):
        for artifact in grown.arrays:
            close = {"rtol": 0, "atol": 1e-5} if artifact != "pseudo_label" else {"rtol": 0}
            np.testing.assert_allclose(
                grown.read(artifact, index), fresh.read(artifact, index), **close
            )
    assert verify_cache(Path("grown.cache")).is_sound


def test_a_frame_whose_pixels_changed_is_taught_again(run_file: Path, taught: list[str]) -> None:
    build(load_run(run_file))
    taught.clear()
    build(load_run(run_file, ["sources.street.seed=9", 'cache.path="other.cache"', REUSE]))
    assert len(taught) == 10


def test_of_a_changed_source_the_refusal_says_how_to_keep_what_is_there(
    run_file: Path, taught: list[str]
) -> None:
    build(load_run(run_file))
    with pytest.raises(CacheMismatch) as caught:
        build(load_run(run_file, GROWN[:1]))
    hint = "--set cache.reuse=street.cache --set cache.path=NEW"
    assert hint in str(caught.value)
    taught.clear()
    settings = hint.replace("NEW", "new.cache").replace("--set ", "").split()
    build(load_run(run_file, [*GROWN[:1], *settings]))
    assert len(taught) == 4, "two clips of two frames"
    both = [*GROWN[:1], "cache.canvas=[16,24]"]
    with pytest.raises(CacheMismatch) as caught:
        build(load_run(run_file, both))
    assert "cache.reuse" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("teachers.tiny.options={seed=3}", "teacher.options"),
        ('cache.codecs={logits="half"}', "logits.codec"),
        ('cache.artifacts=["logits"]', "confidence"),
        ("cache.threshold=0.5", "threshold"),
    ],
)
def test_what_was_made_otherwise_is_refused_by_field(
    run_file: Path, change: str, says: str
) -> None:
    build(load_run(run_file))
    with pytest.raises(CacheMismatch, match=rf"cannot be reused[\s\S]*{says}[\s\S]*cache.reuse"):
        build(load_run(run_file, [*GROWN, REUSE, change]))
