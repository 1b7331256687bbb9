"""The sections of a run file, composed from the settings of the rooms that use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from stillroom.stages.models.student import StudentConfig
from stillroom.stages.models.teacher import TeacherConfig
from stillroom.stages.settings import Settings
from stillroom.stages.sources.open import SourceConfig
from stillroom.stages.train.settings import TrainConfig
from stillroom.stages.train.terms import TermConfig


class CacheConfig(Settings):
    """What stage one writes, and where.

    path: folder of the cache
    canvas: (height, width) in pixels that every frame is brought to; multiples of 8 keep artifact
        grids whole
    sources: names of the sources to cache; all of them if left out
    artifacts: what is kept of each teacher: "logits", "features/<layer>", "pseudo_label",
        "confidence"
    frames: keep frames and labels too, so that training needs nothing but the cache
    preset: "fast", "compact" or "exact"; `codecs` overrides it artifact by artifact
    threshold: pseudo-labels below this class probability become 255
    batch: frames a teacher sees at once
    threads: torch threads of a worker on a CPU
    workers: teachers side by side (runner "ray"); one a GPU if left out, or one
    max_bad_fraction: share of unusable frames of a source above which the build stops
    shard_timeout: seconds without a finished batch after which a worker is replaced
    """

    path: Path
    canvas: tuple[int, int]
    sources: tuple[str, ...] | None = None
    artifacts: tuple[str, ...] = ("logits", "pseudo_label", "confidence")
    frames: bool = True
    preset: str = "fast"
    codecs: dict[str, Any] = Field(default_factory=dict)
    shard_frames: int | None = Field(default=None, gt=0)
    threshold: float = Field(default=0.7, ge=0, le=1)
    batch: int = Field(default=4, gt=0)
    threads: int = Field(default=2, gt=0)
    workers: int | None = Field(default=None, gt=0)
    max_bad_fraction: float = Field(default=0.05, ge=0, le=1)
    shard_timeout: float = Field(default=900.0, gt=0)


class EvaluateConfig(Settings):
    """What `stillroom eval` scores on.

    source: a labelled source of the run file; it need not be cached
    batch: frames predicted at once
    sheet_frames: rows of the picture of predictions
    """

    source: str
    batch: int = Field(default=4, gt=0)
    sheet_frames: int = Field(default=6, gt=0)


class RunConfig(Settings):
    """A whole run file."""

    sources: dict[str, SourceConfig] = Field(min_length=1)
    teachers: dict[str, TeacherConfig] = Field(default_factory=dict)
    cache: CacheConfig
    student: StudentConfig | None = None
    terms: tuple[TermConfig, ...] = ()
    train: TrainConfig | None = None
    evaluate: EvaluateConfig | None = None

    def cached_sources(self) -> tuple[str, ...]:
        """Names of the sources that stage one goes through, in the order of the file."""
        return self.cache.sources if self.cache.sources is not None else tuple(self.sources)


def with_absolute_paths(run: RunConfig) -> RunConfig:
    """The same run, for a process with another working folder."""

    def absolute(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: absolute(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return tuple(absolute(each) for each in value)
        return value.absolute() if isinstance(value, Path) else value

    return RunConfig.model_validate(absolute(run.model_dump()))


def as_document(config: BaseModel) -> dict[str, Any]:
    """A config as plain JSON types, defaults filled in: what checkpoints and reports keep."""
    document: dict[str, Any] = config.model_dump(mode="json")
    return document
