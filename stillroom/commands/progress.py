"""Progress bars, on stderr: what is done, how fast, how long yet, and what went wrong."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import rich.progress as bars
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from stillroom.commands.quantities import size

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from rich.progress import Task, TaskID

    from stillroom.pipeline.build.plan import SetPlan
    from stillroom.pipeline.build.report import BuildEvent, BuildReport
    from stillroom.pipeline.evaluation import Evaluation
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.pipeline.sweep.file import Work
    from stillroom.pipeline.sweep.trials import ChildEvent
    from stillroom.stages.train.job import Progress, TrainResult


LOG_SECONDS = 30.0  # between two lines where stderr is no terminal


class _Rate(ProgressColumn):
    """Units a second since the task began, over what this process did itself."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        known = speed is not None and task.fields.get("has_rate", True)
        return Text(f"{speed:.1f} {self._unit}/s" if known else "")


class _Bars:
    """A rich progress display, on from the first that there is to show to a with-block's end.

    So no empty bar stands above an error that comes before the work does.
    """

    def __init__(self, unit: str) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False)
        self._unit = unit
        self._said = time.monotonic()
        self._bars = bars.Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(unit),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
        )

    def __enter__(self) -> Any:
        return self

    def _moved(self) -> None:
        """Show the bars, or say now and then where things are if none can move: in a job's log."""
        self._bars.start()
        if self.console.is_terminal or time.monotonic() - self._said < LOG_SECONDS:
            return
        self._said = time.monotonic()
        for task in self._bars.tasks:
            if task.total is not None and 0 < task.completed < task.total:
                known = task.speed and task.fields.get("has_rate", True)
                speed = f"{task.speed:.1f} {self._unit}/s" if known else ""
                parts = (task.description, f"{task.completed:.0f}/{task.total:.0f}", speed)
                self.console.print("  ".join((*parts, task.fields["note"])), soft_wrap=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars.live.is_started:
            self._bars.stop()


class BuildBars(_Bars):
    """`cache build`: a bar a set; frames/s, ETA, bytes and bad frames."""

    def __init__(self) -> None:
        super().__init__("frames")
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._bytes: dict[tuple[str, str], int] = {}
        self._bad: dict[tuple[str, str], int] = {}

    def plan(self, plans: list[SetPlan]) -> None:
        """Show what is to be done; what was committed before is counted as done."""
        for plan in plans:
            if plan.missing:
                key = (plan.source, plan.set_name)
                self._tasks[key] = self._bars.add_task(
                    f"{plan.set_name} on {plan.source}",
                    total=plan.frames,
                    completed=plan.frames - plan.missing_frames,
                    note="",
                )
        self._moved()

    def event(self, event: BuildEvent) -> None:
        """Move a bar, or say what failed."""
        key = (event.work.source, event.work.set_name)
        if event.problem is not None:
            self.console.print(f"{key[1]} on {key[0]}, shard {event.work.shard}: {event.problem}")
        if event.report is not None:
            self._bytes[key] = self._bytes.get(key, 0) + event.report.bytes
            self._bad[key] = self._bad.get(key, 0) + event.report.bad
        note = size(self._bytes.get(key, 0))
        if self._bad.get(key):
            note += f"  {self._bad[key]} bad"
        self._bars.update(self._tasks[key], advance=event.frames, note=note)
        self._moved()


def build_with_bars(run: RunConfig) -> BuildReport:
    """Build a cache and show its bars."""
    from stillroom.pipeline.build.run import build

    with BuildBars() as shown:
        return build(run, on_plan=shown.plan, on_event=shown.event)


class TrainBar(_Bars):
    """`train`: steps, their rate, the loss, the time spent waiting for data, the last score."""

    def __init__(self, run: Path | str) -> None:
        super().__init__("steps")
        self._task = self._bars.add_task(f"train {run}", total=None, note="")
        self._loss: float | None = None
        self._score = ""

    def step(self, progress: Progress) -> None:
        """One step more; the loss shown is an average over about twenty."""
        mean = progress.loss if self._loss is None else self._loss
        self._loss = 0.95 * mean + 0.05 * progress.loss
        if progress.scores is not None and "miou" in progress.scores:
            self._score = f"  mIoU {progress.scores['miou']:.4f}"
        wait = progress.wait_seconds / progress.seconds if progress.seconds else 0.0
        note = f"loss {self._loss:.4f}  waits {wait:.0%}{self._score}"
        self._bars.update(self._task, completed=progress.step, total=progress.steps, note=note)
        self._moved()


def train_with_bar(run: RunConfig) -> TrainResult:
    """Train a run's student and show its bar."""
    from stillroom.pipeline.training import train_run

    with TrainBar(run.train.path if run.train is not None else "") as bar:
        return train_run(run, bar.step)


def evaluate_with_bar(run: RunConfig, model: str) -> Evaluation:
    """Score a model and show a bar."""
    from stillroom.pipeline.evaluation import evaluate_model

    with CountBar("eval", model) as bar:
        return evaluate_model(run, model, on_frames=bar.advance)


class SweepBars(_Bars):
    """`sweep`: a bar for all of it, and one for every student that is being trained."""

    def __init__(self, path: Path | str, total: int) -> None:
        super().__init__("steps")
        self._all = self._bars.add_task(f"sweep {path}", total=total, note="", has_rate=False)
        self._tasks: dict[Work, TaskID] = {}

    def event(self, event: ChildEvent) -> None:
        """Add, move or take away a student's bar; say what has ended, and how."""
        work, said = event.work, event.said
        if event.kind == "begun":
            self._tasks[work] = self._bars.add_task(work.name, total=None, note="starting")
        elif event.kind == "step":
            note = f"loss {said['loss']:.4f}  waits {said['waits']:.0%}"
            if said["miou"] is not None:
                note += f"  mIoU {said['miou']:.4f}"
            self._bars.update(
                self._tasks[work], completed=said["step"], total=said["steps"], note=note
            )
        elif event.kind == "scored":
            note = f"scoring, frame {said['scored']} of {said['frames']}"
            self._bars.update(self._tasks[work], note=note)
        else:
            self._bars.remove_task(self._tasks.pop(work))
            self._bars.advance(self._all)
            problem = f": {said['problem'].splitlines()[0]}" if "problem" in said else ""
            self.console.print(f"{event.kind} {work.name}{problem}", soft_wrap=True)
        self._moved()


class CountBar(_Bars):
    """Anything that is counted up to a total."""

    def __init__(self, what: str, of: Path | str, unit: str = "") -> None:
        super().__init__(unit)
        self._task = self._bars.add_task(f"{what} {of}", total=None, note="")

    def advance(self, done: int, total: int) -> None:
        """So many of so many are done."""
        self._bars.update(self._task, completed=done, total=total)
        self._moved()


class StageBars(_Bars):
    """A job of several stages, known one after the other: a bar each."""

    def __init__(self, unit: str = "") -> None:
        super().__init__(unit)
        self._stages: dict[str, TaskID] = {}

    def advance(self, stage: str, done: int, total: int) -> None:
        """So many of so many are done in this stage."""
        if stage not in self._stages:
            self._stages[stage] = self._bars.add_task(stage, total=total, note="")
        self._bars.update(self._stages[stage], completed=done, total=total)
        self._moved()


def follow_with_bars(run: RunConfig) -> None:
    """Compute the flow of a run's clips and show a bar."""
    from stillroom.pipeline.video import follow_clips

    with StageBars("frames") as shown:
        follow_clips(run, shown.advance)


class Narrator:
    """Says what a long job of several steps is doing, with the seconds it took so far."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False)
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        """One line, stamped with the time since the start."""
        seconds = time.monotonic() - self._began
        self.console.print(Text.assemble((f"{seconds:5.0f} s  ", "dim"), text), soft_wrap=True)
