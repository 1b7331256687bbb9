"""A teacher that is the mean of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from stillroom.stages.models.looks import LEAST, Looks
from stillroom.stages.models.resized_input import grid_on_canvas
from stillroom.stages.models.teacher import Teacher
from stillroom.storage_specs.artifacts import LOGITS
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from stillroom.stages.models.dense_network import ModelOutput
    from stillroom.stages.models.teachers.ensemble_settings import EnsembleTeacherConfig

PRECISIONS = ("float32", "float16", "bfloat16")  # from the most exact to the least


class Ensemble(Teacher):
    """Several teachers; its logits are their mean, on the finest of their grids.

    Coarser ones are brought to it as logits, bilinear between the centres of cells. All else is
    that of one member.
    """

    def __init__(self, config: EnsembleTeacherConfig, members: Mapping[str, Teacher]) -> None:
        """Take the members that were built.

        Raises:
            ConfigError: one gives no logits.
        """
        for name, one in members.items():
            if LOGITS not in one.strides:
                raise ConfigError(
                    f"member {name!r} gives {', '.join(one.strides)}, and an ensemble is the mean "
                    "of logits; leave it out"
                )
        self._config: EnsembleTeacherConfig = config
        self._description = config.identity()
        self._members = dict(members)
        self._first = members[config.first]
        self._grids = self._first._grids
        finest = min(one.strides[LOGITS] for one in members.values())
        self.strides = {**self._first.strides, LOGITS: finest}
        self.device, self.classes = self._first.device, config.class_names()
        self._looks = Looks(self._predict, config) if config.several() else None

    @property
    def module(self) -> nn.Module | None:
        """What holds the members' parameters; None where one is a bare callable."""
        modules = [one.module for one in self._members.values()]
        held = [module for module in modules if module is not None]
        return nn.ModuleList(held) if len(held) == len(modules) else None

    @property
    def precision(self) -> str:
        """Of the members' arithmetic, the least exact."""
        return max((one.precision for one in self._members.values()), key=PRECISIONS.index)

    def own_logits(self, frames: NDArray[np.uint8] | Tensor) -> Tensor:
        """Refuse: it has no network that upsamples."""
        raise ConfigError("teacher: an ensemble has no upsampling of its own")

    def _at_once(self, frames: NDArray[np.uint8] | Tensor) -> tuple[ModelOutput, ModelOutput]:
        size = frames.shape[1], frames.shape[2]
        said = {name: one.run(frames) for name, one in self._members.items()}
        with torch.inference_mode():
            mean = self._mean({name: output[LOGITS] for name, (_, output) in said.items()}, size)
        own, output = said[self._config.first]
        return own, {**output, LOGITS: mean}

    def _mean(self, logits: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
        """Average the members' logits (B, C, h, w), each on its own grid of frames of a size."""
        weights = self._config.members
        total = sum(weights.values())
        of_probabilities = self._config.average == "probabilities"
        mean = torch.zeros((), device=self.device)
        for name, one in logits.items():
            strides = self._members[name].strides[LOGITS], self.strides[LOGITS]
            there = grid_on_canvas(LOGITS, one.to(self.device), strides, (size, size))
            mean = mean + weights[name] / total * (there.softmax(1) if of_probabilities else there)
        return mean.clamp(min=LEAST).log() if of_probabilities else mean
