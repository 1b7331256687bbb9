"""Whether an exported student says what its checkpoint says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

DIFFERENCE = 1e-4  # of logits, to the largest of a frame where that is above 1


@dataclass(frozen=True)
class Comparison:
    """How far an exported student is from its checkpoint on some frames.

    Attributes:
        pixels: of all frames together
        largest_difference: between logits
        largest_logit: by its absolute value
        differing_labels: how many of the pixels are called otherwise
        wrong_labels: how many of those where the two highest logits are not level, which they are
            where both within their tolerance could change places
    """

    frames: int
    pixels: int
    largest_difference: float
    largest_logit: float
    differing_labels: int
    wrong_labels: int

    def demand_equal(self) -> None:
        """Refuse what is no copy of the checkpoint.

        Raises:
            ArtifactError: logits or labels are further apart than float32 explains.
        """
        allowed = DIFFERENCE * max(1.0, self.largest_logit)
        # Not "above": a NaN is above nothing.
        if not self.largest_difference <= allowed or self.wrong_labels:
            raise ArtifactError(
                f"the exported student differs from its checkpoint on {self.frames} frames: "
                f"logits by up to {self.largest_difference:.2g} (expected at most {allowed:.2g}), "
                f"labels that are not level at {self.wrong_labels} of {self.pixels} pixels "
                "(expected 0); nothing was written: choose another format"
            )


def compare(
    checkpoint: Callable[[Tensor], Mapping[str, Tensor]],
    exported: Callable[[Tensor], Mapping[str, Tensor]],
    frames: Iterable[NDArray[np.uint8]],
) -> Comparison:
    """Run the checkpoint and the export on frames (H, W, 3), one at a time."""
    found = []
    for frame in frames:
        batch = torch.from_numpy(frame)[None]
        with torch.inference_mode():
            here, there = checkpoint(batch), exported(batch)
        logits, labels = here["logits"], here["labels"]
        largest = float(logits.abs().max())
        differing = there["labels"] != labels
        best = logits.topk(min(2, logits.shape[1]), dim=1).values  # (1, 2, H, W)
        level = best[:, 0] - best[:, -1] <= 2 * DIFFERENCE * max(1.0, largest)
        found.append(
            Comparison(
                frames=1,
                pixels=labels.numel(),
                largest_difference=float((logits - there["logits"]).abs().max()),
                largest_logit=largest,
                differing_labels=int(differing.sum()),
                wrong_labels=int((differing & ~level).sum()),
            )
        )
    return _together(found)


def _together(found: list[Comparison]) -> Comparison:
    differences = [one.largest_difference for one in found]
    return Comparison(
        frames=len(found),
        pixels=sum(one.pixels for one in found),
        largest_difference=float(np.max(differences)),  # a NaN stays one
        largest_logit=max(one.largest_logit for one in found),
        differing_labels=sum(one.differing_labels for one in found),
        wrong_labels=sum(one.wrong_labels for one in found),
    )
