"""The frames of one stream in one training step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from stillroom.stages.across_ranks import ALL
from stillroom.stages.train.mix import pasted
from stillroom.stages.train.sample import Sample, Triplet
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

    from stillroom.stages.across_ranks import Rows
    from stillroom.stages.train.mix import Mix


@dataclass
class Triplets:
    """How the frames of a batch that come from clips lie in one another.

    Such a batch holds T triplets, 3 T frames, each triplet on one view: T frames of the stream
    itself first, then the T before them, then the T after.

    Attributes:
        frames: (T, 3) int64, places in the batch: before, itself, after
        pairs: (P, 2) int64, places in the batch: a frame and its partner
        flow: (P, 2, H, W) float32, frame -> partner, in pixels of the images
        visible: (P, 1, H, W) bool, True where the partner is known to show the frame's pixel too:
            its target lies on the partner's view, and the flow back, if that is cached, ends where
            it began
    """

    frames: Tensor
    pairs: Tensor
    flow: Tensor
    visible: Tensor

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Triplets:
        """Return the same of other tensors."""
        return Triplets(*map(change, (self.frames, self.pairs, self.flow, self.visible)))


@dataclass
class Batch:
    """Frames of one stream and all that follows them, on one view per frame.

    B frames of H x W pixels; (h, w) = (ceil(H / stride), ceil(W / stride)) at the student's stride.

    Attributes:
        stream: name of the stream in the run file
        labelled: whether the stream's own labels, or other targets, are used; False: only teachers'
            outputs are
        images: (B, 3, H, W) float32, RGB 0..255
        labels: (B, H, W) int64, 255 where there is none; None on a stream without
        targets: the stream's other targets, by name: "depth" (B, 1, H, W) float32 in metres, less
            where the view enlarges, and "normals" (B, 3, H, W) float32, unit vectors x right, y
            down, z forward; 0 where there is none, as everywhere in a frame that lacks it; "boxes"
            (B, N, 5) float32, x0, y0, x1, y1 in pixels and class, -1 in rows beyond the last
        mask: (B, 1, h, w) bool, True where a position shows the frame (in the canvas and valid)
        artifacts: by key "<teacher>/<artifact>": "fpn/logits" (B, C, h, w), "fpn/features/<layer>"
            (B, A, h, w), "fpn/confidence" (B, 1, h, w) in 0..1, "fpn/depth" (B, 1, h, w) in metres,
            0: no value, all floating; "fpn/pseudo_label" (B, H, W) int64, 255 where the teacher was
            not confident; "fpn/pixel_confidence" (B, 1, H, W) in 0..1; "fpn/features/<layer>@16"
            and its like on a grid of stride 16
        masks: as `mask`, for other grids that artifacts are on, by stride; of clips also at 1
        frame_ids: B names, for messages
        triplets: of a stream of clips, how its frames lie in one another; None of single frames
        rows: which frames these are of the batch that ranks share
        mix: what of its frames is still to be pasted into one another
        unlit: `images` before their jitter, where they have one and a teacher runs in the step
    """

    stream: str
    labelled: bool
    images: Tensor
    labels: Tensor | None
    mask: Tensor
    artifacts: dict[str, Tensor] = field(default_factory=dict)
    masks: dict[int, Tensor] = field(default_factory=dict)
    frame_ids: list[str] = field(default_factory=list)
    triplets: Triplets | None = None
    rows: Rows = ALL
    targets: dict[str, Tensor] = field(default_factory=dict)
    mix: Mix | None = None
    unlit: Tensor | None = None

    def __post_init__(self) -> None:
        if self.labelled and self.labels is None and not self.targets:
            raise ArtifactError(f"stream {self.stream!r} is labelled, and its batch has no labels")

    @property
    def clips(self) -> bool:
        """Whether its frames are triplets of clips."""
        return self.triplets is not None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the same batch with every tensor on `device`."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the same batch in memory that a GPU reads by itself."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            images=change(self.images),
            labels=None if self.labels is None else change(self.labels),
            targets={name: change(value) for name, value in self.targets.items()},
            mask=change(self.mask),
            artifacts={key: change(value) for key, value in self.artifacts.items()},
            masks={stride: change(value) for stride, value in self.masks.items()},
            triplets=self.triplets and self.triplets.mapped(change),
            unlit=None if self.unlit is None else change(self.unlit),
        )

    def mixed(self) -> Batch:
        """Return the same with its frames pasted into one another, where that is still to be."""
        if self.mix is None:
            return self
        how, covered = self.mix.how, self.mix.covered(self.images, self.artifacts)
        return replace(
            self,
            images=pasted(self.images, covered, 1),
            mask=pasted(self.mask, covered, how.stride),
            artifacts={
                key: pasted(value, covered, how.stride_of(key))
                for key, value in self.artifacts.items()
            },
            masks={stride: pasted(value, covered, stride) for stride, value in self.masks.items()},
            mix=None,
        )

    def sample(self, place: int) -> Sample:
        """Return one of its frames: views of the batch."""
        return Sample(
            frame_id=self.frame_ids[place],
            image=self.images[place],
            label=None if self.labels is None else self.labels[place],
            targets={name: value[place] for name, value in self.targets.items()},
            mask=self.mask[place],
            artifacts={key: value[place] for key, value in self.artifacts.items()},
            masks={stride: value[place] for stride, value in self.masks.items()},
        )

    def triplet(self, place: int) -> Triplet:
        """Return one of the T triplets of a batch of clips: views of the batch, but for the flow.

        Raises:
            ArtifactError: its frames are single ones
        """
        if self.triplets is None:
            raise ArtifactError(f"the batch of stream {self.stream!r} has no triplets")
        count = len(self.triplets.frames)
        sides = [place, place + count]
        return Triplet(
            samples=tuple(self.sample(place + k * count) for k in range(3)),
            flow=self.triplets.flow[sides],
            visible=self.triplets.visible[sides],
        )

    def mask_at(self, stride: int, usual: int) -> Tensor:
        """Return the mask (B, 1, h, w) of a grid; `usual` is the stride of `mask` itself.

        Raises:
            ArtifactError: where no artifact is on such a grid
        """
        if stride == usual:
            return self.mask
        if stride not in self.masks:
            raise ArtifactError(
                f"the batch of stream {self.stream!r} has masks at strides "
                f"{sorted({usual, *self.masks})}, and none at {stride}"
            )
        return self.masks[stride]
