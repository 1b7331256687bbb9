"""One student on many devices by Ray Train, which starts the processes, and again where one dies.

They run the loop of one process (`train_run`), which resumes from the run's last checkpoint; Ray
knows nothing of it. What they have to say goes over a desk, an actor beside them.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.build.actor_pool import NoWorker
from stillroom.pipeline.build.placement import nodes_of
from stillroom.pipeline.cluster.connection import connected, first_line
from stillroom.storage_specs.errors import ConfigError, StillroomError, StoppedElsewhere

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.train.job import Progress, TrainResult

LOG = logging.getLogger(__name__)
RESTARTS = 3
TOLD_SECONDS = 0.3  # at least, between two steps that the driver is told of, or asks for
OF_RAY = ".ray"  # in the run folder while it trains


class Desk:
    """Where workers leave what they have to say, and hear whether they are to stop."""

    def __init__(self) -> None:
        self._told: list[tuple[str, Any]] = []
        self._stop = self._failed = False

    def tell(self, kind: str, value: Any = None) -> bool:
        """Leave something: "begun", a "step", a "log" record, a "result", an "error", "stopped".

        Returns:
            whether to stop
        """
        self._told.append((kind, value))
        self._failed |= kind == "error"
        return self._stop

    def take(self) -> list[tuple[str, Any]]:
        """Take all that was left."""
        told, self._told = self._told, []
        return told

    def stop(self) -> None:
        """Let the workers save and stop."""
        self._stop = True

    def failed(self) -> bool:
        """Tell whether a worker met an error that it would meet again."""
        return self._failed


def train_on_ray(
    run: RunConfig,
    workers: int,
    address: str | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Train the run's student by so many processes, a GPU each, or CPUs.

    Args:
        address: of a Ray cluster, whose machines see cache and run folder at the same paths

    Raises: as `train_run`.
        ConfigError: the cluster has too few GPUs or CPUs, or there is no cluster.
        NoWorker: processes died more often than they are started again.
    """
    if run.train is None:
        raise ConfigError("to train, the run file needs the section train")
    folder = run.train.path.absolute() / OF_RAY
    with connected(workers, address) as ray:
        gpu = on_gpus(run.train.device, workers, nodes_of(ray))
        desk = ray.remote(num_cpus=0)(Desk).remote()
        fitting = _Fitting(_trainer(run, workers, desk, folder, gpu=gpu))
        try:
            return _Driver(ray, desk, on_step).follow(fitting)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def on_gpus(device: str, workers: int, nodes: Any) -> bool:
    """Tell whether workers take a GPU each: where the cluster has any, unless the run is for CPUs.

    Raises:
        ConfigError: it has fewer than workers.
    """
    gpus, cpus = sum(node.gpus for node in nodes), sum(node.cpus for node in nodes)
    if device == "cuda":
        return True  # an autoscaler may bring them
    if device == "auto" and gpus:
        if gpus < workers:
            raise ConfigError(
                f"--workers {workers}: each takes a GPU, and the cluster has {gpus}; take fewer, "
                'or set train.device = "cuda" where an autoscaler brings more'
            )
        return True
    if cpus < workers:
        raise ConfigError(f"--workers {workers}: each takes a CPU, and the cluster has {cpus}")
    return False


def _trainer(run: RunConfig, workers: int, desk: Any, folder: Path, *, gpu: bool) -> Any:
    from stillroom.stages.train.process_group import ON_CPU, ON_GPU

    try:
        from ray.train import FailureConfig, ScalingConfig
        from ray.train import RunConfig as RayRunConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise ConfigError(
            f"--workers needs Ray Train, which cannot be imported ({first_line(error)}): "
            "pip install 'ray[train]'"
        ) from error
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    return TorchTrainer(
        work,
        train_loop_config={"run": run, "desk": desk, "folder": Path.cwd()},
        torch_config=TorchConfig(backend=ON_GPU if gpu else ON_CPU),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
        run_config=RayRunConfig(
            name=f"run-{time.time_ns()}",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=RESTARTS),
        ),
    )


class _Fitting(threading.Thread):
    """Ray Train's own loop, which would catch the signals of the main thread."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(daemon=True)
        self._trainer = trainer
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # Ray raises all sorts
            self.error = error


class _Driver:
    """Hears what workers say, until they are done."""

    def __init__(self, ray: Any, desk: Any, on_step: Callable[[Progress], None] | None) -> None:
        self._ray, self._desk, self._on_step = ray, desk, on_step
        self._begun = 0
        self._ends: dict[str, Any] = {}

    def follow(self, fitting: _Fitting) -> TrainResult:
        """Return the result, or raise what ended the training."""
        from stillroom.stages.train.interrupt import DeferredInterrupt

        asked = False
        with DeferredInterrupt() as interrupt:
            while fitting.is_alive():
                fitting.join(TOLD_SECONDS)
                try:
                    self._listen()
                except KeyboardInterrupt:  # of `on_step`
                    asked = True
                if asked or interrupt.held_back():
                    self._ray.get(self._desk.stop.remote())
            self._listen()
        if "error" in self._ends:
            raise self._ends["error"]
        if "result" in self._ends:
            result: TrainResult = self._ends["result"]
            return result
        if "stopped" in self._ends:
            raise KeyboardInterrupt
        raise NoWorker(
            f"training on Ray ended: {_reason(fitting.error)}\n  workers were started "
            f"{self._begun} times; running the same command again goes on from the last checkpoint"
        ) from fitting.error

    def _listen(self) -> None:
        for kind, value in self._ray.get(self._desk.take.remote()):
            if kind == "step" and self._on_step is not None:
                self._on_step(value)
            elif kind == "log":
                name, level, message = value
                logging.getLogger(name).log(level, "%s", message)
            elif kind == "begun":
                self._begun += 1
                if self._begun > 1:
                    LOG.warning("a worker died: all begin again at the last checkpoint")
            else:
                self._ends.setdefault(kind, value)


def _reason(error: Exception | None) -> str:
    """The last line of what Ray says, where a traceback has what happened."""
    if error is None:
        return "its workers ended without a word"
    failures = getattr(error, "worker_failures", None) or {-1: error}
    rank, failure = min(failures.items())
    said = str(failure).strip().splitlines() or [type(failure).__name__]
    return f"worker {rank}: {said[-1]}" if rank >= 0 else said[-1]


def work(config: dict[str, Any]) -> None:
    """Train in one of Ray's workers, which has joined the others already."""
    import ray

    from stillroom.pipeline.training import train_run
    from stillroom.stages.across_ranks import rank
    from stillroom.stages.torch_state import use_threads
    from stillroom.stages.train.process_group import leave

    desk = config["desk"]
    if ray.get(desk.failed.remote()):
        return
    use_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    voice = _Voice(ray, desk, speaks=rank() == 0)
    try:
        _go_to(config["folder"])
        result = train_run(config["run"], voice.step)
    except StoppedElsewhere:
        return
    except KeyboardInterrupt:
        voice.say("stopped")
    except StillroomError as error:
        ray.get(desk.tell.remote("error", error))
        leave()
    else:
        voice.say("result", result)


def _go_to(folder: Path) -> None:
    """Work where the driver does: a run file's paths may be relative, and are kept as they are."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise ConfigError(
            f"{folder}: a worker cannot work there ({error.strerror}); its machine must see all "
            "files at the same paths"
        ) from error


class _Voice(logging.Handler):
    """What one worker says for all: steps, warnings, and how it ends."""

    def __init__(self, ray: Any, desk: Any, *, speaks: bool) -> None:
        super().__init__(logging.WARNING)
        self._ray, self._desk, self._speaks = ray, desk, speaks
        self._answer: Any = None
        self._said = 0.0
        logger = logging.getLogger("stillroom")
        logger.handlers = [self]
        logger.setLevel(logging.WARNING if speaks else logging.CRITICAL)
        self.say("begun")

    def say(self, kind: str, value: Any = None) -> None:
        """Say it, and wait until it is heard."""
        if self._speaks:
            self._ray.get(self._desk.tell.remote(kind, value))

    def emit(self, record: logging.LogRecord) -> None:
        self.say("log", (record.name, record.levelno, record.getMessage()))

    def step(self, progress: Progress) -> None:
        """Say a step now and then; stop where the answer to an earlier one says so."""
        late = time.monotonic() - self._said < TOLD_SECONDS
        if self._answer is not None and self._ray.wait([self._answer], timeout=0)[0]:
            stop, self._answer = self._ray.get(self._answer), None
            if stop:
                raise KeyboardInterrupt
        if not late or progress.scores is not None or progress.step == progress.steps:
            self._said = time.monotonic()
            self._answer = self._desk.tell.remote("step", progress)
