"""What runs in a process of its own: a student is trained and scored, or a teacher is scored.

Reads one JSON document from stdin, tells what happens as lines of JSON on stdout, and leaves the
result in the record. Whatever else prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.errors import StillroomError

if TYPE_CHECKING:
    from stillroom.stages.train.job import Progress

TELL_SECONDS = 0.3
"""Between two lines of progress."""


class Teller:
    """Lines of JSON to the process that waits for them; when it has gone, this one ends too."""

    def __init__(self, descriptor: int) -> None:
        self._to = descriptor
        self._said = 0.0

    def __call__(self, **line: Any) -> None:
        """Tell something."""
        try:
            os.write(self._to, (json.dumps(line) + "\n").encode())
        except BrokenPipeError:
            raise KeyboardInterrupt from None  # training saves, as after Ctrl-C

    def step(self, progress: Progress) -> None:
        """Tell of a step, now and then."""
        last = progress.step == progress.steps
        if time.monotonic() - self._said < TELL_SECONDS and not last and progress.scores is None:
            return
        self._said = time.monotonic()
        waits = progress.wait_seconds / progress.seconds if progress.seconds else 0.0
        scores = progress.scores or {}
        self(
            step=progress.step,
            steps=progress.steps,
            loss=progress.loss,
            waits=waits,
            miou=scores.get("miou"),
        )

    def frames(self, done: int, total: int) -> None:
        """Tell of frames that are scored, now and then."""
        if time.monotonic() - self._said >= TELL_SECONDS:
            self._said = time.monotonic()
            self(scored=done, frames=total)


def main() -> None:
    """Do what stdin says; exit code 0, 2 for what a user can mend, 1 for anything else."""
    tell = Teller(os.dup(1))
    os.dup2(2, 1)
    try:
        _do(json.load(sys.stdin), tell)
    except KeyboardInterrupt:
        sys.exit(130)
    except StillroomError as error:
        _fail(tell, str(error), 2)
    except Exception as error:
        traceback.print_exc()
        _fail(tell, f"{type(error).__name__}: {error}", 1)


def _fail(tell: Teller, message: str, code: int) -> None:
    with suppress(KeyboardInterrupt):
        tell(problem=message)
    sys.exit(code)


def _do(task: dict[str, Any], tell: Teller) -> None:
    """Train and score, or score alone.

    task: document: of the run file; origin: of it; teacher: its name, None for a student; threads;
        record: where the result goes; keep: what else is to be written there
    """
    from stillroom.pipeline.evaluation import Asked, evaluate_model
    from stillroom.pipeline.run_file.loading import parse_run
    from stillroom.pipeline.training import train_run
    from stillroom.stages.torch_state import use_threads
    from stillroom.stages.train.run_folder import read_json, write_json

    use_threads(task["threads"])
    run = parse_run(task["document"], task["origin"])
    record = Path(task["record"])
    found: dict[str, Any] = {}
    model = f"teacher:{task['teacher']}"
    earlier: float | None = 0.0  # MB, of the process that trained, if it was another
    if task["teacher"] is None:
        trained = train_run(run, tell.step)
        if trained.already_finished:
            earlier = (read_json(record) or {}).get("peak_memory_mb")
        found["train"] = trained.to_dict()
        model = str(record.parent)
    video = run.evaluate is not None and run.evaluate.video is not None
    found["test"] = evaluate_model(run, model, Asked(video=video), tell.frames).document()
    here = peak_memory_mb()
    peak = None if earlier is None or here is None else max(earlier, here)
    write_json(record, {**found, "peak_memory_mb": peak, **task["keep"]})


def peak_memory_mb() -> float | None:
    """The most memory that this process has held; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


if __name__ == "__main__":
    main()
