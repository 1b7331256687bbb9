"""What is scored, by what the user calls it: a teacher, a run folder, a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from stillroom.stages.evaluate.predict import Predictor, StudentPredictor, TeacherPredictor
from stillroom.stages.evaluate.tasks import TASKS, scored
from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.students.families import StudentConfig, build_student
from stillroom.stages.models.tensor_file import read_tensors
from stillroom.stages.models.weights import fit_state
from stillroom.stages.torch_state import best_device
from stillroom.stages.train import run_folder
from stillroom.stages.train.checkpoint import load_checkpoint
from stillroom.storage_specs.errors import CacheIncomplete, ConfigError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.models.student import Student

CHECKPOINTS = (".pt", ".safetensors")


@dataclass(frozen=True)
class Model:
    """Something that can be scored.

    Attributes:
        predictor: of what its first task gives
        module: the torch module with its parameters; None for a bare callable
        classes: names, or None where the model does not know them
        idle: how many of its parameters its output does not depend on
        tasks: what tells of each task that it knows, by name, in the order of `TASKS`
    """

    name: str
    predictor: Predictor
    module: Any
    classes: tuple[str, ...] | None
    idle: int = 0
    tasks: Mapping[str, Predictor] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedStudent:
    """A student that `stillroom train` trained.

    Attributes:
        section: the student's in its run file, without weights to begin from
        config: the whole run file, as the run folder keeps it
    """

    name: str
    student: Student
    classes: tuple[str, ...]
    section: StudentConfig
    config: dict[str, Any]


def open_model(run: RunConfig, model: str, *, own_upsampling: bool = False) -> Model:
    """Open a model by its name on the command line: teacher:NAME, a run folder, or a checkpoint.

    Raises:
        ConfigError: there is nothing by this name.
        CacheIncomplete: the run folder has no model yet.
        WeightsError: the checkpoint cannot be read.
    """
    if model.startswith("teacher:"):
        name = model.removeprefix("teacher:")
        if name not in run.teachers:
            known = ", ".join(run.teachers) or "none"
            raise ConfigError(f"no teacher {name!r} in the run file; it has {known}")
        teacher = build_teacher(run.teacher(name), run.cache.canvas)
        predictor = TeacherPredictor(teacher, own_upsampling)
        given: dict[str, Predictor] = {
            task: replace(predictor, output=row.output)
            for task, row in TASKS.items()
            if row.output in teacher.strides
        }
        teller = next(iter(given.values()), predictor)  # which says what it gives instead
        return Model(model, teller, teacher.module, teacher.classes, tasks=given)
    if own_upsampling:
        raise ConfigError(f"{model}: --own-upsampling is for teachers (teacher:NAME)")
    trained = open_trained(Path(model))
    scored(trained.student.heads, trained.name)
    student = trained.student.to(best_device())
    tasks: dict[str, Predictor] = {
        task: StudentPredictor(student, TASKS[task].output) for task in student.heads
    }
    first = next(iter(tasks.values()))
    return Model(trained.name, first, student, trained.classes, student.idle_parameters, tasks)


def open_trained(path: Path) -> TrainedStudent:
    """Build a student by its run folder, with the weights of a checkpoint, on the CPU.

    Args:
        path: a run folder, or a checkpoint in one

    Raises: as `open_model`.
    """
    if not path.exists() or (path.is_file() and path.suffix not in CHECKPOINTS):
        raise ConfigError(
            f"{path}: no such run folder or checkpoint; give a folder that `stillroom train` "
            "wrote, or a last.pt, best.pt or model.safetensors in it"
        )
    path = path / run_folder.MODEL if path.is_dir() else path
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
    section = _as_trained(document["student"], folder)
    student = build_student(section, len(classes))
    if path.suffix == ".pt":
        checkpoint = load_checkpoint(path)
        if checkpoint is None or "student" not in checkpoint:
            raise WeightsError(f"{path}: not a checkpoint of `stillroom train`")
        fit_state(student, checkpoint.get("ema") or checkpoint["student"], path)
    else:
        fit_state(student.network, read_tensors(path), path)
    name = str(folder) if path.name == run_folder.MODEL else str(path)
    return TrainedStudent(name, student, classes, section, document)


def _as_trained(document: dict[str, Any], folder: Path) -> StudentConfig:
    """Read the student's section, without the weights that it began from."""
    start = ("weights", "weights_key", "encoder_weights", "encoder_weights_key")
    section = {key: None if key in start else value for key, value in document.items()}
    if "pretrained" in section:
        section["pretrained"] = False
    try:
        found: StudentConfig = TypeAdapter(StudentConfig).validate_python(section)
    except ValidationError as error:
        raise ConfigError(
            f"{folder}/{run_folder.CONFIG}: its student is none that this stillroom knows; score "
            f"the run with the version that trained it ({error.error_count()} faults)"
        ) from error
    return found
