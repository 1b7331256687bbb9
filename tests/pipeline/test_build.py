from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillroom.pipeline.build import TooManyBadFrames, build
from stillroom.pipeline.estimate import estimate_build
from stillroom.pipeline.plan import plan_build
from stillroom.pipeline.run_file import load_run
from stillroom.pipeline.targets import open_targets
from stillroom.pipeline.verify import verify_cache
from stillroom.storage_specs.errors import CacheIncomplete, CacheMismatch, CacheUnwritable
from stillroom.storage_specs.store import Cache


def artifact_bytes(folder: Path) -> dict[str, str]:
    """sha256 of everything in a cache but its manifest, whose seconds differ between builds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "manifest" not in path.relative_to(folder).parts
    }


def manifest_rows(folder: Path) -> list[dict[str, Any]]:
    cache = Cache.open(folder)
    rows = [row for pair in cache.sets() for row in cache.artifact_set(*pair).rows().to_pylist()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_a_build_caches_every_set_and_a_second_call_finds_nothing_to_do(run_file: Path) -> None:
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
    assert all(not verdict.faults for verdict in verify_cache(Path("street.cache")))


def test_what_is_cached_is_what_the_teacher_says(run_file: Path) -> None:
    from stillroom.stages.geometry import upsample_logits
    from stillroom.stages.models.teacher import build_teacher

    run = load_run(run_file, ["cache.preset=exact"])
    build(run)
    targets = open_targets(run)
    teacher = build_teacher(targets.teachers["tiny"])
    said = Cache.open("street.cache").artifact_set("street", "tiny")
    for index in (0, 3, 9):
        image = targets.sources["street"].load(index).image
        output = teacher(image[None])
        logits = output.logits[0]
        np.testing.assert_allclose(said.read("logits", index), logits, atol=1e-5)
        np.testing.assert_allclose(
            said.read("features/penultimate", index), output.features["penultimate"][0], atol=1e-5
        )
        confidence = logits.softmax(0).amax(0)
        np.testing.assert_allclose(said.read("confidence", index), confidence, atol=0.51 / 255)
        best, label = upsample_logits(logits[None], 4, (32, 48))[0].softmax(0).max(0)
        expected = np.where(best >= 0.24, label, 255)
        assert (said.read("pseudo_label", index) == expected).mean() > 0.999
        assert 0 < (expected != 255).mean() < 1  # the threshold has something to decide


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
def test_ray_writes_the_bytes_that_a_plain_loop_writes(run_file: Path) -> None:
    build(load_run(run_file, ["cache.path=inline.cache"]))
    report = build(load_run(run_file, ["cache.path=ray.cache", "cache.workers=2"]), runner="ray")
    assert report.shards == 10
    assert artifact_bytes(Path("ray.cache")) == artifact_bytes(Path("inline.cache"))
    assert manifest_rows(Path("ray.cache")) == manifest_rows(Path("inline.cache"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
def test_on_ray_a_shard_that_kills_its_worker_is_given_up_and_the_others_are_committed(
    run_file: Path,
) -> None:
    deadly = (
        "import os\n\ndef teacher(classes=9, seed=0):\n"
        "    network = Tiny(classes, seed)\n"
        "    inner = network.forward\n"
        "    def forward(images):\n"
        "        if len(images) > 1 and os.path.exists('deadly'):\n"
        "            os._exit(1)\n"
        "        return inner(images)\n"
        "    network.forward = forward\n"
        "    return network\n"
    )
    networks = Path("tiny_networks.py")
    networks.write_text(networks.read_text() + deadly)
    folder = str(Path.cwd())
    text = networks.read_text().replace("exists('deadly')", f"exists('{folder}/deadly')")
    networks.write_text(text)
    Path("deadly").touch()
    run = load_run(run_file, ['cache.sources=["street"]', "cache.shard_frames=5"])
    with pytest.raises(CacheIncomplete, match=r"(?s)2 shards failed three times.*worker died"):
        build(run, runner="ray")
    committed = Cache.open("street.cache").artifact_set("street", "frames").committed()
    assert committed == {0, 1}
    Path("deadly").unlink()
    assert build(run).shards == 2  # mended: only what was missing is computed


def test_a_killed_build_resumes_to_the_bytes_of_an_undisturbed_one(run_file: Path) -> None:
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
    run = load_run(run_file, ["cache.path=killed.cache", "teachers.tiny.target=tiny_networks:slow"])
    build(run)
    assert {path: path.stat().st_mtime_ns for path in committed} == committed  # not done again
    whole, killed = artifact_bytes(Path("whole.cache")), artifact_bytes(Path("killed.cache"))
    shards = {name for name in whole if "zarr.json" not in name}
    assert {name: killed[name] for name in shards} == {name: whole[name] for name in shards}
    assert set(killed) == set(whole)  # and no temporary file is left


def test_another_canvas_teacher_threshold_or_source_is_refused_by_name(run_file: Path) -> None:
    build(load_run(run_file))
    for override, field in (
        ("cache.canvas=[16, 24]", "canvas.height"),
        ("cache.threshold=0.9", "pseudo_label.threshold"),
        ("cache.codecs.logits=half", "artifacts.logits.codec"),
        ("teachers.tiny.options={seed=1}", "teacher.options"),
        ("sources.street.seed=9", "source."),
        ('teachers.tiny.classes=["a","b","c","d","e","f","g","h","i"]', "teacher.classes"),
    ):
        with pytest.raises(CacheMismatch) as caught:
            build(load_run(run_file, [override]))
        message = str(caught.value)
        assert field in message, message
        assert "cache build" in message


def test_unreadable_frames_become_bad_rows_and_too_many_stop_the_build(
    run_file: Path, run_document: dict[str, Any]
) -> None:
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
    overrides[1:] = ["cache.max_bad_fraction=0.1", "cache.path=worse.cache"]
    with pytest.raises(TooManyBadFrames, match=r"more than cache\.max_bad_fraction"):
        build(load_run(run_file, overrides))


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
    assert all(not plan.missing for plan in plan_build(open_targets(run)))


def test_a_place_where_no_folder_can_be_is_named(run_file: Path) -> None:
    with pytest.raises(CacheUnwritable, match=r"run\.toml/street\.cache"):
        build(load_run(run_file, ["cache.path=run.toml/street.cache"]))


def test_a_flipped_byte_is_found_and_named(run_file: Path) -> None:
    build(load_run(run_file))
    victim = Path("street.cache/street/tiny/logits/c.1.0.0.0")
    content = bytearray(victim.read_bytes())
    content[len(content) // 3] ^= 1
    victim.write_bytes(bytes(content))
    faults = [fault for verdict in verify_cache(Path("street.cache")) for fault in verdict.faults]
    assert faults
    assert {(fault.source, fault.set_name, fault.shard) for fault in faults} == {
        ("street", "tiny", 1)
    }
    assert "logits" in str(faults[0])
