"""Every family of students by its kind in a run file: its settings, and what builds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillroom.stages.models.students.hf import HfStudentConfig, build_hf_student
from stillroom.stages.models.students.python import PythonStudentConfig, build_python
from stillroom.stages.models.students.smp import SmpStudentConfig, build_smp_student
from stillroom.stages.models.students.torchvision import (
    TorchvisionStudentConfig,
    build_torchvision_student,
)
from stillroom.stages.models.weights import load_heads
from stillroom.stages.settings import one_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.stages.models.student import Student
    from stillroom.stages.models.student_settings import StudentSettings

STUDENTS: dict[str, tuple[type[StudentSettings], Callable[[Any, int], Student]]] = {
    "smp": (SmpStudentConfig, build_smp_student),
    "torchvision": (TorchvisionStudentConfig, build_torchvision_student),
    "hf": (HfStudentConfig, build_hf_student),
    "python": (PythonStudentConfig, build_python),
}

if TYPE_CHECKING:
    StudentConfig = StudentSettings
else:
    StudentConfig = one_of(settings for settings, _ in STUDENTS.values())


def build_student(config: StudentConfig, num_classes: int) -> Student:
    """Build a student, and load what weights the config names. Random ones follow torch's seed.

    Heads beside the network's own have those of the file, where it has such a head.

    Args:
        num_classes: of the labels, for a head of segmentation

    Raises:
        ConfigError: there is no such network, or it does not show what its heads read.
        WeightsError: weights are unreadable or belong to another network.
    """
    _, build = STUDENTS[config.kind]
    heads = config.by_task()
    first = next(iter(heads.values()))
    student = build(config, first.channels(num_classes))
    if config.heads is not None:
        student.take_heads(heads, num_classes if config.learns_classes() else 0)
        if config.weights is not None:
            load_heads(student.network, config.weights, config.weights_key)
    return student
