"""The picture of what models predict on frames that were scored."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from stillroom.pipeline.cache_tools.sample import evenly
from stillroom.stages.evaluate.evaluation import scored_label
from stillroom.stages.evaluate.predict import (
    Prediction,
    SkippedFrame,
    full_outputs,
    predictions,
)
from stillroom.stages.evaluate.tasks import TASKS
from stillroom.stages.pictures.prediction_sheet import prediction_sheet
from stillroom.stages.pictures.sheet import Cell, FrameRow, Sheet
from stillroom.stages.sources.canvas import to_canvas
from stillroom.stages.sources.open import open_source
from stillroom.storage_specs.artifacts import IGNORE, artifact_of
from stillroom.storage_specs.errors import ConfigError, FrameError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from stillroom.pipeline.open_model import Model
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.evaluate.evaluation import EvaluationResult
    from stillroom.stages.evaluate.evaluation_settings import EvaluateConfig
    from stillroom.stages.evaluate.task_evaluation import TaskResult
    from stillroom.stages.sources.canvas import CanvasFrame
    from stillroom.stages.sources.source import Source


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
    settings = section_of(run)
    source = open_source(run.sources[settings.source])
    frames = _scored_frames(
        run, source, limit, lambda frame: bool((scored_label(frame) != IGNORE).any())
    )
    classes = {
        name: [
            each.classes
            for each in predictions(model.predictor, frames, frames_at_once(settings))
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


def draw_task(
    run: RunConfig,
    models: Mapping[str, Model],
    path: Path,
    results: Mapping[str, TaskResult],
    *,
    limit: int | None = None,
) -> None:
    """Draw a sheet of a task other than classes: frame, truth, and a column for every model.

    Args:
        models, results: of one task, by the name that the picture shows
        limit: how many of the first frames were scored, if not all
    """
    settings = section_of(run)
    task = next(iter(results.values())).task
    target, kind = TASKS[task].target, artifact_of(TASKS[task].target).picture
    source = open_source(run.sources[settings.source])
    frames = _scored_frames(run, source, limit, lambda frame: bool(frame.targets[target].any()))
    columns = [
        [
            Cell(kind, each[1].squeeze(0).cpu().numpy())  # depth has one channel
            for each in full_outputs(model.tasks[task], frames, settings.batch)
            if not isinstance(each, SkippedFrame)
        ]
        for model in models.values()
    ]
    rows = [
        FrameRow(
            frame.frame_id, frame.image, (Cell(kind, frame.targets[target]), *made), frame.valid
        )
        for frame, *made in zip(frames, *columns, strict=True)
    ]
    first = {name: next(iter(one.scores.items())) for name, one in results.items()}
    heads = (f"{name} · {score} {value:.3f}" for name, (score, value) in first.items())
    Sheet(f"{settings.source}: {task}", ("frame", f"true {task}", *heads), rows).save(path)


def _scored_frames(
    run: RunConfig, source: Source, limit: int | None, counts: Callable[[CanvasFrame], bool]
) -> list[CanvasFrame]:
    """Load frames that count, spread evenly; in place of one that does not, the next that does."""
    among = range(min(len(source), limit or len(source)))
    labelled = [index for index in among if source.labelled(index)]
    chosen = evenly(range(len(labelled)), section_of(run).sheet_frames)
    found = []
    for first, behind in zip(chosen, [*chosen[1:], len(labelled)], strict=True):
        for index in labelled[first:behind]:
            with suppress(FrameError):  # the scores have counted and named it
                frame = to_canvas(source.load(index), run.cache.canvas)
                if counts(frame):
                    found.append(frame)
                    break
    return found


def frames_at_once(settings: EvaluateConfig) -> int:
    """Return the frames of a batch; of many looks one, whose windows then are the batch."""
    return 1 if settings.several() else settings.batch


def section_of(run: RunConfig) -> EvaluateConfig:
    """Return the section [evaluate] (ConfigError: there is none)."""
    if run.evaluate is None:
        raise ConfigError("the run file has no [evaluate] section; add one with a labelled source")
    return run.evaluate
