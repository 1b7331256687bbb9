"""`stillroom eval`: runs, checkpoints and teachers, scored and drawn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.open_model import open_model
from stillroom.pipeline.prediction_pictures import (
    draw_predictions,
    draw_task,
    frames_at_once,
    section_of,
)
from stillroom.pipeline.video import open_clips, picture_paths
from stillroom.stages.class_lists import agree
from stillroom.stages.evaluate.cost import measure_cost
from stillroom.stages.evaluate.evaluation import evaluate_source
from stillroom.stages.evaluate.task_evaluation import evaluate_task
from stillroom.stages.evaluate.tasks import TASKS
from stillroom.stages.models.looks import Looks
from stillroom.stages.models.looks_settings import LooksSettings
from stillroom.stages.pictures.page import make_place
from stillroom.stages.sources.open import open_source
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from stillroom.pipeline.open_model import Model
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.pipeline.video import OnFrames, VideoClips, VideoEvaluation
    from stillroom.stages.evaluate.cost import Cost
    from stillroom.stages.evaluate.evaluation import EvaluationResult
    from stillroom.stages.evaluate.task_evaluation import TaskResult
    from stillroom.stages.sources.source import Source

SEGMENTATION = "segmentation"


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
        segmentation: of its classes; None where the model or the source has none
        tasks: of further tasks that both know, by name
        looks: of the model at each frame; its cost is of all of them
        video: how steady it is, where that was asked for
        pictures: of the clips, with all models
    """

    model: str
    source: str
    looks: LooksSettings
    segmentation: EvaluationResult | None
    cost: Cost
    sheet: Path | None
    tasks: Mapping[str, TaskResult] = field(default_factory=dict)
    video: VideoEvaluation | None = None
    pictures: tuple[Path, ...] = ()

    @property
    def result(self) -> EvaluationResult:
        """The scores of its classes.

        Raises:
            ConfigError: it was scored on others alone.
        """
        if self.segmentation is None:
            raise ConfigError(f"{self.model} was scored on {', '.join(self.tasks)}, and no classes")
        return self.segmentation

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as JSON."""
        return {
            "model": self.model,
            "source": self.source,
            "looks": self.looks.model_dump(mode="json", include=set(LooksSettings.model_fields)),
            **({} if self.segmentation is None else self.segmentation.to_dict()),
            **{task: result.to_dict() for task, result in self.tasks.items()},
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
    settings = section_of(run)
    if options.pictures is not None and not options.video:
        raise ConfigError("--pictures draws what --video measures; give both")
    for place in (options.sheet, *picture_paths(options.pictures)):
        if place is not None:
            make_place(place)
    source = open_source(run.sources[settings.source])
    models = _open_models(run, names, source, options)
    clips = open_clips(run) if options.video else None
    if clips is not None:
        clips.compute_flow(on_frames)
    scorer = _Scorer(run, source, clips, options, on_frames)
    found = {name: scorer.score(model) for name, model in models.items()}
    if options.sheet is not None:
        _draw(run, models, options.sheet, found, options.limit)
    if options.pictures is not None and clips is not None:
        videos = {name: one.video for name, one in found.items() if one.video is not None}
        clips.draw(videos, source.classes or (), options.pictures)
    return list(found.values())


def _draw(
    run: RunConfig,
    models: Mapping[str, Model],
    sheet: Path,
    found: Mapping[str, Evaluation],
    limit: int | None,
) -> None:
    """Draw the classes of the models that tell some; where none does, the first task of them."""
    scored = {k: one.segmentation for k, one in found.items() if one.segmentation is not None}
    if scored:
        draw_predictions(run, {k: models[k] for k in scored}, sheet, scored, limit=limit)
        return
    task = next(task for one in found.values() for task in one.tasks)
    told = {name: one.tasks[task] for name, one in found.items() if task in one.tasks}
    draw_task(run, {name: models[name] for name in told}, sheet, told, limit=limit)


def _open_models(
    run: RunConfig, names: Sequence[str], source: Source, options: EvaluationOptions
) -> dict[str, Model]:
    settings = section_of(run)
    models: dict[str, Model] = {}
    for name in names:
        model = open_model(run, name, own_upsampling=options.own_upsampling)
        if model.name in models:
            raise ConfigError(f"{model.name} is named twice")
        _check_tasks(model, run.targets_of(settings.source), settings.source)
        if SEGMENTATION in model.tasks and source.classes is not None:
            _check_classes(model, source.classes, settings.source)
        elif settings.several() or options.video:
            raise ConfigError(
                f"{model.name} is not scored on classes, which --video measures and evaluate.flip, "
                "scales and tile look at; leave them out"
            )
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
        settings, canvas, options = section_of(self.run), self.run.cache.canvas, self.options
        total = min(len(self.source), options.limit or len(self.source))
        own_size = (options.size or settings.size) == "own"
        result = None
        if SEGMENTATION in model.tasks and self.source.classes is not None:
            result = evaluate_source(
                model.predictor,
                self.source,
                canvas,
                own_size=own_size,
                ignored=settings.ignore,
                batch=frames_at_once(settings),
                limit=options.limit,
                on_frames=lambda done: self.on_frames(f"eval {model.name}", done, total),
            )
        tasks = {
            task: evaluate_task(
                model.tasks[task],
                self.source,
                task,
                canvas,
                own_size=own_size,
                batch=settings.batch,
                limit=options.limit,
                on_frames=lambda done: self.on_frames(f"eval {model.name}", done, total),
            )
            for task in further_tasks(model.tasks, self.run.targets_of(settings.source))
        }
        cost = measure_cost(model.predictor, model.module, canvas, idle=model.idle)
        video = None
        if self.clips is not None:
            keep = options.pictures is not None
            video = self.clips.measure(model, self.on_frames, keep=keep)
        pictures = picture_paths(options.pictures)
        return Evaluation(
            model.name,
            settings.source,
            settings,
            result,
            cost,
            options.sheet,
            tasks,
            video,
            pictures,
        )


def further_tasks(known: Iterable[str], targets: Collection[str]) -> list[str]:
    """Return the tasks, other than segmentation, that a source has targets for."""
    return [task for task in known if task != SEGMENTATION and TASKS[task].target in targets]


def _check_tasks(model: Model, targets: Collection[str], name: str) -> None:
    """Refuse to score a model on a source that has no target of any of its tasks."""
    if not any(TASKS[task].target in targets for task in model.tasks or (SEGMENTATION,)):
        wanted = " or ".join(TASKS[task].target for task in model.tasks or (SEGMENTATION,))
        raise ConfigError(
            f"evaluate.source: {name!r} has no {wanted}, which {model.name} is scored on; name a "
            "labelled one"
        )


def _check_classes(model: Model, classes: tuple[str, ...], name: str) -> None:
    """Refuse to score a model on labels of other classes, or of the same in another order."""
    if model.classes is not None and not agree(model.classes, classes):
        raise ConfigError(
            f"{model.name} and the source {name!r} have different classes\n"
            f"  model   {', '.join(model.classes)}\n"
            f"  source  {', '.join(classes)}\n"
            "  evaluate it on a source with the classes that it was trained for"
        )
