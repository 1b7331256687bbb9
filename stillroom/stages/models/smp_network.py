"""Networks of segmentation-models-pytorch, for teachers and students.

Its heads are classifier convolution, upsampling, activation. Only the convolution is run: logits
are cached and compared on the decoder's own grid. "penultimate" is what the convolution reads,
"stage1".."stage5" what the encoder hands to the decoder.

SMP's heads upsample with align_corners=True; here a grid position is the square of pixels below it,
which is align_corners=False. For weights trained through SMP's own head the two agree in the middle
of a frame and are up to half a grid position apart at its border.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.stages.models.weights import load_weights
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from stillroom.stages.models.dense_network import ModelOutput

Architecture = Literal[
    "DeepLabV3", "DeepLabV3Plus", "FPN", "Linknet", "MAnet", "PAN", "PSPNet", "Segformer",
    "UPerNet", "Unet", "UnetPlusPlus",
]  # fmt: skip
LOG = logging.getLogger(__name__)
ARCHITECTURES: tuple[str, ...] = get_args(Architecture)
CLASSIFIER = "segmentation_head.0.weight"
OUTPUT_STRIDE = "output_stride"  # of a dilated encoder: an option of every architecture
AUXILIARY = "classification_head."  # of whole images, for training only; passed over in a file

# Options that other keys of the section state, or that logits on the decoder's grid do not have.
RESERVED = {
    "encoder_name": "the key `encoder` says it",
    "encoder_weights": "weights are local files: see `weights` and `encoder_weights`",
    "classes": "the key `classes` says it",
    "in_channels": "frames are RGB",
    "activation": "logits are what is cached and compared",
    "aux_params": "there is no image-level classifier here",
}


@dataclass(frozen=True)
class SmpDesign:
    """The arguments of an SMP network."""

    architecture: str
    encoder: str
    classes: int
    options: Mapping[str, Any] = field(default_factory=dict)


def build_smp(design: SmpDesign) -> nn.Module:
    """Build an SMP network with random weights; nothing is downloaded.

    Raises:
        ConfigError: no such architecture, encoder or option, or values that do not go together.
    """
    import_torchvision()
    import segmentation_models_pytorch as smp

    if design.architecture not in ARCHITECTURES:
        raise ConfigError(
            f"no SMP architecture {design.architecture!r}; known: {', '.join(ARCHITECTURES)}"
        )
    make = getattr(smp, design.architecture)
    _check_options(design, inspect.signature(make.__init__).parameters)
    _check_encoder(design.encoder)
    try:
        with third_party_warnings_silenced():
            network: nn.Module = make(
                encoder_name=design.encoder,
                encoder_weights=None,
                classes=design.classes,
                activation=None,
                **design.options,
            )
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        raise ConfigError(
            f"SMP {design.architecture} with encoder {design.encoder!r} and options "
            f"{dict(design.options)} cannot be built: {error}"
        ) from error
    if OUTPUT_STRIDE in design.options:
        _demand_fit(network, design)
    return network


def load_smp_weights(network: nn.Module, file: Path, key: str | None, classes: int) -> None:
    """Load the weights of a whole network; those of an image-level head are passed over.

    Args:
        file: .safetensors or .pth
        key: where in the file they are, if it holds several such networks
        classes: of the network, for the message where the file has others

    Raises:
        WeightsError: they are unreadable, not finite, or belong to another network.
    """
    load_weights(network, file, key=key, classifier=(CLASSIFIER, classes), skip=(AUXILIARY,))


def forward_smp(network: Any, images: Tensor) -> ModelOutput:
    """Compute logits before upsampling, the classifier's input, and the encoder's stages.

    Args:
        images: (B, 3, H, W) normalised; sides are multiples of `pad_multiple(network)`
    """
    from stillroom.stages.models.dense_network import PENULTIMATE, with_layers

    stages: list[Tensor] = network.encoder(images)
    penultimate: Tensor = network.decoder(list(stages))  # (B, A, h, w)
    logits: Tensor = network.segmentation_head[0](penultimate)  # (B, C, h, w)
    features = {PENULTIMATE: penultimate}
    # The first entry is the image itself; some encoders fill a scale they lack with 0 channels.
    features |= {f"stage{i}": stage for i, stage in enumerate(stages) if i and stage.shape[1]}
    return with_layers(features, logits=logits)


def pad_multiple(network: Any) -> int:
    """Return what both sides of the input must be multiples of, in pixels."""
    return int(network.encoder.output_stride)


def classifier_of(network: Any) -> nn.Conv2d:
    """Return the convolution from penultimate features to logits."""
    classifier: nn.Conv2d = network.segmentation_head[0]
    return classifier


def freeze_idle_layers(network: Any, *, depth_stated: bool = False) -> int:
    """Take parameters that no output depends on out of training; return how many, and say so.

    Nothing is said where the depth of the encoder was stated: a shallow one is meant then.

    A shallow encoder keeps its deeper blocks, for the names of its weights' sake.
    """
    import torch

    from stillroom.stages.models.idle_layers import freeze_idle

    side = max(128, pad_multiple(network))
    was_training = network.training
    output = forward_smp(network.eval(), torch.zeros(1, 3, side, side))
    network.train(was_training)
    count = freeze_idle(network, output.values())
    if count and not depth_stated:
        LOG.warning(
            "%s: %.1f M of its %.1f M parameters never run, since no output depends on them; where "
            "that is not meant, state another encoder_depth (the papers' PSPNet has "
            "encoder_depth = 5 and the option output_stride = 8)",
            type(network).__name__,
            count / 1e6,
            sum(parameter.numel() for parameter in network.parameters()) / 1e6,
        )
    return count


@contextmanager
def third_party_warnings_silenced() -> Iterator[None]:
    """Hide SMP's and timm's own warnings about their old names and options."""
    with warnings.catch_warnings():
        for package in ("segmentation_models_pytorch", "timm"):
            for category in (DeprecationWarning, FutureWarning, UserWarning):
                warnings.filterwarnings("ignore", category=category, module=rf"{package}\b")
        yield


def _check_options(design: SmpDesign, parameters: Mapping[str, Any]) -> None:
    """Compare options with SMP's signature: SMP itself ignores unknown ones."""
    known = [name for name in parameters if name not in {*RESERVED, "self", "kwargs"}]
    if "kwargs" in parameters and "encoder_output_stride" not in parameters:
        known.append(OUTPUT_STRIDE)  # it goes on to the encoder, which is dilated from there on
    for name in design.options:
        if name in RESERVED:
            raise ConfigError(f"options.{name}: not an option here; {RESERVED[name]}")
        if name not in known:
            raise ConfigError(
                f"options.{name}: SMP {design.architecture} has no such option"
                + _nearest(name, known)
            )


def _demand_fit(network: nn.Module, design: SmpDesign) -> None:
    """Refuse a dilated encoder whose stages the decoder cannot join.

    Raises:
        ConfigError: they differ in size from what it was made for.
    """
    import torch

    was_training = network.training
    try:
        with torch.no_grad():
            forward_smp(network.eval(), torch.zeros(1, 3, 128, 128))
    except RuntimeError as error:
        raise ConfigError(
            f"options.{OUTPUT_STRIDE} = {design.options[OUTPUT_STRIDE]}: the decoder of SMP "
            f"{design.architecture} joins stages of halving size, which a dilated encoder does not "
            "have; leave it out, or take PSPNet, UPerNet, Segformer or DeepLabV3"
        ) from error
    network.train(was_training)


def _check_encoder(encoder: str) -> None:
    import segmentation_models_pytorch as smp
    import timm

    names: Sequence[str] = smp.encoders.get_encoder_names()
    if encoder.startswith("tu-"):
        if timm.is_model(encoder.removeprefix("tu-")):
            return
        names = [f"tu-{name}" for name in timm.list_models()]
    elif encoder in names:
        return
    raise ConfigError(f"no SMP encoder {encoder!r}" + _nearest(encoder, names))


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; known: {', '.join(known)}" if len(known) < 40 else ""
