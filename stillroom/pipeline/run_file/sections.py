"""The sections of a run file, composed from the settings of the rooms that use them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from stillroom.pipeline.run_file.cache_section import CacheConfig
from stillroom.pipeline.run_file.faults import hint
from stillroom.stages.cache.adapt import AdaptConfig
from stillroom.stages.evaluate.evaluation_settings import EvaluateConfig
from stillroom.stages.models.flow.flow_model import FlowModelConfig
from stillroom.stages.models.students.families import StudentConfig
from stillroom.stages.models.teachers.families import TeacherConfig
from stillroom.stages.settings import Settings
from stillroom.stages.sources.open import SourceConfig
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.settings import TrainConfig
from stillroom.storage_specs.artifacts import FRAMES, LOGITS, artifact_of
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.layout import check_names, teacher_of

if TYPE_CHECKING:
    from pydantic import BaseModel

EXACT = "exact"
"""What stands for the flow that a source knows of itself, where a flow model is named."""


def _source_name(name: str) -> str:
    check_names(name, FRAMES)
    return name


def _teacher_name(name: str) -> str:
    return _set_name(name, "teacher")


def _flow_name(name: str) -> str:
    if name == EXACT:
        raise ConfigError(f"flow model name {name!r} is reserved for a source's own flow")
    return _set_name(name, "flow model")


def _set_name(name: str, what: str) -> str:
    """A name that a set of the cache gets; `what`: has it."""
    if name == FRAMES:
        raise ConfigError(f"{what} name {name!r} is reserved; choose another")
    if teacher_of(name) != name:
        raise ConfigError(f"{what} name {name!r}: what follows a '.' is the cache's to choose")
    try:
        check_names("source", name)
    except ConfigError as error:
        raise ConfigError(str(error).replace("set name", f"{what} name")) from error
    return name


class RunConfig(Settings):
    """A whole run file."""

    sources: dict[Annotated[str, AfterValidator(_source_name)], SourceConfig] = Field(min_length=1)
    teachers: dict[Annotated[str, AfterValidator(_teacher_name)], TeacherConfig] = Field(
        default_factory=dict
    )
    flows: dict[Annotated[str, AfterValidator(_flow_name)], FlowModelConfig] = Field(
        default_factory=dict
    )
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
        # "teachers" is missing from the data where it has faults of its own
        if not cache.frames and not info.data.get("teachers", True):
            raise ConfigError("nothing to cache: frames = false, and the run has no teachers")
        return cache

    def cached_sources(self) -> tuple[str, ...]:
        """Names of the sources that stage one goes through, in the order of the file."""
        return self.cache.sources if self.cache.sources is not None else tuple(self.sources)

    def classes_of(self, source: str) -> tuple[str, ...] | None:
        """Names of a source's classes, whether its files are here or not; None if unlabelled."""
        classes = self.sources[source].stated()["classes"]
        return None if classes is None else tuple(classes)

    def teacher(self, name: str) -> TeacherConfig:
        """A teacher; one that states no classes has those of the run's first labelled source.

        Raises:
            ConfigError: there is no labelled source either, and the teacher needs classes.
        """
        teacher = self.teachers[name]
        if teacher.classes is not None:
            return teacher
        for classes in map(self.classes_of, self.sources):
            if classes is not None:
                return teacher.model_copy(update={"classes": classes})
        logits = any(artifact_of(artifact).output == LOGITS for artifact in self.cache.artifacts)
        if teacher.may_lack_classes and not logits:
            return teacher
        raise ConfigError(
            f"teachers.{name}.classes: not given, and no source of this run is labelled; "
            "state the class names, or their number"
        )

    def cached_flows(self) -> tuple[str, ...]:
        """Names of the models whose motion stage one caches, in the order of the file."""
        if self.cache.pairs is None:
            return ()
        return self.cache.flows if self.cache.flows is not None else tuple(self.flows)


def as_document(config: BaseModel) -> dict[str, Any]:
    """A config as plain JSON types, defaults filled in: what checkpoints and reports keep."""
    document: dict[str, Any] = config.model_dump(mode="json")
    return document
