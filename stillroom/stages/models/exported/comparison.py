"""Whether an exported student says what its checkpoint says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

DIFFERENCE = 1e-4  # of logits, to the largest of them where that is above 1
DIFFERING = 1e-5  # of the labels: two classes may be level at a pixel


@dataclass(frozen=True)
class Comparison:
    """How far two are apart on some frames.

    Attributes:
        pixels: of all frames together
        largest_difference: between logits
        largest_logit: by its absolute value
        differing_labels: how many of the pixels are called otherwise
    """

    frames: int
    pixels: int
    largest_difference: float
    largest_logit: float
    differing_labels: int

    def demand_equal(self) -> None:
        """Refuse what is no copy of the checkpoint.

        Raises:
            ArtifactError: logits or labels are further apart than float32 explains.
        """
        allowed = DIFFERENCE * max(1.0, self.largest_logit)
        # Not "above": a NaN is above nothing.
        if not self.largest_difference <= allowed or self.differing_labels > self.may_differ:
            raise ArtifactError(
                f"the exported student differs from its checkpoint on {self.frames} frames: "
                f"logits by up to {self.largest_difference:.2g} (expected at most {allowed:.2g}), "
                f"labels at {self.differing_labels} of {self.pixels} pixels (expected at most "
                f"{self.may_differ}); nothing was written: choose another format"
            )

    @property
    def may_differ(self) -> int:
        """How many labels may."""
        return int(DIFFERING * self.pixels)


def compare(
    one: Callable[[Tensor], Mapping[str, Tensor]],
    other: Callable[[Tensor], Mapping[str, Tensor]],
    frames: Iterable[NDArray[np.uint8]],
) -> Comparison:
    """Run both on frames (H, W, 3), one at a time."""
    count = pixels = differing = 0
    difference = largest = torch.zeros(())
    for frame in frames:
        batch = torch.from_numpy(frame)[None]
        with torch.inference_mode():
            here, there = one(batch), other(batch)
        logits = here["logits"].cpu()
        apart = (logits - there["logits"].cpu()).abs().max()
        difference, largest = difference.maximum(apart), largest.maximum(logits.abs().max())
        differing += int((here["labels"].cpu() != there["labels"].cpu()).sum())
        count, pixels = count + 1, pixels + here["labels"].numel()
    return Comparison(count, pixels, float(difference), float(largest), differing)
