"""CIRKD with a memory: how pixels relate to remembered pixels and regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import PositiveInt
from torch import nn

from stillroom.stages.across_ranks import ALL, gathered, mean_of_all
from stillroom.stages.train.loss_parts.masks import matched
from stillroom.stages.train.loss_parts.similarities import (
    Others,
    draw_pixels,
    summed_kl,
    unit_pixels,
)
from stillroom.stages.train.terms.class_queue import ClassQueue, regions, some_of_each_class
from stillroom.stages.train.terms.feature_term import FeatureTerm
from stillroom.stages.train.terms.term import NotNegative, Positive, TermState
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.across_ranks import Rows
    from stillroom.stages.train.terms.term import Sizes, TermInput


def cross_image_memory(
    student: Tensor,
    teacher: Tensor,
    *,
    memory: Tensor,
    there: Tensor | None = None,
    temperature: float = 0.1,
    chosen: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Compare the similarities of a pixel to remembered vectors of the teacher.

    loss = mean_i KL(p_i || q_i)
    q_i = softmax over k of s_i . m_k / T,  p_i likewise of t;  |s_i| = |t_i| = 1

    student, teacher: (B, A, H, W) features, the student's brought to the teacher's channels
    memory: (K, A) vectors m of length 1; none give a loss of 0
    there: (K,) bool, True where a vector counts; None: all of them
    temperature, chosen, mask: as of `cross_image_pixel`
    returns: () mean over the counted pixels, in nats
    memory used: a few times n K floats (n = H W without `chosen`), beside B n A and K A: frame by
        frame, as there. The work is B n K A

    Yang et al., "Cross-Image Relational Knowledge Distillation for Semantic Segmentation", CVPR
    2022, the memory-based pixel-to-pixel and pixel-to-region losses, which differ in what the
    memory holds; arXiv:2204.06986. What differs: docs/losses/cross_image.md.
    """
    student, teacher = matched(student, teacher, mask)
    if memory.ndim != 2 or memory.shape[1] != student.shape[1]:
        raise ArtifactError(
            f"the memory must be (K, {student.shape[1]}) for features of {student.shape[1]} "
            f"channels, got {tuple(memory.shape)}"
        )
    student, teacher, counted = unit_pixels(student, teacher, chosen, mask)
    memory = memory.detach().to(student.dtype)[None]  # (1, K, A): as one frame
    if there is None:
        there = torch.ones(memory.shape[1], dtype=torch.bool, device=memory.device)
    others = Others(memory, memory, there[None], temperature)
    if memory.shape[1] == 0:
        return student.sum() * 0
    return mean_of_all(summed_kl(student, teacher, counted, others), counted.sum())


class CrossImageMemoryTerm(FeatureTerm):
    """`cross_image_memory`, once with remembered pixels and once with remembered regions.

    value = pixels + region_weight * regions

    Reads labels, or the teacher's pseudo labels, to know what it remembers. A frame's pixels are
    remembered after its step, so that none is compared with itself.

    Attributes:
        region_weight: of the part with regions
        pixels: drawn of each frame at every step, to be compared with the memory
        pixel_contrast, region_contrast: vectors drawn from the memory at every step, of all classes
        pixel_memory, region_memory: vectors of each class that are kept
        remembered: pixels of each class and frame that are put into the memory
    """

    name: Literal["cross_image_memory"]
    weight: Positive = 0.1
    region_weight: NotNegative = 1.0
    temperature: Positive = 0.1
    pixels: PositiveInt = 256
    pixel_contrast: PositiveInt = 4096
    region_contrast: PositiveInt = 1024
    pixel_memory: PositiveInt = 2000
    region_memory: PositiveInt = 500
    remembered: PositiveInt = 16

    def reads(self, labelled: bool) -> frozenset[str]:
        return super().reads(labelled) | {self.label_key(labelled)}

    def state(self, sizes: Sizes) -> RelationMemory:
        channels = sizes.teacher_channels(self, self.artifact)
        return RelationMemory(
            ProjectionHead(sizes.channels(self, self.grid), channels),
            ClassQueue(sizes.classes, self.pixel_memory, channels),
            ClassQueue(sizes.classes, self.region_memory, channels),
            self.remembered,
        )

    def value(self, given: TermInput) -> Tensor:
        """Compare similarities to the memory, and note what is to be remembered."""
        memory = given.kept(RelationMemory)
        mask, teacher = given.mask, self.target(given)
        student = memory.head(given.features, mask)
        chosen = draw_pixels(mask, self.pixels, given.batch.rows)
        parts = [(1.0, memory.pixels, self.pixel_contrast)]
        if self.region_weight:
            parts.append((self.region_weight, memory.regions, self.region_contrast))
        found = []
        for weight, queue, number in parts:
            vectors, there = queue.drawn(number)
            value = cross_image_memory(
                student,
                teacher,
                memory=vectors,
                there=there,
                temperature=self.temperature,
                chosen=chosen,
                mask=mask,
            )
            found.append(weight * value)
        memory.note(teacher, given.labels_on_grid(), given.batch.rows)
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
        """Bring (B, A, h, w) to the teacher's channels, float32; masked positions count as 0."""
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

    def note(self, teacher: Tensor, labels: Tensor, rows: Rows = ALL) -> None:
        """Draw what is to be remembered of a batch; `after_step` puts it into the queues.

        Args:
            teacher: (B, A, h, w); labels: (B, h, w), 255 where there is none or it is masked
            rows: which of the batch of all ranks these are
        """
        classes = len(self.pixels.filled)
        drawn = some_of_each_class(teacher, labels, classes, self._remembered, rows)
        found = regions(teacher, labels, classes)
        for name, (vectors, of) in (("pixels", drawn), ("regions", found)):
            self._noted[name] += zip(vectors.chunk(rows.blocks), of.chunk(rows.blocks), strict=True)

    def after_step(self) -> None:
        """Remember what was noted, on all ranks the same: in the order of one that notes all."""
        for name, queue in (("pixels", self.pixels), ("regions", self.regions)):
            empty = queue.vectors.new_zeros(0, queue.vectors.shape[2])
            noted = [tuple(map(gathered, each)) for each in self._noted[name]]
            noted = [(empty, queue.place[:0]), *noted]
            vectors, of = (torch.cat(parts) for parts in zip(*noted, strict=True))
            queue.put(vectors, of)
        self.forget()

    def forget(self) -> None:
        for noted in self._noted.values():
            noted.clear()
