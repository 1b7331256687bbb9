"""torchvision's transforms of colour and sharpness on what the student sees, and on nothing else.

They draw from torch's generator, in the training process, once it is seeded for the step: a run
that resumes repeats them.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from stillroom.stages.train.batch import Batch


class Augment:
    """The transforms of a run, one after the other.

    Args:
        transforms: each a name of torchvision.transforms.v2, its arguments, and `p`

    Raises:
        ConfigError: torchvision does not take the arguments, or cannot run the transform.
    """

    def __init__(self, transforms: Sequence[Mapping[str, Any]]) -> None:
        import_torchvision()
        self._transforms = [_build(dict(each)) for each in transforms]

    def __call__(self, batch: Batch) -> Tensor:
        """Return what the student is to see of a batch: (B, 3, H, W) float32, whole 0..255.

        Every frame has its own draw; those of a triplet have one, since they must look alike.
        """
        pixels = batch.images.round().to(torch.uint8)
        count = len(pixels) // (3 if batch.clips else 1)
        changed = pixels.clone()
        for first in range(count):
            alike = pixels[first::count]  # (1 or 3, 3, H, W)
            for transform in self._transforms:
                alike = transform(alike)
            changed[first::count] = alike
        return changed.float()


def _build(section: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import v2

    kind = getattr(v2, section.pop("name"))
    share = None if "p" in inspect.signature(kind).parameters else section.pop("p", None)
    given = ", ".join(f"{name}={value!r}" for name, value in section.items())
    place = f"train.augment: {kind.__name__}({given})"
    try:
        transform: Callable[[Tensor], Tensor] = kind(**section)
        with torch.random.fork_rng(devices=[]):
            made = transform(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
        whole = transform if share is None else v2.RandomApply([transform], share)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{place}: {error}") from error
    if made.shape[1] != 3:
        raise ConfigError(f"{place}: it makes {made.shape[1]} channels of 3; a student sees 3")
    return whole
