"""Cached features of one layer, over the usable frames of several sources."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from stillroom.storage_specs.artifact_set import ArtifactSet


class FeatureFrames:
    """Frames by their number: those of the first source, then of the second, bad ones left out.

    Args:
        sets: that hold the layer, one a source, all on one grid
        artifact: "features/<layer>"
    """

    def __init__(self, sets: Sequence[ArtifactSet], artifact: str) -> None:
        self.sets = tuple(sets)
        self.artifact = artifact
        spec = self.sets[0].arrays[artifact]
        self.channels, self.height, self.width = spec.shape
        self.stride = int(spec.attributes["stride"])
        self._places: list[tuple[int, int]] = []  # of a set, of a frame in it
        self._valid: list[tuple[int, int]] = []
        for number, one in enumerate(self.sets):
            one.watch()
            rows = one.rows().select(["index", "status", "valid_height", "valid_width"])
            for row in rows.to_pylist():
                if row["status"] == "ok":
                    self._places.append((number, row["index"]))
                    self._valid.append((row["valid_height"], row["valid_width"]))

    def __len__(self) -> int:
        """Count the usable frames."""
        return len(self._places)

    def read(self, place: int) -> NDArray[np.float32]:
        """Read the features of one frame, (A, h, w); raises what `ArtifactSet.read` does."""
        number, index = self._places[place]
        values: NDArray[np.float32] = self.sets[number].read(self.artifact, index)
        return values

    def shown(self, place: int) -> NDArray[np.bool_]:
        """Find the positions whose centre shows the frame, not padding of the canvas: (h, w)."""
        height, width = self._valid[place]
        rows = (np.arange(self.height) + 0.5) * self.stride < height
        columns = (np.arange(self.width) + 0.5) * self.stride < width
        return np.logical_and.outer(rows, columns)

    def batches(self, groups: Iterable[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Read features (B, A, h, w) and shown positions (B, 1, h, w) by group, one ahead."""
        with ThreadPoolExecutor(1, "features") as reader:
            waiting = None
            for group in groups:
                ahead = reader.submit(self._batch, group)
                if waiting is not None:
                    yield waiting.result()
                waiting = ahead
            if waiting is not None:
                yield waiting.result()

    def _batch(self, group: Sequence[int]) -> tuple[Tensor, Tensor]:
        features = np.stack([self.read(place) for place in group])
        shown = np.stack([self.shown(place) for place in group])[:, None]
        return torch.from_numpy(features), torch.from_numpy(shown)

    def spread(self, most: int) -> list[int]:
        """Choose at most so many frames, evenly spaced over all."""
        count = min(most, len(self))
        chosen: list[int] = np.linspace(0, len(self) - 1, count).round().astype(int).tolist()
        return chosen
