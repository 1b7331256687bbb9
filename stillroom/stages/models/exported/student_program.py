"""A student with all that stands around it: bytes in, labels and logits at their pixels out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from stillroom.stages.models.resized_input import resize_weights
from stillroom.stages.sources.canvas import fitted_size
from stillroom.stages.upsample import upsample_logits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from stillroom.stages.models.student import Student

    Size = tuple[int, int]  # (height, width)


class StudentProgram(nn.Module):
    """What is exported: frames of one size to their labels and logits.

    Frames of another size than the canvas are fitted into it as `to_canvas` fits them, by linear
    weights as wide as a pixel of the smaller one; logits come back bilinear.

    Args:
        student: is put into evaluation mode
        canvas: that it was trained on
        size: of the frames; the canvas's costs nothing
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, student: Student, canvas: Size, size: Size) -> None:
        super().__init__()
        self.student, self.canvas, self.size = student, canvas, size
        self.valid = fitted_size(size, canvas)
        for name, given, wanted in zip(("rows", "columns"), size, self.valid, strict=True):
            # Matrices, since not every format knows how to resize smoothly.
            self.register_buffer(name, resize_weights(given, wanted, given / wanted))
        self.eval()

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Compute labels and logits.

        Args:
            frames: (B, H, W, 3) uint8, RGB

        Returns:
            "labels" (B, H, W) uint8, and "logits" (B, C, H, W) float32
        """
        images = frames.permute(0, 3, 1, 2).float()  # (B, 3, H, W)
        if self.valid != self.size:
            images = self.rows @ images @ self.columns.T
        below, right = self.canvas[0] - self.valid[0], self.canvas[1] - self.valid[1]
        if below or right:
            images = F.pad(images, (0, right, 0, below))
        logits = upsample_logits(self.student(images).logits, self.student.stride, self.canvas)
        if self.valid != self.size:
            logits = F.interpolate(
                logits[:, :, : self.valid[0], : self.valid[1]], self.size, mode="bilinear"
            )
        return {"labels": logits.argmax(1).to(torch.uint8), "logits": logits}


def runner(program: nn.Module, device: str) -> Callable[[Tensor], Mapping[str, Tensor]]:
    """Return what runs a program on a device, on frames from wherever they are."""
    program.to(device)

    @torch.inference_mode()
    def run(frames: Tensor) -> Mapping[str, Tensor]:
        made: Mapping[str, Tensor] = program(frames.to(device))
        return made

    return run
