"""Pruning by network slimming: the channels whose batch normalisation scales least are removed.

Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, section
3: one threshold for all layers. arXiv:1708.06519. What must go together (a residual sum, a
concatenation, a depthwise convolution) is found by torch-pruning: Fang et al., "DepGraph: Towards
Any Structural Pruning", CVPR 2023. arXiv:2301.12900
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from stillroom.stages.models.headed_network import HEADS
from stillroom.stages.models.widths import widths_of
from stillroom.storage_specs.artifacts import FEATURES
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stillroom.stages.models.student import Student

MOST = 0.9  # of the channels of a layer, so that none is left without any


def prune(student: Student, ratio: float, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Remove channels from a student's network, in place.

    Args:
        ratio: of the channels that batch normalisation scales, above 0 and below 1
        size: (height, width) of an image to follow through the network

    Returns:
        the widths of the layers that have others now, by name

    Raises:
        ConfigError: the network cannot be pruned so, and why.
    """
    network, name = student.network, type(student.network).__name__
    if not 0 < ratio < 1:
        raise ConfigError(f"ratio {ratio}: expected a share of the channels above 0 and below 1")
    if channels_of(network) == 0:
        raise ConfigError(
            f"student {name}: it has no batch normalisation, whose scales say what to prune"
        )
    before = widths_of(network)
    for output, channels in _without(student.eval(), ratio, size).items():
        if output.partition("/")[0] != FEATURES and channels != student.channels[output]:
            raise ConfigError(
                f"student {name}: it cannot be pruned: its {output} would have {channels} "
                f"channels, not {student.channels[output]}, since batch normalisation scales them"
            )
    changed = {
        layer: sizes
        for layer, sizes in widths_of(network).items()
        if sizes != before[layer] and not layer.startswith(f"{HEADS}.")  # they follow by themselves
    }
    if not changed:
        raise ConfigError(
            f"student {name}: at ratio {ratio} nothing of it can be pruned; raise the ratio, or "
            "take another architecture"
        )
    return changed


def _without(student: Student, ratio: float, size: tuple[int, int]) -> dict[str, int]:
    """Remove the channels; returns those of what the student gives then.

    Raises:
        ConfigError: they cannot be followed through the network.
    """
    images = torch.zeros(1, 3, *size)
    try:
        _remove(student, images, ratio)
        with torch.no_grad():
            return {name: grid.shape[1] for name, grid in student(images).grids.items()}
    except ModuleNotFoundError:
        raise
    except Exception as error:  # of a foreign network, or of what follows its operators
        raise ConfigError(
            f"student {type(student.network).__name__}: it cannot be pruned, since its channels "
            f"cannot be followed through it ({type(error).__name__}: {error}); take another "
            "architecture"
        ) from error


def apart(one: Student, other: Student, size: tuple[int, int]) -> float:
    """Return the largest difference of what two students give of one image of a size."""
    images = 255 * torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = [student.eval()(images).grids.values() for student in (one, other)]
    return max(float((a - b).abs().max()) for a, b in zip(*found, strict=True))


def channels_of(network: nn.Module) -> int:
    """Count the channels that batch normalisation scales, of layers that an output depends on."""
    norms = (one for one in network.modules() if isinstance(one, _BatchNorm) and one.affine)
    return sum(one.num_features for one in norms if one.weight.requires_grad)


def _remove(student: Student, images: Tensor, ratio: float) -> None:
    import torch_pruning

    idle = [one for one in student.network.modules() if _is_frozen(one)]
    seen: list[Tensor] = []  # of layers that run, and that no output leads back to

    def outputs(_: nn.Module, images: Tensor) -> list[Tensor]:
        seen.clear()
        return [*student(images).grids.values(), *seen]

    hooks = [one.register_forward_hook(lambda _, __, output: seen.append(output)) for one in idle]
    with torch.enable_grad():
        pruner = torch_pruning.pruner.BNScalePruner(
            student.network,
            images,
            importance=torch_pruning.importance.BNScaleImportance(),
            global_pruning=True,
            pruning_ratio=ratio,
            max_pruning_ratio=MOST,
            ignored_layers=idle,
            forward_fn=outputs,
        )
        pruner.step()
    for hook in hooks:
        hook.remove()


def _is_frozen(layer: nn.Module) -> bool:
    own = list(layer.parameters(recurse=False))
    return bool(own) and not any(parameter.requires_grad for parameter in own)
