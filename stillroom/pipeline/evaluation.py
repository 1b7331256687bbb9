"""`stillroom eval`: a run, a checkpoint or a teacher, scored and drawn."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from stillroom.pipeline.targets import with_classes
from stillroom.stages.models.student import StudentConfig, build_student
from stillroom.stages.models.teacher import build_teacher
from stillroom.stages.models.weights import fit_state, load_state
from stillroom.stages.sources.open import open_source
from stillroom.stages.torch_state import best_device
from stillroom.stages.train import run_folder
from stillroom.stages.train.checkpoint import load_checkpoint
from stillroom.storage_specs.errors import CacheIncomplete, ConfigError, FrameError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stillroom.pipeline.config import EvaluateConfig, RunConfig
    from stillroom.stages.evaluate.cost import Cost
    from stillroom.stages.evaluate.evaluation import EvaluationResult
    from stillroom.stages.evaluate.predict import Predictor
    from stillroom.stages.sources.source import Source


@dataclass(frozen=True)
class Model:
    """Something that can be scored.

    module: the torch module with its parameters; None for a bare callable
    classes: names, or None where the model does not know them
    idle: how many of its parameters its output does not depend on
    """

    name: str
    predictor: Predictor
    module: Any
    classes: tuple[str, ...] | None
    idle: int = 0


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model on a source, and what it costs."""

    model: str
    source: str
    result: EvaluationResult
    cost: Cost
    sheet: Path | None

    def document(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "model": self.model,
            "source": self.source,
            **self.result.to_dict(),
            "cost": self.cost.to_dict(),
            "sheet": None if self.sheet is None else str(self.sheet),
        }


def evaluate_model(
    run: RunConfig,
    model: str,
    *,
    own_upsampling: bool = False,
    limit: int | None = None,
    sheet: Path | None = None,
    on_frames: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Score a run folder, a checkpoint or `teacher:NAME` on the run's [evaluate] source.

    own_upsampling: of a teacher: let its network upsample its logits, as its author will have
    limit: only the first frames
    sheet: where to draw predictions, if anywhere
    on_frames: told (frames done, frames in all)

    Raises:
        ConfigError: no such model or teacher, no [evaluate] section, or other classes.
        CacheIncomplete: the run has not come to a model yet.
    """
    from stillroom.stages.evaluate.cost import measure_cost
    from stillroom.stages.evaluate.evaluation import evaluate_source
    from stillroom.stages.evaluate.page import make_place

    if run.evaluate is None:
        raise ConfigError("the run file has no [evaluate] section; add one with a labelled source")
    if sheet is not None:
        make_place(sheet)
    source = open_source(run.sources[run.evaluate.source])
    opened = open_model(run, model, own_upsampling=own_upsampling)
    check_classes(opened, source, run.evaluate)
    total = len(source) if limit is None else min(limit, len(source))
    result = evaluate_source(
        opened.predictor,
        source,
        run.cache.canvas,
        batch=run.evaluate.batch,
        limit=limit,
        on_frames=lambda done: on_frames(done, total),
    )
    cost = measure_cost(opened.predictor, opened.module, run.cache.canvas, idle=opened.idle)
    if sheet is not None:
        draw_predictions(run, {opened.name: opened}, sheet, {opened.name: result})
    return Evaluation(opened.name, run.evaluate.source, result, cost, sheet)


def open_model(run: RunConfig, model: str, *, own_upsampling: bool = False) -> Model:
    """Find a model by what the user calls it: `teacher:NAME`, a run folder, or a checkpoint file.

    Raises:
        ConfigError: there is nothing by this name.
        CacheIncomplete: the run folder has no model yet.
        WeightsError: the checkpoint cannot be read.
    """
    from stillroom.stages.evaluate.predict import TeacherPredictor

    if model.startswith("teacher:"):
        name = model.removeprefix("teacher:")
        if name not in run.teachers:
            known = ", ".join(run.teachers) or "none"
            raise ConfigError(f"no teacher {name!r} in the run file; it has {known}")
        teacher = build_teacher(with_classes(name, run.teachers[name], run))
        return Model(
            model, TeacherPredictor(teacher, own_upsampling), teacher.module, teacher.classes
        )
    if own_upsampling:
        raise ConfigError(f"{model}: --own-upsampling is for teachers (teacher:NAME)")
    path = Path(model)
    if not path.exists():
        raise ConfigError(
            f"{model}: no such run folder or checkpoint; give a folder that `stillroom train` "
            "wrote, a last.pt, best.pt or model.safetensors in it, or teacher:NAME"
        )
    if path.is_dir():
        return _open_student(path / run_folder.MODEL, run)
    return _open_student(path, run)


def _open_student(path: Path, run: RunConfig) -> Model:
    """A student from a checkpoint, built as its run folder says."""
    from stillroom.stages.evaluate.predict import StudentPredictor

    folder = path.parent
    document = run_folder.read_json(folder / run_folder.CONFIG)
    if not isinstance(document, dict) or not {"student", "classes"} <= document.keys():
        raise ConfigError(
            f"{folder}: its {run_folder.CONFIG} is missing or not one that `stillroom train` "
            "wrote, so this is no run folder"
        )
    if not path.exists():
        raise CacheIncomplete(
            f"{path}: the run has not finished; run `stillroom train` again to go on, or name "
            f"{folder / run_folder.LAST}"
        )
    classes = tuple(document["classes"])
    student = build_student(_as_trained(document["student"], folder), len(classes))
    if path.suffix == ".pt":
        checkpoint = load_checkpoint(path)
        if checkpoint is None or "student" not in checkpoint:
            raise WeightsError(f"{path}: not a checkpoint of `stillroom train`")
        fit_state(student, checkpoint.get("ema") or checkpoint["student"], path)
    else:
        fit_state(student.network, load_state(path), path)
    student.to(best_device())
    name = str(folder) if path.name == run_folder.MODEL else str(path)
    return Model(name, StudentPredictor(student), student, classes, student.idle_parameters)


def _as_trained(document: dict[str, Any], folder: Path) -> StudentConfig:
    """The student's section, without the weights that it began from."""
    start = ("weights", "encoder_weights")
    said = {key: None if key in start else value for key, value in document.items()}
    try:
        found: StudentConfig = TypeAdapter(StudentConfig).validate_python(said)
    except ValidationError as error:
        raise ConfigError(
            f"{folder}/{run_folder.CONFIG}: its student is none that this stillroom knows; score "
            f"the run with the version that trained it ({error.error_count()} faults)"
        ) from error
    return found


def check_classes(model: Model, source: Source, settings: EvaluateConfig) -> None:
    """Refuse to score a model on labels of other classes, or of the same in another order.

    Raises:
        ConfigError: names both lists.
    """
    if source.classes is None:
        raise ConfigError(
            f"evaluate.source: {settings.source!r} has no labels; name a labelled one"
        )
    if model.classes is not None and model.classes != source.classes:
        raise ConfigError(
            f"{model.name} and the source {settings.source!r} have different classes\n"
            f"  model   {', '.join(model.classes)}\n"
            f"  source  {', '.join(source.classes)}\n"
            "  evaluate it on a source with the classes that it was trained for"
        )


def draw_predictions(
    run: RunConfig, models: Mapping[str, Model], path: Path, results: Mapping[str, EvaluationResult]
) -> None:
    """A sheet with a column for every model, over frames spread evenly through the source.

    models, results: by the name that the picture shows
    """
    from stillroom.stages.evaluate.predict import Prediction, predictions
    from stillroom.stages.evaluate.prediction_sheet import PredictionRow, prediction_sheet
    from stillroom.stages.sources.canvas import to_canvas

    if run.evaluate is None:
        raise ConfigError("the run file has no [evaluate] section")
    source = open_source(run.sources[run.evaluate.source])
    count = min(run.evaluate.sheet_frames, len(source))
    chosen = np.linspace(0, len(source) - 1, count).round().astype(int).tolist()
    frames = []
    for index in chosen:
        with suppress(FrameError):  # the scores have counted and named it
            frames.append(to_canvas(source.load(index), run.cache.canvas))
    found: dict[str, list[Prediction]] = {}
    for name, model in models.items():
        said = predictions(model.predictor, frames, run.evaluate.batch)
        found[name] = [each for each in said if isinstance(each, Prediction)]
    rows = [
        PredictionRow(
            frame_id=frame.frame_id,
            image=frame.image,
            predictions={name: each[position].classes for name, each in found.items()},
            label=frame.label,
            valid=frame.valid,
        )
        for position, frame in enumerate(frames)
    ]
    scores = {name: result.scores for name, result in results.items()}
    prediction_sheet(
        path, rows, source.classes or (), scores=scores, title=f"{run.evaluate.source}: predictions"
    )
