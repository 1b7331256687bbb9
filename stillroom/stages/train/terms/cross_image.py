"""CIRKD's terms: how pixels relate to pixels of other frames, in the batch and in a memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, PositiveInt
from torch import nn

from stillroom.stages.train.across_ranks import gathered
from stillroom.stages.train.losses import LOSSES
from stillroom.stages.train.losses.draw_pixels import draw_pixels
from stillroom.stages.train.terms.class_queue import ClassQueue, regions, some_of_each_class
from stillroom.stages.train.terms.features import FeatureTerm
from stillroom.stages.train.terms.term import Seen, Sizes, TermState
from stillroom.storage_specs.artifacts import LABELS
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


class CrossImagePixelTerm(FeatureTerm):
    """`losses.cross_image_pixel`: pixels of the batch's frames with each other.

    pixels: drawn of each frame at every step. Memory is a few times B pixels^2 floats, the work
        (B pixels)^2 A: the default is for CPUs, a GPU takes 1,024 and more
    """

    name: Literal["cross_image_pixel"]
    temperature: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    pixels: PositiveInt = 256

    def value(self, seen: Seen) -> Tensor:
        """Compare similarities on the grid of the student's layer."""
        try:
            return LOSSES[self.name](
                seen.features,
                seen.artifact(self.artifact),
                temperature=self.temperature,
                chosen=draw_pixels(seen.mask, self.pixels),
                mask=seen.mask,
            )
        except ArtifactError as error:
            raise ArtifactError(
                f"term {self.label} on stream {seen.batch.stream}: {error}"
            ) from error


class CrossImageMemoryTerm(FeatureTerm):
    """`losses.cross_image_memory`, once with remembered pixels and once with remembered regions.

    value = pixels + region_weight * regions

    Reads labels, or the teacher's pseudo labels, to know what it remembers. A frame's pixels are
    remembered after its step, so that none is compared with itself.

    region_weight: of the part with regions
    pixels: drawn of each frame at every step, to be compared with the memory
    pixel_contrast, region_contrast: vectors drawn from the memory at every step, of all classes
    pixel_memory, region_memory: vectors of each class that are kept
    remembered: pixels of each class and frame that are put into the memory
    """

    name: Literal["cross_image_memory"]
    weight: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    region_weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    temperature: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    pixels: PositiveInt = 256
    pixel_contrast: PositiveInt = 4096
    region_contrast: PositiveInt = 1024
    pixel_memory: PositiveInt = 2000
    region_memory: PositiveInt = 500
    remembered: PositiveInt = 16

    def reads(self, labelled: bool) -> frozenset[str]:
        """The teacher's features; labels, or without them its pseudo labels."""
        return super().reads(labelled) | {LABELS if labelled else self.key("pseudo_label")}

    def state(self, sizes: Sizes) -> RelationMemory:
        """Make the projection head and the empty memory."""
        channels = sizes.teacher_channels(self, self.artifact)
        return RelationMemory(
            ProjectionHead(sizes.channels(self, self.grid), channels),
            ClassQueue(sizes.classes, self.pixel_memory, channels),
            ClassQueue(sizes.classes, self.region_memory, channels),
            self.remembered,
        )

    def value(self, seen: Seen) -> Tensor:
        """Compare similarities to the memory, and note what is to be remembered."""
        memory = seen.state
        if not isinstance(memory, RelationMemory):
            raise TypeError(f"term {self.label} keeps a memory, got {memory!r}")
        mask, teacher = seen.mask, seen.artifact(self.artifact)
        student = memory.head(seen.features, mask)
        chosen = draw_pixels(mask, self.pixels)
        parts = [(1.0, memory.pixels, self.pixel_contrast)]
        if self.region_weight:
            parts.append((self.region_weight, memory.regions, self.region_contrast))
        try:
            found = [
                weight
                * LOSSES[self.name](
                    student,
                    teacher,
                    memory=queue.drawn(number),
                    temperature=self.temperature,
                    chosen=chosen,
                    mask=mask,
                )
                for weight, queue, number in parts
            ]
        except ArtifactError as error:
            raise ArtifactError(
                f"term {self.label} on stream {seen.batch.stream}: {error}"
            ) from error
        memory.note(teacher, seen.label_cells())
        return torch.stack(found).sum()


class ProjectionHead(nn.Module):
    """1x1 convolution, batch normalisation, ReLU, 1x1 convolution: to the teacher's channels."""

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, 1, bias=False),
            nn.BatchNorm2d(teacher_channels),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
        )

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """(B, A, h, w) to the teacher's channels, float32; masked cells are 0 to the weights."""
        with torch.autocast(features.device.type, enabled=False):
            projected: Tensor = self.layers(features.float().masked_fill(~mask, 0))
        return projected


class RelationMemory(TermState):
    """The head that trains, and what is remembered of the teacher's features."""

    def __init__(
        self, head: ProjectionHead, pixels: ClassQueue, regions: ClassQueue, remembered: int
    ) -> None:
        super().__init__()
        self.head = head
        self.pixels = pixels
        self.regions = regions
        self._remembered = remembered
        # Empty between steps, and so not part of the state: by queue, vectors and their classes.
        self._noted: dict[str, list[tuple[Tensor, Tensor]]] = {"pixels": [], "regions": []}

    def note(self, teacher: Tensor, labels: Tensor) -> None:
        """Draw what is to be remembered of a batch; `after_step` puts it into the queues.

        teacher: (B, A, h, w); labels: (B, h, w), 255 where there is none or the cell is masked
        """
        classes = len(self.pixels.filled)
        drawn = some_of_each_class(teacher, labels, classes, self._remembered)
        self._noted["pixels"].append(drawn)
        self._noted["regions"].append(regions(teacher, labels, classes))

    def after_step(self) -> None:
        """Remember what was noted, on all ranks the same: rank after rank."""
        for name, queue in (("pixels", self.pixels), ("regions", self.regions)):
            empty = queue.vectors.new_zeros(0, queue.vectors.shape[2])
            noted = [(empty, queue.place[:0]), *self._noted[name]]
            vectors, of = (torch.cat(parts) for parts in zip(*noted, strict=True))
            queue.put(gathered(vectors), gathered(of))
            self._noted[name].clear()
