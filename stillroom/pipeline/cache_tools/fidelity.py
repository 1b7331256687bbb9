"""`cache fidelity`: the teacher once more on a few frames, compared with what the cache holds."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from stillroom.pipeline.build.model_loader import ModelLoader
from stillroom.pipeline.build.sets import sets_of_run
from stillroom.pipeline.cache_tools.sample import sample_set
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.stages.cache.producers import TeacherArtifacts
from stillroom.stages.evaluate.equivariance import (
    FLIP,
    CachedFrame,
    ViewTally,
    read_view,
    recommend,
    views_of,
)
from stillroom.stages.evaluate.mirrored_features import MirrorTally, recommend_mirrors
from stillroom.stages.evaluate.output_errors import FidelityTally
from stillroom.stages.geometry import view_mask
from stillroom.stages.pictures.equivariance_sheet import equivariance_sheet
from stillroom.stages.pictures.page import make_place
from stillroom.stages.torch_state import threads
from stillroom.stages.view import identity_view
from stillroom.storage_specs.artifacts import LOGITS, PSEUDO_LABEL, artifact_of
from stillroom.storage_specs.codec_trial import try_codec
from stillroom.storage_specs.codecs.table import CODECS, codec_from_dict
from stillroom.storage_specs.errors import ArtifactError, ConfigError
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from stillroom.pipeline.cache_tools.sample import CacheSample
    from stillroom.pipeline.run_file.opened_run import OpenedRun
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.evaluate.equivariance import ViewFidelity, ViewReading
    from stillroom.stages.evaluate.output_errors import ArtifactFidelity
    from stillroom.stages.models.teacher import Teacher
    from stillroom.stages.view import View
    from stillroom.storage_specs.layout import ArraySpec

LOG = logging.getLogger(__name__)
SHEET_ROWS = 6


@dataclass(frozen=True)
class FidelityRequest:
    """What to compare.

    Attributes:
        frames: of each source, spread evenly over those that are usable
        source: only this one; all of them if left out
        codecs: try every other codec on the same live outputs too
        plot: PNG of mirrored frames; with several sets their names are added
    """

    frames: int = 16
    source: str | None = None
    codecs: bool = False
    plot: Path | None = None


@dataclass(frozen=True)
class SetFidelity:
    """One set of a teacher on one source.

    Attributes:
        artifacts: as they are cached
        others: by artifact, the same values in every other codec that could store them
        refused: by artifact and codec, why it could not
        device: that the cache was built on, and the one of this machine
        mirrored: by features, their mean cosine to those of the mirrored frame, once mirrored
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
    mirrored: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON."""
        found = {
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
        return {**found, "mirrored": dict(self.mirrored)} if self.mirrored else found


def measure_fidelity(
    run: RunConfig,
    request: FidelityRequest,
    on_frame: Callable[[int, int], None] = lambda done, total: None,
) -> list[SetFidelity]:
    """Compare every cached teacher of a run, or those of one source, with the teacher live.

    Args:
        on_frame: called with (frames done, frames in all)

    Raises:
        CacheMismatch: the cache was built from something else, such as another teacher.
        CacheIncomplete: nothing is cached to compare with.
        ConfigError: the run has no teacher, or no such source.
    """
    opened = open_run(run, must_exist=False)
    pairs = _teachers(opened, request.source)
    if request.plot is not None:
        make_place(request.plot)
    cache = Cache.open(run.cache.path)
    # All sets are opened and checked before any teacher is built.
    sets = sets_of_run(opened, cache, pairs)
    samples = [sample_set(opened, cache, one, request.frames) for one in sets]
    total, done, models = sum(len(one.indices) for one in samples), 0, ModelLoader(opened)
    reports = []
    with threads(run.cache.threads):
        for sample in samples:
            name, plot = sample.cached.name, request.plot
            teacher = cast("Teacher", models.of(name))
            comparison = _Comparison(sample, teacher, codecs=request.codecs)
            for index in sample.indices:
                comparison.add(index)
                done += 1
                on_frame(done, total)
            if plot is not None and len(samples) > 1:
                plot = plot.with_stem(f"{plot.stem}-{sample.cached.source}-{name}")
            reports.append(comparison.result(plot))
    return reports


def _teachers(opened: OpenedRun, source: str | None) -> list[tuple[str, str]]:
    """Return (source, teacher) for all that is to be compared."""
    teachers = opened.teachers
    pairs = [pair for pair in opened.names() if pair[1] in teachers and source in (None, pair[0])]
    if not pairs:
        known = ", ".join(opened.run.cached_sources())
        raise ConfigError(
            f"no teacher of this run on source {source!r}; cached are {known}"
            if source is not None and teachers
            else "this run has no teacher to ask"
        )
    return pairs


class _Comparison:
    """The sums over the frames of one set, against its teacher."""

    def __init__(self, sample: CacheSample, teacher: Teacher, *, codecs: bool) -> None:
        self._sample, self._cached, self._teacher = sample, sample.cached, teacher
        self._canvas = sample.opened.run.cache.canvas
        threshold = self._cached.identity.get(PSEUDO_LABEL, {}).get("threshold", 0.0)
        self._producer = TeacherArtifacts(teacher, tuple(self._cached.arrays), threshold)
        self._tallies: list[tuple[ArraySpec, FidelityTally]] = []
        for name, spec in self._cached.arrays.items():
            self._tallies.append((spec, FidelityTally(name, spec.codec.name)))
            for codec in artifact_of(name).codecs if codecs else ():
                if codec in CODECS and codec != spec.codec.name:
                    trial = replace(spec, codec=codec_from_dict(codec), tile=None)
                    self._tallies.append((trial, FidelityTally(name, codec)))
        self._refused: dict[str, str] = {}
        views = views_of(self._canvas) if LOGITS in self._cached.arrays else {}
        self._views = [
            (view, ViewTally(name, teacher.num_classes))
            for name, view in views.items()
            if self._is_taken(name, view)
        ]
        self._mirrored: list[ViewReading] = []
        of_vectors = [
            name for name in self._cached.arrays if artifact_of(name).fidelity == "cosine"
        ]
        self._features = MirrorTally({name: teacher.strides[name] for name in of_vectors})

    def _is_taken(self, name: str, view: View) -> bool:
        """Whether the teacher runs on a view's frames: one of a fixed size has no crops."""
        size = (view.out_height, view.out_width)
        taken = size == self._canvas or self._teacher.takes(size)
        if not taken:
            LOG.warning("view %r is left out: the teacher runs on its canvas alone", name)
        return taken

    def _is_stored(self, spec: ArraySpec) -> bool:
        return spec.codec.name == self._cached.arrays[spec.artifact].codec.name

    def add(self, index: int) -> None:
        """Run the teacher on one frame and compare."""
        frame = self._sample.frame(index)
        stored = {name: self._cached.read(name, index) for name in self._cached.arrays}
        live = self._producer([frame])[0]
        stride, canvas = self._teacher.strides.get(LOGITS, 1), self._canvas
        for spec, tally in self._tallies:
            values, apart = live[spec.artifact], int(spec.attributes.get("stride", 1))
            mask = view_mask(identity_view(canvas), canvas, frame.valid, apart)[0].numpy()
            try:
                trial = try_codec(spec, values)
            except ArtifactError as error:
                if self._is_stored(spec):
                    raise
                self._refused.setdefault(f"{spec.artifact} {spec.codec.name}", str(error))
                continue
            decoded = stored[spec.artifact] if self._is_stored(spec) else trial.decoded
            tally.add(values, decoded, spec.codec.bound(values), mask, trial.bytes)
        self._features.add(frame.image, frame.valid, stored, self._live)
        if self._views:
            label, logits = self._sample.label(index, self._teacher), stored[LOGITS]
            self._read_views(
                CachedFrame(frame.frame_id, frame.image, label, logits, stride, frame.valid)
            )

    def _live(self, image: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        return {name: grid[0].cpu().numpy() for name, grid in self._teacher(image[None]).items()}

    def _read_views(self, frame: CachedFrame) -> None:
        for view, tally in self._views:
            reading = read_view(view, frame, lambda image: self._live(image)[LOGITS])
            tally.add(reading)
            if tally.view == FLIP:
                self._mirrored.append(reading)
                self._mirrored.sort(key=lambda one: -one.mean_kl)
                del self._mirrored[SHEET_ROWS:]  # only the worst are drawn

    def result(self, plot: Path | None) -> SetFidelity:
        """Return the sums, and draw the mirrored frames."""
        source, name, teacher = self._cached.source, self._cached.name, self._teacher
        classes: tuple[str, ...] = ()
        if self._views:
            classes = teacher.classes or tuple(map(str, range(teacher.num_classes)))
        views = tuple(tally.result(classes) for _, tally in self._views)
        mirrored = self._features.result()
        picture = None
        if plot is not None and self._mirrored:
            title = f"{name} on {source}, mirrored"
            picture = equivariance_sheet(plot, self._mirrored, classes, title=title)
        tallies = [
            (self._is_stored(spec), tally.result())
            for spec, tally in self._tallies
            if f"{spec.artifact} {spec.codec.name}" not in self._refused
        ]
        cached_on = self._cached.identity.get("teacher", {}).get("device", "unknown")
        return SetFidelity(
            source=source,
            teacher=name,
            frames=len(self._sample.indices),
            artifacts=tuple(one for is_stored, one in tallies if is_stored),
            others=tuple(one for is_stored, one in tallies if not is_stored),
            refused=self._refused,
            views=views,
            recommendation=tuple(recommend(views) or recommend_mirrors(mirrored)),
            device=(cached_on, teacher.device),
            picture=picture,
            mirrored=mirrored,
        )
