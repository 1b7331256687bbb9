"""Models of transformers that give features: DINOv2 and v3, ViT, CLIP, SigLIP, SAM's encoder."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from stillroom.stages.models.dense_network import PENULTIMATE, TeacherNetwork, with_layers
from stillroom.stages.models.hf_network import as_weights_error
from stillroom.stages.models.teachers.hf_processor import size_of
from stillroom.stages.models.token_grid import token_grid
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.models.dense_network import ModelOutput

IMAGES = "pixel_values"
ENCODERS = ("vision_model", "vision_encoder")  # of models that take texts or points beside images
POOLER = "pooler."  # makes one vector of an image, which nothing here reads; some files lack it
CLASS_TOKENS = 2  # at most: DeiT's distilled models have one for the teacher


def load_features(
    transformers: Any, name: str, place: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Load a model without its head, and what transformers reports of it.

    Args:
        name: of the teacher, for messages
        place: arguments of `from_pretrained`

    Raises:
        WeightsError: files are missing or damaged.
    """
    with as_weights_error(f"teacher {name}"):
        model, report = transformers.AutoModel.from_pretrained(**place, output_loading_info=True)
    missing = [key for key in report["missing_keys"] if not key.startswith(POOLER)]
    return model, {**report, "missing_keys": missing}


def feature_network(model: Any, name: str) -> TeacherNetwork:
    """Return what the teacher runs: its last hidden state as the grid "features/penultimate".

    Raises:
        ConfigError: it takes no images.
    """
    encoder = next((getattr(model, one) for one in ENCODERS if hasattr(model, one)), model)
    if encoder.main_input_name != IMAGES:
        raise ConfigError(
            f'teacher {name}: task = "features" is of models of images, and '
            f"{type(model).__name__} takes {encoder.main_input_name}; take another model"
        )
    patch = getattr(encoder.config, "patch_size", 1)
    if not isinstance(patch, int):
        raise ConfigError(
            f"teacher {name}: its patches are {patch}, and a grid has one stride; wrap it as a "
            "teacher of kind python"
        )
    return TeacherNetwork(
        module=encoder.eval(),
        forward=partial(_forward, encoder, name, patch),
        multiple=patch,
        channels_last=False,
        made_for=size_of({"size": getattr(encoder.config, "image_size", None)}),
    )


def _forward(encoder: Any, name: str, patch: int, images: Tensor) -> ModelOutput:
    found = getattr(encoder(**{IMAGES: images}), "last_hidden_state", None)
    if not isinstance(found, torch.Tensor) or found.ndim not in (3, 4):
        raise ConfigError(
            f"teacher {name}: expected a last hidden state of tokens (B, n, C) or (B, C, h, w), "
            f"got {None if found is None else tuple(found.shape)}; wrap it as a teacher of kind "
            "python"
        )
    if found.ndim == 3:
        registers = getattr(encoder.config, "num_register_tokens", None) or 0
        before = range(registers, registers + CLASS_TOKENS + 1)
        cells = (images.shape[-2] // patch, images.shape[-1] // patch)
        found = token_grid(name, found, cells, before)
    return with_layers({PENULTIMATE: found})
