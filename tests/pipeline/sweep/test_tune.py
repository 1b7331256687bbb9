"""What Ray Tune does for a sweep: stops, tries again, ends with its driver. Tiny networks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from stillroom.pipeline.sweep.file import load_sweep
from stillroom.pipeline.sweep.nodes import lacking
from stillroom.pipeline.sweep.placing import Share
from stillroom.pipeline.sweep.tune_runner import run_on_tune, share_of
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Call = Callable[..., subprocess.CompletedProcess[str]]

NETWORKS = """
import os
import time

from tiny_networks import Tiny


class Slow(Tiny):
    def forward(self, images):
        if self.training:
            time.sleep(0.1)
        return super().forward(images)


def student(num_classes):
    return Slow(num_classes, 7)


def dies(times):
    place = f"died-{times}"
    with open(place, "a") as file:
        file.write("x")
    if os.path.getsize(place) <= times:
        os.kill(os.getpid(), 9)


def dies1(num_classes):
    dies(1)
    return Tiny(num_classes, 7)


def dies9(num_classes):
    dies(9)
    return Tiny(num_classes, 7)
"""
SLOW = '"student.target" = "slow_networks:student"'


@pytest.fixture
def place(run_file: Path, stillroom: Call) -> Path:
    folder = run_file.parent
    (folder / "slow_networks.py").write_text(NETWORKS)
    return folder


def written(folder: Path, text: str) -> Path:
    file = folder / "sweep.toml"
    file.write_text(f'run = "run.toml"\npath = "swept"\n{text}')
    return file


def results(folder: Path) -> dict[str, dict[str, Any]]:
    shown = json.loads((folder / "swept" / "results.json").read_text())
    return {row["name"]: row for row in shown["rows"]}


def nodes(*amounts: tuple[int, int]) -> list[dict[str, Any]]:
    return [
        {"Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}} for cpus, gpus in amounts
    ]


@pytest.mark.parametrize(
    ("keys", "cluster", "share"),
    [
        ("", nodes((4, 0)), Share(1, 0.0)),
        ("", nodes((4, 0), (4, 2)), Share(1, 1.0)),
        ("threads = 3", nodes((4, 0)), Share(3, 0.0)),
        ("threads = 3\ncpus_per_student = 2", nodes((4, 0)), Share(2, 0.0)),
        ("gpus_per_student = 0.25", nodes((4, 1)), Share(1, 0.25)),
        ("gpus_per_student = 0", nodes((4, 1)), Share(1, 0.0)),
        ('set = { "train.device" = "cpu" }', nodes((4, 1)), Share(1, 0.0)),
        ('set = { "train.device" = "cuda" }', nodes((4, 1)), Share(1, 1.0)),
    ],
)
def test_a_student_takes_its_share(
    place: Path, keys: str, cluster: list[dict[str, Any]], share: Share
) -> None:
    sweep = load_sweep(written(place, f"{keys}\nvariants = {{ a = {{}} }}"))
    assert share_of(sweep.students[0], sweep.config, cluster) == share


def test_a_teacher_takes_what_its_own_device_needs(place: Path) -> None:
    sweep = load_sweep(written(place, "variants = { a = {} }"))
    assert share_of(sweep.teachers[0], sweep.config, nodes((4, 1))) == Share(1, 0.0)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("gpus_per_student = 0.25", "a, seed 0: gpus_per_student = 0.25, and no node"),
        ('set = { "train.device" = "cuda" }', "a, seed 0: device = 'cuda', and no node"),
        (
            "cpus_per_student = 9",
            "cpus_per_student = 9: no node of the cluster has more than 4 CPUs",
        ),
        ("threads = 9", "threads = 9: no node of the cluster has more than 4 CPUs"),
    ],
)
def test_what_no_node_has_is_refused(place: Path, keys: str, said: str) -> None:
    sweep = load_sweep(written(place, f"{keys}\nvariants = {{ a = {{}} }}"))
    with pytest.raises(ConfigError, match=said):
        share_of(sweep.students[0], sweep.config, nodes((4, 0), (2, 0)))


@pytest.mark.parametrize("share", ["-0.5", "1.5"])
def test_a_student_takes_no_more_than_a_gpu(place: Path, share: str) -> None:
    with pytest.raises(ConfigError, match="gpus_per_student: Input should be"):
        load_sweep(written(place, f"gpus_per_student = {share}\nvariants = {{ a = {{}} }}"))


def test_rays_client_is_refused(place: Path) -> None:
    sweep = load_sweep(written(place, "variants = { a = {} }"))
    with pytest.raises(ConfigError, match="--address ray://head:10001: Ray's client would keep"):
        run_on_tune(sweep, [], [], "ray://head:10001", lambda _: None)


def test_a_node_says_all_that_it_does_not_see(place: Path) -> None:
    assert lacking(str(place / "swept" / "mark"), "/nowhere", str(place / "none.cache")) == [
        f"no {place / 'swept'}, or another one than the sweep's",
        "no /nowhere, in which the sweep runs",
        f"{place / 'none.cache'}: there is no cache here",
    ]


@pytest.mark.slow
@pytest.mark.ray
def test_a_bad_student_is_stopped_early_and_good_ones_are_not(
    place: Path, address: str, stillroom: Call
) -> None:
    """One after the other, so that it is known who is first at a rung."""
    keys = (
        f'set = {{ {SLOW}, "train.steps" = 150, "train.device" = "cpu", '
        '"train.validation" = { source = "street", every = 5 } }\n'
        "asha = { grace = 10, reduction_factor = 2 }\nparallel = 1\n"
        "[variants]\ngood = {}\n"
    )
    bad = '"train.optimiser.lr" = 1e-12'
    written(place, f"{keys}bad = {{ {bad} }}\n")
    done = stillroom(place, "sweep", "sweep.toml", "--address", address)
    assert done.returncode == 0, done.stderr
    rows = results(place)
    assert len(rows["good"]["students"]) == 1
    assert rows["bad"]["students"] == []
    (stopped,) = rows["bad"]["stopped"]
    assert 10 <= stopped["step"] < 150
    assert not (place / "swept" / "bad-seed0" / "result.json").exists()
    assert (place / "swept" / "bad-seed0" / "last.pt").exists()
    assert f"stopped bad, seed 0 at step {stopped['step']}" in done.stderr
    good = json.loads((place / "swept" / "good-seed0" / "sweep.json").read_text())
    assert good["train"]["best_score"] > stopped["miou"]

    # A second call: it stays stopped, and a new one is compared with those that ended.
    before = (place / "swept" / "bad-seed0" / "last.pt").stat().st_mtime_ns
    written(place, f'{keys}bad = {{ {bad} }}\nworse = {{ {bad}, "train.warmup_steps" = 9 }}\n')
    again = stillroom(place, "sweep", "sweep.toml", "--address", address)
    assert again.returncode == 0, again.stderr
    assert (place / "swept" / "bad-seed0" / "last.pt").stat().st_mtime_ns == before
    rows = results(place)
    assert rows["bad"]["stopped"] == [stopped]
    assert rows["worse"]["stopped"][0]["step"] < 150


@pytest.mark.slow
@pytest.mark.ray
def test_what_fails_is_tried_again_and_listed_if_it_goes_on_failing(
    place: Path, address: str, stillroom: Call
) -> None:
    names = ("dies1", "dies9")
    variants = "".join(
        f'{name} = {{ "student.target" = "slow_networks:{name}" }}\n' for name in names
    )
    unlabelled = '"train.streams" = { street = { batch = 2, labelled = false } }'
    written(
        place,
        f'retries = 1\nset = {{ "train.device" = "cpu" }}\n[variants]\n{variants}'
        f"mend = {{ {unlabelled} }}\ngood = {{}}\n",
    )
    done = stillroom(place, "sweep", "sweep.toml", "--address", address)
    assert done.returncode == 2, done.stderr
    shown = json.loads((place / "swept" / "results.json").read_text())
    failed = {one["row"]: one["problem"] for one in shown["failed"]}
    assert failed.keys() == {"dies9", "mend"}
    assert "ended by SIGKILL" in failed["dies9"]
    assert "no stream is labelled" in failed["mend"]
    assert {name: len(row["students"]) for name, row in results(place).items()} == {
        "teacher:tiny": 1, "dies1": 1, "dies9": 0, "mend": 0, "good": 1,
    }  # fmt: skip
    assert (place / "died-1").read_text() == "xxx"  # dies, is trained, is scored
    assert (place / "died-9").read_text() == "xx"
    assert done.stderr.count("retried dies1, seed 0") == 1
    assert "retried mend" not in done.stderr


@pytest.mark.slow
@pytest.mark.ray
def test_ctrl_c_lets_students_save_and_those_that_wait_are_not_begun(
    place: Path, address: str, stillroom: Call
) -> None:
    names = ", ".join(f'v{n} = {{ "train.warmup_steps" = {n} }}' for n in range(6))
    written(
        place,
        f'set = {{ {SLOW}, "train.device" = "cpu", "train.steps" = 100000, '
        '"train.checkpoint_every" = 100000 }\n'
        f"parallel = 2\nvariants = {{ {names} }}",
    )
    driver = subprocess.Popen(
        [sys.executable, "-m", "stillroom", "sweep", "sweep.toml", "--address", address],
        cwd=place, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    until = time.monotonic() + 300
    while len(list((place / "swept").glob("v*/metrics.jsonl"))) < 2:
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.2)
    driver.send_signal(signal.SIGINT)
    said = driver.communicate(timeout=200)[1]
    assert driver.returncode == 130, said
    assert "Traceback" not in said
    begun = sorted(path.parent.name for path in (place / "swept").glob("v*/last.pt"))
    assert len(begun) == 2
    assert len(list((place / "swept").glob("v*"))) == 2
    for name in begun:
        assert "saved" in (place / "swept" / "logs" / f"{name}.log").read_text()
