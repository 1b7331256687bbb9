"""A trial as Ray Tune runs it: the same process as without Ray, begun where Tune says.

A process of its own, and not this actor, trains: it has the main thread, which Ctrl-C's signal
needs, sees the GPUs that Ray gave this actor and no others, and what it holds goes with it.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.sweep.child import Child, module_paths
from stillroom.pipeline.sweep.early import SCORE, STEP
from stillroom.pipeline.sweep.trials import with_place

if TYPE_CHECKING:
    from collections.abc import Mapping

REPORT_SECONDS = 2.0


class TrialFailed(Exception):
    """A trial failed by what another attempt may not meet."""


def student_trainable() -> Any:
    """Return the class of Tune's that reports what a `PlacedTrial` does."""
    from ray import tune

    class StudentTrainable(tune.Trainable):
        def setup(  # type: ignore[override]  # Tune passes the parameters that it was given
            self, config: Mapping[str, Any], end: Any, works: Mapping[str, Any]
        ) -> None:
            self._trial = PlacedTrial(config["trial"], end, works)

        def step(self) -> dict[str, Any]:
            return self._trial.step()

        def cleanup(self) -> None:
            self._trial.close()

    return StudentTrainable


class PlacedTrial:
    """Tells what the process of a trial writes; ends it where Tune stops the trial.

    Args:
        end: an actor that says whether the sweep is to end
        works: tasks and logs, by trial; folder: where processes run; modules: of the driver
    """

    def __init__(self, name: str, end: Any, works: Mapping[str, Any]) -> None:
        self._end, self._ending = end, False
        self._child: Child | None = None
        self._scored = {STEP: 0, SCORE: 0.0}
        if not self._is_asked_to_end():
            self._begin(name, works)

    def _begin(self, name: str, works: Mapping[str, Any]) -> None:
        import ray

        gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        node = f"{socket.gethostname()}/{ray.get_runtime_context().get_node_id()}"
        task = with_place(works["tasks"][name], node, gpus)
        paths = dict.fromkeys([*works["modules"], *module_paths()])
        environment = {"PYTHONPATH": os.pathsep.join(paths)}
        if not gpus:  # Ray itself may leave them all to be seen
            environment["CUDA_VISIBLE_DEVICES"] = ""
        log = Path(works["folder"], works["logs"][name])
        self._child = Child(task, log, environment, Path(works["folder"]))
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._child.pipe, selectors.EVENT_READ)

    def _is_asked_to_end(self) -> bool:
        import ray

        return bool(ray.get(self._end.asked.remote()))

    def step(self) -> dict[str, Any]:
        """Wait for the next score, the end, or two seconds; return what was written last.

        Raises:
            TrialFailed: the process failed, and may not fail again.
        """
        if self._child is None:
            return {**self._scored, "done": True, "outcome": "interrupted"}
        until, last = time.monotonic() + REPORT_SECONDS, None
        while (left := until - time.monotonic()) > 0:
            if not self._selector.select(timeout=left):
                break
            events = self._child.read()
            if events is None:
                return self._finished(self._child)
            last = events[-1] if events else last
            if self._score(events):
                break
        if not self._ending and self._is_asked_to_end():
            self._ending = True
            self._child.interrupt()
        return {**self._scored, "event": last}

    def close(self) -> None:
        """End the process, if it has not ended: it finishes its step and saves."""
        if self._child is None:
            return
        self._child.interrupt()
        while self._child.read() is not None:
            pass
        self._child.end()

    def _score(self, events: list[dict[str, Any]]) -> bool:
        """Keep the last validation but that of the last step, after which nothing is saved."""
        scored = [
            each for each in events if each.get("miou") is not None and each["step"] < each["steps"]
        ]
        if scored:
            self._scored = {STEP: scored[-1]["step"], SCORE: scored[-1]["miou"]}
        return bool(scored)

    def _finished(self, child: Child) -> dict[str, Any]:
        failure, self._child = child.end(), None
        found = {**self._scored, "done": True}
        if failure is None:
            return {**found, "outcome": "done"}
        if self._ending:
            return {**found, "outcome": "interrupted"}
        if failure.mendable:
            return {**found, "outcome": "failed", "problem": failure.problem}
        raise TrialFailed(failure.problem)
