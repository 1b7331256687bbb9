"""The whole path on a bucket: build, kill, resume, verify, repair, look at it, train from it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from stillroom.cli import main
from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import train_run
from stillroom.storage_specs.errors import (
    CacheCorrupt,
    CacheIncomplete,
    ConfigError,
    StoreUnavailable,
)
from stillroom.storage_specs.layout import group_json
from stillroom.storage_specs.manifest import decode_part
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable


def stillroom(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def folder_objects(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows_of(part: bytes, path: str) -> list[Any]:
    """A part's rows and its own description, without the seconds."""
    found = decode_part(part, path)
    rows = [{**vars(row), "seconds": None} for row in found.rows]
    return [{**vars(found), "rows": None}, *rows]


def assert_same(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    """Byte for byte, but for the seconds in the manifest."""
    assert one.keys() == other.keys()
    for path, content in one.items():
        if path.startswith("manifest/"):
            assert rows_of(content, path) == rows_of(other[path], path)
        else:
            assert content == other[path], path


@pytest.fixture
def remote(bucket: Any) -> list[str]:
    """What points the run at the bucket."""
    return ["--set", f"cache.path={bucket.url}/runs/street"]


@pytest.mark.slow
def test_the_whole_path_on_a_bucket(run_file: Path, bucket: Any, remote: list[str]) -> None:
    url = f"{bucket.url}/runs/street"
    dry = stillroom("cache", "build", run_file, *remote, "--dry-run", "--json")
    assert json.loads(dry.stdout)["free_bytes"] is None
    assert "free disk" not in stillroom("cache", "build", run_file, *remote, "--dry-run").stdout
    assert bucket.objects("runs") == {}
    assert f"{url}: 10 of 10 shards" in stillroom("cache", "build", run_file, *remote).stdout
    assert "nothing to do" in stillroom("cache", "build", run_file, *remote).stdout
    build(load_run(run_file))
    good = bucket.objects("runs/street")
    assert_same(good, folder_objects(Path("street.cache")))
    assert "street/tiny" in stillroom("cache", "info", url).stdout
    shown = stillroom("cache", "preview", url, "--source", "street", "--out", "seen.png")
    assert Path(shown.stdout.strip()) == Path("seen.png").resolve()
    assert Path("seen.png").read_bytes()[:4] == b"\x89PNG"
    assert f"{url}: complete and sound" in stillroom("cache", "verify", url).stdout
    for file, place, named in (
        ("street/tiny/logits/c.1.0.0.0", 100, "street/tiny/logits, shard 1, frame 4"),
        ("manifest/more/tiny/00000.parquet", 40, "manifest/more/tiny/00000.parquet, shard 0"),
        ("street/tiny/zarr.json", 0, "street/tiny"),
        ("street/frames/zarr.json", 0, "street/frames"),
        ("zarr.json", 0, "zarr.json"),
    ):
        bucket.flip(f"runs/street/{file}", place)
        damaged = bucket.objects("runs/street")
        found = stillroom("cache", "verify", url)
        assert found.exit_code == 1, found.stdout
        assert re.search(rf"fault {named}", found.stdout), found.stdout
        assert f"stillroom cache verify {url} --repair" in found.stdout
        assert bucket.objects("runs/street") == damaged
        assert stillroom("cache", "verify", run_file, *remote, "--repair").exit_code == 1
        assert stillroom("cache", "build", run_file, *remote).exit_code == 0
        assert stillroom("cache", "verify", url).exit_code == 0
        assert_same(bucket.objects("runs/street"), good)


@pytest.mark.parametrize("copies", [False, True])
def test_training_from_a_bucket_is_training_from_a_folder(
    copies: bool,
    run_file: Path,
    bucket: Any,
    remote: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from safetensors.numpy import load_file

    if copies:
        monkeypatch.setenv("STILLROOM_SHARD_CACHE", "copies")
    build(load_run(run_file))
    build(load_run(run_file, remote[1:]))
    train_run(load_run(run_file))
    trained = train_run(load_run(run_file, [*remote[1:], "train.path=from-bucket"]))
    ours, theirs = load_file(trained.paths["model"]), load_file("run/model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert np.array_equal(values, theirs[name]), name
    assert Path("copies").exists() == copies


@pytest.mark.parametrize("store", ["proxy", "rclone_bucket", "gcs"])
def test_no_store_loses_the_frames_or_a_byte(
    store: str, run_file: Path, request: pytest.FixtureRequest
) -> None:
    place = request.getfixturevalue(store)
    if store == "proxy":
        place.dropped, place = {"if-none-match", "range"}, request.getfixturevalue("bucket")
    url = f"{place.url}/runs/street"
    assert (
        "10 of 10 shards" in stillroom("cache", "build", run_file, f"--set=cache.path={url}").stdout
    )
    build(load_run(run_file))
    assert_same(place.objects("runs/street"), folder_objects(Path("street.cache")))
    assert "complete and sound" in stillroom("cache", "verify", url).stdout
    train_run(load_run(run_file, [f"cache.path={url}"]))


def test_a_build_whose_definition_was_lost_meanwhile_does_not_end_well(
    run_file: Path, bucket: Any, remote: list[str]
) -> None:
    def lose(event: Any) -> None:
        if event.report is not None and event.report.work.set_name == "tiny":
            bucket.put("runs/street/street/zarr.json", group_json({}))

    with pytest.raises(CacheCorrupt, match=r"street/zarr\.json is damaged.*--repair"):
        build(load_run(run_file, remote[1:]), on_event=lose)


def test_the_frames_are_defined_before_many_workers_begin(
    run_file: Path, bucket: Any, remote: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def begin(run: Any, *_: Any) -> dict[Any, str]:
        found.append([pair for pair in Cache.open(run.cache.path).sets() if pair[1] == "frames"])
        return {}

    monkeypatch.setattr("stillroom.pipeline.build.ray_runner.run_on_ray", begin)
    with pytest.raises(CacheIncomplete, match=r"[23] shards of"):  # none was made
        build(load_run(run_file, remote[1:]), runner="ray")
    assert found == [[("more", "frames"), ("street", "frames")]]


def test_a_build_whose_records_were_lost_meanwhile_does_not_end_well(
    run_file: Path, bucket: Any, remote: list[str]
) -> None:
    place = "runs/street/manifest/street/tiny/00001.parquet"

    def lose(event: Any) -> None:
        if event.report is not None and event.report.work.set_name == "tiny":
            bucket.client.delete_object(Bucket=bucket.name, Key=place)

    with pytest.raises(CacheIncomplete, match=r"1 shards of street/tiny were written, .*00001"):
        build(load_run(run_file, remote[1:]), on_event=lose)
    assert build(load_run(run_file, remote[1:])).shards == 1


@pytest.mark.slow
def test_a_killed_build_goes_on_and_computes_nothing_committed_again(
    run_file: Path, bucket: Any, remote: list[str]
) -> None:
    networks = Path("tiny_networks.py")
    networks.write_text(
        networks.read_text()
        + "\nimport time\n\ndef slow(classes=9, seed=0):\n"
        + "    network = Tiny(classes, seed)\n"
        + "    inner = network.forward\n"
        + "    def forward(images):\n"
        + "        if len(images) > 1:\n"
        + "            time.sleep(0.4)\n"
        + "        return inner(images)\n"
        + "    network.forward = forward\n"
        + "    return network\n"
    )
    slow = [*remote, "--set", "teachers.tiny.target=tiny_networks:slow"]
    command = [sys.executable, "-m", "stillroom", "cache", "build", str(run_file), *slow]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (first := parts_of(bucket, "tiny")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 0 < len(first) < 5
    committed = parts_of(bucket, "")
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["shards_computed"] == 10 - len(committed)
    left = {path: content for path, content in parts_of(bucket, "").items() if path in committed}
    assert left == committed  # the records too: not one was written again
    build(load_run(run_file, ["cache.path=whole.cache", "teachers.tiny.target=tiny_networks:slow"]))
    assert_same(bucket.objects("runs/street"), folder_objects(Path("whole.cache")))


def parts_of(bucket: Any, set_name: str) -> dict[str, bytes]:
    found = bucket.objects("runs/street/manifest")
    return {path: content for path, content in found.items() if set_name in path}


def test_another_teachers_cache_in_a_bucket_is_refused_by_its_url(
    run_file: Path, bucket: Any, remote: list[str]
) -> None:
    assert stillroom("cache", "build", run_file, *remote).exit_code == 0
    refused = stillroom("cache", "build", run_file, *remote, "--set", "cache.threshold=0.5")
    assert refused.exit_code == 2
    assert f"error: {bucket.url}/runs/street: 'tiny' on" in refused.stderr
    assert "pseudo_label.threshold" in refused.stderr


def test_a_store_out_of_reach_ends_a_command_with_one_message(
    run_file: Path, bucket: Any, remote: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in (["build", run_file], ["info", run_file], ["verify", run_file, "--repair"]):
        missing = stillroom("cache", *command, "--set", "cache.path=s3://not-there/c")
        assert missing.exit_code == 2
        assert "error: s3://not-there/c: there is no bucket" in missing.stderr
    with pytest.raises(StoreUnavailable):
        train_run(load_run(run_file, ["cache.path=s3://not-there/c"]))
    wrong = stillroom("cache", "info", "ftp://host/c")
    assert "expected a folder, s3://bucket/prefix" in wrong.stderr
    with pytest.raises(ConfigError, match=r"cache\.path: expected a folder.*got 5"):
        load_run(run_file, ["cache.path=5"])
    assert load_run(run_file, ["cache.path=~/c"]).cache.path == Path.home() / "c"


def test_a_cache_in_memory_lives_as_long_as_its_process(run_file: Path) -> None:
    url = "memory://for-a-test"
    assert stillroom("cache", "build", run_file, "--set", f"cache.path={url}").exit_code == 0
    assert "complete and sound" in stillroom("cache", "verify", url).stdout
    with pytest.raises(ConfigError, match=r"memory://.*--runner inline"):
        build(load_run(run_file, ["cache.path=memory://another"]), runner="ray")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
def test_ray_workers_write_to_a_bucket_what_a_plain_loop_writes_to_a_folder(
    run_file: Path, bucket: Any, artifact_bytes: Callable[[Path], dict[str, str]]
) -> None:
    url = f"{bucket.url}/runs/street"
    report = build(load_run(run_file, [f"cache.path={url}", "cache.workers=2"]), runner="ray")
    assert report.shards == 10
    build(load_run(run_file, ["cache.path=inline.cache"]))
    assert_same(bucket.objects("runs/street"), folder_objects(Path("inline.cache")))
    assert Cache.open(url).artifact_set("street", "tiny").committed() == {0, 1, 2}
    assert os.environ["AWS_ENDPOINT_URL"] == bucket.endpoint
