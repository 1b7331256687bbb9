"""Progress bars, on stderr: what is done, how fast, how long yet, and what went wrong."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from stillroom.commands.quantities import size

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Task, TaskID

    from stillroom.pipeline.build.plan import SetPlan
    from stillroom.pipeline.build.report import BuildEvent, BuildReport
    from stillroom.pipeline.evaluation import Evaluation
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.pipeline.sweep.results import SweepResult
    from stillroom.pipeline.sweep.run import SweepPlan
    from stillroom.pipeline.sweep.trials import TrialEvent
    from stillroom.stages.train.job import Progress as TrainProgress
    from stillroom.stages.train.job import TrainResult

LOG_SECONDS = 30.0  # between two lines where stderr is no terminal


class Bars:
    """Bars by name, shown from the first change until the end of a with-block.

    So no empty bar stands above an error that comes before the work begins. Where stderr is no
    terminal, a line a bar is logged every half minute.

    Args:
        unit: of what is counted, for the rate
    """

    def __init__(self, unit: str = "") -> None:
        self.console = Console(stderr=True, highlight=False, markup=False)
        self._unit = unit
        self._logged = time.monotonic()
        self._tasks: dict[str, TaskID] = {}
        self._display = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(self._rate),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
        )

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._display.live.is_started:
            self._display.stop()

    def add(
        self, name: str, total: int | None = None, *, done: int = 0, note: str = "",
        has_rate: bool = True,
    ) -> None:  # fmt: skip
        """Add a bar, which is shown once any bar changes.

        Args:
            has_rate: False for what is not counted in `unit`
        """
        self._tasks[name] = self._display.add_task(
            name, total=total, completed=done, note=note, has_rate=has_rate
        )

    def update(self, name: str, **changes: Any) -> None:
        """Change a bar: `completed` or `advance`, `total`, `note`. Add it if it is not there."""
        if name not in self._tasks:
            self.add(name)
        self._display.update(self._tasks[name], **changes)
        self.show()

    def advance(self, name: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        self.update(name, completed=done, total=total)

    def counter(self, name: str) -> Callable[[int, int], None]:
        """Return a function of (done, total) that moves one bar."""
        return partial(self.advance, name)

    def remove(self, name: str) -> None:
        """Take a bar away, if there is one."""
        if name in self._tasks:
            self._display.remove_task(self._tasks.pop(name))

    def show(self) -> None:
        """Draw the bars; where none can move, log now and then how far each is."""
        self._display.start()
        if self.console.is_terminal or time.monotonic() - self._logged < LOG_SECONDS:
            return
        self._logged = time.monotonic()
        for task in self._display.tasks:
            if task.total is not None and 0 < task.completed < task.total:
                parts = (
                    task.description,
                    f"{task.completed:.0f}/{task.total:.0f}",
                    self._rate(task.speed, task),
                    task.fields["note"],
                )
                self.console.print("  ".join(parts), soft_wrap=True)

    def _rate(self, speed: float | None, task: Task) -> str:
        return f"{speed:.1f} {self._unit}/s" if speed and task.fields["has_rate"] else ""


class _Rate(ProgressColumn):
    def __init__(self, rate: Callable[[float | None, Task], str]) -> None:
        super().__init__()
        self._text = rate

    def render(self, task: Task) -> Text:
        return Text(self._text(task.finished_speed or task.speed, task))


def retry_lines(plan: SetPlan) -> str:
    """Lay out which shards of a set are tried again, and why."""
    from stillroom.pipeline.build.report import reasons_of

    shards = plan.retried_shards
    labels = sum(row.bad_label for row in plan.retried)
    counts = {"bad rows": len(plan.retried) - labels, "bad labels": labels}
    what = " and ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    head = f"{plan.source}/{plan.set_name}: {what} in {len(shards)} shards "
    return f"{head}are tried again\n{reasons_of(plan.retried)}".rstrip()


def build_with_bars(run: RunConfig, **options: Any) -> BuildReport:
    """Build a cache and show a bar a set: frames/s, time to go, bytes and bad frames.

    Args:
        options: as for `build`
    """
    from stillroom.pipeline.build.run import build

    written: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    bad_labels: Counter[str] = Counter()

    def on_plan(plans: list[SetPlan]) -> None:
        for plan in plans:
            if plan.retried:
                bars.console.print(retry_lines(plan), soft_wrap=True)
            if plan.missing:
                name, done = f"{plan.set_name} on {plan.source}", plan.frames - plan.missing_frames
                bars.add(name, plan.frames, done=done)
        bars.show()

    def on_event(event: BuildEvent) -> None:
        name = f"{event.work.set_name} on {event.work.source}"
        if event.problem is not None:
            bars.console.print(f"{name}, shard {event.work.shard}: {event.problem}")
        if event.report is not None:
            written[name] += event.report.bytes
            bad[name] += event.report.bad
            bad_labels[name] += event.report.bad_labels
        note = size(written[name]) + (f"  {bad[name]} bad" if bad[name] else "")
        note += f"  {bad_labels[name]} bad labels" if bad_labels[name] else ""
        bars.update(name, advance=event.frames, note=note)

    with Bars("frames") as bars:
        return build(run, on_plan=on_plan, on_event=on_event, **options)


def train_with_bar(run: RunConfig, workers: int = 1, address: str | None = None) -> TrainResult:
    """Train a run's student and show steps, loss, time spent waiting for data, and last score.

    Args:
        workers: processes that train it together; address: of a Ray cluster where they do
    """
    from stillroom.pipeline.training import train_run
    from stillroom.stages.evaluate.tasks import TASKS

    name = f"train {run.train.path if run.train is not None else ''}"
    mean: float | None = None  # of the loss, over about twenty steps
    score = ""

    def on_step(progress: TrainProgress) -> None:
        nonlocal mean, score
        mean = 0.95 * (progress.loss if mean is None else mean) + 0.05 * progress.loss
        for best in (row.best for row in TASKS.values()):
            if progress.scores is not None and best in progress.scores:
                score = f"  {'mIoU' if best == 'miou' else best} {progress.scores[best]:.4f}"
                break
        wait = progress.wait_seconds / progress.seconds if progress.seconds else 0.0
        note = f"loss {mean:.4f}  waits {wait:.0%}{score}"
        bars.update(name, completed=progress.step, total=progress.steps, note=note)

    with Bars("steps") as bars:
        if workers == 1:
            return train_run(run, on_step)
        from stillroom.pipeline.cluster.train_workers import train_on_ray

        return train_on_ray(run, workers, address, on_step)


def evaluate_with_bar(run: RunConfig, model: str) -> Evaluation:
    """Score a model and show a bar."""
    from stillroom.pipeline.evaluation import evaluate_model

    with Bars() as bars:
        return evaluate_model(run, model, on_frames=bars.counter(f"eval {model}"))


def flow_with_bars(run: RunConfig) -> None:
    """Compute the flow of a run's clips and show a bar."""
    from stillroom.pipeline.video import compute_clip_flow

    with Bars("frames") as bars:
        compute_clip_flow(run, bars.advance)


def sweep_with_bars(plan: SweepPlan, *, address: str | None = None, **options: Any) -> SweepResult:
    """Run a sweep and show a bar for all of it, and one for every student that is being trained.

    Args:
        address: of a Ray cluster, which then builds what is missing of the cache as well
        options: as for `run_sweep`
    """
    from stillroom.pipeline.sweep.run import Hooks, run_sweep

    everything = f"sweep {plan.sweep.config.path}"

    def on_event(event: TrialEvent) -> None:
        name, values = event.trial.name, event.values
        if event.kind == "begun":
            bars.add(name, note="starting")
        elif event.kind == "step":
            note = f"loss {values['loss']:.4f}  waits {values['waits']:.0%}"
            if values["miou"] is not None:
                note += f"  mIoU {values['miou']:.4f}"
            bars.update(name, completed=values["step"], total=values["steps"], note=note)
        elif event.kind == "scored":
            bars.update(name, note=f"scoring, frame {values['scored']} of {values['frames']}")
        else:
            bars.remove(name)
            why = f": {values['problem'].splitlines()[0]}" if "problem" in values else ""
            if event.kind == "stopped":
                why = f" at step {values['step']}, mIoU {values['miou']:.4f}"
            bars.console.print(f"{event.kind} {name}{why}", soft_wrap=True)
            bars.update(everything, advance=event.kind != "retried")
        bars.show()

    total = len(plan.pending)

    def on_round(later: SweepPlan) -> None:
        nonlocal total
        total += len(later.pending)
        bars.update(everything, total=total)

    with Bars("steps") as bars:
        bars.add(everything, total, has_rate=False)
        hooks = Hooks(_builder(address), flow_with_bars, on_event, on_round)
        return run_sweep(plan, address=address, hooks=hooks, **options)


def _builder(address: str | None) -> Callable[[RunConfig], object]:
    runner = "ray" if address else "inline"
    return partial(build_with_bars, runner=runner, address=address)


def stamped_printer() -> Callable[[str], None]:
    """Return a function that prints a line on stderr, stamped with the seconds since now."""
    console = Console(stderr=True, highlight=False, markup=False)
    began = time.monotonic()

    def log(text: str) -> None:
        seconds = time.monotonic() - began
        console.print(Text.assemble((f"{seconds:5.0f} s  ", "dim"), text), soft_wrap=True)

    return log
