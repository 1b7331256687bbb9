"""Layers of other widths than those that their network is built with, as pruning leaves them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    Widths = Mapping[str, tuple[int, ...]]


def widths_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the channels of every layer that can have others, by its name.

    (out, in) of convolutions and linear layers, (channels,) of batch and layer normalisation.
    """
    found: dict[str, tuple[int, ...]] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, _ConvNd):
            found[name] = (layer.out_channels, layer.in_channels)
        elif isinstance(layer, nn.Linear):
            found[name] = (layer.out_features, layer.in_features)
        elif isinstance(layer, _BatchNorm):
            found[name] = (layer.num_features,)
        elif isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1:
            found[name] = tuple(layer.normalized_shape)
    return found


def resize(network: nn.Module, widths: Widths | None) -> None:
    """Give layers other widths, and random weights: those of a file are loaded afterwards.

    Args:
        widths: as `widths_of`, of the layers that change

    Raises:
        ConfigError: there is no such layer, or it has another number of widths.
    """
    known = widths_of(network)
    for name, sizes in (widths or {}).items():
        if len(known.get(name, ())) != len(sizes):
            raise ConfigError(
                f"student.widths: {name!r} = {list(sizes)}: "
                + (f"expected {len(known[name])} numbers" if name in known else "no such layer")
                + "; they are of a network that was pruned by `stillroom prune`: give the student "
                "the kind, the architecture and the options of that one"
            )
        layer = network.get_submodule(name)
        if isinstance(layer, _ConvNd):
            _resize_convolution(layer, *sizes)
        elif isinstance(layer, nn.Linear):
            _resize_linear(layer, *sizes)
        elif isinstance(layer, _BatchNorm | nn.LayerNorm):
            _resize_norm(layer, *sizes)


def _resize_convolution(layer: _ConvNd, outputs: int, inputs: int) -> None:
    if layer.groups == layer.in_channels:  # depthwise, or of a single channel
        layer.groups = inputs
    layer.out_channels, layer.in_channels = outputs, inputs
    sides = (inputs, outputs) if layer.transposed else (outputs, inputs)
    shape = (sides[0], sides[1] // layer.groups, *layer.kernel_size)
    layer.weight = nn.Parameter(layer.weight.new_empty(shape))
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.new_empty(outputs))
    layer.reset_parameters()


def _resize_linear(layer: nn.Linear, outputs: int, inputs: int) -> None:
    layer.out_features, layer.in_features = outputs, inputs
    layer.weight = nn.Parameter(layer.weight.new_empty(outputs, inputs))
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.new_empty(outputs))
    layer.reset_parameters()


def _resize_norm(layer: _BatchNorm | nn.LayerNorm, channels: int) -> None:
    if isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = (channels,)
    else:
        layer.num_features = channels
    for name in ("weight", "bias"):
        if getattr(layer, name) is not None:
            setattr(layer, name, nn.Parameter(getattr(layer, name).new_empty(channels)))
    for name in ("running_mean", "running_var"):
        if getattr(layer, name, None) is not None:
            setattr(layer, name, getattr(layer, name).new_empty(channels))
    layer.reset_parameters()
