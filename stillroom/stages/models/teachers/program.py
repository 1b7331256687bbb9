"""What teachers have in common that are one file of a program: an exported or an ONNX network.

Such a file brings its operations with it. It may be made for one batch, one size and one kind of
output.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.stages.models.teacher_settings import TeacherSettings
from stillroom.stages.models.weights import weights_sha256
from stillroom.storage_specs.artifacts import LOGITS
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from stillroom.stages.models.dense_network import DenseNetwork, ModelOutput


class ProgramTeacherSettings(TeacherSettings):
    """A network that is a file with its operations.

    Attributes:
        path: the file
        output: name or place of the logits among the outputs of a network that has several
    """

    path: Path
    output: str | int | None = None

    def content(self) -> dict[str, Any]:
        """Return the file's hash, in place of its path."""
        return {"file_sha256": weights_sha256(self.path)}


@dataclass(frozen=True)
class ProgramInput:
    """What a program takes: images (B, 3, H, W), or (B, H, W, 3), of one type.

    Attributes:
        shape: None for a side that may have any length
        dtype: by torch's name: "float32", "uint8"
    """

    shape: tuple[int | None, int | None, int | None, int | None]
    dtype: str = "float32"

    @property
    def channels_last(self) -> bool:
        """Whether the channels come last."""
        return self.shape[3] == 3 and self.shape[1] != 3

    @property
    def batch(self) -> int | None:
        """The one number of images that it takes; None: any."""
        return self.shape[0]

    @property
    def size(self) -> tuple[int, int] | None:
        """The one (height, width) that it takes; None: any."""
        height, width = self.shape[1:3] if self.channels_last else self.shape[2:]
        return None if height is None or width is None else (height, width)

    def demand_images(self, config: ProgramTeacherSettings) -> None:
        """Refuse a program of something else, and bytes made of normalised images.

        Raises:
            ConfigError: it takes other channels than 3, or bytes, and the section normalises.
        """
        takes = f"teacher {config.path}: the network takes {self.shape} of {self.dtype}"
        if not self.channels_last and self.shape[1] not in (3, None):
            raise ConfigError(f"{takes}; expected images of 3 channels")
        if self.dtype == "uint8" and (config.normalize or config.scale != 1):
            raise ConfigError(
                f"{takes}, pixels as they are: set normalize = false and scale = 1 in its section"
            )

    def of(self, images: Tensor) -> Tensor:
        """Bring images (B, 3, H, W) to what the program takes."""
        import torch

        images = images.permute(0, 2, 3, 1) if self.channels_last else images
        return images.to(getattr(torch, self.dtype)).contiguous()


def logits_of(outputs: Mapping[str | int, Any], config: ProgramTeacherSettings) -> Tensor:
    """Find the logits among outputs by name or place: the only one, "logits", or as configured.

    Raises:
        ConfigError: no such output, several and none named, or one that cannot be logits.
    """
    import torch

    wanted = config.output
    if wanted is None:
        wanted = LOGITS if LOGITS in outputs else next(iter(outputs)) if len(outputs) == 1 else None
    if wanted is None or wanted not in outputs:
        problem = "has several outputs" if wanted is None else f"has no output {wanted!r}"
        known = ", ".join(
            f"{name!r} {tuple(getattr(each, 'shape', ()))}" for name, each in outputs.items()
        )
        raise ConfigError(
            f"teacher {config.path}: the network {problem}; let `output` name the logits among "
            f"{known}"
        )
    found = outputs[wanted]
    if not isinstance(found, torch.Tensor) or not found.is_floating_point():
        kind = found.dtype if isinstance(found, torch.Tensor) else type(found).__name__
        raise ConfigError(
            f"teacher {config.path}: expected logits, got {kind}; export the network without its "
            "argmax, or let `output` name the logits"
        )
    channels = config.num_channels()
    if found.ndim == 4 and found.shape[1] != channels and found.shape[3] == channels:
        found = found.permute(0, 3, 1, 2)  # of a program whose channels come last
    return found


def in_batches(network: DenseNetwork, batch: int | None) -> DenseNetwork:
    """Call a network on batches of the one number of images that it was made for; None: of any.

    A batch that is not full is filled up with its last image.
    """
    if batch is None:
        return network
    import torch

    def called(images: Tensor) -> ModelOutput:
        made = []
        for part in torch.split(images, batch):
            lacking = batch - len(part)
            full = torch.cat([part, part[-1:].expand(lacking, -1, -1, -1)]) if lacking else part
            made.append({name: grid[: len(part)] for name, grid in network(full).items()})
        return {name: torch.cat([each[name] for each in made]) for name in made[0]}

    return called
