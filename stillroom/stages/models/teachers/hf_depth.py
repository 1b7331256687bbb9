"""Models of transformers that tell depth: Depth Anything, DPT, GLPN, ZoeDepth and their like."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from stillroom.stages.models.dense_network import TeacherNetwork
from stillroom.stages.models.hf_network import as_weights_error
from stillroom.stages.models.teachers.hf_processor import size_of
from stillroom.storage_specs.artifacts import DEPTH
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.models.dense_network import ModelOutput

LOG = logging.getLogger(__name__)
RELATIVE = ("dpt",)  # kinds of model whose config does not say that they tell no metres
NEAREST, FURTHEST = 0.1, 1000.0  # of a depth whose median is 1


def load_depth(transformers: Any, name: str, place: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Load a model of depth estimation, and what transformers reports of it.

    Args:
        name: of the teacher, for messages
        place: arguments of `from_pretrained`

    Raises:
        WeightsError: files are missing or damaged.
    """
    with as_weights_error(f"teacher {name}"):
        model, report = transformers.AutoModelForDepthEstimation.from_pretrained(
            **place, output_loading_info=True
        )
    return model, report


def depth_network(model: Any, name: str) -> TeacherNetwork:
    """Return what the teacher runs: depth in metres, or, of a model that knows none, in medians.

    A model of relative depth tells x, which is inverse depth but for a scale and a shift. Its depth
    is then median(x) / x of each frame: 1 where x is its median, and at least 0.1.
    """
    relative = _is_relative(model.config)
    if relative:
        LOG.warning(
            "teacher %s: it tells inverse depth but for scale and shift, no metres: take terms "
            'that know neither, as depth_regression with kind = "scale_shift"',
            name,
        )
    return TeacherNetwork(
        module=model.eval(),
        forward=partial(_forward, model, name, relative),
        multiple=1,
        channels_last=False,
        made_for=size_of({"size": getattr(model.config, "image_size", None)}),
    )


def _is_relative(config: Any) -> bool:
    stated = getattr(config, "depth_estimation_type", None)
    return stated == "relative" if stated is not None else config.model_type in RELATIVE


def _forward(model: Any, name: str, relative: bool, images: Tensor) -> ModelOutput:
    found = getattr(model(pixel_values=images), "predicted_depth", None)
    if not isinstance(found, torch.Tensor) or found.ndim != 3:
        raise ConfigError(
            f"teacher {name}: expected a predicted depth (B, h, w), got "
            f"{None if found is None else tuple(found.shape)}; wrap it as a teacher of kind python"
        )
    return {DEPTH: of_inverse(found) if relative else found.clamp(min=0)}


def of_inverse(inverse: Tensor) -> Tensor:
    """Bring inverse depth of an unknown scale to depth whose median is 1 in each frame.

    Args:
        inverse: (B, h, w)

    Returns:
        (B, h, w) from 0.1 to 1000; 0, no value, where the frame's median is not above 0
    """
    inverse = inverse.float()
    middle = inverse.flatten(1).median(1).values[:, None, None]
    depth = (middle / inverse.clamp(min=torch.finfo(inverse.dtype).tiny)).clamp(NEAREST, FURTHEST)
    return depth.masked_fill(middle <= 0, 0)
