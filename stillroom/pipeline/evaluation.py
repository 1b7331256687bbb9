"""`stillroom eval`: runs, checkpoints and teachers, scored and drawn."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.cache_tools.sample import evenly
from stillroom.pipeline.open_model import open_model
from stillroom.pipeline.video import open_clips, picture_paths
from stillroom.stages.class_lists import agree
from stillroom.stages.evaluate.cost import measure_cost
from stillroom.stages.evaluate.evaluation import evaluate_source, scored_label
from stillroom.stages.evaluate.predict import Prediction, predictions
from stillroom.stages.models.looks import Looks
from stillroom.stages.models.looks_settings import LooksSettings
from stillroom.stages.pictures.page import make_place
from stillroom.stages.pictures.prediction_sheet import prediction_sheet
from stillroom.stages.sources.canvas import to_canvas
from stillroom.stages.sources.open import open_source
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import ConfigError, FrameError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from stillroom.pipeline.open_model import Model
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.pipeline.video import OnFrames, VideoClips, VideoEvaluation
    from stillroom.stages.evaluate.cost import Cost
    from stillroom.stages.evaluate.evaluation import EvaluationResult
    from stillroom.stages.evaluate.evaluation_settings import EvaluateConfig
    from stillroom.stages.sources.canvas import CanvasFrame
    from stillroom.stages.sources.source import Source


@dataclass(frozen=True)
class EvaluationOptions:
    """What to do beside scoring models.

    Attributes:
        own_upsampling: of teachers: let their networks upsample their logits, as their authors will
        size: at which to score, "canvas" or "own"; as the run file says if left out
        limit: only the first frames, if not all
        sheet: where to draw predictions, if anywhere
        video: how steady they are along the clips of [evaluate].video
        pictures: folder for pictures of the first clip, if any
    """

    own_upsampling: bool = False
    size: str | None = None
    limit: int | None = None
    sheet: Path | None = None
    video: bool = False
    pictures: Path | None = None


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model on a source, and what it costs.

    Attributes:
        looks: of the model at each frame; its cost is of all of them
        video: how steady it is, where that was asked for
        pictures: of the clips, with all models
    """

    model: str
    source: str
    looks: LooksSettings
    result: EvaluationResult
    cost: Cost
    sheet: Path | None
    video: VideoEvaluation | None = None
    pictures: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as JSON."""
        return {
            "model": self.model,
            "source": self.source,
            "looks": self.looks.model_dump(mode="json", include=set(LooksSettings.model_fields)),
            **self.result.to_dict(),
            "cost": self.cost.to_dict(),
            "sheet": None if self.sheet is None else str(self.sheet),
            "video": None if self.video is None else self.video.to_dict(),
            "pictures": [str(path) for path in self.pictures],
        }


def evaluate_model(
    run: RunConfig,
    model: str,
    options: EvaluationOptions = EvaluationOptions(),
    on_frames: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Score one model; see `evaluate_models`.

    Args:
        on_frames: called with (frames done, frames in all), of one stage after the other
    """
    return evaluate_models(run, [model], options, lambda _, done, total: on_frames(done, total))[0]


def evaluate_models(
    run: RunConfig,
    names: Sequence[str],
    options: EvaluationOptions = EvaluationOptions(),
    on_frames: OnFrames = lambda stage, done, total: None,
) -> list[Evaluation]:
    """Score run folders, checkpoints and teachers on the run's [evaluate] source, and draw them.

    Args:
        names: of models, for `open_model`; all are measured along one flow
        on_frames: called with (stage, frames done, frames in all)

    Raises:
        ConfigError: no such model or teacher, no [evaluate] section, or other classes.
        CacheIncomplete: a run has not come to a model yet.
    """
    settings = _settings(run)
    if options.pictures is not None and not options.video:
        raise ConfigError("--pictures draws what --video measures; give both")
    for place in (options.sheet, *picture_paths(options.pictures)):
        if place is not None:
            make_place(place)
    source = open_source(run.sources[settings.source])
    models = _open_models(run, names, source, own_upsampling=options.own_upsampling)
    clips = open_clips(run) if options.video else None
    if clips is not None:
        clips.compute_flow(on_frames)
    scorer = _Scorer(run, source, clips, options, on_frames)
    found = {name: scorer.score(model) for name, model in models.items()}
    if options.sheet is not None:
        results = {name: one.result for name, one in found.items()}
        draw_predictions(run, models, options.sheet, results, limit=options.limit)
    if options.pictures is not None and clips is not None:
        videos = {name: one.video for name, one in found.items() if one.video is not None}
        clips.draw(videos, source.classes or (), options.pictures)
    return list(found.values())


def _open_models(
    run: RunConfig, names: Sequence[str], source: Source, *, own_upsampling: bool
) -> dict[str, Model]:
    settings = _settings(run)
    models: dict[str, Model] = {}
    for name in names:
        model = open_model(run, name, own_upsampling=own_upsampling)
        if model.name in models:
            raise ConfigError(f"{model.name} is named twice")
        _check_classes(model, source, settings.source)
        if settings.several():
            looks = Looks(model.predictor, settings, settings.batch)
            model = replace(model, predictor=looks)
        models[model.name] = model
    return models


@dataclass(frozen=True)
class _Scorer:
    run: RunConfig
    source: Source
    clips: VideoClips | None
    options: EvaluationOptions
    on_frames: OnFrames

    def score(self, model: Model) -> Evaluation:
        settings, canvas, options = _settings(self.run), self.run.cache.canvas, self.options
        total = min(len(self.source), options.limit or len(self.source))
        result = evaluate_source(
            model.predictor,
            self.source,
            canvas,
            own_size=(options.size or settings.size) == "own",
            ignored=settings.ignore,
            batch=_frames_at_once(settings),
            limit=options.limit,
            on_frames=lambda done: self.on_frames(f"eval {model.name}", done, total),
        )
        cost = measure_cost(model.predictor, model.module, canvas, idle=model.idle)
        video = None
        if self.clips is not None:
            keep = options.pictures is not None
            video = self.clips.measure(model, self.on_frames, keep=keep)
        pictures = picture_paths(options.pictures)
        return Evaluation(
            model.name, settings.source, settings, result, cost, options.sheet, video, pictures
        )


def _settings(run: RunConfig) -> EvaluateConfig:
    if run.evaluate is None:
        raise ConfigError("the run file has no [evaluate] section; add one with a labelled source")
    return run.evaluate


def _frames_at_once(settings: EvaluateConfig) -> int:
    """Return the frames of a batch; of many looks one, whose windows then are the batch."""
    return 1 if settings.several() else settings.batch


def _check_classes(model: Model, source: Source, name: str) -> None:
    """Refuse to score a model on labels of other classes, or of the same in another order."""
    if source.classes is None:
        raise ConfigError(f"evaluate.source: {name!r} has no labels; name a labelled one")
    if model.classes is not None and not agree(model.classes, source.classes):
        raise ConfigError(
            f"{model.name} and the source {name!r} have different classes\n"
            f"  model   {', '.join(model.classes)}\n"
            f"  source  {', '.join(source.classes)}\n"
            "  evaluate it on a source with the classes that it was trained for"
        )


def draw_predictions(
    run: RunConfig,
    models: Mapping[str, Model],
    path: Path,
    results: Mapping[str, EvaluationResult],
    *,
    limit: int | None = None,
) -> None:
    """Draw a sheet with a column for every model, of frames that were scored, spread evenly.

    Args:
        models, results: by the name that the picture shows
        limit: how many of the first frames were scored, if not all
    """
    settings = _settings(run)
    source = open_source(run.sources[settings.source])
    total = min(len(source), limit or len(source))
    frames = _scored_frames(source, range(total), settings.sheet_frames, run.cache.canvas)
    classes = {
        name: [
            each.classes
            for each in predictions(model.predictor, frames, _frames_at_once(settings))
            if isinstance(each, Prediction)
        ]
        for name, model in models.items()
    }
    prediction_sheet(
        path,
        frames,
        classes,
        source.classes or (),
        scores={name: result.scores for name, result in results.items()},
        title=f"{settings.source}: predictions",
    )


def _scored_frames(
    source: Source, among: Sequence[int], count: int, canvas: tuple[int, int]
) -> list[CanvasFrame]:
    """Load frames that count, spread evenly; in place of one that does not, the next that does."""
    labelled = [index for index in among if source.labelled(index)]
    chosen = evenly(range(len(labelled)), count)
    found = []
    for first, behind in zip(chosen, [*chosen[1:], len(labelled)], strict=True):
        for index in labelled[first:behind]:
            with suppress(FrameError):  # the scores have counted and named it
                frame = to_canvas(source.load(index), canvas)
                if (scored_label(frame) != IGNORE).any():
                    found.append(frame)
                    break
    return found
