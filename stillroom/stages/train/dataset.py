"""What the cache holds of one frame, looked at through one view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stillroom.stages.geometry import (
    Part,
    View,
    ViewConfig,
    apply_field,
    apply_image,
    apply_label,
    apply_vector,
    part_seen,
    sample_view,
    view_mask,
)
from stillroom.stages.train.order import generator
from stillroom.stages.train.photometric import PhotometricConfig, jitter
from stillroom.stages.train.reads import CODE, grid_of, how_to_cache
from stillroom.storage_specs.artifacts import artifact_of
from stillroom.storage_specs.errors import CacheIncomplete, ConfigError
from stillroom.storage_specs.layout import teacher_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from stillroom.stages.train.settings import StreamConfig, TrainConfig
    from stillroom.storage_specs.store import ArtifactSet, Cache

FRAMES = "frames"  # the set that keeps the frames and labels themselves


@dataclass(frozen=True)
class Sample:
    """One frame of one epoch: the entries of `Batch` without their first axis."""

    frame_id: str
    image: Tensor
    label: Tensor | None
    mask: Tensor
    artifacts: dict[str, Tensor]
    masks: dict[int, Tensor]


class CacheDataset:
    """Frames of one stream, with their labels and artifacts, from committed artifact sets.

    Frames that are bad in any of the sets are left out; `skipped` has them, with the reason.

    name: the stream's
    teachers: artifact sets, by their names, of each teacher that `needs` names
    needs: artifact keys, as "fpn/logits", and "fpn/features/stage4@16" for a grid of its own
    indices: frames of the source to choose from; all of them if left out
    out_stride: the student's stride, which fields and the mask are brought to
    seed: with the stream's name, the epoch and the frame id, the origin of a sample's randomness

    Raises:
        CacheIncomplete: a set has uncommitted shards.
        ConfigError: the sets do not hold what is needed, or no frame is left.
    """

    def __init__(
        self,
        name: str,
        frames: ArtifactSet,
        teachers: Mapping[str, ArtifactSet],
        *,
        needs: frozenset[str] = frozenset(),
        view: ViewConfig | None = None,
        jitter: PhotometricConfig | None = None,
        labelled: bool = True,
        indices: Iterable[int] | None = None,
        out_stride: int = 1,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.frames = frames
        self.teachers = dict(teachers)
        self._grids = {read: grid_of(read, out_stride) for read in sorted(needs)}
        wanted = {key for key, _ in self._grids.values()}
        self._holders = {
            f"{teacher_of(name)}/{artifact}": one
            for name, one in reversed(self.teachers.items())  # the first that has it counts
            for artifact in one.arrays
            if f"{teacher_of(name)}/{artifact}" in wanted
        }
        self.needs = needs
        self.view = view or ViewConfig()
        self.jitter = jitter or PhotometricConfig()
        self.labelled = labelled
        self.out_stride = out_stride
        self.seed = seed
        self._demand_arrays()
        sets = [frames, *self._sets_read().values()]
        for artifact_set in sets:
            _demand_whole(artifact_set)
        height, width, _ = frames.arrays["frames"].shape
        self.canvas: tuple[int, int] = (height, width)
        rows = frames.rows().to_pydict()
        self.frame_ids: list[str] = rows["frame_id"]
        self._valid = list(zip(rows["valid_height"], rows["valid_width"], strict=True))
        chosen = list(range(frames.count) if indices is None else indices)
        bad = _bad_rows(sets)
        self.skipped = {self.frame_ids[i]: bad[i] for i in chosen if i in bad}
        self.indices: NDArray[np.int64] = np.array([i for i in chosen if i not in bad], np.int64)
        if not len(self.indices):
            raise ConfigError(
                f"stream {name!r}: none of the {len(chosen)} frames chosen of source "
                f"{frames.source!r} is usable ({len(self.skipped)} bad rows)"
            )

    def __len__(self) -> int:
        """Count the usable frames."""
        return len(self.indices)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of every artifact set that is read, by "<source>/<set>"."""
        sets = [self.frames, *self._sets_read().values()]
        return {f"{one.source}/{one.name}": one.fingerprint for one in sets}

    @property
    def clips(self) -> bool:
        """Whether its frames come as triplets, with the flow between them: none do yet."""
        return False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a sample in pixels."""
        return self.view.crop or self.canvas

    def sample(self, epoch: int, place: int) -> Sample:
        """Read one frame and look at it; a pure function of the arguments and the settings.

        epoch: pass over the frames; another epoch is another view
        place: 0 <= place < len(self)
        """
        index = int(self.indices[place])
        frame_id, valid = self.frame_ids[index], self._valid[index]
        origin = (self.seed, self.name, epoch, frame_id)
        view = sample_view(self.view, self.canvas, generator(*origin, "view"), valid)
        pixels, part = self._seen(self.frames, "frames", index, view)
        image = apply_image(view, pixels.permute(2, 0, 1), part)
        if not self.jitter.is_off():
            shown = view_mask(view, self.canvas, valid, 1)
            image = jitter(self.jitter, image, shown, generator(*origin, "jitter"))
        label = None
        if self.labelled:
            label = apply_label(view, *self._seen(self.frames, "labels", index, view)).long()
        return Sample(
            frame_id=frame_id,
            image=image,
            label=label,
            mask=view_mask(view, self.canvas, valid, self.out_stride),
            artifacts={
                read: self._artifact(key, out_stride, index, view)
                for read, (key, out_stride) in self._grids.items()
            },
            masks={
                out_stride: view_mask(view, self.canvas, valid, out_stride)
                for _, out_stride in self._grids.values()
                if out_stride != self.out_stride
            },
        )

    def _artifact(self, key: str, out_stride: int, index: int, view: View) -> Tensor:
        """One artifact, decoded, then moved by its kind."""
        _, _, artifact = key.partition("/")
        artifact_set = self._holders[key]
        values, part = self._seen(artifact_set, artifact, index, view, out_stride)
        geometry = artifact_of(artifact).geometry
        if geometry == "label":
            return apply_label(view, values, part).long()
        if geometry == "vector":
            return apply_vector(view, values, part)
        if geometry == "image":
            return apply_image(view, values.permute(2, 0, 1), part)
        values = values[None] if values.ndim == 2 else values  # confidence: (h, w) -> (1, h, w)
        stride = int(artifact_set.arrays[artifact].attributes["stride"])
        return apply_field(view, values, stride, out_stride, part)

    def _seen(
        self, artifact_set: ArtifactSet, artifact: str, index: int, view: View, out_stride: int = 1
    ) -> tuple[Tensor, Part | None]:
        """What a view needs of an artifact, and where that lies; None: it is all there is."""
        spec = artifact_set.arrays[artifact]
        if spec.tile is None:
            return _tensor(artifact_set.read(artifact, index)), None
        height, width = (spec.shape[spec.kind.axes.index(axis)] for axis in "yx")
        field = spec.kind.geometry == "field"
        strides = (int(spec.attributes["stride"]), out_stride) if field else (1, 1)
        part = part_seen(view, (height, width), *strides)
        return _tensor(artifact_set.read_window(artifact, index, part.rows, part.columns)), part

    def _sets_read(self) -> dict[str, ArtifactSet]:
        return {one.name: one for _, one in sorted(self._holders.items())}

    def _demand_arrays(self) -> None:
        wanted = ["frames", "labels"] if self.labelled else ["frames"]
        for artifact in wanted:
            if artifact not in self.frames.arrays:
                hint = "; set `labelled = false` for it" if artifact == "labels" else ""
                raise ConfigError(
                    f"stream {self.name!r}: source {self.frames.source!r} has no {artifact} in the "
                    f"cache, which holds {', '.join(self.frames.arrays) or 'nothing'}{hint}"
                )
        for key in sorted({key for key, _ in self._grids.values()}):
            if key not in self._holders:
                raise ConfigError(
                    f"stream {self.name!r} needs {key!r}; the cache holds for source "
                    f"{self.frames.source!r} {_listing(self.teachers)}; "
                    f"{how_to_cache(*reversed(key.split('/', 1)))}"
                )


def open_dataset(
    cache: Cache, name: str, settings: TrainConfig, needs: frozenset[str], out_stride: int
) -> CacheDataset:
    """Open what stream `name` of a run reads, from a cache.

    needs: the objective's, for such a stream
    """
    stream = settings.streams[name]
    source = stream.source or name
    frames = cache.artifact_set(source, FRAMES)
    teachers = sorted({key.partition("/")[0] for key in needs})
    return CacheDataset(
        name,
        frames,
        {
            one.name: one
            for teacher in teachers
            # A teacher of which nothing is there is named by the error of its own set.
            for one in cache.teacher_sets(source, teacher) or [cache.artifact_set(source, teacher)]
        },
        needs=needs,
        view=settings.view,
        jitter=settings.jitter,
        labelled=is_labelled(cache, name, stream),
        indices=choose(frames.count, stream),
        out_stride=out_stride,
        seed=settings.seed,
    )


def is_labelled(cache: Cache, name: str, stream: StreamConfig) -> bool:
    """Tell whether a stream's terms read labels: as it says, or else if its source has any."""
    if stream.labelled is not None:
        return stream.labelled
    return "labels" in cache.artifact_set(stream.source or name, FRAMES).arrays


def choose(count: int, stream: StreamConfig) -> list[int]:
    """Return the frames of a source of `count` that a stream goes through, bad ones included."""
    return [i for i in range(count) if (i % stream.every == 0) != stream.complement]


def _demand_whole(artifact_set: ArtifactSet) -> None:
    # Training on what happens to be there would make an epoch depend on when it ran.
    committed = len(artifact_set.committed())
    if committed < artifact_set.shards:
        codes = any(artifact.startswith(CODE) for artifact in artifact_set.arrays)
        raise CacheIncomplete(
            f"{artifact_set.source}/{artifact_set.name}: {committed} of {artifact_set.shards} "
            f"shards are committed; run `stillroom cache {'adapt' if codes else 'build'}` to add "
            "the rest"
        )


def _bad_rows(sets: Iterable[ArtifactSet]) -> dict[int, str]:
    """Reason of every frame that is bad in at least one set, by index."""
    bad: dict[int, str] = {}
    for artifact_set in sets:
        rows: dict[str, list[Any]] = artifact_set.rows().to_pydict()
        for index, status, reason in zip(
            rows["index"], rows["status"], rows["reason"], strict=True
        ):
            if status != "ok":
                bad.setdefault(index, f"{artifact_set.name}: {reason}")
    return bad


def _listing(teachers: Mapping[str, ArtifactSet]) -> str:
    held = [
        f"{teacher_of(name)}/{artifact}"
        for name, one in teachers.items()
        for artifact in one.arrays
    ]
    return ", ".join(held) or "no artifacts of the teachers it needs"


def _tensor(values: NDArray[np.generic]) -> Tensor:
    # torch refuses quietly to share memory that it may not write.
    return torch.from_numpy(np.require(values, requirements=["W"]))
