"""Teachers that run in the step, on the views of a batch that no cache holds the artifacts of."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import torch

from stillroom.stages.models.makers import make_artifacts
from stillroom.stages.train.packed.sampling import Axes, sampled
from stillroom.stages.train.step_part import step_part
from stillroom.stages.view import identity_view
from stillroom.stages.view_axes import axes_between, axes_under, whole_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from stillroom.stages.models.teacher import Teacher
    from stillroom.stages.train.batch import Batch
    from stillroom.stages.train.dataset import CacheDataset
    from stillroom.stages.train.reads import LiveRead
    from stillroom.stages.view_kernels import Axis


class LiveTeachers:
    """Makes what a cache would hold of a batch's views, if each were a frame of its own.

    A teacher sees a view without jitter, as stage one sees a frame, and before `train.augment`.

    Args:
        teachers: by name
        streams: whose `live` artifacts they make
        threshold: of pseudo labels
        batch: views that a teacher gets at once
    """

    def __init__(
        self,
        teachers: Mapping[str, Teacher],
        streams: Mapping[str, CacheDataset],
        threshold: float,
        batch: int,
    ) -> None:
        self._teachers = dict(teachers)
        self._threshold, self._batch = threshold, batch
        self._reads: dict[str, dict[str, dict[str, LiveRead]]] = {}  # by stream and teacher
        for name, dataset in streams.items():
            reads = self._reads[name] = defaultdict(dict)
            for read, one in dataset.live.items():
                reads[one.teacher][read] = one
        self._axes: dict[str, tuple[Axes, Axes]] = {}  # by read; views are of one size

    def __call__(self, batch: Batch) -> Batch:
        """Return a batch with all its artifacts; the cached ones are those that it has."""
        for teacher, reads in self._reads[batch.stream].items():
            with step_part("teacher"):
                self._add(batch, teacher, reads)
        return batch

    def _add(self, batch: Batch, teacher: str, reads: Mapping[str, LiveRead]) -> None:
        wanted = {
            read: [i for i, name in enumerate(batch.frame_ids) if one.is_live(name)]
            for read, one in reads.items()
        }
        made: dict[str, list[Tensor]] = defaultdict(list)
        places = sorted(set().union(*wanted.values()))
        for start in range(0, len(places), self._batch):
            some = self._made(batch, self._teachers[teacher], places[start:][: self._batch], reads)
            for read, values in some.items():
                made[read] += values
        for read, frames in made.items():
            if reads[read].frame_ids is None:
                batch.artifacts[read] = torch.stack(frames)
                continue
            for place, frame in zip(places, frames, strict=True):
                if place in wanted[read]:
                    batch.artifacts[read][place].copy_(frame)

    def _made(
        self, batch: Batch, teacher: Teacher, places: list[int], reads: Mapping[str, LiveRead]
    ) -> dict[str, Tensor]:
        """Make artifacts of some frames of a batch, on the grids they are read on: (n, ...)."""
        images = batch.images if batch.unlit is None else batch.unlit
        views = [images[place] for place in places]
        with torch.inference_mode():
            pixels = torch.stack(views).round_().to(torch.uint8)
            output = teacher(pixels.permute(0, 2, 3, 1).contiguous())
        shown = batch.masks.get(1, batch.mask).to(teacher.device)
        names = {one.artifact for one in reads.values()}
        frames = [
            make_artifacts(teacher, output, i, names, shown[place, 0], self._threshold)
            for i, place in enumerate(places)
        ]
        return {
            read: self._on_grid(read, one, [frame[one.artifact] for frame in frames], images)
            for read, one in reads.items()
        }

    def _on_grid(self, name: str, read: LiveRead, of: list[Tensor], images: Tensor) -> Tensor:
        """Bring an artifact of views, each (C, h, w) or (h, w), to the grid it is read on."""
        values = torch.stack(of).to(images.device)
        values = values[:, None] if values.ndim == 3 else values
        if name not in self._axes:
            self._axes[name] = _axes_of(read, values, images)
        return sampled(read.spec.kind.geometry, values, *self._axes[name])


def _axes_of(read: LiveRead, values: Tensor, images: Tensor) -> tuple[Axes, Axes]:
    """Find what the grid of a read takes of a teacher's: the same of every view."""
    height, width = images.shape[-2:]
    view, row = identity_view((height, width)), read.spec.kind
    if row.geometry in ("label", "nearest"):
        rows, columns = axes_under(view, whole_of(values))
    else:
        strides = (int(read.spec.attributes["stride"]), read.out_stride)
        rows, columns = axes_between(view, whole_of(values), *strides)
    return _on_device(rows, images.device), _on_device(columns, images.device)


def _on_device(axis: Axis, device: torch.device) -> Axes:
    span = torch.tensor([[axis.begin, axis.end]])
    parts = (torch.from_numpy(axis.low)[None], torch.from_numpy(axis.weight)[None], span)
    return Axes(*(part.to(device) for part in parts))
