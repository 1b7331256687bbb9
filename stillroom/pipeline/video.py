"""`stillroom eval --video`: models along the clips of the run file's [evaluate].video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.run_file.sections import EXACT
from stillroom.stages.sources.open import open_source
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from stillroom.pipeline.open_model import Model
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.evaluate.clip_dataset import ClipDataset
    from stillroom.stages.evaluate.clip_scores import VideoScores
    from stillroom.stages.evaluate.evaluation_settings import VideoConfig

    OnFrames = Callable[[str, int, int], None]

CURVES, CHANGES, FLOW, FILM = "consistency.png", "changes.png", "flow.png", "film.mp4"


@dataclass(frozen=True)
class VideoClips:
    """The clips that a run file asks for."""

    settings: VideoConfig
    dataset: ClipDataset


@dataclass(frozen=True)
class VideoEvaluation:
    """How steady a model is along them."""

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


def open_clips(run: RunConfig) -> VideoClips:
    """Find the clips and the flow; no frame is read yet.

    Raises:
        ConfigError: the run file has no [evaluate].video, or its source has no clips, or it does
            not know its flow.
        WeightsError: the flow model's weights are not there.
    """
    from stillroom.stages.evaluate.clip_dataset import ClipDataset, clips_of
    from stillroom.stages.evaluate.clip_flow import ExactFlow, KeptFlow

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


def follow(video: VideoClips, on_frames: OnFrames) -> None:
    """Have the flow of all clips computed and kept, as far as it is not.

    on_frames: told (stage, frames done, frames in all)
    """
    if video.settings.flow == EXACT:
        return  # it is drawn faster than it would be read
    stage, total = f"flow {video.settings.flow}", len(video.dataset)
    video.dataset.compute_flow(lambda done: on_frames(stage, done, total))


def follow_clips(run: RunConfig, on_frames: OnFrames = lambda stage, done, total: None) -> None:
    """The same, of a run file's clips: for several processes that will want the flow at once.

    Raises: as `open_clips`.
    """
    follow(open_clips(run), on_frames)


def measure_video(
    video: VideoClips, model: Model, on_frames: OnFrames, *, keep: bool
) -> VideoEvaluation:
    """Measure how steady a model is.

    on_frames: told (stage, frames done, frames in all)
    keep: its predictions, for pictures
    """
    from stillroom.stages.evaluate.clip_scores import measure_clips

    stage, total = f"video {model.name}", len(video.dataset)
    scores = measure_clips(
        model.predictor,
        video.dataset,
        keep=keep,
        on_frames=lambda done: on_frames(stage, done, total),
    )
    return VideoEvaluation(video.settings, scores)


def picture_paths(folder: Path | None) -> Iterator[Path]:
    """The files that `draw_video` leaves there."""
    if folder is not None:
        yield from (folder / name for name in (CURVES, CHANGES, FLOW, FILM))


def draw_video(
    video: VideoClips,
    models: Mapping[str, VideoEvaluation],
    classes: Sequence[str],
    folder: Path,
) -> None:
    """Draw the first clip that was measured: curves, what changes, the flow, and a film."""
    from stillroom.stages.pictures.clip_pictures import ClipPictures

    scores = {name: one.scores for name, one in models.items()}
    pictures = ClipPictures(
        video.dataset, scores, f"{video.settings.source}, flow {video.settings.flow}"
    )
    curves, changes, flow, film = picture_paths(folder)
    pictures.curves(curves)
    pictures.changes(changes, classes)
    pictures.flow(flow)
    pictures.film(film, classes)
