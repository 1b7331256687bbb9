"""Every family of teachers by its kind in a run file: its settings, and what loads its network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillroom.stages.models.teachers.ensemble_settings import EnsembleTeacherConfig
from stillroom.stages.models.teachers.export import ExportTeacherConfig, load_export
from stillroom.stages.models.teachers.hf import HfTeacherConfig, load_hf
from stillroom.stages.models.teachers.onnx import OnnxTeacherConfig, load_onnx
from stillroom.stages.models.teachers.python import PythonTeacherConfig, load_python
from stillroom.stages.models.teachers.smp import SmpTeacherConfig, load_smp
from stillroom.stages.models.teachers.timm import TimmTeacherConfig, load_timm
from stillroom.stages.models.teachers.torchvision import TorchvisionTeacherConfig, load_torchvision
from stillroom.stages.settings import one_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillroom.stages.models.dense_network import TeacherNetwork
    from stillroom.stages.models.teacher_settings import TeacherSettings

TEACHERS: dict[str, tuple[type[TeacherSettings], Callable[[Any], TeacherNetwork]]] = {
    "smp": (SmpTeacherConfig, load_smp),
    "torchvision": (TorchvisionTeacherConfig, load_torchvision),
    "hf": (HfTeacherConfig, load_hf),
    "timm": (TimmTeacherConfig, load_timm),
    "python": (PythonTeacherConfig, load_python),
    "export": (ExportTeacherConfig, load_export),
    "onnx": (OnnxTeacherConfig, load_onnx),
}

if TYPE_CHECKING:
    TeacherConfig = TeacherSettings
else:
    TeacherConfig = one_of(
        [*(settings for settings, _ in TEACHERS.values()), EnsembleTeacherConfig]
    )
