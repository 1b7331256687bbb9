"""Where students are trained on one machine: GPUs and CPUs handed out, failures tried again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stillroom.pipeline.sweep.devices import per_gpu, places, visible_gpus
from stillroom.pipeline.sweep.sweep_settings import SweepConfig
from stillroom.pipeline.sweep.trials import TrialJob, run_trials
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from stillroom.pipeline.sweep.trials import TrialEvent


def config(**keys: Any) -> SweepConfig:
    return SweepConfig(run=Path("run.toml"), path=Path("swept"), variants={"a": {}}, **keys)


@pytest.mark.parametrize(
    ("keys", "gpus", "found"),
    [
        ({}, [], [None]),
        ({}, ["0", "1"], ["0"]),
        ({"parallel": 3}, [], [None, None, None]),
        ({"parallel": 3}, ["4", "6"], ["4", "6", "4"]),
        ({"gpus_per_student": 1.0}, ["0", "1"], ["0", "1"]),
        ({"gpus_per_student": 0.25}, ["0", "1"], 4 * ["0", "1"]),
        ({"gpus_per_student": 0.4, "parallel": 3}, ["0", "1"], ["0", "1", "0"]),
        ({"gpus_per_student": 0.6, "parallel": 9}, ["0", "1"], ["0", "1"]),
        ({"gpus_per_student": 0, "parallel": 2}, ["0"], ["", ""]),
        ({"cpus_per_student": 3}, [], [None, None]),
        ({"cpus_per_student": 3, "parallel": 9}, [], [None, None]),
        ({"cpus_per_student": 3, "gpus_per_student": 0.25}, ["0"], ["0", "0"]),
    ],
)
def test_students_spread_over_what_there_is(
    keys: dict[str, Any], gpus: list[str], found: list[str | None]
) -> None:
    assert places(config(**keys), gpus, cpus=8) == found


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"gpus_per_student": 0.5}, "gpus_per_student = 0.5: torch sees no GPU on this machine"),
        ({"cpus_per_student": 9}, "cpus_per_student = 9: this machine has 8"),
    ],
)
def test_more_than_there_is_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        places(config(**keys), [], cpus=8)


def test_as_many_students_as_are_shares_fit_on_a_gpu() -> None:
    assert [per_gpu(1 / count) for count in range(1, 50)] == list(range(1, 50))
    assert [per_gpu(share) for share in (0.1, 0.3, 0.34, 0.51, 0.9)] == [10, 3, 2, 1, 1]


@pytest.mark.parametrize(
    ("named", "found"),
    [(None, ["0", "1"]), ("3,5", ["3", "5"]), ("GPU-a, GPU-b", ["GPU-a", "GPU-b"])],
)
def test_gpus_are_named_as_this_process_is_told(
    monkeypatch: pytest.MonkeyPatch, named: str | None, found: list[str]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == found


@pytest.fixture
def jobs(tmp_path: Path) -> list[TrialJob]:
    """Four trials, of which only the name counts here."""
    return [
        TrialJob(f"trial {number}", {"threads": 1}, tmp_path / f"{number}.log")  # type: ignore[arg-type]
        for number in range(4)
    ]


def runs_instead(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_each_process_sees_its_own_gpu_and_no_more_run_than_there_are_places(
    jobs: list[TrialJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_instead(
        'cat > /dev/null; echo "sees $CUDA_VISIBLE_DEVICES" >&2; sleep 0.2', tmp_path, monkeypatch
    )
    at_once: list[int] = [0]

    def count(event: TrialEvent) -> None:
        at_once.append(at_once[-1] + {"begun": 1, "done": -1}[event.kind])

    assert run_trials(jobs, ["4", "6"], 0, count) == {}
    assert max(at_once) == 2
    assert {job.log.read_text() for job in jobs} == {"sees 4\n", "sees 6\n"}


def test_what_fails_is_tried_again_and_listed_if_it_fails_as_often_as_it_may(
    jobs: list[TrialJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trial 1 fails once, trial 2 always; its file's lines are counted."""
    runs_instead(
        'task=$(cat); n=$(echo "$task" | sed "s/.*number.: \\([0-9]\\).*/\\1/")\n'
        f"echo x >> {tmp_path}/tries$n\n"
        f"tries=$(wc -l < {tmp_path}/tries$n)\n"
        '[ "$n" = 2 ] && exit 1\n[ "$n" = 1 ] && [ "$tries" = 1 ] && exit 1\nexit 0',
        tmp_path, monkeypatch,
    )  # fmt: skip
    numbered = [
        TrialJob(job.trial, {**job.task, "number": number}, job.log)
        for number, job in enumerate(jobs)
    ]
    events: list[tuple[Any, str]] = []
    failed = run_trials(numbered, [None], 2, lambda event: events.append((event.trial, event.kind)))
    assert list(failed) == ["trial 2"]
    assert "exit code 1" in failed[jobs[2].trial]
    assert [kind for trial, kind in events if trial == "trial 1"] == [
        "begun", "retried", "begun", "done",
    ]  # fmt: skip
    assert [kind for trial, kind in events if trial == "trial 2"].count("retried") == 2
    assert [(trial, kind) for trial, kind in events if kind == "done"] == [
        ("trial 0", "done"), ("trial 3", "done"), ("trial 1", "done"),
    ]  # fmt: skip


def test_what_only_the_user_can_mend_is_not_tried_again(
    jobs: list[TrialJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_instead("""echo '{"problem": "no labels"}'; exit 2""", tmp_path, monkeypatch)
    kinds: list[str] = []
    failed = run_trials(jobs[:1], [None], 5, lambda event: kinds.append(event.kind))
    assert kinds == ["begun", "failed"]
    assert failed == {"trial 0": "no labels"}
