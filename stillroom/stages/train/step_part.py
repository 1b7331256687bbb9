"""A part of a training step: seen by profilers, and named where its memory does not suffice."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.spans import span

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def step_part(name: str) -> Iterator[None]:
    """Name a part of a step.

    Raises:
        ConfigError: in place of torch's error that the device has no memory left
    """
    try:
        with span(name):
            yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"out of device memory in {name}: {str(error).partition('. ')[0]}. Lower the batches "
            "of train.streams, and set train.accumulate for as many frames a step; or lower "
            "train.view.crop, or leave out a term: `stillroom train --check` prints what each "
            "takes. Nothing was saved over the last checkpoint"
        ) from error
