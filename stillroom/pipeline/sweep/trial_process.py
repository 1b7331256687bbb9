"""The process of one trial: a student is trained and scored, or a teacher is scored.

It reads one JSON document from stdin, writes events as lines of JSON to stdout, and leaves the
result in the record. All other output goes to stderr.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.errors import StillroomError

if TYPE_CHECKING:
    from stillroom.stages.train.job import Progress

RUN_FILE = "run.toml"
FORMER_SECONDS = 120.0  # a step, and saving
EVENT_SECONDS = 0.3  # at least, between two events of progress


class EventWriter:
    """Writes events as lines of JSON; ends the process when the pipe is closed at the other end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._written = 0.0

    def write(self, **values: Any) -> None:
        """Write one event."""
        try:
            os.write(self._descriptor, (json.dumps(values) + "\n").encode())
        except BrokenPipeError:
            raise KeyboardInterrupt from None  # training saves, as after Ctrl-C

    def step(self, progress: Progress) -> None:
        """Write a step of training, if one was not written just before; the last one always."""
        last = progress.step == progress.steps
        if self._is_early() and not last and progress.scores is None:
            return
        self._written = time.monotonic()
        scores = progress.scores or {}
        self.write(
            step=progress.step,
            steps=progress.steps,
            loss=progress.loss,
            waits=progress.wait_seconds / progress.seconds if progress.seconds else 0.0,
            miou=scores.get("miou"),
        )

    def frames(self, done: int, total: int) -> None:
        """Write how many frames are scored, if that was not written just before."""
        if not self._is_early():
            self._written = time.monotonic()
            self.write(scored=done, frames=total)

    def _is_early(self) -> bool:
        return time.monotonic() - self._written < EVENT_SECONDS


def main() -> None:
    """Run the trial on stdin; exit with 0, 2 for what a user can mend, or 1 for anything else."""
    # Ray's actors block it, and a process inherits that.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    events = EventWriter(os.dup(1))
    os.dup2(2, 1)
    try:
        run_trial(json.load(sys.stdin), events)
    except KeyboardInterrupt:
        sys.exit(130)
    except StillroomError as error:
        _fail(events, str(error), 2)
    except Exception as error:
        traceback.print_exc()
        _fail(events, f"{type(error).__name__}: {error}", 1)


def _fail(events: EventWriter, message: str, code: int) -> None:
    with suppress(KeyboardInterrupt):
        events.write(problem=message)
    sys.exit(code)


def run_trial(task: dict[str, Any], events: EventWriter) -> None:
    """Train a student and score it, or score a teacher, and write the record.

    Args:
        task: document: of the run file; origin: of it; teacher: its name, None for a student;
            threads; record: where the result goes; keep: what else is to be written there;
            run_file: its text, to be left in the run folder; ran: the node and its GPUs
    """
    from stillroom.pipeline.evaluation import EvaluationOptions, evaluate_model
    from stillroom.pipeline.run_file.loading import parse_run
    from stillroom.pipeline.training import train_run
    from stillroom.stages.torch_state import use_threads
    from stillroom.stages.train.run_folder import alone, read_json, write_json, write_whole

    began = time.time()
    use_threads(task["threads"])
    run = parse_run(task["document"], task["origin"])
    record = Path(task["record"])
    found: dict[str, Any] = {}
    model = f"teacher:{task['teacher']}"
    earlier: float | None = 0.0  # MB, of the process that trained, if it was another
    if task["teacher"] is None:
        with alone(record.parent, FORMER_SECONDS):  # a killed sweep's process may still save there
            pass
        write_whole(record.parent / RUN_FILE, task["run_file"].encode())
        trained = train_run(run, events.step)
        if trained.already_finished:
            earlier = (read_json(record) or {}).get("peak_memory_mb")
        found["train"] = trained.to_dict()
        model = str(record.parent)
    video = run.evaluate is not None and run.evaluate.video is not None
    options = EvaluationOptions(video=video)
    found["test"] = evaluate_model(run, model, options, events.frames).to_dict()
    here = peak_memory_mb()
    peak = None if earlier is None or here is None else max(earlier, here)
    ran = {**task["ran"], "began": began, "ended": time.time()}
    write_json(record, {**found, "peak_memory_mb": peak, **task["keep"], "ran": ran})


def peak_memory_mb() -> float | None:
    """Return the most memory that this process has held; None where the system does not know."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


if __name__ == "__main__":
    main()
