"""What teachers' and students' networks have in common: normalised images in, grids out.

A `ModelOutput` has "logits" (B, C, h, w), "features/<layer>" (B, A, h', w') and other outputs that
artifacts are made from, as "depth" (B, h, w): before any upsampling to the input's size, as the
network computed them. The stride of each grid is measured by a forward pass on an image whose sides
differ, and must be exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from stillroom.stages.models.class_mapping import binary_hint
from stillroom.storage_specs.artifacts import ARTIFACTS, FEATURES, LOGITS, artifact_of
from stillroom.storage_specs.errors import ConfigError, StillroomError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    ModelOutput = dict[str, Tensor]
    DenseNetwork = Callable[[Tensor], ModelOutput]

PENULTIMATE = "penultimate"
OUTPUTS = tuple(dict.fromkeys(row.output for row in ARTIFACTS.values() if row.output is not None))


@dataclass(frozen=True)
class TeacherNetwork:
    """A teacher's network as its loader returns it.

    Attributes:
        module: what is moved to a device and set to eval; None for a bare callable
        forward: normalised images to named grids, through `module`
        multiple: pixels that both sides of the input must be multiples of
        channels_last: whether it takes its input in that order, see `Normalise`
        own_logits: normalised images to logits at their size, upsampled as the network itself does
            it; None where it does not
        made_for: (height, width) of input that its files name, if they do
        device: where it runs already; None: where the section says
    """

    module: nn.Module | None
    forward: DenseNetwork
    multiple: int
    channels_last: bool
    own_logits: Callable[[Tensor], Tensor] | None = None
    made_for: tuple[int, int] | None = None
    device: str | None = None


def with_layers(layers: Mapping[str, Tensor], **grids: Tensor) -> ModelOutput:
    """Name the grids of layers, and put them behind the others."""
    return {**grids, **{f"{FEATURES}/{layer}": grid for layer, grid in layers.items()}}


def as_model_output(output: Any) -> ModelOutput:
    """Name the grids that a user's network returned: logits, or a dict of grids.

    Raises:
        ConfigError: something else.
    """
    if isinstance(output, torch.Tensor):
        return {LOGITS: output}
    if isinstance(output, dict) and output and set(output) <= set(OUTPUTS):
        grids = dict(output)
        layers = grids.pop(FEATURES, {})
        if isinstance(layers, dict):
            found = with_layers(layers, **grids)
            if all(isinstance(grid, torch.Tensor) for grid in found.values()):
                return found
    keys = f" of {sorted(map(str, output))}" if isinstance(output, dict) else ""
    others = "".join(f', or "{name}"' for name in OUTPUTS if name not in (LOGITS, FEATURES))
    raise ConfigError(
        'a network must return logits (B, C, h, w), or a dict of "logits" and "features" '
        f"(tensors by layer){others}; got {type(output).__name__}{keys}"
    )


class Normalise(nn.Module):
    """(x - mean) / std per channel, then zeros below and to the right up to a multiple of `pad`.

    Args:
        channels_last: order of the result in memory; convolutions on a CPU are a third faster with
            it, but a network that calls `view` on its input wants the usual order
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], pad: int, *, channels_last: bool
    ) -> None:
        super().__init__()
        self.pad = pad
        self.order = torch.channels_last if channels_last else torch.contiguous_format
        # They come from the config every time, so a checkpoint need not repeat them.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Bring images (B, 3, H, W) RGB 0..255 of any dtype to (B, 3, H', W') float32."""
        images = (images.float() - self.mean) / self.std
        below, right = -images.shape[-2] % self.pad, -images.shape[-1] % self.pad
        if below or right:
            images = nn.functional.pad(images, (0, right, 0, below))
        return images.contiguous(memory_format=self.order)


def crop(
    output: ModelOutput, strides: Mapping[str, int], images: Tensor, height: int, width: int
) -> ModelOutput:
    """Cut padding off the grids: (ceil(height / stride), ceil(width / stride)) is left.

    Args:
        images: what the network was given, padded
        height, width: without the padding

    Raises:
        ConfigError: a grid does not follow the size of the input, as that of a network whose
            grids have one fixed size.
    """
    cut = {}
    for name, grid in output.items():
        stride = strides[name]
        expected = (images.shape[-2] // stride, images.shape[-1] // stride)
        if tuple(grid.shape[-2:]) != expected:
            raise ConfigError(
                f"{name}: an input of {images.shape[-2]}x{images.shape[-1]} gives a grid of "
                f"{'x'.join(map(str, grid.shape[-2:]))} cells, expected "
                f"{'x'.join(map(str, expected))} at its stride of {stride}; let the network take "
                "inputs of any size, or choose a canvas of the size that it was made for"
            )
        cut[name] = grid[..., : -(-height // stride), : -(-width // stride)]
    return cut


class Grid(NamedTuple):
    """A network's output: channels, and pixels of input to one grid position."""

    channels: int
    stride: int


def measure_grids(
    network: DenseNetwork,
    pad: int,
    classes: int | None,
    device: str = "cpu",
    size: tuple[int, int] | None = None,
) -> dict[str, Grid]:
    """Measure each grid of a network's output, by a dry forward.

    The network must be in eval mode; nothing about it changes.

    Args:
        classes: that its logits must have; None where that is not known
        size: (height, width) that it will be called on, before padding; None tries one that any
            network should take

    Raises:
        ConfigError: the network fails on sides that are multiples of `pad`, its number of classes
            is another, or a grid does not divide the input exactly.
    """
    least = pad * -(-128 // pad)  # decoders that pool the deepest grid need some of it
    height, width = size or (least, least + pad)
    height, width = pad * -(-height // pad), pad * -(-width // pad)
    filled = "" if size in (None, (height, width)) else f" ({size[0]}x{size[1]}, filled up)"
    try:
        output = _on_zeros(network, (height, width), device)
    except StillroomError:
        raise
    except Exception as error:  # of a foreign network: asserts, shapes, its own checks
        raise ConfigError(
            f"the network fails on an input of {height}x{width}, multiples of pad={pad}{filled}: "
            f"{type(error).__name__}: {error}\n  a network that was made for one size takes a "
            "teacher's `size = [H, W]`, or a canvas of that size and a `pad` that divides it"
        ) from error
    logits = output.get(LOGITS)
    if logits is not None and (logits.ndim != 4 or logits.shape[1] != (classes or logits.shape[1])):
        raise ConfigError(
            f"the network gives logits of shape {tuple(logits.shape)}; "
            f"expected (B, {classes or 'C'}, h, w) for {classes or 'C'} classes"
            + binary_hint(logits.shape[1] if logits.ndim == 4 else 0, classes or 0)
        )
    if height == width:
        _demand_upright(network, (least, least + pad), device)
    return {
        name: Grid(1 if grid.ndim == 3 else grid.shape[1], _exact_stride(name, grid, height, width))
        for name, grid in output.items()
    }


def _on_zeros(network: DenseNetwork, size: tuple[int, int], device: str) -> ModelOutput:
    with torch.no_grad():
        return network(torch.zeros(1, 3, *size, device=device))


def _demand_upright(network: DenseNetwork, size: tuple[int, int], device: str) -> None:
    """Refuse grids whose rows are columns of the image, which a square one does not show.

    Args:
        size: (height, width) that differ; a network that does not take it passes

    Raises:
        ConfigError: a grid lies on its side.
    """
    height, width = size
    try:
        output = _on_zeros(network, size, device)
    except Exception:  # a network of one size
        return
    for name, grid in output.items():
        if grid.shape[-2] * height == grid.shape[-1] * width:
            raise ConfigError(
                f"{name}: a grid of shape {tuple(grid.shape)} from an input of {height}x{width} "
                "has height and width exchanged; expected (..., h, w)"
            )


def _exact_stride(name: str, grid: Tensor, height: int, width: int) -> int:
    if grid.ndim == 1 + len(artifact_of(name).axes):
        stride = height // grid.shape[-2]
        if (grid.shape[-2] * stride, grid.shape[-1] * stride) == (height, width):
            return stride
    raise ConfigError(
        f"{name}: a grid of shape {tuple(grid.shape)} from an input of {height}x{width} has no "
        "whole stride; choose a `pad`, or a `size`, that every level of the network divides"
    )
