"""A student as safetensors: its weights, and the section that builds its network again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from stillroom.stages.models.exported.about import About, Exported
from stillroom.stages.models.exported.student_program import StudentProgram, runner
from stillroom.stages.models.safetensors_file import pack, read_metadata
from stillroom.stages.models.students.families import StudentConfig, build_student
from stillroom.stages.models.tensor_file import read_tensors
from stillroom.stages.models.weights import fit_state
from stillroom.storage_specs.errors import WeightsError

if TYPE_CHECKING:
    from pathlib import Path


def pack_safetensors(program: StudentProgram, about: About) -> bytes:
    """Return the network's tensors; a teacher of kind "smp" loads them."""
    return pack(program.student.network.state_dict(), {"format": "pt", **about.to_metadata()})


def open_safetensors(path: Path, device: str) -> Exported:
    """Build the student, and load its weights.

    Raises:
        WeightsError: `stillroom export` wrote no such file, or it is damaged.
        ConfigError: its network cannot be built here.
    """
    about = About.of(read_metadata(path), path)
    try:
        config: StudentConfig = TypeAdapter(StudentConfig).validate_python(about.student)
    except ValidationError as error:
        raise WeightsError(
            f"{path}: its student is none that this stillroom knows; use the version that "
            f"exported it ({error.error_count()} faults)"
        ) from error
    student = build_student(config, len(about.classes))
    fit_state(student.network, read_tensors(path), path)
    return Exported(about, runner(StudentProgram(student, about.canvas, about.size), device))
