"""Build a teacher from its section, whatever kind it is."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from stillroom.stages.models.ensemble import Ensemble
from stillroom.stages.models.inference import device_of
from stillroom.stages.models.teacher import Teacher
from stillroom.stages.models.teachers.ensemble_settings import EnsembleTeacherConfig
from stillroom.stages.models.teachers.families import TEACHERS

# torch is imported by the function below: planning a build must not wait for it.
if TYPE_CHECKING:
    from stillroom.stages.models.teachers.families import TeacherConfig

LOG = logging.getLogger(__name__)
SEED = 0  # of teachers without weights: the same network in every worker


def build_teacher(config: TeacherConfig, canvas: tuple[int, int] | None = None) -> Teacher:
    """Build a teacher, load its weights, and move it to its device.

    Args:
        canvas: (height, width) of the frames that it will get, on which it is tried, and which the
            strides of one with a `size` are for; left out, it is tried on a small input, or `size`

    Raises:
        ConfigError: there is no such network, or its classes are not known.
        WeightsError: the weights are unreadable, not finite, or belong to another network.
    """
    import torch

    config = config.completed()
    if isinstance(config, EnsembleTeacherConfig):
        members = {name: build_teacher(one, canvas) for name, one in config.built_from().items()}
        return Ensemble(config, members)
    described = config.identity()  # of the files as they are loaded
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        _, load = TEACHERS[config.kind]
        network = load(config)
    if getattr(config, "weights", "") is None and config.kind != "python":
        LOG.warning("a teacher of kind %s has no weights: its output is noise", config.kind)
    device = network.device or device_of(config.device, "teacher")
    LOG.info("a teacher of kind %s runs on %s", config.kind, device)
    return Teacher(config, network, device, described, canvas)
