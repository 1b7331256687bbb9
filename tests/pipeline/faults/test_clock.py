"""A clock that jumps, and machines whose clocks disagree: nothing is lost, nothing is doubled."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.loading import load_run
from stillroom.storage_specs.errors import CacheUnwritable
from stillroom.storage_specs.files import durable_files
from stillroom.storage_specs.files.durable_files import STAGING, sweep, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = 86_400.0


def jump(patch: pytest.MonkeyPatch, seconds: float) -> None:
    now = time.time
    patch.setattr(time, "time", lambda: now() + seconds)


@pytest.mark.parametrize("seconds", [-400 * DAY, 400 * DAY])
def test_a_build_on_a_clock_that_jumps_is_like_any_other(
    fault_run: Path,
    contents: Callable[[Path], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
) -> None:
    build(load_run(fault_run))
    run = load_run(fault_run, ["cache.path=jumped.cache"])
    events = []

    def listen(event: object) -> None:
        if not events:
            jump(monkeypatch, seconds)  # in the middle
        events.append(event)

    build(run, on_event=listen)
    whole = contents(Path("street.cache"))
    assert contents(Path("jumped.cache")) == whole
    for path in Path("jumped.cache").rglob("*"):
        os.utime(path, (time.time() + seconds, time.time() + seconds))
    assert build(run).shards == 0
    assert contents(Path("jumped.cache")) == whole


@pytest.mark.parametrize("seconds", [-400 * DAY, 0, 400 * DAY])
def test_a_living_writers_file_is_kept_and_a_dead_ones_swept_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    place, swept = durable_files._place, []

    def sweep_first(temporary: Path, target: Path, keep: bool) -> bool:
        jump(monkeypatch, seconds)
        swept.append(sweep(tmp_path))
        return place(temporary, target, keep)

    monkeypatch.setattr(durable_files, "_place", sweep_first)
    write_whole(tmp_path, "a", b"first")
    (tmp_path / STAGING / "0123456789ab.1.part").touch()
    write_whole(tmp_path, "a", b"second")
    assert swept == [0, 1]
    assert (tmp_path / "a").read_bytes() == b"second"


def test_a_writer_on_another_machine_whose_file_is_swept_writes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, swept = durable_files._place, []

    def sweep_first(temporary: Path, target: Path, keep: bool) -> bool:
        """As if somebody came in between who does not see our locks."""
        if len(swept) < 2:
            with monkeypatch.context() as there:
                there.setattr(fcntl, "flock", lambda *_: None)
                swept.append(sweep(tmp_path))
        return place(temporary, target, keep)

    monkeypatch.setattr(durable_files, "_place", sweep_first)
    for keep in (False, True):
        swept.clear()
        assert write_whole(tmp_path, f"a{keep}", b"content", keep=keep)
        assert swept == [1, 1]
        assert (tmp_path / f"a{keep}").read_bytes() == b"content"
    assert list((tmp_path / STAGING).iterdir()) == []


def test_a_writer_that_is_swept_every_time_says_so_and_commits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = durable_files._place

    def lose(temporary: Path, target: Path, keep: bool) -> bool:
        temporary.unlink()
        return place(temporary, target, keep)

    monkeypatch.setattr(durable_files, "_place", lose)
    with pytest.raises(CacheUnwritable, match="cannot write: No such file"):
        write_whole(tmp_path, "a", b"content")
    assert not (tmp_path / "a").exists()
