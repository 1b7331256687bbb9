"""`stillroom export`: a trained student in one file, compared with its checkpoint."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from stillroom.pipeline.cache_tools.sample import evenly
from stillroom.pipeline.open_model import open_trained
from stillroom.pipeline.run_file.sections import as_document
from stillroom.stages.evaluate.predict import SkippedFrame, read_frames
from stillroom.stages.evaluate.tasks import scored
from stillroom.stages.models.exported.about import About
from stillroom.stages.models.exported.comparison import Comparison, compare
from stillroom.stages.models.exported.formats import FORMATS, can_run, pack_student
from stillroom.stages.models.exported.student_program import StudentProgram
from stillroom.stages.pictures.palette import palette
from stillroom.stages.sources.images import ImagesConfig
from stillroom.stages.sources.open import SourceConfig, open_source
from stillroom.stages.train import run_folder
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from stillroom.pipeline.open_model import TrainedStudent
    from stillroom.stages.sources.source import Source

NAME = "student"  # of the file in the run's folder, where no other is given


@dataclass(frozen=True)
class ExportOptions:
    """How a student is exported.

    Attributes:
        out: the file; NAME in the run's folder if left out
        size: (height, width) of the frames that it takes; the canvas's if left out
        frames: how many it is compared on
        images: a folder of them; those of the run if left out
    """

    out: Path | None = None
    size: tuple[int, int] | None = None
    frames: int = 20
    images: Path | None = None


@dataclass(frozen=True)
class ExportResult:
    """A file with a student.

    Attributes:
        comparison: with the checkpoint; None where nothing here runs the format
    """

    path: Path
    to: str
    about: About
    bytes: int
    comparison: Comparison | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "path": str(self.path),
            "to": self.to,
            "bytes": self.bytes,
            "size": list(self.about.size),
            "canvas": list(self.about.canvas),
            "classes": list(self.about.classes),
            "comparison": None if self.comparison is None else asdict(self.comparison),
        }


def export_student(
    model: Path,
    to: str,
    options: ExportOptions = ExportOptions(),
    on_frames: Callable[[int, int], None] = lambda done, total: None,
) -> ExportResult:
    """Write the student of a run folder or checkpoint as a file of a format, and compare the two.

    Args:
        to: a key of FORMATS
        on_frames: called with (frames compared, frames in all)

    Raises:
        ConfigError: no such run, no frames to compare on, or a network that the format cannot say.
        CacheIncomplete: the run has no model yet.
        WeightsError: the checkpoint cannot be read.
        ArtifactError: the file does not say what the checkpoint says; it was not written.
        CacheUnwritable: it cannot be written.
    """
    out = _place(model, to, options.out)
    trained = open_trained(model)
    about = about_of(trained, options.size)
    frames = _Frames(_source(trained, options.images), about.size, options.frames, on_frames)
    program = StudentProgram(trained.student, about.canvas, about.size)
    content = pack_student(program, about, to)
    comparison = None
    if can_run(to):
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / out.name
            copy.write_bytes(content)
            exported = FORMATS[to].open(copy, "cpu")
            comparison = compare(program, exported.run, frames)
        comparison.demand_equal()
    run_folder.write_whole(out, content)
    return ExportResult(out, to, about, len(content), comparison)


def _place(model: Path, to: str, out: Path | None) -> Path:
    suffix = FORMATS[to].suffix
    if out is None:
        return (model if model.is_dir() else model.parent) / f"{NAME}{suffix}"
    if out.suffix != suffix:
        raise ConfigError(f"--out {out}: expected a name ending in {suffix}, by which it is known")
    if out.is_dir():
        raise ConfigError(f"--out {out}: this is a folder; name a file in it")
    if out.name == run_folder.MODEL and (out.parent / run_folder.CONFIG).exists():
        raise ConfigError(f"--out {out}: this is the run's own file; give it another name")
    return out


def about_of(trained: TrainedStudent, size: tuple[int, int] | None = None) -> About:
    """What is said of a student that takes frames of a size; the canvas's if left out.

    Raises:
        ConfigError: it has no head of segmentation, whose labels are what is exported.
    """
    scored(trained.student.heads, trained.name)
    if not trained.section.learns_classes():
        raise ConfigError(
            f"{trained.name} tells {', '.join(trained.student.heads)}, and no classes, which is "
            "what `stillroom export` is about; `stillroom eval` scores it, `stillroom predict` "
            "writes depth, and its model.safetensors is a teacher's weights"
        )
    height, width = trained.config["cache"]["canvas"]
    colours = tuple((red, green, blue) for red, green, blue in palette(trained.classes).tolist())
    canvas = (height, width)
    return About(trained.classes, colours, size or canvas, canvas, as_document(trained.section))


def _source(trained: TrainedStudent, images: Path | None) -> Source:
    """Open the folder, or what the run was evaluated on, or else trained on first."""
    if images is not None:
        return open_source(ImagesConfig(root=images))
    config = trained.config
    (name, stream), *_ = config["train"]["streams"].items()
    name = config["evaluate"]["source"] if config.get("evaluate") else stream.get("source") or name
    try:
        section: SourceConfig = TypeAdapter(SourceConfig).validate_python(config["sources"][name])
        return open_source(section)
    except (ConfigError, ValidationError) as error:
        raise ConfigError(
            f"{trained.name}: the frames of its source {name!r}, to compare on, cannot be opened: "
            f"{error}\n  call this from where the run was trained, or give --images FOLDER"
        ) from error


@dataclass(frozen=True)
class _Frames:
    """Some frames of a source at a size, spread evenly, those that cannot be read left out."""

    source: Source
    size: tuple[int, int]
    count: int
    on_frames: Callable[[int, int], None]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        chosen = evenly(range(len(self.source)), self.count)
        found = 0
        for done, frame in enumerate(read_frames(self.source, self.size, chosen)):
            if not isinstance(frame, SkippedFrame):
                found += 1
                yield frame.image
            self.on_frames(done + 1, len(chosen))
        if not found:
            raise ConfigError(
                f"none of {len(chosen)} frames to compare on could be read; give --images FOLDER"
            )
