"""How far each trial of a sweep has come, by its record and its run folder."""

from __future__ import annotations

import functools
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from stillroom.pipeline.run_file.sections import as_document
from stillroom.pipeline.run_file.set_names import EXACT
from stillroom.pipeline.sweep.early import STOPPED
from stillroom.pipeline.training import ELSEWHERE
from stillroom.stages.models.looks_settings import LooksSettings
from stillroom.stages.sources.open import open_source
from stillroom.stages.train import run_folder
from stillroom.stages.train.job import UNCHANGING
from stillroom.storage_specs.errors import CacheError, ConfigError
from stillroom.storage_specs.fingerprint import differences, fingerprint, plain
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.pipeline.sweep.file import Trial
    from stillroom.stages.evaluate.evaluation_settings import VideoConfig

FAILED = "failed.json"
Kind = Literal["done", "stopped", "failed", "trained", "begun", "new", "changed"]
ENDED = ("done", "stopped", "failed")
# The classes are those of the cache; `train` compares them.
HOW = {"size", "ignore", *LooksSettings.model_fields}  # of [evaluate]: how frames are scored
MAY_DIFFER = (*UNCHANGING, *ELSEWHERE, "classes")


@dataclass(frozen=True)
class State:
    """How far a trial has come.

    Attributes:
        kind: "done": its result can be read; "stopped": early, for its score; "failed": in a
            round of a controller that has ended; "trained": it is to be scored; "begun": its
            training goes on; "new": nothing is there; "changed": its folder holds something else
        scored: what its score is to depend on, beside the student
        differences: of "changed": a line each
        result: of "done"
        stopped: of "stopped": the step and the score
    """

    kind: Kind
    scored: dict[str, Any]
    differences: tuple[str, ...] = ()
    result: dict[str, Any] | None = None
    stopped: dict[str, Any] | None = None


class SweepRecords:
    """Reads how far trials have come; what several of them share is read once.

    Args:
        early: whether those that were stopped early stay so
        rounds: whether those that failed in a round that has ended do
    """

    def __init__(self, run: RunConfig, *, early: bool = False, rounds: bool = False) -> None:
        self._run, self._early, self._rounds = run, early, rounds
        self._source = functools.cache(self._read_source)
        self._flow = functools.cache(self._read_flow)

    def state(self, trial: Trial) -> State:
        """Compare the record and the run folder of a trial with the sweep file.

        Raises:
            ConfigError: a file of it cannot be read.
        """
        found = self._without_failures(trial)
        is_open = trial.seed is not None and found.kind not in (*ENDED, "changed")
        if self._rounds and is_open and _has_failed(trial):
            return replace(found, kind="failed")
        return found

    def _without_failures(self, trial: Trial) -> State:
        wanted = self._scored(trial)
        found = run_folder.read_json(trial.record)
        scored = found.get("scored") if isinstance(found, dict) else None
        result = found if scored is not None and not differences(scored, wanted) else None
        if trial.seed is None:
            return State("new" if result is None else "done", wanted, result=result)
        folder = trial.place
        theirs = run_folder.read_json(folder / run_folder.CONFIG)
        if theirs is None or not run_folder.is_begun(folder):
            return State("new", wanted)
        changed = run_folder.changes(theirs, plain(as_document(trial.run)), MAY_DIFFER)
        known = run_folder.read_json(folder / run_folder.FINGERPRINTS) or {}
        changed += differences(known, self._fingerprints_now(known))
        if changed:
            lines = (str(one).replace("   cache ", "   folder ") for one in changed)
            return State("changed", wanted, tuple(lines))
        if result is not None:
            return State("done", wanted, result=result)
        ended = all((folder / name).exists() for name in (run_folder.RESULT, run_folder.MODEL))
        stopped = run_folder.read_json(folder / STOPPED) if self._early and not ended else None
        if stopped is not None:
            return State("stopped", wanted, stopped=stopped)
        return State("trained" if ended else "begun", wanted)

    def _scored(self, trial: Trial) -> dict[str, Any]:
        """Return what a score depends on beside the student: frames, how, and the teacher."""
        if trial.run.evaluate is None:
            raise ConfigError("the run file has no [evaluate] section; add one")
        found: dict[str, Any] = {
            "source": self._source(trial.run.evaluate.source),
            "canvas": list(trial.run.cache.canvas),
        }
        chosen = trial.run.evaluate.model_dump(mode="json", include=HOW, exclude_defaults=True)
        found |= plain(chosen)  # what is scored without any of them stays scored
        if trial.run.evaluate.video is not None:  # likewise
            found["video"] = self._video(trial.run.evaluate.video)
        if trial.teacher is not None:
            teacher = trial.run.teacher(trial.teacher)
            found["teacher"] = fingerprint(teacher.identity())
        return found

    def _video(self, settings: VideoConfig) -> dict[str, Any]:
        """Return what scores along clips depend on: the frames, the flow, and the settings."""
        chosen = plain(settings.model_dump(mode="json", include={"clips", "frames", "occlusion"}))
        return {
            "source": self._source(settings.source),
            "flow": self._flow(settings.flow),
            **chosen,
        }

    def _read_source(self, name: str) -> str:
        return fingerprint(open_source(self._run.sources[name]).identity())

    def _read_flow(self, name: str) -> str:
        return name if name == EXACT else fingerprint(self._run.flows[name].identity())

    @functools.cached_property
    def _sets(self) -> dict[str, str]:
        """Fingerprints of all sets in the cache that can be opened, by "<source>/<set>"."""
        found = {}
        with suppress(CacheError):  # training from it will raise this
            cache = Cache.open(self._run.cache.path)
            for source, name in cache.sets():
                found[f"{source}/{name}"] = cache.artifact_set(source, name).fingerprint
        return found

    def _fingerprints_now(self, known: dict[str, str]) -> dict[str, str]:
        """Return the present fingerprints of what a student read; those `known` of what is gone."""
        now = {}
        for name, value in known.items():
            kind, _, source = name.partition("/")
            if kind == "validation" and source in self._run.sources:
                now[name] = self._source(source)
            else:
                now[name] = self._sets.get(name, value)
        return now


def refuse_changed(states: Mapping[Trial, State]) -> None:
    """Refuse folders that hold other students than those of the sweep file.

    Raises:
        ConfigError: names each of them, and what differs.
    """
    lines = [
        line
        for trial, state in states.items()
        if state.kind == "changed"
        for line in (f"  {trial.name}: {trial.place}", *(f"    {d}" for d in state.differences))
    ]
    if lines:
        raise ConfigError(
            "run folders hold students of another config or cache\n" + "\n".join(lines) + "\n  "
            "train them again with --retrain, which keeps the old folders under other names; or "
            "rename the variant, give `path` another folder, or set these fields back"
        )


def mark_failed(trial: Trial, problem: str) -> None:
    """Write down that a student failed in a round that has ended, so that its reward stays."""
    trial.place.mkdir(parents=True, exist_ok=True)
    config = fingerprint(plain(as_document(trial.run)))
    run_folder.write_json(trial.place / FAILED, {"problem": problem, "config": config})


def _has_failed(trial: Trial) -> bool:
    found = run_folder.read_json(trial.place / FAILED)
    return found is not None and found["config"] == fingerprint(plain(as_document(trial.run)))


def set_aside(trial: Trial) -> None:
    """Rename a student's run folder, so that it is trained anew."""
    folder, number = trial.place, 1
    while (aside := folder.with_name(f"{folder.name}.before{number}")).exists():
        number += 1
    folder.rename(aside)
