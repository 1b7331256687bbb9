"""The share of pixels with a pseudo label is told at the end of a build, loudly where it is odd."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.loading import load_run
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from pathlib import Path

CANVAS = ["cache.canvas=[48,64]"]  # frames of 32x48 are scaled, and padded at the bottom


def kept(cache: str, source: str) -> float:
    """The share that a cache has, by the maps that it holds."""
    of = Cache.open(cache).artifact_set(source, "tiny")
    photo = sure = 0
    for row in of.rows().to_pylist():
        if row["status"] == "ok":
            label = of.read("pseudo_label", row["index"])
            label = label[: row["valid_height"], : row["valid_width"]]
            photo, sure = photo + label.size, sure + int((label != 255).sum())
    return sure / photo


def test_the_share_of_the_photos_pixels_that_the_threshold_keeps_is_reported(
    run_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    report = build(load_run(run_file, CANVAS))
    expected = {f"{source}/tiny": kept("street.cache", source) for source in ("street", "more")}
    assert report.to_dict()["pseudo_labelled"] == expected
    assert all(0.1 < share < 0.9 for share in expected.values())
    assert "pseudo label" not in caplog.text
    assert build(load_run(run_file, CANVAS)).pseudo_labelled() == {}  # nothing was computed


def test_frames_that_another_cache_has_count_and_bad_ones_do_not(run_file: Path) -> None:
    nan = ["teachers.tiny.target='tiny_networks:sometimes_nan'", "cache.max_bad_fraction=1"]
    report = build(load_run(run_file, nan))
    assert report.bad["street", "tiny"] > 0
    shares = report.pseudo_labelled()
    assert shares["street", "tiny"] == kept("street.cache", "street")
    again = [*nan, "cache.path=again.cache", "cache.reuse=street.cache"]
    assert build(load_run(run_file, again)).pseudo_labelled() == shares


@pytest.mark.parametrize(
    ("threshold", "said"),
    [
        (0.99, "0.0 % of {}'s pixels have a pseudo label: it is next to never as sure as"),
        (0.001, "100.0 % of {}'s pixels have a pseudo label: cache.threshold = 0.001 leaves next"),
        (0, ""),  # to keep all
    ],
)
def test_a_threshold_that_keeps_nothing_or_all_is_warned_of(
    threshold: float, said: str, run_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    report = build(load_run(run_file, [f"cache.threshold={threshold}"]))
    assert set(report.pseudo_labelled().values()) == {0.0 if threshold > 0.5 else 1.0}
    sources = ["street", "more"] if said else []
    messages = [each.getMessage() for each in caplog.records if "pseudo label" in each.getMessage()]
    assert len(messages) == len(sources)
    for message, source in zip(messages, sources, strict=True):
        assert message.startswith(f"teacher tiny: {said.format(source)}")


def test_a_cache_without_pseudo_labels_has_no_share(run_file: Path) -> None:
    report = build(load_run(run_file, ['cache.artifacts=["logits"]']))
    assert (report.shards, report.to_dict()["pseudo_labelled"]) == (10, {})
