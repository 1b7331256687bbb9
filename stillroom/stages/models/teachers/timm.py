"""Teachers of features from timm, with local weights."""

from __future__ import annotations

import difflib
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stillroom.stages.models.model_settings import WeightsKey
from stillroom.stages.models.teacher_settings import TeacherSettings
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.stages.models.weights import load_weights
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.models.dense_network import ModelOutput, TeacherNetwork

LOG = logging.getLogger(__name__)
NEAR = 0.5  # of 255: means and deviations that are one but for rounding
RESERVED = {
    "pretrained": "weights are local files: see `weights`",
    "checkpoint_path": "the key `weights` says it",
    "num_classes": "features alone are made",
    "in_chans": "frames are RGB",
    "features_only": "the last features are made",
}


class TimmTeacherConfig(TeacherSettings):
    """A classifier or image encoder of timm without its head. Layers: "penultimate".

    Attributes:
        architecture: timm's name, as "vit_small_patch14_dinov2"
        weights: state_dict with timm's names, .safetensors or .pth, with or without a head; without
            it the network keeps the random weights of a fixed seed: of use in tests only
        weights_key: where in the file they are, if it holds several such networks
        options: further arguments of `timm.create_model`, such as dynamic_img_size
    """

    kind: Literal["timm"]
    architecture: str
    weights: Path | None = None
    weights_key: WeightsKey = None
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def may_lack_classes(self) -> bool:
        """It gives features alone."""
        return True


def load_timm(config: TimmTeacherConfig) -> TeacherNetwork:
    """Build the network and load its weights.

    Raises:
        ConfigError: there is no such network.
        WeightsError: the weights are unreadable, not finite, or belong to another network.
    """
    from stillroom.stages.models.dense_network import TeacherNetwork

    network = _build(config)
    if config.weights is not None:
        heads = network.default_cfg.get("classifier") or ()
        skip = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
        load_weights(network, config.weights, key=config.weights_key, skip=skip)
    _warn_of_other_colours(config, network.default_cfg)
    stride = int(network.feature_info[-1]["reduction"])
    made_for = getattr(getattr(network, "patch_embed", None), "img_size", None)
    return TeacherNetwork(
        module=network,
        forward=partial(_forward, network, config.architecture, stride),
        multiple=stride,
        channels_last=False,
        made_for=None if made_for is None else (int(made_for[0]), int(made_for[1])),
    )


def _build(config: TimmTeacherConfig) -> Any:
    import_torchvision()
    import timm

    name = config.architecture
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        raise ConfigError(
            f"no timm model {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else "")
        )
    for option in config.options:
        if option in RESERVED:
            raise ConfigError(f"options.{option}: not an option here; {RESERVED[option]}")
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **config.options)
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"timm {name} with options {config.options} cannot be built: {error}"
        ) from error


def _warn_of_other_colours(config: TimmTeacherConfig, trained: dict[str, Any]) -> None:
    """Warn where mean or deviation are not those that timm names for the architecture."""
    step = -1 if config.channels == "bgr" else 1
    for key, found in zip(("mean", "std"), config.colours(), strict=True):
        wanted = [round(255 * each, 3) for each in trained[key]]
        if any(abs(a - b) > NEAR for a, b in zip(found[::step], wanted, strict=True)):
            LOG.warning(
                "teacher %s: timm's weights of it were trained with %s = %s, of RGB 0..255, the "
                "run has %s; mend `%s` in its section if yours were too",
                config.architecture,
                key,
                wanted,
                list(found[::step]),
                key,
            )


def _forward(network: Any, name: str, stride: int, images: Tensor) -> ModelOutput:
    """Return its last features as the grid "features/penultimate"."""
    from stillroom.stages.models.dense_network import PENULTIMATE, with_layers
    from stillroom.stages.models.token_grid import token_grid

    found = network.forward_features(images)
    if found.ndim == 3:
        before = int(getattr(network, "num_prefix_tokens", 0))  # mixers know of none
        cells = (images.shape[-2] // stride, images.shape[-1] // stride)
        found = token_grid(name, found, cells, range(before, before + 1))
    elif found.shape[1] != network.num_features:  # channels last, as Swin's
        found = found.permute(0, 3, 1, 2)
    return with_layers({PENULTIMATE: found})
