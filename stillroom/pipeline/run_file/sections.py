"""The sections of a run file, composed from the settings of the rooms that use them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    StrictInt,
    ValidationInfo,
    field_validator,
)

from stillroom.pipeline.run_file.faults import hint
from stillroom.pipeline.run_file.set_names import FlowName, SourceName, TeacherName
from stillroom.pipeline.run_file.sources import with_frames
from stillroom.pipeline.run_file.teachers import check_members, with_classes
from stillroom.stages.cache.adapt import AdaptConfig
from stillroom.stages.evaluate.evaluation_settings import EvaluateConfig
from stillroom.stages.models.flow.flow_model import FlowModelConfig
from stillroom.stages.models.students.families import StudentConfig
from stillroom.stages.models.teachers.families import TeacherConfig
from stillroom.stages.settings import Settings
from stillroom.stages.sources.open import SourceConfig
from stillroom.stages.sources.pairs import PairsConfig
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.settings import TrainConfig
from stillroom.storage_specs.artifacts import (
    ARTIFACTS,
    CONFIDENCE,
    LABELS,
    LOGITS,
    PSEUDO_LABEL,
    artifact_of,
)
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.files.object_store import place_of
from stillroom.storage_specs.presets import MAX_SHARD_FRAMES, PRESETS, load_preset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel

TileSide = Annotated[StrictInt, Field(ge=8)]  # cells; below, a chunk costs more than what is in it
OF_A_TEACHER = tuple(
    row.name + "/<layer>" * row.layered
    for row in sorted(ARTIFACTS.values(), key=lambda row: row.layered)
    if row.made_by == "teacher"
)


Sources = Annotated[dict[SourceName, SourceConfig], AfterValidator(with_frames)]
Teachers = Annotated[dict[TeacherName, TeacherConfig], AfterValidator(check_members)]


def _check_artifact(name: str) -> None:
    """Refuse what no teacher's set can hold; which layers there are, only the network knows."""
    family, slash, _ = name.partition("/")
    row = ARTIFACTS.get(family)
    if row is not None and row.made_by == "autoencoder":
        raise ConfigError(
            f"artifact {name!r}: no teacher says it; give the run file a section [adapt.<teacher>] "
            "and run `stillroom cache adapt`"
        )
    if row is None or row.made_by != "teacher":
        raise ConfigError(f"unknown artifact {name!r}{hint(name, OF_A_TEACHER)}")
    if row.layered and not slash:
        raise ConfigError(f"artifact {name!r}: name a layer, {name}/<layer>")
    artifact_of(name)


def _once(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{', '.join(map(repr, twice))} is named twice")


def _place(value: object) -> Path | str:
    if not isinstance(value, str | Path):
        raise ConfigError("expected a folder, or the URL of a place in an object store")
    return place_of(value)


class CacheConfig(Settings):
    """What stage one writes, and where.

    Attributes:
        path: folder of the cache, or s3://bucket/prefix, gs://bucket/prefix, memory://name
        reuse: another cache of the same teachers: frames that are there are taken from it
        canvas: (height, width) in pixels that every frame is brought to; multiples of 8 keep
            artifact grids whole
        sources: names of the sources to cache; all of them if left out
        teachers: names of the teachers to cache; all of them if left out
        artifacts: what is kept of each teacher: "logits", "features/<layer>", "pseudo_label",
            "confidence", "pixel_confidence", "depth"
        pairs: of which frames of clips the optical flow is cached; of none if left out
        flows: names of the flow models to cache; all of them if left out
        frames: keep frames and labels too, so that training needs nothing but the cache
        preset: "fast", "compact" or "exact"; `codecs` overrides it artifact by artifact
        tile: rows and columns of the tiles that a frame's artifacts are cut into, "none", or
            "auto": tiles where a frame's artifact is larger than 4 MiB, so that a crop reads a part
            of it
        threshold: pseudo-labels below this class probability become 255
        batch: frames a teacher sees at once
        threads: torch threads of a worker on a CPU
        encoders, decoders: threads of a worker that compress, and that read and decode; as many as
            it has CPUs if left out, of encoders at most 8
        workers: teachers side by side (runner "ray"); one a GPU if left out, or one
        num_gpus: GPUs of a worker whose model uses one (runner "ray"): 0.5 lets two share one
        max_bad_fraction: share of unusable frames of a source above which the build stops
        shard_timeout: seconds without a finished batch after which a worker is replaced
    """

    path: Annotated[Path | str, PlainValidator(_place)]
    reuse: Annotated[Path | str, PlainValidator(_place)] | None = None
    canvas: tuple[StrictInt, StrictInt]
    sources: tuple[str, ...] | None = None
    teachers: tuple[str, ...] | None = None
    artifacts: tuple[str, ...] = (LOGITS, PSEUDO_LABEL, CONFIDENCE)
    pairs: PairsConfig | None = None
    flows: tuple[str, ...] | None = None
    frames: bool = True
    preset: str = "fast"
    codecs: dict[str, Any] = Field(default_factory=dict)
    shard_frames: int | None = Field(default=None, gt=0, le=MAX_SHARD_FRAMES)
    tile: Literal["auto", "none"] | tuple[TileSide, TileSide] = "auto"
    threshold: float = Field(default=0.7, ge=0, le=1)
    batch: int = Field(default=4, gt=0)
    threads: int = Field(default=2, gt=0)
    encoders: int | None = Field(default=None, gt=0)
    decoders: int | None = Field(default=None, gt=0)
    workers: int | None = Field(default=None, gt=0)
    num_gpus: float = Field(default=1.0, gt=0, le=1)
    max_bad_fraction: float = Field(default=0.05, ge=0, le=1)
    shard_timeout: float = Field(default=900.0, gt=0)

    # Each checks one field, so that the faults of several are reported together.
    @field_validator("canvas")
    @classmethod
    def _canvas_has_an_area(cls, canvas: tuple[int, int]) -> tuple[int, int]:
        if min(canvas) < 1:
            raise ConfigError("height and width must both be above 0")
        return canvas

    @field_validator("sources")
    @classmethod
    def _some_sources(cls, sources: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if sources is not None and not sources:
            raise ConfigError("nothing to cache; name a source, or leave the key out for all")
        _once(sources or ())
        return sources

    @field_validator("artifacts")
    @classmethod
    def _artifacts_are_known(cls, artifacts: tuple[str, ...]) -> tuple[str, ...]:
        if not artifacts:
            raise ConfigError(f"name at least one of {', '.join(OF_A_TEACHER)}")
        for artifact in artifacts:
            _check_artifact(artifact)
        _once(artifacts)
        return artifacts

    @field_validator("preset")
    @classmethod
    def _preset_is_known(cls, preset: str) -> str:
        if preset not in PRESETS:
            raise ConfigError(f"unknown preset {preset!r}{hint(preset, PRESETS)}")
        return preset

    @field_validator("codecs")
    @classmethod
    def _codecs_fit(cls, codecs: dict[str, Any]) -> dict[str, Any]:
        try:
            load_preset(PRESETS[0], codecs)  # whether they fit does not depend on the preset
        except TypeError as error:
            raise ConfigError(f"expected names, or tables with a name ({error})") from error
        return codecs


class RunConfig(Settings):
    """A whole run file."""

    sources: Sources = Field(min_length=1)
    teachers: Teachers = Field(default_factory=dict)
    flows: dict[FlowName, FlowModelConfig] = Field(default_factory=dict)
    cache: CacheConfig
    adapt: dict[str, AdaptConfig] = Field(default_factory=dict)
    student: StudentConfig | None = None
    terms: tuple[TermConfig, ...] = ()
    train: TrainConfig | None = None
    evaluate: EvaluateConfig | None = None

    @field_validator("flows")
    @classmethod
    def _sets_have_names_of_their_own(
        cls, flows: dict[str, FlowModelConfig], info: ValidationInfo
    ) -> dict[str, FlowModelConfig]:
        both = [name for name in flows if name in info.data.get("teachers", {})]
        if both:
            raise ConfigError(
                f"{', '.join(map(repr, both))} is the name of a teacher too, and both would be a "
                "set of that name in the cache; rename one"
            )
        return flows

    @field_validator("flows")
    @classmethod
    def _sets_are_no_targets(
        cls, flows: dict[str, FlowModelConfig], info: ValidationInfo
    ) -> dict[str, FlowModelConfig]:
        sources = info.data.get("sources", {}).values()
        given = {name for source in sources for name in source.further_targets()}
        if both := sorted(given.intersection([*flows, *info.data.get("teachers", {})])):
            raise ConfigError(
                f"{both[0]!r} is what a source labels its frames with, and the name of a teacher "
                "or flow model: both would lie in one folder of the cache; rename the latter"
            )
        return flows

    @field_validator("cache")
    @classmethod
    def _something_is_cached(cls, cache: CacheConfig, info: ValidationInfo) -> CacheConfig:
        known = info.data.get("flows", {})
        if unknown := [name for name in cache.flows or () if name not in known]:
            near = hint(unknown[0], tuple(known))
            raise ConfigError(f"cache.flows: no such section, flows.{unknown[0]}{near}")
        if cache.pairs is not None and not info.data.get("flows", True):
            raise ConfigError(
                "cache.pairs: the run has no model of motion; add a section [flows.<name>], for "
                'instance kind = "dis", which needs no weights'
            )
        if "teachers" not in info.data:  # where it has faults of its own
            return cache
        teachers = info.data["teachers"]
        if unknown := [name for name in cache.teachers or () if name not in teachers]:
            near = hint(unknown[0], tuple(teachers))
            raise ConfigError(f"cache.teachers: no such section, teachers.{unknown[0]}{near}")
        if not cache.frames and not (teachers if cache.teachers is None else cache.teachers):
            raise ConfigError("nothing to cache: frames = false, and no teachers either")
        return cache

    def cached_sources(self) -> tuple[str, ...]:
        """Return the names of the sources that stage one goes through, in the order of the file."""
        return self.cache.sources if self.cache.sources is not None else tuple(self.sources)

    def classes_of(self, source: str) -> tuple[str, ...] | None:
        """Return a source's class names, whether its files are here or not; None if unlabelled."""
        classes = self.sources[source].stated()["classes"]
        return None if classes is None else tuple(classes)

    def targets_of(self, source: str) -> tuple[str, ...]:
        """Return the names of what a source labels its frames with: "labels" of classes first."""
        classes = self.classes_of(source)
        further = self.sources[source].further_targets()
        return (*(() if classes is None else (LABELS,)), *further)

    def teacher(self, name: str) -> TeacherConfig:
        """Return a teacher; one that states no classes has those of the first labelled source.

        A `mapping` is brought to the order of that source's classes.

        Raises:
            ConfigError: there is no labelled source either, and the teacher needs classes; or the
                mapping's are not the source's.
        """
        labelled = filter(None, map(self.classes_of, self.sources))
        logits = any(artifact_of(artifact).output == LOGITS for artifact in self.cache.artifacts)
        return with_classes(self.teachers, name, next(labelled, None), logits=logits)

    def cached_teachers(self) -> tuple[str, ...]:
        """Return the names of the teachers that stage one runs, in the order of the file."""
        return tuple(self.teachers) if self.cache.teachers is None else self.cache.teachers

    def cached_flows(self) -> tuple[str, ...]:
        """Return the names of the flow models that stage one runs, in the order of the file."""
        if self.cache.pairs is None:
            return ()
        return self.cache.flows if self.cache.flows is not None else tuple(self.flows)


def as_document(config: BaseModel) -> dict[str, Any]:
    """Return a config as JSON types, defaults filled in, as checkpoints and reports keep it."""
    document: dict[str, Any] = config.model_dump(mode="json")
    return document
