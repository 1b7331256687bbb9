"""Trials of a sweep on a Ray cluster: each node sees the cache and the folders, Tune places."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.cluster.connection import connected
from stillroom.pipeline.sweep.child import module_paths
from stillroom.pipeline.sweep.early import SCORE, STEP, mark_stopped, scheduler, validation_every
from stillroom.pipeline.sweep.nodes import demand_shared
from stillroom.pipeline.sweep.placing import Rules, Share, place
from stillroom.pipeline.sweep.student_trainable import student_trainable
from stillroom.pipeline.sweep.trials import TrialEvent, event_of
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stillroom.pipeline.sweep.file import Sweep, Trial
    from stillroom.pipeline.sweep.sweep_settings import SweepConfig
    from stillroom.pipeline.sweep.trials import OnEvent, TrialJob


@dataclass(frozen=True)
class Ends:
    """How trials have ended that are not done.

    Attributes:
        failed: why
        stopped: early, with their step and score
    """

    failed: dict[Trial, str] = field(default_factory=dict)
    stopped: dict[Trial, dict[str, Any]] = field(default_factory=dict)


def run_on_tune(
    sweep: Sweep, jobs: Sequence[TrialJob], before: Sequence[Trial], address: str, on_event: OnEvent
) -> Ends:
    """Run all trials on a cluster; return those that are not done.

    When this is interrupted, so are the processes: each finishes its step and saves.

    Args:
        before: students that ended in earlier calls, whose scores others are stopped by

    Raises:
        ConfigError: nothing answers at the address; a node does not see the cache or the folders;
            no node has what a student takes.
    """
    if address.startswith("ray://"):
        raise ConfigError(
            f"--address {address}: Ray's client would keep the sweep's own process on the cluster; "
            "give HOST:PORT from a machine of the cluster, or `stillroom submit sweep --to ray`"
        )
    config = sweep.config
    by_name = {job.trial.place.stem: job for job in jobs}
    ends = Ends()

    def listen(name: str, kind: str, result: Mapping[str, Any]) -> None:
        event = _heard(by_name[name].trial, kind, result, ends)
        if event is not None:
            on_event(event)

    with connected(_cpus(config) * (config.parallel or 1), address) as ray:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        shares = {name: share_of(job.trial, config, nodes) for name, job in by_name.items()}
        demand_shared(ray, nodes, sweep)
        rules = Rules(config.parallel, config.retries, _scheduler(sweep, before))
        raised = place(shares, student_trainable(), rules, listen, works=_works(by_name))
    for name, problem in raised.items():
        listen(name, "ended", {"outcome": "failed", "problem": problem})
    return ends


def _works(by_name: Mapping[str, TrialJob]) -> dict[str, Any]:
    """Return what the trials' actors are given, all of them the same."""
    return {
        "tasks": {name: job.task for name, job in by_name.items()},
        "logs": {name: str(job.log) for name, job in by_name.items()},
        "folder": str(Path.cwd()),
        "modules": module_paths(),
    }


def _heard(trial: Trial, kind: str, result: Mapping[str, Any], ends: Ends) -> TrialEvent | None:
    """Take note of how a trial ended; return what it is to the listener of a sweep."""
    if kind in ("begun", "retried"):
        return TrialEvent(trial, kind)
    if kind == "result":
        return event_of(trial, result["event"]) if result.get("event") else None
    outcome = result.get("outcome", "stopped")  # by the scheduler, if it has none of its own
    if outcome == "stopped":
        ends.stopped[trial] = {"step": result[STEP], "miou": result[SCORE]}
        mark_stopped(trial.place, **ends.stopped[trial])
        return TrialEvent(trial, outcome, ends.stopped[trial])
    if outcome == "failed":
        ends.failed[trial] = result["problem"]
        return TrialEvent(trial, outcome, {"problem": result["problem"]})
    return None if outcome == "interrupted" else TrialEvent(trial, outcome)


def _scheduler(sweep: Sweep, before: Sequence[Trial]) -> Any:
    if sweep.config.asha is None:
        return None
    every = validation_every([trial.run for trial in sweep.students])
    return scheduler(sweep.config.asha, every, [trial.place for trial in before])


def share_of(trial: Trial, config: SweepConfig, nodes: Sequence[Mapping[str, Any]]) -> Share:
    """Return what a trial takes of a node.

    Raises:
        ConfigError: no node has it.
    """
    most = {
        kind: max((node["Resources"].get(kind, 0) for node in nodes), default=0)
        for kind in ("CPU", "GPU")
    }
    gpus, device = config.gpus_per_student, _device(trial)
    if gpus is None:
        gpus = 1.0 if device == "cuda" or (device == "auto" and most["GPU"] >= 1) else 0.0
    if gpus and most["GPU"] < 1:
        asked = (
            "device = 'cuda'" if config.gpus_per_student is None else f"gpus_per_student = {gpus:g}"
        )
        raise ConfigError(f"{trial.name}: {asked}, and no node of the cluster has a GPU")
    cpus = _cpus(config)
    if cpus > most["CPU"]:
        key = "cpus_per_student" if config.cpus_per_student else "threads"
        raise ConfigError(
            f"{key} = {cpus}: no node of the cluster has more than {most['CPU']:g} CPUs"
        )
    return Share(cpus, gpus)


def _cpus(config: SweepConfig) -> int:
    return config.cpus_per_student or config.threads


def _device(trial: Trial) -> str:
    if trial.teacher is not None:
        return trial.run.teacher(trial.teacher).device
    return trial.run.train.device if trial.run.train is not None else "auto"
