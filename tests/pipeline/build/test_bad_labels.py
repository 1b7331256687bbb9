"""A label that cannot be used costs its frame nothing else, and is counted apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from stillroom.cli import main
from stillroom.commands.show.caches import build_report, cache_info
from stillroom.commands.show.scores import evaluations
from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.info import describe_cache
from stillroom.pipeline.cache_tools.transcode import Change, transcode_cache
from stillroom.pipeline.cache_tools.verify import verify_cache
from stillroom.pipeline.evaluation import evaluate_model
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import train_run
from stillroom.stages.sources.file_source import FileSource
from stillroom.storage_specs.errors import FrameError, TooManyBadFrames
from stillroom.storage_specs.store import Cache
from tests.conftest import as_toml

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.stages.sources.source import Frame

FRAMES = 20
SETS = {"frames": FRAMES, "tiny": FRAMES, "dis": 36}  # clips of 10 frames: 9 pairs there and back
BAD = 7
REASON = "07.bmp: label values 9 are outside the class list (3 classes; ids known here: 0-2, 255)"
ALL = "cache.max_bad_fraction=1"


def place(time: int) -> str:
    return f"{'day' if time < 10 else 'night'}/{time:02}"


def label(time: int, ids: tuple[int, ...] = (0, 1, 2)) -> None:
    mask = np.tile(np.repeat(np.array(ids, np.uint8), 48 // len(ids)), (32, 1))
    cv2.imwrite(f"labels/{place(time)}.bmp", mask)


@pytest.fixture
def town(run_file: Path, run_document: dict[str, Any]) -> Path:
    """Two clips of 10 frames with a label each, and the run file of its cache, flow included."""
    for folder in ("clips/day", "clips/night", "labels/day", "labels/night"):
        Path(folder).mkdir(parents=True)
    for time in range(FRAMES):
        noise = np.random.default_rng(time).integers(0, 255, (32, 48, 3), np.uint8)
        cv2.imwrite(f"clips/{place(time)}.png", noise)
        label(time)
    classes = ["road", "house", "tree"]
    town = {"kind": "clips", "root": "clips", "labels": "labels", "classes": classes}
    run_document["sources"] = {"town": town}
    run_document["teachers"]["tiny"]["options"] = {"classes": 3}
    run_document["flows"] = {"dis": {"kind": "dis", "preset": "ultrafast"}}
    run_document["cache"]["pairs"] = {"of": "all", "offsets": [1]}
    run_document["train"]["streams"] = {"town": {"batch": 2}}
    run_document["evaluate"]["source"] = "town"
    run_file.write_text(as_toml(run_document))
    return run_file


def rows(status: str = "bad") -> dict[str, list[int]]:
    """Indices of the rows with this status, by set."""
    cache = Cache.open("street.cache")
    found = {name: cache.artifact_set("town", name).rows().to_pylist() for name in SETS}
    return {
        name: [row["index"] for row in every if row["status"] == status]
        for name, every in found.items()
    }


def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a bad label make its frame bad, as in caches of before."""
    load = FileSource.load

    def refuse(self: FileSource, index: int) -> Frame:
        frame = load(self, index)
        if frame.label_fault:
            raise FrameError(frame.label_fault)
        return frame

    monkeypatch.setattr(FileSource, "load", refuse)


def test_one_bad_label_of_20_costs_no_row_of_frames_teacher_or_flow(
    town: Path, artifact_bytes: Callable[[Path], dict[str, str]]
) -> None:
    build(load_run(town, ["cache.path=good.cache"]))
    label(BAD, (0, 9, 2))
    report = build(load_run(town))
    assert {name: len(good) for name, good in rows("ok").items()} == SETS
    assert (sum(report.bad.values()), report.bad_labels["town", "frames"]) == (0, 1)
    document = report.to_dict()
    assert (document["bad_frames"], document["bad_labels"]) == ({}, {"town": 1})
    assert document["label_pixels"]["town"] == dict.fromkeys(("road", "house", "tree"), 19 * 512)
    assert "; 1 label left out: stillroom cache info c --bad" in str(build_report("c", report)[0])
    frames = Cache.open("street.cache").artifact_set("town", "frames")
    assert (frames.read("labels", BAD) == 255).all()
    assert frames.rows().to_pylist()[BAD]["reason"] == REASON
    good, bad = (artifact_bytes(Path(name)) for name in ("good.cache", "street.cache"))
    differing = {name for name in good if good[name] != bad[name]}
    assert differing == {"town/labels/c.1.0.0"}  # all else is the same bytes
    assert verify_cache(Path("street.cache")).is_sound


def test_what_a_cache_holds_tells_bad_labels_from_bad_frames(town: Path) -> None:
    label(BAD, (0, 9, 2))
    Path("clips/day/03.png").write_bytes(b"torn")
    build(load_run(town, [ALL]))
    found = {one.set_name: one for one in describe_cache(Path("street.cache"))}
    assert set(found["frames"].bad) == set(found["tiny"].bad) == {"day/03"}
    assert found["frames"].bad_labels == {"day/07": REASON}
    assert found["tiny"].bad_labels == found["dis"].bad_labels == {}
    assert found["frames"].to_dict()["bad_labels"] == {"day/07": REASON}
    *_, listing = cache_info(list(found.values()), bad=True)
    assert [list(column.cells) for column in listing.columns] == [["town/frames day/07"], [REASON]]


def test_a_frame_that_cannot_be_read_is_bad_whatever_its_label_is(town: Path) -> None:
    label(BAD, (9,))
    Path(f"clips/{place(BAD)}.png").write_bytes(b"torn")
    report = build(load_run(town, [ALL]))
    assert {name: len(bad) for name, bad in rows().items()} == {"frames": 1, "tiny": 1, "dis": 4}
    assert report.bad_labels.total() == 0
    reason = Cache.open("street.cache").artifact_set("town", "frames").rows()["reason"][BAD]
    assert reason.as_py().startswith("07.png: not an image")


def test_more_bad_labels_than_allowed_stop_the_build_as_bad_frames_do(town: Path) -> None:
    for time in (4, 5):
        label(time, (9,))
    said = (
        r"(?s)town/frames: 2 of 20 labels are unusable so far, .*\n  2 x 04.bmp: label values 9 .*"
    )
    for _ in range(2):  # also where an earlier build found them
        with pytest.raises(TooManyBadFrames, match=said + "mend the label files, or the source's"):
            build(load_run(town))
    assert build(load_run(town, ["cache.max_bad_fraction=0.1"])).bad_labels.total() == 2


def test_where_few_frames_are_to_have_a_label_the_share_is_of_those(town: Path) -> None:
    for time in range(FRAMES):
        if time % 5:
            Path(f"labels/{place(time)}.bmp").unlink()
    label(5, (9,))
    with pytest.raises(TooManyBadFrames, match="town/frames: 1 of 4 labels are unusable"):
        build(load_run(town))


def test_a_mended_label_comes_in_on_request_and_no_teacher_runs_again(
    town: Path, artifact_bytes: Callable[[Path], dict[str, str]]
) -> None:
    build(load_run(town, ["cache.path=good.cache"]))
    label(BAD, (0, 9, 2))
    build(load_run(town))
    label(BAD)  # of the same size, as every bmp is
    assert build(load_run(town)).shards == 0
    done = CliRunner().invoke(main, ["cache", "build", str(town), "--retry-bad"])
    assert "town/frames: 1 bad labels in 1 shards are tried again\n  1 x 07.bmp" in done.stderr
    assert "1 of 19 shards computed, 4 rows" in done.stdout
    assert artifact_bytes(Path("street.cache")) == artifact_bytes(Path("good.cache"))


def test_a_cache_of_before_opens_goes_on_and_gets_its_frames_back_on_request(
    town: Path, monkeypatch: pytest.MonkeyPatch, artifact_bytes: Callable[[Path], dict[str, str]]
) -> None:
    label(BAD, (0, 9, 2))
    with monkeypatch.context() as patch:
        as_it_was(patch)
        build(load_run(town, [ALL]))
    was = {name: len(bad) for name, bad in rows().items()}
    assert was == {"frames": 1, "tiny": 1, "dis": 4}
    Cache.open("street.cache").artifact_set("town", "dis").discard(0)
    assert build(load_run(town, [ALL])).shards == 1
    assert verify_cache(Path("street.cache")).is_sound
    build(load_run(town, [ALL]), retry_bad=True)
    assert rows() == {name: [] for name in SETS}
    build(load_run(town, ["cache.path=fresh.cache"]))
    assert artifact_bytes(Path("street.cache")) == artifact_bytes(Path("fresh.cache"))


def test_a_transcoded_cache_keeps_the_reasons(town: Path) -> None:
    label(BAD, (0, 9, 2))
    build(load_run(town))
    transcode_cache("street.cache", "small.cache", Change(codecs={"logits": {"codec": "half"}}))
    found = {one.set_name: one.bad_labels for one in describe_cache(Path("small.cache"))}
    assert found == {"frames": {"day/07": REASON}, "tiny": {}, "dis": {}}


def test_training_learns_from_the_frame_without_its_label_and_says_so(
    town: Path, caplog: pytest.LogCaptureFixture
) -> None:
    label(BAD, (0, 9, 2))
    build(load_run(town))
    result = train_run(load_run(town, ["train.steps=2"]))
    assert result.skipped == {"town": 0}
    assert "stream town: 1 bad label left out" in caplog.text


def test_evaluation_passes_over_a_bad_label_and_names_it(town: Path) -> None:
    label(BAD, (0, 9, 2))
    found = evaluate_model(load_run(town), "teacher:tiny")
    assert (found.result.frames, found.result.skipped, found.result.unlabelled) == (19, (), 0)
    text = [str(part) for part in evaluations([found])]
    place = text.index("1 label could not be used:")
    assert text[place + 1] == f"  day/07: {REASON}"


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["true", "false"])
def test_the_tools_take_a_cache_with_a_bad_label(town: Path, kept: str) -> None:
    label(BAD, (0, 9, 2))
    changes = ["--set", f"cache.frames={kept}"]
    build(load_run(town, changes[1:]))
    for command in ("build RUN --dry-run", "stats RUN", "fidelity RUN --frames 20", "size RUN"):
        words = [str(town) if word == "RUN" else word for word in command.split()]
        done = CliRunner().invoke(main, ["cache", *words, *changes])
        assert done.exit_code == 0, done.output
