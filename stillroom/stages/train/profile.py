"""Where a step's time goes: measured over a few steps, which are taken and forgotten."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from stillroom.stages.train.checkpoint import new_learner
from stillroom.stages.train.step import lr_at, take_step
from stillroom.stages.train.stream import open_loader
from stillroom.storage_specs.spans import listening, span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stillroom.stages.train.batch import Batch
    from stillroom.stages.train.checkpoint import Learner
    from stillroom.stages.train.job import TrainJob
    from stillroom.stages.train.packed.packed_batch import PackedBatch

TRACE = "trace.json"
WARM_UP, TRACED = 3, 2  # steps before what is measured, and after it
WAITS = 0.1  # of a step: from here on what a step waits for is what holds it up
ADVICE = {  # by the first word of a part's name
    "read": "the disk or the store: copy the cache nearer, or raise train.threads",
    "decode": "decoding: raise train.threads, or build with a preset that is faster to read",
    "warp": "cutting views: raise train.threads",
    "jitter": "jitter: raise train.threads, or leave train.jitter out",
    "wait": 'the loader: raise train.threads, or set train.loader = "processes"',
    "copy": "copies to the device: fewer artifacts a frame, or a smaller crop",
    "unpack": 'decoding on the device: a smaller crop, or train.decode = "host" where cores idle',
    "mix": "pasting frames into one another: a smaller crop",
    "teacher": "a teacher that runs in the step: cache what it says, or a smaller crop",
    "forward": 'the student: train.compile, on a GPU train.amp = "bfloat16", or a smaller crop',
    "backward": 'student and terms: train.compile, on a GPU train.amp = "bfloat16", fewer terms',
    "optimiser": "the update: a larger batch makes it rarer",
    "term": "a term: `stillroom train --check` prints what each costs forward and back",
}


@dataclass(frozen=True)
class Part:
    """One part of a step.

    Attributes:
        seconds: a step, mean; those of the loader are of all its threads together
        share: of the step's time
    """

    name: str
    seconds: float
    share: float


@dataclass(frozen=True)
class Profile:
    """Where the time of a step goes.

    Attributes:
        step_seconds: from step to step, mean over `steps`
        parts: of the step itself, in their order: they add up to it, but for what is between them
        loader: of the threads that prepare batches meanwhile; empty where processes do
        bottleneck: the part that holds a step up; advice: what may help
        trace: of some more steps, for chrome://tracing, Perfetto or TensorBoard
    """

    steps: int
    step_seconds: float
    parts: list[Part]
    loader: list[Part]
    bottleneck: str
    advice: str
    trace: Path

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {**asdict(self), "trace": str(self.trace)}


class SpanSeconds:
    """Listens to spans, and adds up their seconds: those of this thread, and those of others.

    A part of a step ends here when the device has done its work, which makes the step slower and
    its parts add up.
    """

    def __init__(self, device: torch.device) -> None:
        self.own: defaultdict[str, float] = defaultdict(float)
        self.others: defaultdict[str, float] = defaultdict(float)
        self._device = device
        self._thread = threading.get_ident()
        self._lock = threading.Lock()

    def __call__(self, name: str) -> Callable[[], None]:
        """Begin a span."""
        mine = threading.get_ident() == self._thread
        began = self._now(wait=mine)

        def end() -> None:
            seconds = self._now(wait=mine) - began
            with self._lock:
                (self.own if mine else self.others)[name] += seconds

        return end

    def _now(self, *, wait: bool) -> float:
        if wait:
            synchronise(self._device)
        return time.perf_counter()


def profile(job: TrainJob, steps: int = 10) -> Profile:
    """Take steps from the beginning of a run and measure them; writes `trace.json` in its folder.

    The job's student is changed.
    """
    device = torch.device(job.device)
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        open_loader(job, steps=WARM_UP + steps + TRACED) as loader,
    ):
        learner = new_learner(job.student, job.objective, job.settings, device)
        batches = iter(loader)
        _take(job, learner, batches, WARM_UP)
        seconds = SpanSeconds(device)
        synchronise(device)
        began = time.perf_counter()
        with listening(seconds):
            _take(job, learner, batches, steps)
        whole = (time.perf_counter() - began) / steps
        trace = _traced(job, learner, batches, device)
    parts, loader_parts = (
        [Part(name, each / steps, each / steps / whole) for name, each in found.items()]
        for found in (seconds.own, seconds.others)
    )
    bottleneck = bottleneck_of(parts, loader_parts)
    advice = ADVICE[bottleneck.partition(" ")[0]]
    return Profile(steps, whole, parts, loader_parts, bottleneck, advice, trace)


def bottleneck_of(parts: list[Part], loader: list[Part]) -> str:
    """Name what holds a step up: where it waits for batches, what most of their time goes to."""
    waits = any(part.name == "wait" and part.share >= WAITS for part in parts)
    candidates = loader if waits else [part for part in parts if part.name != "wait"]
    return max(candidates, key=lambda part: part.seconds).name if candidates else "wait"


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done all it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _take(
    job: TrainJob, learner: Learner, batches: Iterator[list[Batch | PackedBatch]], steps: int
) -> None:
    for _ in range(steps):
        with span("wait"):
            parts = [next(batches) for _ in range(job.parts)]
        lr = lr_at(job, min(learner.updates, job.steps - 1))  # a run may be shorter
        take_step(job, learner, parts, lr).values()
        learner.step += 1


def _traced(
    job: TrainJob,
    learner: Learner,
    batches: Iterator[list[Batch | PackedBatch]],
    device: torch.device,
) -> Path:
    """Take more steps under torch's profiler, with every span in its trace."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if device.type == "cuda" else []
    with torch.profiler.profile(activities=activities) as profiler, listening(_recorded):
        _take(job, learner, batches, TRACED)
        synchronise(device)
    path = job.settings.path / TRACE
    path.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(path))
    return path


def _recorded(name: str) -> Callable[[], None]:
    record = torch.profiler.record_function(name)
    record.__enter__()  # type: ignore[no-untyped-call]
    return lambda: record.__exit__(None, None, None)
