"""The cached flow between frames of clips: each frame's neighbours, and where its pixels go."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch

from stillroom.stages.geometry import view_mask
from stillroom.stages.seeds import generator
from stillroom.stages.train.cached_sets import demand_whole, read_view
from stillroom.stages.train.sample import Neighbour
from stillroom.stages.warp import inside_frame, visible, warp
from stillroom.storage_specs.artifacts import FLOW
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from torch import Tensor

    from stillroom.stages.train.batch import Triplets
    from stillroom.stages.train.sample import Shown
    from stillroom.stages.view import View
    from stillroom.storage_specs.artifact_set import ArtifactSet

_WHOLLY = 1 - 1e-3  # of a bilinear sample; what it lacks of 1 is rounding


Sides = tuple[tuple[Neighbour, ...], tuple[Neighbour, ...]]  # before and after, in order of draw


class CachedFlow:
    """A set of pairs of frames with the flow between them.

    Attributes:
        draws: how many of a frame's cached neighbours on a side to choose among; all if left out
        skipped: reason of every pair that is bad, by both names

    Raises:
        CacheIncomplete: the set has uncommitted shards.
        ConfigError: it holds no pairs, or fewer a side than `draws`.
    """

    def __init__(self, flow: ArtifactSet, draws: int | None = None) -> None:
        self.flow = flow
        self._draws = draws
        demand_whole(flow)
        flow.watch()
        self._rows: dict[str, list[Any]] = flow.rows().to_pydict()
        if "partner" not in self._rows:
            raise ConfigError(
                f"{flow!r} holds no pairs of frames: `triplets` names a model of motion, [flows.*]"
            )
        self._names = list(zip(self._rows["frame_id"], self._rows["partner"], strict=True))
        self.skipped = {
            f"{one} > {other}": f"{flow.name}: {reason}"
            for (one, other), status, reason in zip(
                self._names, self._rows["status"], self._rows["reason"], strict=True
            )
            if status != "ok"
        }
        cached = 1 + max((draw for draw in self._rows["draw"] if draw is not None), default=-1)
        if draws is not None and draws > cached:
            raise ConfigError(
                f"draws = {draws}, and {flow!r} holds {cached} a side; take fewer, or build a "
                f"cache with cache.pairs.draws = {draws}"
            )

    def neighbours(self, frame_ids: Sequence[str], bad: Container[int]) -> dict[int, Sides]:
        """Return the usable neighbours of each frame that has some on both sides, by its index.

        Args:
            frame_ids: of all frames of the source
            bad: indices of those that cannot be used
        """
        place = {frame_id: index for index, frame_id in enumerate(frame_ids)}
        row_of = {
            pair: row for row, pair in enumerate(self._names) if self._rows["status"][row] == "ok"
        }
        found: defaultdict[int, tuple[dict[int, Neighbour], dict[int, Neighbour]]]
        found = defaultdict(lambda: ({}, {}))
        for (one, other), row in row_of.items():
            draw, frame, partner = self._rows["draw"][row], place[one], place[other]
            if draw is None or (self._draws is not None and draw >= self._draws):
                continue
            if frame not in bad and partner not in bad:
                side = found[frame][int(self._rows["offset"][row] > 0)]
                side[draw] = Neighbour(partner, row, row_of.get((other, one)))
        return {
            frame: (_by_draw(before), _by_draw(after))
            for frame, (before, after) in found.items()
            if before and after
        }

    def fill(
        self, triplets: Triplets, place: int, shown: Sequence[Shown], canvas: tuple[int, int]
    ) -> None:
        """Read the flow from a frame to its neighbours into a batch.

        Args:
            place: of the triplet
            shown: the frame itself and its neighbours
        """
        count, view = len(triplets.frames), shown[0].view
        masks = [view_mask(view, canvas, one.valid, 1) for one in shown[1:]]
        drawn = [one.neighbour for one in shown if one.neighbour is not None]
        triplets.flow[place::count], triplets.visible[place::count] = self.read_views(
            drawn, view, masks
        )

    def read_views(
        self, neighbours: Sequence[Neighbour], view: View, shown: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Read the flow to some neighbours of a frame through a view.

        Args:
            shown: for each, (1, H, W) bool: the view's pixels that show the neighbour

        Returns:
            flow (P, 2, H, W) in pixels of the view, and (P, 1, H, W) bool: where it can be
            trusted
        """
        found = [self._read(*each, view) for each in zip(neighbours, shown, strict=True)]
        return torch.cat([flow for flow, _ in found]), torch.cat([trusted for _, trusted in found])

    def _read(self, neighbour: Neighbour, shown: Tensor, view: View) -> tuple[Tensor, Tensor]:
        flow, back = self._flow(neighbour.flow_to, view), neighbour.flow_back
        trusted = inside_frame(flow) if back is None else visible(flow, self._flow(back, view))
        if not shown.all():  # both frames show the same part of the canvas
            trusted = trusted & shown_there(flow, shown[None])
        return flow, trusted

    def _flow(self, row: int, view: View) -> Tensor:
        return read_view(self.flow, FLOW, row, view)[None]


def shown_there(flow: Tensor, shown: Tensor) -> Tensor:
    """Mark the pixels that both frames show, where the flow leads.

    Args:
        flow: (P, 2, H, W)
        shown: (P, 1, H, W) bool, the view's pixels that show the neighbour

    Returns:
        (P, 1, H, W) bool
    """
    return shown & (warp(shown.float(), flow) > _WHOLLY)


def draw_neighbours(sides: Sides, *origin: int | str) -> tuple[Neighbour, Neighbour]:
    """Choose one neighbour before a frame and one after it.

    Args:
        origin: of the choice: seed, stream, epoch and frame id
    """
    rng = generator(*origin, "neighbours")
    before, after = (side[int(rng.integers(len(side)))] for side in sides)
    return before, after


def _by_draw(neighbours: dict[int, Neighbour]) -> tuple[Neighbour, ...]:
    return tuple(neighbours[draw] for draw in sorted(neighbours))
