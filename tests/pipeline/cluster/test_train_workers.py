"""One student by several workers of Ray Train, one of which dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stillroom.pipeline.build.placement import Node
from stillroom.pipeline.build.run import build
from stillroom.pipeline.cluster.train_workers import on_gpus, train_on_ray
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import check_workers, train_run
from stillroom.stages.train.metrics import read_metrics
from stillroom.storage_specs.errors import ConfigError


def on_ray(test: Any) -> Any:
    """Mark a test that starts a Ray; what Ray itself leaves open is not ours to mend."""
    for name in ("ResourceWarning", "FutureWarning", "DeprecationWarning"):
        test = pytest.mark.filterwarnings(f"ignore::{name}")(test)
    return pytest.mark.slow(pytest.mark.ray(test))


OPTIONS = (
    "train.steps=12",
    "train.checkpoint_every=4",
    "train.log_every=1",
    'student={kind="python",target="tiny_networks:slow_student"}',
    'train.validation={source="street",every=6}',
)


@pytest.fixture
def built(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    build(load_run(run_file))
    return run_file


def lines(folder: str) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(Path(folder))
    ]


def weights(folder: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(Path(folder) / "last.pt", weights_only=True)[
        "student"
    ]
    return found


class Killer:
    """Kills a worker once so many steps are done."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step
        self.killed: int | None = None

    def __call__(self, progress: Any) -> None:
        if progress.step >= self.step and self.killed is None:
            self.killed = int(Path(f"pid{self.rank}").read_text())
            os.kill(self.killed, signal.SIGKILL)


@on_ray
@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_of_which_a_worker_dies_ends_as_one_of_which_none_does(
    built: Path, rank: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Bit for bit, since there are as many workers; in mid-epoch: 4 steps are 12 of 10 frames."""
    whole = train_on_ray(load_run(built, [*OPTIONS, "train.path=whole"]), 2)
    killer = Killer(rank, 6)
    result = train_on_ray(load_run(built, [*OPTIONS, "train.path=killed"]), 2, None, killer)
    assert killer.killed is not None
    assert int(Path(f"pid{rank}").read_text()) != killer.killed
    assert "a worker died: all begin again at the last checkpoint" in caplog.text
    assert "resuming at step" in caplog.text
    assert (result.losses, result.best_score) == (whole.losses, whole.best_score)
    assert lines("killed") == lines("whole")
    for name, value in weights("whole").items():
        assert weights("killed")[name].equal(value), name
    assert {each.name for each in Path("killed").iterdir() if "tfevents" not in each.name} == {
        each.name for each in Path("whole").iterdir() if "tfevents" not in each.name
    }
    # And one process has the same losses, but for the last bits.
    alone = train_run(load_run(built, [*OPTIONS, "train.path=alone"]))
    assert alone.losses == pytest.approx(whole.losses, rel=1e-4)
    assert {each.name for each in Path("alone").iterdir() if "tfevents" not in each.name} == {
        each.name for each in Path("whole").iterdir() if "tfevents" not in each.name
    }


@on_ray
def test_an_interruption_saves_and_one_process_goes_on(built: Path) -> None:
    def stop(progress: Any) -> None:
        if progress.step >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_on_ray(load_run(built, [*OPTIONS]), 2, None, stop)
    assert 2 <= torch.load("run/last.pt", weights_only=True)["step"] < 12
    resumed = train_run(load_run(built, [*OPTIONS]))
    alone = train_run(load_run(built, [*OPTIONS, "train.path=alone"]))
    assert resumed.losses == pytest.approx(alone.losses, rel=1e-4)


@on_ray
def test_what_a_user_can_mend_is_said_as_by_one_process(built: Path) -> None:
    settings = [*OPTIONS, "train.streams={street={batch=3},more={batch=1}}"]
    with pytest.raises(ConfigError, match=r"streams\.more: a batch of 1 for 2 workers"):
        train_on_ray(load_run(built, settings), 2)


@pytest.mark.parametrize(
    ("device", "workers", "nodes", "found"),
    [
        ("cpu", 2, [Node(3, 4)], False),
        ("auto", 2, [Node(3, 0)], False),
        ("auto", 3, [Node(8, 2), Node(8, 1)], True),
        ("cuda", 4, [Node(1, 0)], True),
        ("auto", 4, [Node(8, 2), Node(8, 1)], "each takes a GPU, and the cluster has 3"),
        ("auto", 2, [Node(1, 0)], "each takes a CPU, and the cluster has 1"),
        ("cpu", 2, [Node(1, 8)], "each takes a CPU, and the cluster has 1"),
    ],
)
def test_workers_take_a_gpu_each_or_a_cpu(
    device: str, workers: int, nodes: list[Node], found: bool | str
) -> None:
    if isinstance(found, bool):
        assert on_gpus(device, workers, nodes) is found
    else:
        with pytest.raises(ConfigError, match=found):
            on_gpus(device, workers, nodes)


@pytest.mark.slow
def test_one_process_has_no_ray_in_it(built: Path) -> None:
    trained = "from stillroom.cli import main; main(['train', 'run.toml'], standalone_mode=False)"
    code = f"import sys; {trained}; assert 'torch' in sys.modules; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_options_that_do_not_go_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_workers(1, None, measures=True)
    check_workers(2, "here:6379", measures=False)
    with pytest.raises(ConfigError, match="--workers N"):
        check_workers(1, "here:6379", measures=False)
    with pytest.raises(ConfigError, match="--check and --profile"):
        check_workers(2, None, measures=True)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_workers(1, None, measures=False)
    with pytest.raises(ConfigError, match="torchrun has started"):
        check_workers(2, None, measures=False)
