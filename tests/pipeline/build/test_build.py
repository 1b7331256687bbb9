from __future__ import annotations

import gc
import importlib
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from stillroom.pipeline.build.estimate import estimate_build
from stillroom.pipeline.build.inline_runner import run_inline
from stillroom.pipeline.build.plan import SetPlan, plan_build
from stillroom.pipeline.build.report import BuildEvent, BuildReport, stop_if_too_bad
from stillroom.pipeline.build.run import build
from stillroom.pipeline.build.worker import ShardWorker
from stillroom.pipeline.cache_tools.verify import verify_cache
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.stages.cache.cache_shard import ShardReport, ShardWork
from stillroom.stages.cache.producers import TeacherArtifacts
from stillroom.stages.cache.shard_threads import ShardThreads
from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.sources.find_images import FoundFiles, find_images
from stillroom.storage_specs.errors import (
    CacheIncomplete,
    CacheMismatch,
    CacheUnwritable,
    ConfigError,
    SourceUnavailable,
    TooManyBadFrames,
    WeightsError,
)
from stillroom.storage_specs.files.durable_files import STAGING
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stillroom.stages.models.teacher import Teacher
    from stillroom.stages.models.teachers.families import TeacherConfig
    from stillroom.stages.sources.canvas import CanvasFrame


def test_a_build_caches_every_set_and_a_second_call_finds_nothing_to_do(
    run_file: Path, artifact_bytes: Callable[[Path], dict[str, str]]
) -> None:
    run = load_run(run_file)
    report = build(run)
    # street: 10 frames in 3 shards, more: 6 frames in 2; frames and one teacher each
    assert (report.shards, report.frames) == (10, 32)
    assert Cache.open("street.cache").sets() == [
        ("more", "frames"), ("more", "tiny"), ("street", "frames"), ("street", "tiny"),
    ]  # fmt: skip
    before = artifact_bytes(Path("street.cache"))
    again = build(run)
    assert again.shards == 0
    assert artifact_bytes(Path("street.cache")) == before
    assert not verify_cache(Path("street.cache")).faults


def test_a_build_lists_the_files_of_a_source_once(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("photos").mkdir()
    for name in "abc":
        Image.fromarray(np.full((32, 48, 3), ord(name), np.uint8)).save(f"photos/{name}.png")
    listed: list[Path] = []

    def counted(folder: Path, *, recursive: bool) -> FoundFiles:
        listed.append(folder)
        return find_images(folder, recursive=recursive)

    monkeypatch.setattr("stillroom.stages.sources.images.find_images", counted)
    assert build(load_run(run_file, ['sources.more={kind="images",root="photos"}'])).shards == 8
    assert listed == [Path("photos").resolve()]


def test_what_is_cached_is_what_the_teacher_says(run_file: Path) -> None:
    from stillroom.stages.upsample import upsample_logits

    run = load_run(run_file, ["cache.preset=exact"])
    build(run)
    opened = open_run(run)
    teacher = build_teacher(opened.teachers["tiny"])
    said = Cache.open("street.cache").artifact_set("street", "tiny")
    for index in (0, 3, 9):
        image = opened.sources["street"].load(index).image
        output = teacher(image[None])
        logits = output["logits"][0]
        np.testing.assert_allclose(said.read("logits", index), logits, atol=1e-5)
        np.testing.assert_allclose(
            said.read("features/penultimate", index), output["features/penultimate"][0], atol=1e-5
        )
        confidence = logits.softmax(0).amax(0)
        np.testing.assert_allclose(said.read("confidence", index), confidence, atol=0.51 / 255)
        best, label = upsample_logits(logits[None], 4, (32, 48))[0].softmax(0).max(0)
        expected = np.where(best >= 0.24, label, 255)
        assert (said.read("pseudo_label", index) == expected).mean() > 0.999
        assert 0 < (expected != 255).mean() < 1  # the threshold has something to decide


def test_a_build_in_tiles_says_the_same_and_small_frames_are_not_cut_by_themselves(
    run_file: Path,
) -> None:
    changes = ["cache.preset=exact", "cache.path=cut.cache", "cache.tile=[8,16]"]
    build(load_run(run_file, changes))
    build(load_run(run_file, ["cache.preset=exact"]))
    for name in ("frames", "tiny"):
        cut = Cache.open("cut.cache").artifact_set("street", name)
        whole = Cache.open("street.cache").artifact_set("street", name)
        assert {spec.tile for spec in whole.arrays.values()} == {None}
        for artifact, spec in cut.arrays.items():
            # logits, features and confidence have 8 x 12 cells: one such tile
            small = artifact in ("logits", "features/penultimate", "confidence")
            assert spec.tile == (None if small else (8, 16))
            np.testing.assert_array_equal(cut.read(artifact, 4), whole.read(artifact, 4))
    with pytest.raises(ConfigError, match=r"cache\.tile"):
        load_run(run_file, ["cache.tile=[4,16]"])


@pytest.mark.parametrize("finished", [True, False])
def test_other_tiles_are_refused_whether_the_cache_is_finished_or_not(
    run_file: Path, finished: bool
) -> None:
    cut = ["cache.tile=[8,16]", 'cache.sources=["street"]']
    build(load_run(run_file, cut))
    if not finished:
        Cache.open("street.cache").artifact_set("street", "frames").discard(1)
    for tile, says in (
        ("[16,16]", r"tile\[0\] +cache 8 +run 16"),
        ("none", r"tile +cache \[8,16\] +run \(absent\)"),
    ):
        with pytest.raises(CacheMismatch, match=rf"layout\.arrays\.frames\.{says}"):
            build(load_run(run_file, [*cut, f"cache.tile={tile}"]))
    assert build(load_run(run_file, cut)).shards == (0 if finished else 1)
    build(load_run(run_file, [*cut, "cache.path=whole.cache", "cache.tile=none"]))
    for tile in ("none", "auto"):
        run = load_run(run_file, [*cut, "cache.path=whole.cache", f"cache.tile={tile}"])
        assert build(run).shards == 0


def test_a_killed_build_resumes_to_the_bytes_of_an_undisturbed_one(
    run_file: Path, artifact_bytes: Callable[[Path], dict[str, str]]
) -> None:
    build(load_run(run_file, ["cache.path=whole.cache"]))
    slow = Path("tiny_networks.py").read_text() + (
        "\nimport time\n\ndef slow(classes=9, seed=0):\n"
        "    network = Tiny(classes, seed)\n"
        "    network.register_forward_hook(lambda *_: time.sleep(0.15))\n"
        "    return network\n"
    )
    Path("tiny_networks.py").write_text(slow)
    sys.modules.pop("tiny_networks")  # imported above, for the undisturbed build
    arguments = ["cache", "build", str(run_file), "--set", "cache.path=killed.cache"]
    # The same network by another name: only `version` and `options` tell teachers apart.
    arguments += ["--set", "teachers.tiny.target=tiny_networks:slow"]
    process = subprocess.Popen(
        [sys.executable, "-m", "stillroom", *arguments],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    parts = Path("killed.cache/manifest/street/tiny")
    deadline = time.monotonic() + 300
    while not list(parts.glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    committed = {path: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    assert committed, "killed before the first commit; nothing was tested"
    assert len(committed) < 3, "killed after the last commit; nothing was tested"
    staging = Path("killed.cache") / STAGING
    (staging / f"0123456789ab.{process.pid}.part").touch()  # it may have died at no write
    run = load_run(run_file, ["cache.path=killed.cache", "teachers.tiny.target=tiny_networks:slow"])
    build(run)
    assert {path: path.stat().st_mtime_ns for path in committed} == committed  # not done again
    whole, killed = artifact_bytes(Path("whole.cache")), artifact_bytes(Path("killed.cache"))
    shards = {name for name in whole if "zarr.json" not in name}
    assert {name: killed[name] for name in shards} == {name: whole[name] for name in shards}
    assert set(killed) == set(whole)
    assert list(staging.iterdir()) == []


def test_another_canvas_teacher_threshold_or_source_is_refused_by_name(run_file: Path) -> None:
    build(load_run(run_file))
    for override, field in (
        ("cache.canvas=[16, 24]", "canvas.height"),
        ("cache.threshold=0.9", "pseudo_label.threshold"),
        ("cache.codecs.logits=half", "artifacts.logits.codec"),
        ("teachers.tiny.options={seed=1}", "teacher.options"),
        ("sources.street.seed=9", "source."),
        ("teachers.tiny.classes=8", "teacher.classes"),
    ):
        with pytest.raises(CacheMismatch) as caught:
            build(load_run(run_file, [override]))
        message = str(caught.value)
        assert field in message, message
        assert "cache build" in message


def test_auto_agrees_with_any_device_and_is_else_a_word_like_others(run_file: Path) -> None:
    networks = Path("tiny_networks.py")
    networks.write_text(
        networks.read_text() + "\ndef moded(mode):\n    return Tiny(9, len(mode))\n"
    )
    moded = ["teachers.tiny.target=tiny_networks:moded", 'teachers.tiny.options={mode="slow"}']
    named = 'teachers.tiny.classes=["a","b","c","d","e","f","g","h","i"]'
    build(load_run(run_file, [*moded, named]))
    assert build(load_run(run_file, [*moded, named, "teachers.tiny.device=auto"])).shards == 0
    with pytest.raises(CacheMismatch, match=r"teacher\.options\.mode"):
        build(load_run(run_file, [*moded, named, 'teachers.tiny.options={mode="auto"}']))


def test_unreadable_frames_become_bad_rows(run_file: Path, run_document: dict[str, Any]) -> None:
    import cv2

    folder = Path("photos")
    folder.mkdir()
    for number in range(12):
        image = np.full((30, 40, 3), 20 * number, np.uint8)
        cv2.imwrite(str(folder / f"{number:02d}.png"), image)
    whole = (folder / "03.png").read_bytes()
    (folder / "03.png").write_bytes(whole[: len(whole) // 2])
    (folder / "07.png").write_bytes(b"")
    overrides = [
        'sources.more={kind="images", root="photos"}',
        "cache.max_bad_fraction=0.2",
        "cache.path=bad.cache",
    ]
    report = build(load_run(run_file, overrides))
    assert report.bad["more", "tiny"] == 2
    rows = Cache.open("bad.cache").artifact_set("more", "tiny").rows().to_pylist()
    bad = {row["frame_id"]: row["reason"] for row in rows if row["status"] == "bad"}
    assert sorted(bad) == ["03.png", "07.png"]
    assert all(bad.values())


def photos(folder: Path, torn: Sequence[int]) -> None:
    import cv2

    folder.mkdir()
    for number in range(12):
        image = np.full((30, 40, 3), 20 * number, np.uint8)
        cv2.imwrite(str(folder / f"{number:02d}.png"), image)
    for number in torn:
        (folder / f"{number:02d}.png").write_bytes(b"")


def test_a_file_that_is_closed_for_a_while_stops_the_build_and_leaves_no_bad_row(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(Path("photos"), ())
    overrides = ['sources.more={kind="images", root="photos"}', 'cache.sources=["more"]']
    read_bytes = Path.read_bytes

    def closed(self: Path) -> bytes:
        if self.name == "06.png":
            raise PermissionError(13, "Permission denied", str(self))
        return read_bytes(self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", closed)
        with pytest.raises(SourceUnavailable, match=r"06\.png cannot be read now: Permission"):
            build(load_run(run_file, overrides))
    report = build(load_run(run_file, overrides))
    assert report.shards > 0
    for name in ("frames", "tiny"):
        rows = Cache.open("street.cache").artifact_set("more", name).rows().to_pylist()
        assert [row["status"] for row in rows] == ["ok"] * 12


@pytest.mark.parametrize("torn", [(0, 1, 5), (9, 10, 11)])  # found early, and in the last shard
def test_too_many_bad_frames_stop_every_call_until_the_limit_is_raised(
    run_file: Path, torn: tuple[int, ...]
) -> None:
    photos(Path("photos"), torn)
    overrides = [
        'sources.more={kind="images", root="photos"}',
        'cache.sources=["more"]',
        "cache.frames=false",
        "cache.max_bad_fraction=0.2",
    ]
    messages = []
    for _ in range(8):
        with pytest.raises(TooManyBadFrames, match=r"more than cache\.max_bad_fraction") as caught:
            build(load_run(run_file, overrides))
        messages.append(str(caught.value))
    assert "more/tiny: 3 of 12 frames" in messages[-1]
    assert "  3 x " in messages[-1]
    assert "build into another cache.path" in messages[-1]
    assert len(set(messages)) == 1
    report = build(load_run(run_file, [*overrides[:-1], "cache.max_bad_fraction=0.25"]))
    assert report.bad["more", "tiny"] == 3  # earlier builds' counted too
    assert report.bad_frames == 3
    again = build(load_run(run_file, [*overrides[:-1], "cache.max_bad_fraction=0.25"]))
    assert (again.shards, again.bad["more", "tiny"]) == (0, 3)


def test_a_torn_file_is_a_bad_row_in_every_set_and_one_frame(run_file: Path) -> None:
    photos(Path("photos"), (0, 11))
    overrides = ['sources.more={kind="images", root="photos"}', "cache.max_bad_fraction=1"]
    report = build(load_run(run_file, overrides))
    assert sum(report.bad.values()) == 4
    assert report.bad_frames == 2
    assert build(load_run(run_file, overrides)).bad_frames == 2


def test_bad_frames_of_earlier_calls_and_of_this_one_are_added_up(run_file: Path) -> None:
    photos(Path("photos"), (0, 11))
    overrides = ['sources.more={kind="images", root="photos"}', 'cache.sources=["more"]']
    build(load_run(run_file, [*overrides, "cache.max_bad_fraction=1"]))
    Cache.open("street.cache").artifact_set("more", "tiny").discard(2)
    with pytest.raises(TooManyBadFrames, match=r"more/tiny: 2 of 12 frames"):
        build(load_run(run_file, [*overrides, "cache.frames=false", "cache.max_bad_fraction=0.1"]))


def test_what_the_report_has_not_heard_of_is_counted_with_the_reasons(run_file: Path) -> None:
    photos(Path("photos"), (0, 11))
    overrides = ['sources.more={kind="images", root="photos"}', 'cache.sources=["more"]']
    build(load_run(run_file, [*overrides, "cache.max_bad_fraction=1"]))
    run = load_run(run_file, [*overrides, "cache.max_bad_fraction=0.05"])
    plan = SetPlan("more", "tiny", 12, 4, (), ())
    report = BuildReport([plan], bad=Counter({("more", "tiny"): 1}))
    with pytest.raises(TooManyBadFrames, match=r"more/tiny: 2 of 12 frames.*\n  2 x "):
        stop_if_too_bad(run, report, plan)


@pytest.mark.parametrize(
    ("torn", "advice"),
    [
        ((), "check the weights and the precision of 'tiny' and build into another"),
        ((3,), "mend the source, check the weights and the precision of 'tiny' and build into"),
    ],
)
def test_a_teacher_that_says_nan_is_to_be_checked_and_not_the_source(
    run_file: Path, torn: tuple[int, ...], advice: str
) -> None:
    photos(Path("photos"), torn)
    overrides = [
        'sources.more={kind="images", root="photos"}',
        'cache.sources=["more"]',
        "cache.shard_frames=12",
        "cache.max_bad_fraction=0.1",
        'teachers.tiny.target="tiny_networks:sometimes_nan"',
    ]
    with pytest.raises(TooManyBadFrames, match="is not finite in") as caught:
        build(load_run(run_file, overrides))
    assert f"--bad`; {advice}" in str(caught.value)


def test_an_output_beyond_its_codec_is_a_bad_row_and_one_of_every_frame_names_the_cause(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [
        'cache.sources=["street"]',
        "cache.max_bad_fraction=0.1",
        "cache.codecs.logits=half",
    ]
    names = open_run(load_run(run_file, overrides)).sources["street"].frame_ids
    loud = {names[3]}

    class Loud(TeacherArtifacts):
        def __call__(self, frames: Sequence[CanvasFrame]) -> list[dict[str, Any]]:
            made = super().__call__(frames)
            for frame, arrays in zip(frames, made, strict=True):
                if frame.frame_id in loud:
                    arrays["logits"] += 1e6 + sum(map(ord, frame.frame_id))
            return made

    monkeypatch.setattr("stillroom.pipeline.build.model_loader.TeacherArtifacts", Loud)
    report = build(load_run(run_file, overrides))
    assert report.bad["street", "tiny"] == 1
    rows = Cache.open("street.cache").artifact_set("street", "tiny").rows().to_pylist()
    assert [row["index"] for row in rows if row["status"] == "bad"] == [3]
    assert "codec half holds up to 65504; got 1.00" in rows[3]["reason"]
    loud.update(names)
    with pytest.raises(TooManyBadFrames, match=r"\n  \d+ x logits, .*half holds up to") as caught:
        build(load_run(run_file, [*overrides, "cache.path=loud.cache"]))
    assert str(caught.value).count(" x logits") == 1  # reasons alike but for numbers are one


def test_an_interrupted_build_gives_up_before_the_next_batch_and_says_so_once(
    run_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given_up = threading.Event()

    class Patient:
        """Finishes shard 0 at once; any other waits for a batch that it may not begin."""

        def __init__(self, *_: object) -> None:
            pass

        def work(
            self, work: ShardWork, on_frames: object, before_batch: Callable[[], None]
        ) -> ShardReport:
            deadline = time.monotonic() + 60
            while work.shard > 0 and time.monotonic() < deadline:
                try:
                    before_batch()
                except BaseException:
                    given_up.set()
                    raise
                time.sleep(0.01)
            return ShardReport(work, 1, 0, 1, 0.0, 0.0)

    def interrupt(event: BuildEvent) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stillroom.pipeline.build.inline_runner.ShardWorker", Patient)
    works = [ShardWork("street", "tiny", shard, ()) for shard in range(3)]
    with pytest.raises(KeyboardInterrupt):
        run_inline(open_run(load_run(run_file)), works, interrupt)
    assert given_up.is_set()
    assert [record.message for record in caplog.records if "batch in hand" in record.message] == [
        "stopping: the batch in hand is finished first; what is committed stays"
    ]


def test_a_build_that_fails_says_nothing_of_being_stopped(
    run_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: BuildEvent) -> None:
        raise CacheIncomplete("this is why")

    with pytest.raises(CacheIncomplete, match="this is why"):
        run_inline(
            open_run(load_run(run_file)), [ShardWork("street", "tiny", 0, ("logits",))], fail
        )
    assert "batch in hand" not in caplog.text


def test_a_worker_asks_before_each_batch_whether_to_go_on(run_file: Path) -> None:
    run = load_run(run_file)
    asked: list[int] = []

    def twice() -> None:
        asked.append(1)
        if len(asked) == 2:
            raise InterruptedError

    worker = ShardWorker(open_run(run), ShardThreads(1, 1))
    with pytest.raises(InterruptedError):
        worker.work(ShardWork("street", "tiny", 0, ("logits",)), before_batch=twice)
    assert len(asked) == 2
    assert not Cache.open("street.cache").artifact_set("street", "tiny").committed()
    assert worker.work(ShardWork("street", "tiny", 0, ("logits",))).frames == 4


def test_one_teacher_leaves_before_the_next_is_built(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[weakref.ref[Teacher]] = []
    alive: list[int] = []

    def counting(config: TeacherConfig, canvas: tuple[int, int]) -> Teacher:
        gc.collect()
        alive.append(sum(reference() is not None for reference in built))
        teacher = build_teacher(config, canvas)
        built.append(weakref.ref(teacher))
        return teacher

    monkeypatch.setattr("stillroom.pipeline.build.model_loader.build_teacher", counting)
    others = [
        f'teachers.{name}={{kind="python", target="tiny_networks:teacher", device="cpu", '
        f"options={{seed={seed}}}}}"
        for seed, name in enumerate(("tiny", "second", "third"))
    ]
    build(load_run(run_file, others))
    # Each is looked at before the first shard, the first last: it then goes to work at once.
    assert alive == [0] * (3 + 2)


def test_a_build_that_has_nothing_to_do_builds_no_model(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[TeacherConfig] = []

    def counting(config: TeacherConfig, canvas: tuple[int, int]) -> Teacher:
        built.append(config)
        return build_teacher(config, canvas)

    monkeypatch.setattr("stillroom.pipeline.build.model_loader.build_teacher", counting)
    build(load_run(run_file))
    assert len(built) == 1
    build(load_run(run_file))
    assert len(built) == 1


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (['cache.artifacts=["logits","features/penultimat"]'], ConfigError, "features/penultimat'"),
        (['teachers.tiny.weights="other.pth"'], WeightsError, "do not fit Tiny"),
        (['teachers.tiny.weights="nan.pth"'], WeightsError, "not finite: classifier.bias"),
        (['cache.reuse="nowhere.cache"'], ConfigError, "cache.reuse = nowhere.cache: there is no"),
        (
            ['flows.raft={kind="raft_small",weights="other.pth"}', "cache.pairs={offsets=[1]}",
             "sources.street.frames_per_clip=4"],
            WeightsError, "do not fit",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("runner", ["inline", "ray", "none"])
def test_what_the_last_shards_would_stumble_over_is_found_before_the_first(
    run_file: Path, overrides: list[str], error: type[Exception], message: str, runner: str
) -> None:
    networks = importlib.import_module("tiny_networks")
    tensors = networks.teacher().state_dict()
    torch.save({**tensors, "classifier.bias": torch.full((9,), torch.nan)}, "nan.pth")
    torch.save(networks.teacher(classes=5).state_dict(), "other.pth")
    run = load_run(run_file, overrides)
    with pytest.raises(error, match=message):
        estimate_build(run) if runner == "none" else build(run, runner=runner)
    assert not Path("street.cache").exists()


def test_a_teacher_that_says_nan_of_a_frame_makes_that_frame_a_bad_row(run_file: Path) -> None:
    run = load_run(
        run_file,
        ["teachers.tiny.target=tiny_networks:sometimes_nan", "cache.max_bad_fraction=1"],
    )
    build(run)
    rows = Cache.open("street.cache").artifact_set("street", "tiny").rows().to_pylist()
    reasons = {row["reason"] for row in rows if row["status"] == "bad"}
    assert 0 < len([row for row in rows if row["status"] == "bad"]) < len(rows)
    assert all("not finite" in reason for reason in reasons)


def test_an_estimate_writes_nothing_and_comes_near_the_truth(run_file: Path) -> None:
    run = load_run(run_file)
    estimate = estimate_build(run)
    assert not Path("street.cache").exists()
    assert [part.plan.missing_frames for part in estimate.sets] == [10, 6, 10, 6]
    build(run)
    cache = Cache.open("street.cache")
    written = sum(sum(cache.artifact_set(*pair).sizes().values()) for pair in cache.sets())
    assert estimate.bytes == pytest.approx(written, rel=0.25)
    done = estimate_build(run)
    assert done.bytes == 0
    assert all(not plan.missing for plan in plan_build(open_run(run)))


def test_a_place_where_no_folder_can_be_is_named(run_file: Path) -> None:
    with pytest.raises(CacheUnwritable, match=r"run\.toml/street\.cache"):
        build(load_run(run_file, ["cache.path=run.toml/street.cache"]))


def test_a_flipped_byte_is_found_and_named(run_file: Path) -> None:
    build(load_run(run_file))
    victim = Path("street.cache/street/tiny/logits/c.1.0.0.0")
    content = bytearray(victim.read_bytes())
    content[len(content) // 3] ^= 1
    victim.write_bytes(bytes(content))
    faults = verify_cache(Path("street.cache")).faults
    assert faults
    assert {(fault.source, fault.set_name, fault.shard) for fault in faults} == {
        ("street", "tiny", 1)
    }
    assert "logits" in str(faults[0])
