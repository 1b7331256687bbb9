"""From a run to the artifact sets it means: what their identity must be, and where they are."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.pipeline.cached_pairs import pairs_of
from stillroom.stages.cache.artifacts_of_teacher import TeacherArtifacts
from stillroom.stages.cache.items import FrameItems
from stillroom.stages.models.flow.flow_model import FlowModel
from stillroom.stages.sources.open import SourceConfig, open_source
from stillroom.storage_specs.artifacts import FLOW, FRAMES, LABELS, artifact_of
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.fingerprint import ANY
from stillroom.storage_specs.layout import ArraySpec, extension_name, teacher_of
from stillroom.storage_specs.presets import load_preset
from stillroom.storage_specs.tiles import automatic_tile, fitted_tile

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.cache.items import Items, PairItems
    from stillroom.stages.models.flow.flow_model import FlowModelConfig
    from stillroom.stages.models.teacher import Teacher, TeacherConfig
    from stillroom.stages.sources.source import Source
    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.presets import Preset
    from stillroom.storage_specs.store import Cache

    Model = Teacher | FlowModel  # what fills a set

TRANSCODED = "transcoded_from"  # in the identity of a set that was encoded twice, with loss


@dataclass(frozen=True)
class Targets:
    """The sources of a run, opened, and what every artifact set of its cache is made from.

    pairs: by source, the pairs of its frames whose motion the run caches
    absent: by name, the sources whose files are not here, with what is known of their identity
    """

    run: RunConfig
    sources: dict[str, Source]
    teachers: dict[str, TeacherConfig]
    preset: Preset
    pairs: dict[str, PairItems] = field(default_factory=dict)
    absent: dict[str, dict[str, Any]] = field(default_factory=dict)

    def names(self) -> list[tuple[str, str]]:
        """(source, set) for every set that the run caches: frames, teachers, then motion."""
        sets = ([FRAMES] if self.run.cache.frames else []) + list(self.teachers)
        names = [(source, name) for name in sets for source in self.run.cached_sources()]
        return names + [(source, name) for name in self.run.cached_flows() for source in self.pairs]

    def items(self, source: str, set_name: str) -> Items:
        """What the rows of a set are made from."""
        if set_name in self.run.flows:
            return self.pairs[source]
        return FrameItems(self.sources[source], self.run.cache.canvas)

    def artifacts(self, source: str, set_name: str) -> tuple[str, ...]:
        """Names of the arrays of a set."""
        if set_name in self.run.flows:
            return (FLOW,)
        if set_name != FRAMES:
            return self.run.cache.artifacts
        labelled = source_classes(self.run.sources[source]) is not None
        return (FRAMES, LABELS) if labelled else (FRAMES,)

    def identity(
        self,
        source: str,
        set_name: str,
        model: Model | None = None,
        artifacts: tuple[str, ...] | None = None,
    ) -> dict[str, Any]:
        """Everything the bytes of a set depend on, as JSON; its sha256 is the fingerprint.

        artifacts: those of the set; all of the run's if left out
        model: where the teacher, or model of motion, has been built, its own account of the device
            is taken; else the run file's, and "auto" there agrees with whatever the cache says
        """
        artifacts = self.artifacts(source, set_name) if artifacts is None else artifacts
        height, width = self.run.cache.canvas
        opened = self.sources.get(source)
        identity: dict[str, Any] = {
            "source": (
                self.absent[source]
                if opened is None
                else {**opened.identity(), "frames": len(opened)}
            ),
            "canvas": {"height": height, "width": width},
            "shard_frames": self.preset.shard_frames,
            "artifacts": {
                artifact: self.preset.storage(artifact).to_dict() for artifact in artifacts
            },
        }
        if set_name in self.run.flows:
            identity["flow_model"] = _said_by(self.run.flows[set_name], model)
            identity["pairs"] = self._pairing(source)
        elif set_name != FRAMES:
            teacher = self.teachers[teacher_of(set_name)]
            identity["teacher"] = _said_by(teacher, model)
            for artifact in artifacts:
                if keys := artifact_of(artifact).settings:
                    identity[artifact] = {key: getattr(self.run.cache, key) for key in keys}
        return identity

    def _pairing(self, source: str) -> dict[str, Any]:
        """What decides which pairs of a source there are, and what came of it."""
        config, items = self.run.cache.pairs, self.pairs.get(source)
        # Which frame follows which, a source may tell from files that are no frames of it.
        plan = ANY if items is None else items.plan.sha256
        return {**({} if config is None else config.model_dump(mode="json")), "sha256": plan}

    def holdings(self, cache: Cache | None, source: str, name: str) -> dict[str, tuple[str, ...]]:
        """The run's artifacts of a teacher, or of the frames, by the set that is to have them.

        First the teacher's own set, then its extension sets that are there, then, for artifacts
        that none of these has, the extension set to be.
        """
        wanted = self.artifacts(source, name)
        if cache is None or name == FRAMES:
            return {name: wanted}
        found: dict[str, tuple[str, ...]] = {}
        for one in cache.teacher_sets(source, name):
            held = tuple(artifact for artifact in wanted if artifact in one.arrays)
            if held or one.name == name:
                found[one.name] = held
                wanted = tuple(artifact for artifact in wanted if artifact not in held)
        if name not in found:  # withdrawn by a repair, or never there
            return {**({name: wanted} if wanted else {}), **found}
        if wanted:
            # As the run file says it, "auto" included: the same name in every worker.
            identity = self.identity(source, name, artifacts=wanted)
            found[extension_name(name, identity)] = wanted
        return found

    def readable(
        self, source: str, set_name: str, artifacts: tuple[str, ...] | None = None
    ) -> dict[str, Any]:
        """The identity that a reader demands: as it is stored now, by whatever way it came there.

        A builder demands `identity`: into a set that was encoded twice it must add nothing.
        """
        return {**self.identity(source, set_name, artifacts=artifacts), TRANSCODED: ANY}

    def define(
        self,
        cache: Cache,
        source: str,
        set_name: str,
        model: Model | None,
        artifacts: tuple[str, ...] | None = None,
    ) -> ArtifactSet:
        """The set on disk, made if it is not there yet.

        artifacts: as for `identity`

        Raises:
            CacheMismatch: it is there, and was built from something else.
        """
        artifacts = self.artifacts(source, set_name) if artifacts is None else artifacts
        return cache.define(
            source,
            set_name,
            self.identity(source, set_name, model, artifacts),
            count=len(self.items(source, set_name)),
            shard_frames=self.preset.shard_frames,
            arrays=self._arrays(source, model, artifacts),
        )

    def _arrays(
        self, source: str, model: Model | None, artifacts: tuple[str, ...]
    ) -> list[ArraySpec]:
        shapes = self._shapes(model, artifacts)
        arrays = []
        for artifact in artifacts:
            shape, stride = shapes[artifact]
            storage = self.preset.storage(artifact)
            attributes: dict[str, Any] = {"stride": stride}
            classes = self._classes(source, model)
            if classes is not None and artifact_of(artifact).has_classes:
                attributes["classes"] = list(classes)
            spec = ArraySpec(artifact, shape, storage.codec, storage.compressor, attributes)
            arrays.append(replace(spec, tile=self.tile(spec)))
        return arrays

    def tile(self, spec: ArraySpec) -> tuple[int, int] | None:
        """The tiles that the run cuts a frame of an artifact into, or None."""
        wanted, axes = self.run.cache.tile, spec.kind.axes
        if wanted == "none" or not spec.codec.cell_by_cell:
            return None
        if wanted != "auto":
            return fitted_tile(wanted, spec.shape, axes)
        shape = spec.codec.stored_shape(spec.shape)
        return automatic_tile(shape, axes, np.dtype(spec.codec.stored).itemsize)

    def _classes(self, source: str, model: Model | None) -> tuple[str, ...] | None:
        if model is None:
            return self.sources[source].classes
        return None if isinstance(model, FlowModel) else model.classes

    def _shapes(
        self, model: Model | None, artifacts: tuple[str, ...]
    ) -> dict[str, tuple[tuple[int, ...], int]]:
        """Shape of each artifact of a frame, or of a pair, and its stride."""
        canvas = height, width = self.run.cache.canvas
        if model is None:
            return {FRAMES: ((height, width, 3), 1), LABELS: (canvas, 1)}
        if isinstance(model, FlowModel):
            return {FLOW: ((2, height, width), 1)}
        return TeacherArtifacts(model, artifacts, self.run.cache.threshold).shapes(canvas)


def open_targets(run: RunConfig, *, must_exist: bool = True) -> Targets:
    """Open the sources that the run caches and settle what their sets are made from.

    must_exist: False lets sources be absent: those none of whose folders exist here. Nothing can
        then be cached of them, but their sets in a cache can be read

    Raises:
        ConfigError: a source cannot be opened, or a teacher's classes cannot be known.
    """
    sources, absent = {}, {}
    for name in run.cached_sources():
        config = run.sources[name]
        if not must_exist and _is_absent(config):
            absent[name] = {**config.stated(), "frames": ANY, "listing_sha256": ANY}
        else:
            sources[name] = open_source(config)
    preset = load_preset(run.cache.preset, run.cache.codecs, run.cache.shard_frames)
    return Targets(
        run=run,
        sources=sources,
        teachers={name: with_classes(name, config, run) for name, config in run.teachers.items()},
        preset=preset,
        pairs=pairs_of(run, sources, preset),
        absent=absent,
    )


def with_classes(name: str, config: TeacherConfig, run: RunConfig) -> TeacherConfig:
    """A teacher that states no classes answers for those of the run's first labelled source.

    Raises:
        ConfigError: there is no labelled source either.
    """
    if config.classes is not None:
        return config
    for source in run.sources.values():
        classes = source_classes(source)
        if classes is not None:
            return config.model_copy(update={"classes": classes})
    raise ConfigError(
        f"teachers.{name}.classes: not given, and no source of this run is labelled; "
        "state the class names, or their number"
    )


def source_classes(config: SourceConfig) -> tuple[str, ...] | None:
    """Names of a source's classes, whether its files are here or not; None if unlabelled."""
    classes = config.stated()["classes"]
    return None if classes is None else tuple(classes)


def _said_by(config: TeacherConfig | FlowModelConfig, model: Model | None) -> dict[str, Any]:
    """What decides a model's output; of one that is not built, a device "auto" agrees with any."""
    if model is not None:
        return model.identity()
    described = config.identity()
    return {**described, "device": ANY} if described["device"] == "auto" else described


def _is_absent(config: SourceConfig) -> bool:
    """Whether none of its folders exists; anything short of that is a source that is broken."""
    folders = config.folders()
    return bool(folders) and not any(_exists(folder) for folder in folders)


def _exists(folder: Path) -> bool:
    try:
        os.stat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return os.path.islink(folder)  # a link that leads nowhere is broken
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be read: {error.strerror}; give this user permission"
        ) from error
    return True
