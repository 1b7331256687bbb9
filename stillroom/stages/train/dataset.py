"""Views of a stream's frames, with their labels and artifacts, as the cache holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.geometry import view_mask
from stillroom.stages.seeds import generator
from stillroom.stages.train.batch_memory import (
    empty_batch,
    empty_triplets,
    frame_shapes,
    reused,
)
from stillroom.stages.train.cached_sets import bad_rows, demand_whole, read_view
from stillroom.stages.train.clip_flow import CachedFlow, draw_neighbours
from stillroom.stages.train.photometric import UNLIT, PhotometricConfig, draw_light, jitter
from stillroom.stages.train.reads import Read
from stillroom.stages.train.sample import Shown, places
from stillroom.stages.train.teacher_reads import teacher_reads
from stillroom.stages.view import ViewConfig, sample_view
from stillroom.storage_specs.artifacts import FRAMES, LABELS, TARGETS
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.spans import span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from stillroom.stages.train.batch import Batch
    from stillroom.stages.train.batch_memory import Allocate, FrameShapes
    from stillroom.stages.train.live_set import LiveSet
    from stillroom.stages.train.sample import Neighbour, Sample, Triplet
    from stillroom.storage_specs.artifact_set import ArtifactSet


class CacheDataset:
    """Frames of one stream, with their targets and artifacts, from committed artifact sets.

    Frames that are bad in any of the sets are left out; `skipped` has them, with the reason.
    Of a frame whose label, or another target, alone is bad that is left out; `bad_labels` has it,
    likewise.

    Args:
        name: the stream's
        teachers: artifact sets, by their names, of each teacher that `needs` names; of one that
            runs in the step its `LiveSet`, which stands for what the others lack
        needs: artifact keys, as "fpn/logits", and "fpn/features/stage4@16" for a grid of its own;
            names of targets other than labels, as "depth"
        labelled: labels are read too
        indices: frames of the source to choose from; all of them if left out
        out_stride: the student's stride, which fields and the mask are brought to
        seed: with the stream's name, the epoch and the frame id, the origin of a sample's
            randomness
        flow: makes a sample a triplet; frames without neighbours are left out

    Attributes:
        targets: names of the targets that are read, labels included
        artifacts: what is read of the teachers, by its name in a batch
        live: what they make in the step instead, of every frame or of some, likewise
        stand_ins: by what is needed and not cached, what is read in its place
        shapes: of a frame in a batch

    Raises:
        CacheIncomplete: a set has uncommitted shards.
        ConfigError: the sets do not hold what is needed, or no frame is left.
    """

    def __init__(
        self,
        name: str,
        frames: ArtifactSet,
        teachers: Mapping[str, ArtifactSet | LiveSet],
        *,
        needs: frozenset[str] = frozenset(),
        view: ViewConfig | None = None,
        jitter: PhotometricConfig | None = None,
        labelled: bool = True,
        indices: Iterable[int] | None = None,
        out_stride: int = 1,
        seed: int = 0,
        flow: CachedFlow | None = None,
    ) -> None:
        self.name = name
        self.flow = flow
        self.frames = frames
        self.teachers = dict(teachers)
        own = [LABELS] if labelled else []
        self.targets = (*own, *sorted(needs.intersection(TARGETS) - {LABELS}))
        self.needs = needs - frozenset(TARGETS)
        self.view = view or ViewConfig()
        self.jitter = jitter or PhotometricConfig()
        self.out_stride = out_stride
        self.seed = seed
        self._demand_arrays()
        demand_whole(frames)
        rows = frames.rows().to_pydict()
        self.frame_ids: list[str] = rows["frame_id"]
        self._valid = list(zip(rows["valid_height"], rows["valid_width"], strict=True))
        height, width, _ = frames.arrays[FRAMES].shape
        self.canvas: tuple[int, int] = (height, width)
        self._reads = teacher_reads(
            self.needs, self.teachers, out_stride, self.frame_ids, name, frames.source
        )
        self.artifacts, self.live = self._reads.cached, self._reads.live
        self.stand_ins = self._reads.stand_ins
        bad = bad_rows(self._opened())
        self._neighbours = {} if flow is None else flow.neighbours(self.frame_ids, bad)
        self.shapes = self._shapes()
        chosen = list(range(frames.count) if indices is None else indices)
        self.skipped, usable = self._usable(chosen, bad)
        reasons = {i: rows["reason"][i] for i in usable if self.labelled}
        self.bad_labels = {self.frame_ids[i]: why for i, why in reasons.items() if why}
        self.indices: NDArray[np.int64] = np.array(usable, np.int64)

    def __len__(self) -> int:
        """Count the usable frames."""
        return len(self.indices)

    @property
    def labelled(self) -> bool:
        """Whether any target is read."""
        return bool(self.targets)

    @property
    def clips(self) -> bool:
        """Whether a sample is a triplet: a frame, its neighbours and the flow between them."""
        return self.flow is not None

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of every artifact set that is read, by "<source>/<set>"."""
        sets = [self.frames] if self.flow is None else [self.frames, self.flow.flow]
        found = {f"{one.source}/{one.name}": one.fingerprint for one in sets}
        return found | self._reads.fingerprints(self.frames.source)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a sample in pixels."""
        return self.view.crop or self.canvas

    def empty(self, count: int, allocate: Allocate = reused) -> Batch:
        """Return a batch of `count` frames, or triplets, for `fill`."""
        frames = 3 * count if self.clips else count
        batch = empty_batch(self.name, self.shapes, frames, allocate)
        if self.clips:
            batch.triplets = empty_triplets(count, self.size, allocate)
        return batch

    def sample(self, epoch: int, frame: int) -> Sample | Triplet:
        """Return what `fill` puts into a batch, by itself."""
        batch = self.empty(1)
        self.fill(batch, 0, epoch, frame)
        return batch.triplet(0) if self.clips else batch.sample(0)

    def fill(self, batch: Batch, place: int, epoch: int, frame: int) -> None:
        """Read a view of one frame into a batch; a pure function of the settings and these.

        Args:
            batch: as `empty` makes it; threads may fill different places of one
            place: of the frame in it, or of the triplet
            epoch: pass over the frames; another epoch is another view, and perhaps other neighbours
            frame: 0 <= frame < len(self)
        """
        shown = self.shown(epoch, frame)
        for i, one in zip(places(batch.frame_ids, place, shown), shown, strict=True):
            self._read(batch, i, one)
        if self.flow is not None and batch.triplets is not None:
            self.flow.fill(batch.triplets, place, shown, self.canvas)

    def shown(self, epoch: int, frame: int) -> list[Shown]:
        """Draw the view of a frame; of a triplet that of its neighbours too, the frame first."""
        index = int(self.indices[frame])
        origin = (self.seed, self.name, epoch, self.frame_ids[index])
        rng = generator(*origin, "view")
        view = sample_view(self.view, self.canvas, rng, self._valid[index])
        light = UNLIT
        if not self.jitter.is_off():
            light = draw_light(self.jitter, generator(*origin, "jitter"))
        drawn: tuple[Neighbour, ...] = ()
        if self.flow is not None:
            drawn = draw_neighbours(self._neighbours[index], *origin)
        return [
            Shown(self.frame_ids[i], i, view, self._valid[i], light, neighbour)
            for i, neighbour in ((index, None), *((each.index, each) for each in drawn))
        ]

    def _read(self, batch: Batch, place: int, shown: Shown) -> None:
        """Read a frame of the source through its view."""
        view, index = shown.view, shown.index
        batch.frame_ids[place] = shown.frame_id
        into = batch.sample(place)
        read_view(self.frames, FRAMES, index, view, out=into.image)
        if batch.unlit is not None:
            batch.unlit[place].copy_(into.image)
        if not self.jitter.is_off():
            with span("jitter"):
                mask = view_mask(view, self.canvas, shown.valid, 1)
                jitter(self.jitter, into.image, mask, shown.light)
        if into.label is not None:
            read_view(self.frames, LABELS, index, view, out=into.label)
        for name, target in into.targets.items():
            read_view(self.frames, name, index, view, out=target)
        for read, (holder, artifact, out_stride) in self.artifacts.items():
            if not self.is_live(read, shown):
                read_view(holder, artifact, index, view, out_stride, into.artifacts[read])
        for out_stride, mask in ((self.out_stride, into.mask), *into.masks.items()):
            view_mask(view, self.canvas, shown.valid, out_stride, mask)

    def is_live(self, read: str, shown: Shown) -> bool:
        """Whether a teacher makes an artifact of a frame in the step."""
        return read in self.live and self.live[read].is_live(shown.frame_id)

    def _demand_arrays(self) -> None:
        for artifact in (FRAMES, *self.targets):
            if artifact not in self.frames.arrays:
                hint = "; set `labelled = false` for it" if artifact in TARGETS else ""
                raise ConfigError(
                    f"stream {self.name!r}: source {self.frames.source!r} has no {artifact} in the "
                    f"cache, which holds {', '.join(self.frames.arrays) or 'nothing'}{hint}"
                )

    def _opened(self) -> list[ArtifactSet]:
        """Return the sets that frames are read from, found whole and watched from now on."""
        for one in self._reads.whole():
            demand_whole(one)
        sets = [self.frames, *self._reads.sets.values()]
        for one in sets:
            one.watch()
        return sets

    def _shapes(self) -> FrameShapes:
        return frame_shapes(
            self.size,
            self.out_stride,
            self.artifacts,
            {name: Read(self.frames, name, 1) for name in self.targets},
            strides=self._reads.strides() | ({1} if self.clips or self.live else set()),
            unlit=bool(self.live) and not self.jitter.is_off(),
        )

    def _usable(
        self, chosen: Sequence[int], bad: Mapping[int, str]
    ) -> tuple[dict[str, str], list[int]]:
        """Return the reasons of those that are left out, by frame id, and the frames that are not.

        Raises:
            ConfigError: no frame is left.
        """
        skipped = {self.frame_ids[i]: bad[i] for i in chosen if i in bad}
        usable = [i for i in chosen if i not in bad]
        if self.flow is not None:
            skipped |= self.flow.skipped
            usable = [i for i in usable if i in self._neighbours]
        if not usable:
            raise ConfigError(
                f"stream {self.name!r}: none of the {len(chosen)} frames chosen of source "
                f"{self.frames.source!r} is usable ({len(skipped)} bad rows)"
                + ("" if self.flow is None else f" and has neighbours in {self.flow.flow.name!r}")
            )
        return skipped, usable
