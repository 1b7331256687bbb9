"""Students: the small networks that stage two trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stillroom.stages.models.dense_network import PENULTIMATE, crop, measure_grids
from stillroom.stages.models.headed_network import HIDDEN, add_heads, by_task
from stillroom.stages.models.idle_layers import freeze_idle
from stillroom.stages.models.task_heads import SegmentationHead
from stillroom.storage_specs.artifacts import FEATURES, LOGITS
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from stillroom.stages.models.dense_network import ModelOutput, Normalise
    from stillroom.stages.models.task_heads import HeadSettings
    from stillroom.stages.models.weights import EncoderFit

ENCODERS = ("encoder", "backbone")  # what networks call it


@dataclass
class StudentOutput:
    """The output of a student for a batch.

    Attributes:
        grids: by name: "logits" (B, C, h, w), h = ceil(H / stride), and what its other heads give,
            as "depth" (B, 1, h, w) in metres, and "features/<layer>" (B, A, h', w')
    """

    grids: ModelOutput

    @property
    def logits(self) -> Tensor:
        """(B, C, h, w), of the head of segmentation."""
        return self.grids[LOGITS]

    @property
    def features(self) -> dict[str, Tensor]:
        """By layer, (B, A, h', w')."""
        before = f"{FEATURES}/"
        return {k.removeprefix(before): v for k, v in self.grids.items() if k.startswith(before)}

    def mapped(self, change: Callable[[Tensor], Tensor]) -> StudentOutput:
        """Return the same of other tensors."""
        return StudentOutput({name: change(grid) for name, grid in self.grids.items()})


class Student(nn.Module):
    """A network with the preparation of its input.

    Attributes:
        network: the bare network; its state_dict is what is exported, and what a teacher of the
            same architecture loads
        num_classes: C; 0 of a student without a head of segmentation
        heads: by task; the first is the network's own
        strides, channels: pixels of an image to one grid position, and channels, for what each head
            gives, and each "features/<layer>"
        stride: of what the first head gives
        encoder_fit: how the pretrained encoder weights fitted, if there were any
        idle_parameters: how many no output depends on; they are frozen, and not counted as the
            student's
    """

    def __init__(
        self,
        network: nn.Module,
        normalise: Normalise,
        num_classes: int,
        run: Callable[[nn.Module, Tensor], ModelOutput],
        classifier_weight: Callable[[nn.Module], Tensor],
    ) -> None:
        super().__init__()
        self.network = network
        self.normalise = normalise
        self.num_classes = num_classes
        self.heads: Mapping[str, HeadSettings] = {SegmentationHead.task: SegmentationHead()}
        self.encoder_fit: EncoderFit | None = None
        self.idle_parameters = 0
        self._frozen_norm: str | None = None
        # Functions of the network, not bound to it: a deep copy then runs its own weights.
        self._run = run
        self._classifier_weight = classifier_weight
        network.eval()
        grids = measure_grids(lambda images: run(network, images), normalise.pad, num_classes)
        grids = {LOGITS: grids[LOGITS], **grids}
        self.strides = {name: grid.stride for name, grid in grids.items()}
        self.channels = {name: grid.channels for name, grid in grids.items()}
        network.train()

    def take_heads(self, heads: Mapping[str, HeadSettings], num_classes: int) -> None:
        """Give the network's own classifier to the first task, and every other one a convolution.

        Each is 3x3, from the penultimate features.

        Args:
            heads: by task
            num_classes: C

        Raises:
            ConfigError: there is more than one, and the network does not show such features.
        """
        self.heads, self.num_classes = dict(heads), num_classes
        (_, first), *others = heads.items()
        if others and HIDDEN not in self.channels:
            raise ConfigError(
                f"student.heads: {', '.join(task for task, _ in others)} would read its "
                f"{PENULTIMATE} features, and {type(self.network).__name__} shows none; leave one "
                "head, or take another student"
            )
        given = _shapes(first, self.channels.pop(LOGITS), self.strides.pop(LOGITS))
        if others:
            inside, stride = self.channels[HIDDEN], self.strides[HIDDEN]
            add_heads(self.network, heads, inside, num_classes)
            for _, head in others:
                given |= _shapes(head, head.channels(num_classes), stride)
        if not given:
            self._freeze_classifier()
        self.channels = {name: channels for name, (channels, _) in given.items()} | self.channels
        self.strides = {name: stride for name, (_, stride) in given.items()} | self.strides

    def _freeze_classifier(self) -> None:
        """Take what no feature depends on out of training.

        Raises:
            ConfigError: the network shows no features.
        """
        if not self.channels:
            raise ConfigError(
                f"student.heads.features: {type(self.network).__name__} shows no features; take "
                "another student"
            )
        was_training = self.network.training
        side = self.normalise.pad * -(-128 // self.normalise.pad)
        output = self._run(self.network.eval(), torch.zeros(1, 3, side, side))
        self.network.train(was_training)
        features = [grid for name, grid in output.items() if name in self.channels]
        self.idle_parameters += freeze_idle(self.network, features)

    @property
    def stride(self) -> int:
        """Pixels of an image to a grid position of what its first head gives, or first layer."""
        return usual_stride(self.strides)

    @property
    def classifier_weight(self) -> Tensor:
        """The classifier's weights of the penultimate features, (C, A).

        A classifier with a window of k x k counts as the sum over it: its response to features that
        are alike in the whole window.

        Raises:
            ConfigError: a user's own network has no such attribute.
        """
        return self._classifier_weight(self.network)

    @property
    def encoder(self) -> str | None:
        """Name of the part of the network that is its encoder; None where none is called so."""
        parts = dict(self.network.named_children())
        return next((name for name in ENCODERS if name in parts), None)

    def freeze_norm(self, part: str | None) -> None:
        """Keep batch normalisation in evaluation mode from now on, whatever `train` is told.

        It goes by the running statistics that it has, and changes them no more; scale and shift
        still learn.

        Args:
            part: "encoder" or "all" of the network; None lets all of it train

        Raises:
            ConfigError: there is no batch normalisation in it.
        """
        self._frozen_norm = part
        if part is not None and not any(True for _ in self._frozen()):
            raise ConfigError(
                f"train.freeze_norm: there is no batch normalisation in {part!r} of the student "
                f"{type(self.network).__name__}; leave it out"
            )

    def train(self, mode: bool = True) -> Self:
        """Set the mode of every part but the normalisation that is frozen."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def _frozen(self) -> Iterator[nn.Module]:
        if self._frozen_norm is not None:
            part = "" if self._frozen_norm == "all" else self.encoder
            inside = () if part is None else self.network.get_submodule(part).modules()
            yield from (each for each in inside if isinstance(each, _BatchNorm))

    def forward(self, images: Tensor) -> StudentOutput:
        """Compute what the heads give, and features, of a batch.

        Args:
            images: (B, 3, H, W) RGB, 0..255

        Raises:
            ArtifactError: images of another shape.
            ConfigError: the network's grids do not follow the size of the images.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ArtifactError(f"images: expected (B, 3, H, W), got {tuple(images.shape)}")
        padded = self.normalise(images)
        output = by_task(self.network, self.heads, self._run(self.network, padded))
        return StudentOutput(crop(output, self.strides, padded, images.shape[-2], images.shape[-1]))


def usual_stride(strides: Mapping[str, int]) -> int:
    """Return the stride of what a student's first head gives, of those of all its grids."""
    return next(iter(strides.values()))


def _shapes(head: HeadSettings, channels: int, stride: int) -> dict[str, tuple[int, int]]:
    """Channels and strides of what a head gives."""
    given = head.outputs(torch.zeros(1, channels, 1, 1))
    return {name: (grid.shape[1], stride) for name, grid in given.items()}
