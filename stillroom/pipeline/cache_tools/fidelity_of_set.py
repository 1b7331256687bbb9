"""One teacher on one source, live against its cached output, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.pipeline.identity import readable_identity
from stillroom.storage_specs.artifacts import FRAMES, LABELS, LOGITS, PSEUDO_LABEL, artifact_of
from stillroom.storage_specs.codec_trial import try_codec
from stillroom.storage_specs.codecs import CODECS, codec_from_dict
from stillroom.storage_specs.errors import (
    ArtifactError,
    CacheIncomplete,
    CacheMismatch,
)
from stillroom.storage_specs.layout import ArraySpec, teacher_of
from stillroom.storage_specs.store import BUILD, Cache

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.stages.evaluate.equivariance import (
        CachedFrame,
        ViewFidelity,
        ViewReading,
        ViewTally,
    )
    from stillroom.stages.evaluate.output_errors import ArtifactFidelity, FidelityTally
    from stillroom.stages.models.teacher import Teacher
    from stillroom.stages.sources.canvas import CanvasFrame
    from stillroom.storage_specs.artifact_set import ArtifactSet

SHEET_ROWS = 6


@dataclass(frozen=True)
class SetFidelity:
    """One set of a teacher on one source.

    artifacts: as they are cached
    others: by artifact, the same values in every other codec that could store them
    refused: by artifact and codec, why it could not
    device: that the cache was built on, and the one of this machine
    """

    source: str
    teacher: str
    frames: int
    artifacts: tuple[ArtifactFidelity, ...]
    others: tuple[ArtifactFidelity, ...]
    refused: dict[str, str]
    views: tuple[ViewFidelity, ...]
    recommendation: tuple[str, ...]
    device: tuple[str, str]
    picture: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON."""
        return {
            "source": self.source,
            "teacher": self.teacher,
            "frames": self.frames,
            "artifacts": [one.to_dict() for one in self.artifacts],
            "other_codecs": [one.to_dict() for one in self.others],
            "refused": self.refused,
            "views": [one.to_dict() for one in self.views],
            "recommendation": list(self.recommendation),
            "device": {"cache": self.device[0], "live": self.device[1]},
            "picture": None if self.picture is None else str(self.picture),
        }


@dataclass
class FidelityJob:
    """One set of a teacher on one source, summed up frame by frame.

    held: the artifacts of the set, as the run lists them
    """

    opened: OpenedRun
    cache: Cache
    source: str
    set_name: str
    held: tuple[str, ...]
    frames: int
    codecs: bool
    chosen: list[int] = field(init=False)
    cached: ArtifactSet = field(init=False)
    kept: ArtifactSet | None = field(init=False, default=None)
    teacher: Teacher = field(init=False)
    refused: dict[str, str] = field(init=False, default_factory=dict)
    _tallies: dict[str, FidelityTally] = field(init=False, default_factory=dict)
    _trials: dict[tuple[str, str], tuple[ArraySpec, FidelityTally]] = field(
        init=False, default_factory=dict
    )
    _views: dict[str, ViewTally] = field(init=False, default_factory=dict)
    _mirrored: list[ViewReading] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.cached = self.cache.artifact_set(self.source, self.set_name)
        self.cached.require(readable_identity(self.opened, self.source, self.set_name, self.held))
        usable = self.cached.usable()
        if (self.source, FRAMES) in self.cache.sets():
            self.kept = self.cache.artifact_set(self.source, FRAMES)
            usable = np.intersect1d(usable, self.kept.usable())
        elif self.source in self.opened.absent:
            raise CacheIncomplete(
                f"{self.source}: its files are not here, and the cache keeps no frames of it"
            )
        if not len(usable):
            raise CacheIncomplete(f"{self.source}/{self.set_name}: no frame is committed; {BUILD}")
        places = np.linspace(0, len(usable) - 1, min(self.frames, len(usable))).round()
        self.chosen = usable[places.astype(int)].tolist()
        rows = self.cached.rows().to_pylist()
        self._rows = {row["index"]: row for row in rows}

    @property
    def teacher_name(self) -> str:
        """The teacher whose set this is."""
        return teacher_of(self.set_name)

    def build(self) -> Teacher:
        """The teacher, which several sources may share."""
        from stillroom.stages.models.teacher import build_teacher

        return build_teacher(self.opened.teachers[self.teacher_name])

    def meet(self, teacher: Teacher) -> None:
        """Set up what is summed; the teacher says how many classes there are."""
        from stillroom.stages.cache.producers import TeacherArtifacts
        from stillroom.stages.evaluate.equivariance import ViewTally, views_of
        from stillroom.stages.evaluate.output_errors import FidelityTally

        self.teacher = teacher
        threshold = self.cached.identity.get(PSEUDO_LABEL, {}).get("threshold", 0.0)
        self._produce = TeacherArtifacts(teacher, tuple(self.cached.arrays), threshold)
        self._view_of = views_of(self.opened.run.cache.canvas)
        if LOGITS in self.cached.arrays:
            self._views = {name: ViewTally(name, teacher.num_classes) for name in self._view_of}
        for artifact, spec in self.cached.arrays.items():
            self._tallies[artifact] = FidelityTally(artifact, spec.codec.name)
            others = artifact_of(artifact).codecs if self.codecs else ()
            for name in others:
                if name in CODECS and name != spec.codec.name:
                    trial = self._trial_spec(spec, name)
                    self._trials[artifact, name] = (trial, FidelityTally(artifact, name))

    def add(self, index: int) -> None:
        """Ask the teacher about one frame and compare."""
        from stillroom.stages.evaluate.equivariance import CachedFrame
        from stillroom.stages.geometry import view_mask
        from stillroom.stages.view import identity_view

        frame = self._frame(index)
        said = {name: self.cached.read(name, index) for name in self.cached.arrays}
        live = self._produce([frame])[0]
        stride = self.teacher.strides.get(LOGITS, 1)
        canvas = self.opened.run.cache.canvas
        mask = view_mask(identity_view(canvas), canvas, frame.valid, stride)[0].numpy()
        for artifact, spec in self.cached.arrays.items():
            bound = spec.codec.bound(live[artifact])
            size = try_codec(spec, live[artifact]).bytes
            self._tallies[artifact].add(live[artifact], said[artifact], bound, mask, size)
        for (artifact, name), (spec, tally) in self._trials.items():
            try:
                trial = try_codec(spec, live[artifact])
            except ArtifactError as error:
                self.refused.setdefault(f"{artifact} {name}", str(error))
                continue
            bound = spec.codec.bound(live[artifact])
            tally.add(live[artifact], trial.decoded, bound, mask, trial.bytes)
        if self._views:
            self._read_views(
                CachedFrame(
                    frame.frame_id,
                    frame.image,
                    self._label(index),
                    said[LOGITS],
                    stride,
                    frame.valid,
                )
            )

    def _read_views(self, frame: CachedFrame) -> None:
        from stillroom.stages.evaluate.equivariance import FLIP, read_view

        for name, tally in self._views.items():
            reading = read_view(self._view_of[name], frame, self._live)
            tally.add(reading)
            if name == FLIP:
                self._mirrored.append(reading)
                self._mirrored.sort(key=lambda one: -one.mean_kl)
                del self._mirrored[SHEET_ROWS:]  # only the worst are drawn

    def _live(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self.teacher(image[None])[LOGITS][0].cpu().numpy()
        return logits

    def report(self, plot: Path | None) -> SetFidelity:
        """What it comes to, with the picture drawn."""
        from stillroom.stages.evaluate.equivariance import recommend
        from stillroom.stages.pictures.equivariance_sheet import equivariance_sheet

        names = self._class_names() if self._views else ()
        views = tuple(tally.result(names) for tally in self._views.values())
        picture = None
        if plot is not None and self._mirrored:
            title = f"{self.set_name} on {self.source}, mirrored"
            picture = equivariance_sheet(plot, self._mirrored, names, title=title)
        cached_on = self.cached.identity.get("teacher", {}).get("device", "unknown")
        return SetFidelity(
            source=self.source,
            teacher=self.set_name,
            frames=len(self.chosen),
            artifacts=tuple(tally.result() for tally in self._tallies.values()),
            others=tuple(
                tally.result()
                for (artifact, name), (_, tally) in self._trials.items()
                if f"{artifact} {name}" not in self.refused
            ),
            refused=self.refused,
            views=views,
            recommendation=tuple(recommend(views)),
            device=(cached_on, self.teacher.device),
            picture=picture,
        )

    def _trial_spec(self, spec: ArraySpec, codec: str) -> ArraySpec:
        return ArraySpec(
            spec.artifact, spec.shape, codec_from_dict(codec), spec.compressor, spec.attributes
        )

    def _frame(self, index: int) -> CanvasFrame:
        """The frame as the teacher saw it: from the cache, or from its source."""
        from stillroom.stages.sources.canvas import CanvasFrame, to_canvas

        row = self._rows[index]
        if self.kept is not None:
            image = self.kept.read(FRAMES, index)
            valid = (row["valid_height"], row["valid_width"])
            return CanvasFrame(row["frame_id"], image, None, valid)
        source = self.opened.sources[self.source]
        frame = to_canvas(source.load(index), self.opened.run.cache.canvas)
        if row["crc32c"] not in (None, frame.crc32c()):
            raise CacheMismatch(
                f"{self.source}: frame {row['frame_id']} has other pixels than when it was cached; "
                "build into another cache.path"
            )
        return frame

    def _label(self, index: int) -> NDArray[np.uint8] | None:
        """The frame's label, where it speaks of the teacher's classes."""
        if self.kept is None or LABELS not in self.kept.arrays:
            return None
        names = self.kept.arrays[LABELS].attributes.get("classes")
        if names is not None and len(names) != self.teacher.num_classes:
            return None
        if names is not None and self.teacher.classes not in (None, tuple(names)):
            return None
        label: NDArray[np.uint8] = self.kept.read(LABELS, index)
        return label

    def _class_names(self) -> tuple[str, ...]:
        return self.teacher.classes or tuple(map(str, range(self.teacher.num_classes)))
