"""Trials of a sweep on this machine, each in a process of its own, some at a time."""

from __future__ import annotations

import logging
import selectors
import socket
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.sweep.child import Child

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from stillroom.pipeline.sweep.devices import Place
    from stillroom.pipeline.sweep.file import Trial

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialJob:
    """A trial to be run.

    Attributes:
        task: what `trial_process` reads from stdin
        log: the file that all it prints is added to
    """

    trial: Trial
    task: Mapping[str, Any]
    log: Path


@dataclass(frozen=True)
class TrialEvent:
    """Something happened to a trial.

    Attributes:
        kind: "begun", "step", "scored", "done", "failed", "retried": it failed and begins again,
            or "stopped" early
        values: what its process wrote about it
    """

    trial: Trial
    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)


OnEvent = Callable[[TrialEvent], None]


@dataclass(eq=False)
class _Running:
    job: TrialJob
    place: Place
    child: Child


def run_trials(
    jobs: Iterable[TrialJob], places: Sequence[Place], retries: int, on_event: OnEvent
) -> dict[Trial, str]:
    """Run all trials, one at a time in each place; return why those failed that did.

    When this is interrupted, so are the processes: each finishes its step and saves.

    Args:
        retries: of a trial that fails by what its user cannot mend

    Raises:
        ConfigError: a log cannot be written.
    """
    waiting, free = deque(jobs), deque(places)
    failed: dict[Trial, str] = {}
    attempts: Counter[Trial] = Counter()
    running: list[_Running] = []
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and free:
                    one = _start(waiting.popleft(), free.popleft())
                    running.append(one)
                    selector.register(one.child.pipe, selectors.EVENT_READ, one)
                    on_event(TrialEvent(one.job.trial, "begun"))
                for key, _ in selector.select():
                    one = key.data
                    if _pass_on(one, on_event):
                        continue
                    selector.unregister(one.child.pipe)
                    running.remove(one)
                    free.appendleft(one.place)
                    attempts[one.job.trial] += 1
                    again = attempts[one.job.trial] <= retries
                    if _settle(one, failed, on_event, again=again):
                        waiting.append(one.job)
        except BaseException:
            _stop(running)
            raise
    return failed


def with_place(task: Mapping[str, Any], node: str, gpus: Sequence[str]) -> dict[str, Any]:
    """Return a task that says where it runs, which its record keeps."""
    return {**task, "ran": {"node": node, "gpus": list(gpus)}}


def _start(job: TrialJob, place: Place) -> _Running:
    gpus = place.split(",") if place else []
    task = with_place(job.task, socket.gethostname(), gpus)
    environment = {} if place is None else {"CUDA_VISIBLE_DEVICES": place}
    return _Running(job, place, Child(task, job.log, environment))


def event_of(trial: Trial, values: Mapping[str, Any]) -> TrialEvent:
    """Return what a process wrote as an event."""
    return TrialEvent(trial, "step" if "step" in values else "scored", values)


def _pass_on(one: _Running, on_event: OnEvent) -> bool:
    """Pass on what a process has written; return False once it has closed its end."""
    found = one.child.read()
    for values in found or ():
        on_event(event_of(one.job.trial, values))
    return found is not None


def _settle(one: _Running, failed: dict[Trial, str], on_event: OnEvent, *, again: bool) -> bool:
    """Take the result of an attempt; return whether there is to be another."""
    failure, trial = one.child.end(), one.job.trial
    if failure is None:
        on_event(TrialEvent(trial, "done"))
        return False
    again = again and not failure.mendable
    if not again:
        failed[trial] = failure.problem
    kind = "retried" if again else "failed"
    on_event(TrialEvent(trial, kind, {"problem": failure.problem}))
    return again


def _stop(running: list[_Running]) -> None:
    """Interrupt the processes and wait for them; a second Ctrl-C meanwhile kills them."""
    if not running:
        return
    LOG.warning("stopping: students finish their step and are saved; once more to stop at once")
    try:
        for one in running:
            one.child.interrupt()
        for one in running:
            one.child.end()
    except BaseException:
        for one in running:
            one.child.kill()
        raise
    finally:
        for one in running:
            one.child.end()
