"""A student as a program of torch.export, which needs neither stillroom nor its network's code."""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING

import torch

from stillroom.stages.models.exported.about import About, Exported
from stillroom.stages.models.exported.student_program import runner
from stillroom.stages.models.teachers.export import as_weights_error, load_program

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.stages.models.exported.student_program import StudentProgram

METADATA = "stillroom.json"


def pack_program(program: StudentProgram, about: About) -> bytes:
    """Return a program of any number of frames."""
    frames = torch.zeros(2, *program.size, 3, dtype=torch.uint8)
    with torch.no_grad():
        exported = torch.export.export(
            program, (frames,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
    exported.example_inputs = None  # two frames of zeros would be kept beside the weights
    buffer = io.BytesIO()
    metadata = json.dumps(about.to_metadata(), indent=2)
    torch.export.save(exported, buffer, extra_files={METADATA: metadata})
    return buffer.getvalue()


def open_program(path: Path, device: str) -> Exported:
    """Load the program, which is code to be trusted as any, and its metadata.

    Raises:
        WeightsError: `stillroom export` wrote no such file, or it is damaged.
    """
    with as_weights_error(path):
        about = About.of(_metadata(path), path)
        module, _ = load_program(path, device)
    return Exported(about, runner(module, device))


def _metadata(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(f"/extra/{METADATA}")]
        found: dict[str, str] = json.loads(archive.read(names[0])) if names else {}
    return found
