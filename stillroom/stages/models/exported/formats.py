"""Every format of exported students: its ending, what writes it, and what opens it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from stillroom.stages.models.exported.as_onnx import open_onnx, pack_onnx
from stillroom.stages.models.exported.as_safetensors import open_safetensors, pack_safetensors
from stillroom.stages.models.exported.as_torch_export import open_program, pack_program
from stillroom.storage_specs.errors import ConfigError, StillroomError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stillroom.stages.models.exported.about import About, Exported
    from stillroom.stages.models.exported.student_program import StudentProgram


@dataclass(frozen=True)
class ExportFormat:
    """A format of exported students.

    Attributes:
        suffix: of its files
        pack: returns the bytes of a file
        open: opens a file on a device, "cpu" or "cuda"
        needs: a package that opening one takes, beside those of stillroom
    """

    suffix: str
    pack: Callable[[StudentProgram, About], bytes]
    open: Callable[[Path, str], Exported]
    needs: str | None = None


FORMATS = {
    "safetensors": ExportFormat(".safetensors", pack_safetensors, open_safetensors),
    "torch.export": ExportFormat(".pt2", pack_program, open_program),
    "onnx": ExportFormat(".onnx", pack_onnx, open_onnx, needs="onnxruntime"),
}


def can_run(to: str) -> bool:
    """Tell whether files of a format can be opened on this machine."""
    needs = FORMATS[to].needs
    return needs is None or find_spec(needs) is not None


def pack_student(program: StudentProgram, about: About, to: str) -> bytes:
    """Return the bytes of a student's file.

    Raises:
        ConfigError: the format does not know something that the network does.
    """
    try:
        return FORMATS[to].pack(program, about)
    except (StillroomError, MemoryError):
        raise
    except Exception as error:  # exporters fail in as many ways as there are networks
        reason = str(error).strip().partition("\n")[0][:300]
        raise ConfigError(
            f"this student cannot be exported to {to} ({type(error).__name__}: {reason}); choose "
            "another format, or change what its network does at that place"
        ) from error
