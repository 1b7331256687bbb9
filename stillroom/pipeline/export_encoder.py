"""`stillroom export --to encoder`: the encoder of a trained student alone, for other networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.open_model import open_trained
from stillroom.stages.models.encoder_names import timm_state
from stillroom.stages.models.safetensors_file import pack
from stillroom.stages.train import run_folder
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

ENCODER = "encoder"  # what to export, and the file in the run's folder
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class EncoderExport:
    """A file with the weights of an encoder.

    Attributes:
        encoder: its name in the student's section
        tensors: how many it holds
    """

    path: Path
    encoder: str
    tensors: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        about = {"encoder": self.encoder, "tensors": self.tensors, "bytes": self.bytes}
        return {"path": str(self.path), "to": ENCODER, **about}


def export_encoder(model: Path, out: Path | None = None) -> EncoderExport:
    """Write the encoder of a run folder or checkpoint, by timm's names where it is one of timm's.

    Args:
        out: the file; encoder.safetensors in the run's folder if left out

    Raises:
        ConfigError: no such run, or its network has no encoder.
        CacheIncomplete: the run has no model yet.
        WeightsError: the checkpoint cannot be read.
        CacheUnwritable: it cannot be written.
    """
    if out is None:
        out = (model if model.is_dir() else model.parent) / f"{ENCODER}{SUFFIX}"
    if out.suffix != SUFFIX:
        raise ConfigError(f"--out {out}: expected a name ending in {SUFFIX}, by which it is known")
    if out.name == run_folder.MODEL and (out.parent / run_folder.CONFIG).exists():
        raise ConfigError(f"--out {out}: this is the run's own file; give it another name")
    trained = open_trained(model)
    part = trained.student.encoder
    if part is None:
        parts = ", ".join(name for name, _ in trained.student.network.named_children())
        raise ConfigError(
            f"{trained.name}: its network has no part named encoder or backbone, but {parts}; its "
            "model.safetensors holds all of it"
        )
    section = trained.section
    name = str(getattr(section, "encoder", None) or getattr(section, "architecture", section.kind))
    state = timm_state(trained.student.network.get_submodule(part), name)
    content = pack(state, {"format": "pt", "encoder": name})
    run_folder.write_whole(out, content)
    return EncoderExport(out, name, len(state), len(content))
