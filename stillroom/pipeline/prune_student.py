"""`stillroom prune`: a trained student with fewer channels, and the run file that trains it on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.open_model import open_trained
from stillroom.pipeline.run_file.kept_run import as_run_file
from stillroom.pipeline.run_file.loading import parse_run
from stillroom.pipeline.run_file.sections import as_document
from stillroom.pipeline.run_file.writing import as_toml
from stillroom.stages.evaluate.cost import Cost, measure_cost
from stillroom.stages.evaluate.predict import StudentPredictor
from stillroom.stages.models.pruning import apart, channels_of, prune
from stillroom.stages.models.students.families import build_student
from stillroom.stages.models.weights import fit_state
from stillroom.stages.train import run_folder
from stillroom.stages.train.checkpoint import export
from stillroom.storage_specs.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from stillroom.pipeline.open_model import TrainedStudent
    from stillroom.stages.models.student import Student
    from stillroom.stages.models.students.families import StudentConfig

RUN_FILE = "run.toml"
TUNED = "tuned"  # the run folder of the student that is trained on, in that of the pruned one
SLIMMING = "network_slimming"
CLOSE = 1e-4


@dataclass(frozen=True)
class Slimmed:
    """A student before or after pruning.

    Attributes:
        channels: that batch normalisation scales
    """

    channels: int
    cost: Cost

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"channels": self.channels, **self.cost.to_dict()}


@dataclass(frozen=True)
class PruneResult:
    """A pruned student.

    Attributes:
        path: its folder, a run folder that can be scored and exported
        run_file: which trains it on
    """

    path: Path
    run_file: Path
    ratio: float
    before: Slimmed
    after: Slimmed

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "path": str(self.path),
            "run_file": str(self.run_file),
            "ratio": self.ratio,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
        }


def prune_student(model: Path, ratio: float, out: Path | None = None) -> PruneResult:
    """Remove a share of the channels of a run's student, and write what is left as a run folder.

    Nothing is pickled: the widths of its layers are a key of the student's section, by which it is
    built again, and its weights are those of any run.

    Args:
        model: a run folder or a checkpoint
        ratio: of the channels that batch normalisation scales
        out: the folder; the run's name and "-pruned" if left out

    Raises:
        ConfigError: no such run, a folder that is there already, or a network that cannot be
            pruned.
        CacheIncomplete: the run has no model yet.
        WeightsError: the checkpoint cannot be read.
        CacheUnwritable: the folder cannot be written.
    """
    trained = open_trained(model)
    out = _beside(model if model.is_dir() else model.parent) if out is None else out
    if out.exists():
        raise ConfigError(f"--out {out}: it exists already; remove it, or name another folder")
    height, width = trained.config["cache"]["canvas"]
    before = _measured(trained.student, (height, width))
    widths = prune(trained.student, ratio, (height, width))
    section = trained.section.model_copy(
        update={"widths": {**(trained.section.widths or {}), **widths}}
    )
    slim = _rebuilt(trained, section, (height, width))
    run_file = _write(out, trained, section, slim)
    return PruneResult(out, run_file, ratio, before, _measured(slim, (height, width)))


def _beside(folder: Path) -> Path:
    folder = folder if folder.name else folder.absolute()
    return folder.with_name(f"{folder.name}-pruned")


def _measured(student: Student, size: tuple[int, int]) -> Slimmed:
    cost = measure_cost(StudentPredictor(student), student, size, idle=student.idle_parameters)
    return Slimmed(channels_of(student.network), cost)


def _rebuilt(trained: TrainedStudent, section: StudentConfig, size: tuple[int, int]) -> Student:
    """Build the student by its section, and hold it to the one that was pruned.

    Raises:
        ConfigError: it is another network.
    """
    try:
        found = build_student(section, len(trained.classes))
        fit_state(found, trained.student.state_dict(), Path(trained.name))
        difference = apart(found, trained.student, size)
    except (ConfigError, WeightsError) as error:
        raise ConfigError(_not_rebuilt(trained, f"({error})")) from error
    if not difference <= CLOSE:
        raise ConfigError(_not_rebuilt(trained, f"(outputs differ by {difference:.1e})"))
    return found


def _not_rebuilt(trained: TrainedStudent, why: str) -> str:
    return (
        f"{trained.name}: its {type(trained.student.network).__name__}, pruned, cannot be built "
        f"again by the widths of its convolutions, linear layers and normalisations {why}; "
        "take another architecture"
    )


def _write(out: Path, trained: TrainedStudent, section: StudentConfig, slim: Student) -> Path:
    """Write the folder; the run file last."""
    config = {**trained.config, "student": as_document(section)}
    weights, run_file = out / run_folder.MODEL, out / RUN_FILE
    document = as_run_file(config)
    document["student"]["weights"] = str(weights)
    document["terms"] = [one for one in document["terms"] if one["name"] != SLIMMING]
    document["train"]["path"] = str(out / TUNED)
    parse_run(document, str(run_file))
    export(weights, slim, {"config": config, "stride": slim.stride})
    run_folder.write_json(out / run_folder.CONFIG, config)
    run_folder.write_whole(run_file, as_toml(document).encode())
    return run_file
