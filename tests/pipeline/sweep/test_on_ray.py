"""Sweeps on a Ray cluster of two nodes, each of which says that it has a GPU; all train on CPUs.

`swept` is a sweep of eight students from a cache of real CamVid frames. Its driver was killed with
SIGKILL when some of them were done, and the same command was given again.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Call = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = [pytest.mark.slow, pytest.mark.ray]
FRAMES, STUDENTS, SHARE = 16, 8, 0.5
RUN = """
[sources.camvid]
kind = "camvid"
root = "frames"
split = "val"

[teachers.fpn]
kind = "smp"
architecture = "FPN"
encoder = "tu-tf_efficientnet_lite0"
weights = "{data}/weights/camvid_fpn_lite0.safetensors"
mean = [127, 127, 127]
std = [128, 128, 128]
device = "cpu"

[cache]
path = "camvid.cache"
canvas = [360, 480]
artifacts = ["logits"]
threads = 1

[student]
kind = "smp"
architecture = "PSPNet"
encoder = "tu-tf_efficientnet_lite0"
encoder_depth = 3
encoder_weights = "{data}/weights/tf_efficientnet_lite0_imagenet.safetensors"
mean = [127, 127, 127]
std = [128, 128, 128]
options = {{ psp_out_channels = 32 }}

[[terms]]
name = "cross_entropy"

[[terms]]
name = "pixelwise_kl"
teacher = "fpn"

[train]
path = "run"
device = "cpu"
threads = 1
streams = {{ camvid = {{ batch = 2 }} }}
steps = 6
view = {{ crop = [96, 128], flip = true }}
log_every = 1
optimiser = {{ name = "adamw", lr = 0.001 }}

[evaluate]
source = "camvid"
"""
SWEEP = f"""
run = "run.toml"
path = "swept"
gpus_per_student = {SHARE}
samples = {STUDENTS // 2}
search = {{ "terms.1.weight" = [0.5, 5.0, "log"], "train.warmup_steps" = [0, 2] }}
"""


@dataclass(frozen=True)
class Swept:
    """The folder in which two calls were made, and what there was before and between them."""

    folder: Path
    cache_before: dict[str, str]
    done_before: dict[str, str]
    again: subprocess.CompletedProcess[str]

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        found = sorted((self.folder / "swept").glob("*/sweep.json"))
        return {path.parent.name: json.loads(path.read_text()) for path in found}


@pytest.fixture(scope="module")
def place(shared_data: Path, tmp_path_factory: pytest.TempPathFactory, stillroom: Call) -> Path:
    """A folder with a run file, a sweep file, and the cache of a few real frames."""
    folder = tmp_path_factory.mktemp("on_ray")
    for kind in ("val", "valannot"):
        (folder / "frames" / kind).mkdir(parents=True)
        for path in sorted((shared_data / "camvid" / kind).iterdir())[:FRAMES]:
            (folder / "frames" / kind / path.name).symlink_to(path)
    (folder / "run.toml").write_text(RUN.format(data=shared_data))
    (folder / "sweep.toml").write_text(SWEEP)
    built = stillroom(folder, "cache", "build", "run.toml")
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def swept(place: Path, address: str, stillroom: Call) -> Swept:
    before = digests(place / "camvid.cache")
    driver = subprocess.Popen(
        [sys.executable, "-m", "stillroom", "sweep", "sweep.toml", "--address", address],
        cwd=place, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 400
    while len(list((place / "swept").glob("*/sweep.json"))) < 3:
        assert driver.poll() is None, driver.communicate()[1].decode()
        assert time.monotonic() < until
        time.sleep(0.2)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    time.sleep(5)  # for a student that was done while the driver died
    done = digests(place / "swept", "*/sweep.json") | digests(
        place / "swept", "*/model.safetensors"
    )
    again = stillroom(place, "sweep", "sweep.toml", "--address", address)
    assert again.returncode == 0, again.stderr
    return Swept(place, before, done, again)


def digests(folder: Path, pattern: str = "**/*") -> dict[str, str]:
    """Content and time of every file."""
    return {
        str(path): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    }


def test_every_student_has_its_share_and_no_gpu_is_given_away_twice(swept: Swept) -> None:
    assert len(swept.records) == STUDENTS
    held: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for record in swept.records.values():
        ran = record["ran"]
        assert len(ran["gpus"]) == 1
        assert ran["began"] < ran["ended"]
        held[(ran["node"], ran["gpus"][0])].append((ran["began"], ran["ended"]))
    assert {gpu for _, gpu in held} == {"0"}
    for intervals in held.values():
        for now, _ in intervals:
            assert SHARE * sum(began <= now < ended for began, ended in intervals) <= 1.0
    everywhere = [one for intervals in held.values() for one in intervals]
    most = max(sum(began <= now < ended for began, ended in everywhere) for now, _ in everywhere)
    assert most > 1  # they did run side by side


def test_both_nodes_work(swept: Swept) -> None:
    assert len({record["ran"]["node"] for record in swept.records.values()}) == 2


def test_after_a_kill_nothing_is_redone(swept: Swept) -> None:
    now = digests(swept.folder / "swept")
    assert 3 <= sum(path.endswith("sweep.json") for path in swept.done_before) < STUDENTS
    assert {path: now[path] for path in swept.done_before} == swept.done_before
    shown = json.loads((swept.folder / "swept" / "results.json").read_text())
    assert shown["failed"] == []
    assert sum(len(row["students"]) for row in shown["rows"]) == STUDENTS + 1  # and the teacher


def test_the_cache_is_left_as_it_was(swept: Swept) -> None:
    assert digests(swept.folder / "camvid.cache") == swept.cache_before


def test_one_student_trained_alone_has_the_same_losses(swept: Swept, stillroom: Call) -> None:
    name, record = next(iter(swept.records.items()))
    train = ("train", f"swept/{name}/run.toml", "--set", "train.path=alone", "--json")
    alone = stillroom(swept.folder, *train)
    assert alone.returncode == 0, alone.stderr
    losses = json.loads(alone.stdout)["losses"]
    assert losses == record["train"]["losses"]
    assert json.loads((swept.folder / "alone" / "result.json").read_text())["losses"] == losses


def test_every_drawn_value_is_in_the_run_of_its_student(swept: Swept) -> None:
    drawn = set()
    for name, record in swept.records.items():
        weight = record["made_by"]["overrides"]["terms.1.weight"]
        assert record["made_by"]["config"]["terms"][1]["weight"] == weight
        assert f"weight = {weight}" in (swept.folder / "swept" / name / "run.toml").read_text()
        drawn.add(weight)
    assert len(drawn) == STUDENTS
    assert all(0.5 <= weight <= 5.0 for weight in drawn)
    assert "best by test mIoU" in swept.again.stdout


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("cpus_per_student = 5", "cpus_per_student = 5: no node of the cluster has more than 4"),
        ('path = "/proc/nowhere"', "/proc/nowhere: cannot be written"),
    ],
)
def test_what_no_node_has_is_refused(
    place: Path, address: str, stillroom: Call, keys: str, said: str
) -> None:
    key = keys.partition(" ")[0]
    kept = [line for line in SWEEP.splitlines() if not line.startswith(key)]
    (place / "refused.toml").write_text("\n".join([keys, *kept]).replace("swept", "refused"))
    done = stillroom(place, "sweep", "refused.toml", "--address", address)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
