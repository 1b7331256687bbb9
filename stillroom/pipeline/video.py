"""`stillroom eval --video`: models along the clips of the run file's [evaluate].video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.run_file.set_names import EXACT
from stillroom.stages.evaluate.clip_dataset import ClipDataset, clips_of
from stillroom.stages.evaluate.clip_flow import ExactFlow, KeptFlow
from stillroom.stages.evaluate.clip_scores import measure_clips
from stillroom.stages.pictures.clip_pictures import CHANGES, CURVES, FILM, FLOW, draw_clip
from stillroom.stages.sources.open import open_source
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from stillroom.pipeline.open_model import Model
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.evaluate.clip_scores import VideoScores
    from stillroom.stages.evaluate.evaluation_settings import VideoConfig

    OnFrames = Callable[[str, int, int], None]  # stage, frames done, frames in all


@dataclass(frozen=True)
class VideoEvaluation:
    """How steady the predictions of a model are along clips."""

    settings: VideoConfig
    scores: VideoScores

    def to_dict(self) -> dict[str, Any]:
        """Return settings and scores as JSON."""
        return {
            "source": self.settings.source,
            "flow": self.settings.flow,
            "occlusion": self.settings.occlusion,
            **self.scores.to_dict(),
        }


@dataclass(frozen=True)
class VideoClips:
    """The clips that a run file names."""

    settings: VideoConfig
    dataset: ClipDataset

    def compute_flow(self, on_frames: OnFrames) -> None:
        """Compute and keep the flow of all clips that is not kept yet."""
        if self.settings.flow == EXACT:
            return  # it is drawn faster than it would be read
        stage, total = f"flow {self.settings.flow}", len(self.dataset)
        self.dataset.compute_flow(lambda done: on_frames(stage, done, total))

    def measure(self, model: Model, on_frames: OnFrames, *, keep: bool) -> VideoEvaluation:
        """Measure how steady a model is.

        Args:
            keep: its predictions, for pictures
        """
        stage, total = f"video {model.name}", len(self.dataset)
        scores = measure_clips(
            model.predictor,
            self.dataset,
            keep=keep,
            on_frames=lambda done: on_frames(stage, done, total),
        )
        return VideoEvaluation(self.settings, scores)

    def draw(
        self, models: Mapping[str, VideoEvaluation], classes: Sequence[str], folder: Path
    ) -> None:
        """Draw the first clip that was measured: curves, what changes, the flow, and a film."""
        scores = {name: one.scores for name, one in models.items()}
        title = f"{self.settings.source}, flow {self.settings.flow}"
        draw_clip(folder, self.dataset, scores, classes, title)


def picture_paths(folder: Path | None) -> tuple[Path, ...]:
    """Return the files that `VideoClips.draw` writes; none without a folder."""
    return () if folder is None else tuple(folder / one for one in (CURVES, CHANGES, FLOW, FILM))


def open_clips(run: RunConfig) -> VideoClips:
    """Find the clips and the flow; no frame is read yet.

    Raises:
        ConfigError: the run file has no [evaluate].video, or its source has no clips, or it does
            not know its flow.
        WeightsError: the flow model's weights are not there.
    """
    settings = None if run.evaluate is None else run.evaluate.video
    if settings is None:
        raise ConfigError(
            "the run file says of no clips what --video is to measure; add to [evaluate]: "
            'video = { source = "NAME", flow = "NAME" }, a source of clips and a section of [flows]'
        )
    source = open_source(run.sources[settings.source])
    clips, left_out = clips_of(source, settings)
    flow: ExactFlow | KeptFlow
    if settings.flow == EXACT:
        flow = ExactFlow(source, settings.source, both_ways=settings.occlusion)
    else:
        model = run.flows[settings.flow]
        flow = KeptFlow(model, settings.path, both_ways=settings.occlusion)
    dataset = ClipDataset(source, run.cache.canvas, tuple(clips), flow, tuple(left_out))
    return VideoClips(settings, dataset)


def compute_clip_flow(
    run: RunConfig, on_frames: OnFrames = lambda stage, done, total: None
) -> None:
    """Compute the flow of a run's clips, for several processes that will read it at once.

    Raises: as `open_clips`.
    """
    open_clips(run).compute_flow(on_frames)
