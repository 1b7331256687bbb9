"""Names of an encoder's tensors as timm has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from stillroom.stages.models.torchvision_import import import_torchvision

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

TIMM = "tu-"  # in front of timm's name of an SMP network's encoder, which wraps it
WRAPPED = "model."


def timm_state(encoder: nn.Module, name: str) -> dict[str, Tensor]:
    """Return an encoder's tensors, by the names that `timm.create_model` has for them.

    One that does not wrap timm's keeps its names: those of SMP or torchvision.

    Args:
        name: of the encoder in its section
    """
    state = encoder.state_dict()
    if not name.startswith(TIMM):
        return dict(state)
    own = _own_names(name.removeprefix(TIMM))
    return {
        own.get(inner, inner): tensor
        for inner, tensor in ((key.removeprefix(WRAPPED), state[key]) for key in state)
    }


def from_timm(found: Mapping[str, Tensor], encoder: nn.Module, name: str) -> Mapping[str, Tensor]:
    """Rename tensors that have timm's names as the encoder has them, where these are others.

    Args:
        found: of a file; other names stay
        name: of the encoder in its section
    """
    if not name.startswith(TIMM):
        return found
    mine = encoder.state_dict()
    names = {
        own: inner
        for inner, own in _own_names(name.removeprefix(TIMM)).items()
        if inner != own and WRAPPED + inner in mine
    }
    return {names.get(key, key): tensor for key, tensor in found.items()}


def _own_names(architecture: str) -> dict[str, str]:
    """Return timm's names by those of its networks for features, as stages.0 by stages_0."""
    import_torchvision()
    import timm

    with torch.device("meta"):  # for its names alone
        names = list(timm.create_model(architecture, pretrained=False).state_dict())
    return {**{name.replace(".", "_", 1): name for name in names}, **{name: name for name in names}}
