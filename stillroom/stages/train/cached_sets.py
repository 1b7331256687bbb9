"""Check the sets of a cache before they are trained from, and read views of their arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stillroom.stages.geometry import apply_artifact
from stillroom.stages.view_axes import part_needed
from stillroom.storage_specs.errors import CacheIncomplete
from stillroom.storage_specs.spans import span

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from stillroom.stages.view import View
    from stillroom.storage_specs.artifact_set import ArtifactSet


def demand_whole(artifact_set: ArtifactSet) -> None:
    """Refuse a set of which shards are missing (CacheIncomplete)."""
    # Training on what happens to be there would make an epoch depend on when it ran.
    committed = len(artifact_set.committed())
    if committed < artifact_set.shards:
        codes = any(spec.kind.made_by == "autoencoder" for spec in artifact_set.arrays.values())
        raise CacheIncomplete(
            f"{artifact_set.source}/{artifact_set.name}: {committed} of {artifact_set.shards} "
            f"shards are committed; run `stillroom cache {'adapt' if codes else 'build'}` to add "
            "the rest"
        )


def bad_rows(sets: Iterable[ArtifactSet]) -> dict[int, str]:
    """Return the reason of every frame that is bad in at least one set, by index."""
    bad: dict[int, str] = {}
    for artifact_set in sets:
        rows: dict[str, list[Any]] = artifact_set.rows().to_pydict()
        for index, status, reason in zip(
            rows["index"], rows["status"], rows["reason"], strict=True
        ):
            if status != "ok":
                bad.setdefault(index, f"{artifact_set.name}: {reason}")
    return bad


def read_view(
    artifact_set: ArtifactSet,
    artifact: str,
    index: int,
    view: View,
    out_stride: int = 1,
    out: Tensor | None = None,
) -> Tensor:
    """Read a row's array through a view; of one that is cut into tiles only what the view needs.

    Args:
        out_stride: of the grid that an artifact with a stride is brought to
        out: filled and returned; else the result is new
    """
    spec = artifact_set.arrays[artifact]
    row = spec.kind
    strides = (int(spec.attributes["stride"]), out_stride) if row.has_stride else (1, 1)
    part = None
    if spec.tile is None:
        values = artifact_set.read(artifact, index)
    else:
        height, width = (spec.shape[row.axes.index(axis)] for axis in "yx")
        part = part_needed(view, (height, width), *strides)
        values = artifact_set.read_window(artifact, index, part.rows, part.columns)
    # torch refuses quietly to share memory that it may not write.
    array = torch.from_numpy(np.require(values, requirements=["W"]))
    with span("warp"):
        return apply_artifact(view, array, row, strides, part, out)
