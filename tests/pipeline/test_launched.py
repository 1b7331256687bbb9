"""`torchrun` on `stillroom train`: several processes write the run of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import train_run
from stillroom.stages.train.metrics import read_metrics
from stillroom.storage_specs.store import Cache

pytestmark = pytest.mark.slow
OPTIONS = (
    'train.validation={source="street",every=3}',
    "train.ema=0.9",
    "train.gradients_every=2",
    "train.log_every=1",
)


@pytest.fixture
def built(run_file: Path) -> Path:
    build(load_run(run_file))
    return run_file


def launch(ranks: int, *options: str, restarts: int = 0) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--standalone"]
    launcher += ["--max-restarts", str(restarts)]
    settings = [word for each in options for word in ("--set", each)]
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "stillroom", "train", "run.toml", "--json", *settings],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def numbers(folder: str) -> list[dict[str, Any]]:
    """The lines of a run, flat, without what a clock says."""

    def flat(value: Any, name: str = "") -> dict[str, Any]:
        if isinstance(value, dict):
            return {
                k: v for key, each in value.items() for k, v in flat(each, f"{name}/{key}").items()
            }
        if isinstance(value, list):
            return flat(dict(enumerate(value)), name)
        return {name: value}

    lines = [flat(line) for line in read_metrics(Path(folder))]
    return [{k: v for k, v in line.items() if k != "/seconds"} for line in lines]


def assert_alike(run: str, alone: str) -> None:
    mine, theirs = numbers(run), numbers(alone)
    assert len(mine) == len(theirs) > 5
    for line, twin in zip(mine, theirs, strict=True):
        assert line.keys() == twin.keys()
        for name, value in line.items():
            other = twin[name]
            if isinstance(value, float):
                other = pytest.approx(other, rel=1e-4, abs=1e-6)
            assert value == other, name


def test_processes_of_torchrun_write_the_run_of_one(built: Path) -> None:
    alone = train_run(load_run(built, [*OPTIONS, "train.path=alone"]))
    code, out, err = ended(launch(2, *OPTIONS))
    assert code == 0, err
    found = json.loads(out)  # one document, of rank 0
    assert found["losses"] == pytest.approx(alone.losses, rel=1e-4)
    assert found["best_score"] == pytest.approx(alone.best_score, rel=1e-4)
    assert_alike("run", "alone")

    def files(folder: str) -> set[str]:
        return {each.name for each in Path(folder).iterdir() if "tfevents" not in each.name}

    assert files("run") == files("alone")
    assert len([each for each in Path("run").iterdir() if "tfevents" in each.name]) == 1


def test_another_number_of_processes_resumes_in_mid_epoch(built: Path) -> None:
    train_run(load_run(built, [*OPTIONS, "train.path=alone"]))

    def stop(progress: Any) -> None:
        if progress.step == 1:  # 3 of 10 frames
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(load_run(built, list(OPTIONS)), stop)
    code, _, err = ended(launch(2, *OPTIONS))
    assert code == 0, err
    assert err.count("resuming at step 1 of 6") == 1
    assert_alike("run", "alone")


def test_what_devices_decode_and_teachers_say_in_the_step_is_shared_out_alike(built: Path) -> None:
    assert Cache.open("street.cache").artifact_set("street", "tiny").discard(1)
    hybrid = (*OPTIONS, "train.teacher=hybrid")
    train_run(load_run(built, [*hybrid, "train.path=alone"]))
    code, _, err = ended(launch(2, *hybrid, "train.decode=device"))
    assert code == 0, err
    assert_alike("run", "alone")


def test_where_one_is_killed_all_go_on_from_the_last_checkpoint(built: Path) -> None:
    slow = (
        'student={kind="python",target="tiny_networks:slow_student"}',
        "train.checkpoint_every=4",
    )
    options = (*OPTIONS, *slow, "train.steps=10")
    code, _, err = ended(launch(2, *options, "train.path=whole"))
    assert code == 0, err
    process = launch(2, *options, restarts=1)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(read_metrics(Path("run"))) < 8:
        time.sleep(0.05)
    os.kill(int(Path("pid1").read_text()), signal.SIGKILL)
    code, _, err = ended(process)
    assert code == 0, err
    assert err.count("resuming at step") == 1
    assert numbers("run") == numbers("whole")


def test_what_one_of_them_cannot_do_ends_all_and_is_said_once(built: Path) -> None:
    code, out, err = ended(launch(2, "train.streams={street={batch=3},more={batch=1}}"))
    assert code != 0
    assert not out
    assert err.count("error: ") == err.count("train.streams.more: a batch of 1 for 2 workers") == 1
    code, _, err = ended(launch(2, "train.optimiser={lr=1e30}", "train.steps=20"))
    assert code != 0
    assert err.count("error: training stopped") == 1


def test_a_signal_ends_all_after_the_same_step_and_saves(built: Path) -> None:
    long = ("train.steps=100000", "train.checkpoint_every=100000")
    process = launch(2, *long)
    deadline = time.monotonic() + 120
    while not read_metrics(Path("run")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    assert code != 0
    assert err.count("interrupted at step") == 1
    assert Path("run/last.pt").exists()
