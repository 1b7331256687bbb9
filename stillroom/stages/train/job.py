"""The input of a training run, its progress, and its result."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from stillroom.stages.train.mix import Mixing
from stillroom.stages.train.order import steps_of
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch

    from stillroom.stages.models.student import Student
    from stillroom.stages.train.batch import Batch
    from stillroom.stages.train.dataset import CacheDataset
    from stillroom.stages.train.objective import Objective
    from stillroom.stages.train.settings import TrainConfig

# What changes no loss, but for rounding.
UNCHANGING = (
    "train.path",
    "train.device",
    "train.compile",
    "train.threads",
    "train.loader",
    "train.decode",
    "train.checkpoint_every",
    "train.log_every",
    "train.gradients_every",
)
LENGTH = ("train.steps", "train.epochs")


@dataclass(frozen=True)
class TrainJob:
    """Everything one run needs.

    Attributes:
        student: changed in place; on return it has the weights of the last step
        streams: the datasets, by the names and in the order of `settings.streams`
        config: the resolved run file as plain JSON types: kept in the run folder and in
            checkpoints, and what the folder is compared with when it is used again
        fingerprints: of the artifact sets read, by "<source>/<set>"; of the streams if left out
        validate: scores of a student in evaluation mode, by name; called as `settings.validation`
            says
        score: the name among them that decides which checkpoint is the best; higher is better
        on_step: called after every step
        live: adds to a batch on the device what teachers make in the step
        may_differ: dotted fields of `config`, or sections, that a resumed run may have changed
    """

    student: Student
    objective: Objective
    streams: Mapping[str, CacheDataset]
    settings: TrainConfig
    config: Mapping[str, Any]
    fingerprints: Mapping[str, str] | None = None
    validate: Callable[[Student], Mapping[str, Any]] | None = None
    on_step: Callable[[Progress], None] | None = None
    device: torch.device | str = "cpu"
    score: str = "miou"
    live: Callable[[Batch], Batch] | None = None
    may_differ: tuple[str, ...] = UNCHANGING

    def __post_init__(self) -> None:
        if list(self.streams) != list(self.settings.streams):
            raise ConfigError(
                f"the job's streams are {list(self.streams)}, its settings' "
                f"{list(self.settings.streams)}; they must be the same, in the same order"
            )
        sizes = {name: dataset.size for name, dataset in self.streams.items()}
        if len(set(sizes.values())) > 1:
            listing = ", ".join(f"{name} {h}x{w}" for name, (h, w) in sizes.items())
            raise ConfigError(
                f"streams yield frames of different sizes ({listing}), and one step holds them "
                "all; set train.view.crop"
            )
        strides = {name: dataset.out_stride for name, dataset in self.streams.items()}
        if set(strides.values()) != {self.student.stride}:
            raise ConfigError(
                f"streams bring artifacts to the strides {strides}, and the student's is "
                f"{self.student.stride}; open them with out_stride={self.student.stride}"
            )
        if (self.validate is None) != (self.settings.validation is None):
            raise ConfigError("train.validation and a function to validate with come together")

    @property
    def steps(self) -> int:
        """Number of steps of the whole run."""
        if self.settings.steps is not None:
            return self.settings.steps
        return steps_of(*self._first(), self.settings.epochs or 1)

    @property
    def follows_length(self) -> bool:
        """Whether its steps depend on how many there are: then it cannot become another length."""
        over_all = self.settings.schedule not in ("milestones", "constant")
        return over_all or any(term.follows_length for term in self.objective.terms)

    @property
    def parts(self) -> int:
        """Number of batches of every stream that a step takes, one after the other."""
        return self.settings.accumulate or 1

    @property
    def mixing(self) -> dict[str, Mixing]:
        """How the frames of a stream are mixed, of those where they are."""
        by = {"cutmix": None, "classmix": self.objective.first_pseudo_label()}
        return {
            name: Mixing(by[stream.mix], self.student.stride)
            for name, stream in self.settings.streams.items()
            if stream.mix is not None
        }

    def epoch(self, step: int) -> float:
        """Return the passes of the first stream that `step` steps amount to."""
        count, batch = self._first()
        return step * batch / count

    def _first(self) -> tuple[int, int]:
        name = next(iter(self.streams))
        return len(self.streams[name]), self.settings.streams[name].batch * self.parts


@dataclass(frozen=True)
class Progress:
    """One finished step.

    Attributes:
        step: steps done so far, of `steps`
        loss, terms: of this step; terms by "<stream>/<term>", unweighted
        lr: the learning rate this step used
        seconds, wait_seconds: of training since the run began, resumptions included and validation
            left out; spent waiting for data
        scores: what validation found, where it took place after this step
    """

    step: int
    steps: int
    epoch: float
    loss: float
    terms: Mapping[str, float]
    lr: float
    seconds: float
    wait_seconds: float
    scores: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    Attributes:
        best_score, best_step: of best.pt; None where nothing was validated
        losses: "loss" and every term, mean over the last line of metrics
        seconds, wait_seconds: of training in all sessions of the run, without validation; spent
            waiting for data
        skipped: bad rows left out, by stream
        paths: "model", "last", "best" (where validated), "metrics", "config", "fingerprints"
        score: the name of `best_score`
        already_finished: the run folder held a finished run, and nothing was trained
    """

    steps: int
    best_score: float | None
    best_step: int | None
    losses: Mapping[str, float]
    seconds: float
    wait_seconds: float
    skipped: Mapping[str, int]
    paths: Mapping[str, Path] = field(default_factory=dict)
    already_finished: bool = False
    score: str = "miou"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {
            **asdict(replace(self, paths={})),
            "paths": {name: str(path) for name, path in self.paths.items()},
        }
