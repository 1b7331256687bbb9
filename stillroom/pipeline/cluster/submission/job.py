"""A job for a cluster: one command of this program, checked here before anybody waits for it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.pipeline.sweep.file import Sweep

Command = Literal["cache", "train", "sweep"]
LONGEST_NAME = 40
# What those that use a whole Ray cluster are told, in a job on it.
OVER_RAY = {"cache": ("--runner", "ray"), "sweep": ("--address", "auto")}


@dataclass(frozen=True)
class Resources:
    """What a job asks for, on each of its nodes.

    Attributes:
        gpus, cpus: whole ones
        memory_gb: None leaves it to the cluster
        nodes: machines
    """

    gpus: int = 1
    cpus: int = 4
    memory_gb: int | None = None
    nodes: int = 1

    @property
    def processes(self) -> int:
        """Of one student: one a GPU, or else one a node."""
        return max(1, self.gpus) * self.nodes


@dataclass(frozen=True)
class Job:
    """A command, and where it runs.

    Attributes:
        file: the run or sweep file, as the command names it from `folder`
        overrides: of it, "train.seed=1"
        folder: absolute; the command runs there, and the cluster sees it at the same path
        python: the interpreter that has this program, on the cluster
        trials: "--only VARIANT --seeds SEED" of each student of a sweep
        needs_ray: whether it compares students with others, to stop them early or to draw the next
    """

    command: Command
    file: Path
    overrides: tuple[str, ...]
    folder: Path
    python: str
    resources: Resources = Resources()
    trials: tuple[tuple[str, ...], ...] = ()
    needs_ray: bool = False

    @property
    def name(self) -> str:
        """Lower-case letters, digits and dashes, as every scheduler takes them."""
        stem = re.sub(r"[^a-z0-9]+", "-", self.file.stem.lower()).strip("-")
        return f"stillroom-{self.command}-{stem}"[:LONGEST_NAME].strip("-")

    @property
    def workers(self) -> tuple[str, ...]:
        """The option by which several processes train a student."""
        count = self.resources.processes
        return ("--workers", str(count)) if self.command == "train" and count > 1 else ()

    @property
    def over_ray(self) -> tuple[str, ...]:
        """What it is told in a job on a Ray that it spreads over; nothing where it does not."""
        if self.workers:
            return (*self.workers, "--address", "auto")
        return OVER_RAY.get(self.command, ())

    def words(self, *more: str) -> list[str]:
        """The command as a shell's words."""
        task = ["cache", "build"] if self.command == "cache" else [self.command]
        chosen = [word for one in self.overrides for word in ("--set", one)]
        return [self.python, "-m", "stillroom", *task, str(self.file), *chosen, *more]


def load_job(
    command: Command,
    file: Path,
    overrides: Sequence[str],
    folder: Path,
    python: str | None,
    resources: Resources,
) -> Job:
    """Check a run or sweep file, and return the job that works on it.

    Args:
        python: the running interpreter if left out

    Raises:
        ConfigError: faults of the file; a folder without it; fewer frames in a step than processes.
    """
    from stillroom.pipeline.run_file.loading import load_run
    from stillroom.pipeline.sweep.file import load_sweep

    place = folder.absolute()
    if place.is_dir() and not (place / file).is_file():  # elsewhere only the cluster can look
        raise ConfigError(
            f"--folder {place}: it holds no {file}, which the command would name from there; give "
            "the file by its absolute path, or as it lies in that folder"
        )
    trials: tuple[tuple[str, ...], ...] = ()
    compares = False
    if command == "sweep":
        sweep = load_sweep(file, overrides, ())
        _demand_sections(command, sweep.run)
        trials = _trials(sweep)
        compares = sweep.config.asha is not None or sweep.config.controller is not None
    else:
        run = load_run(file, overrides)
        _demand_sections(command, run)
        if command == "train":
            _demand_a_frame_each(run, resources)
    python = python or sys.executable
    return Job(command, file, tuple(overrides), place, python, resources, trials, compares)


def outputs(job: Job) -> dict[str, str]:
    """What the job writes, by the key that names it; reads the file again."""
    from stillroom.pipeline.run_file.loading import load_run
    from stillroom.pipeline.sweep.file import load_sweep

    if job.command == "sweep":
        sweep = load_sweep(job.file, job.overrides, ())
        return {"cache.path": str(sweep.run.cache.path), "path": str(sweep.config.path)}
    run = load_run(job.file, job.overrides)
    found = {"cache.path": str(run.cache.path)}
    if job.command == "train" and run.train is not None:
        found["train.path"] = str(run.train.path)
    return found


def _trials(sweep: Sweep) -> tuple[tuple[str, ...], ...]:
    return tuple(("--only", one.row, "--seeds", str(one.seed)) for one in sweep.students)


def _demand_a_frame_each(run: RunConfig, resources: Resources) -> None:
    streams = {} if run.train is None else run.train.streams
    for name, stream in streams.items():
        if stream.batch < resources.processes:
            raise ConfigError(
                f"train.streams.{name}: a batch of {stream.batch}, and --gpus and --nodes make "
                f"{resources.processes} processes, of which each needs a frame of it; raise the "
                "batch, or take fewer"
            )


def _demand_sections(command: Command, run: RunConfig) -> None:
    needed = {"cache": (), "train": ("student", "terms", "train"), "sweep": ("student", "train")}
    missing = [name for name in needed[command] if not getattr(run, name)]
    if missing:
        raise ConfigError(
            f"to submit {command}, the run file needs the section {', '.join(missing)} as well"
        )
