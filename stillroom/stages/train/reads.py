"""Names of what a step reads: artifact keys, and the grid that a view brings them to.

"fpn/logits" is on the grid of the student's logits; "fpn/features/stage4@16" is on a grid of
stride 16. Label maps are at the image's own pixels, whatever the grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stillroom.storage_specs.artifacts import (
    CONFIDENCE,
    LABELS,
    PIXEL_CONFIDENCE,
    TARGETS,
    Artifact,
    artifact_of,
)

if TYPE_CHECKING:
    from collections.abc import Container

    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.layout import ArraySpec

TRIPLETS = "triplets"  # what a stream of clips has beside its artifacts, with their flow
BESIDE = frozenset({*TARGETS, TRIPLETS})
FURTHER = frozenset(TARGETS) - {LABELS}  # targets that are read where a term asks for them
STAND_INS = {PIXEL_CONFIDENCE: f"{CONFIDENCE}@1"}
"""What is read, approximately the same, from caches that do not hold an artifact."""


class Read(NamedTuple):
    """An array that is read of every frame.

    Attributes:
        out_stride: of the grid that it is brought to, where it has a stride
    """

    holder: ArtifactSet
    artifact: str
    out_stride: int

    @property
    def spec(self) -> ArraySpec:
        """How it is stored."""
        return self.holder.arrays[self.artifact]


class LiveRead(NamedTuple):
    """An artifact that a teacher makes in the step, of every frame or of some.

    Attributes:
        out_stride: as of a `Read`
        frame_ids: of the frames that it is made of; None: of all
    """

    teacher: str
    artifact: str
    spec: ArraySpec
    out_stride: int
    frame_ids: frozenset[str] | None = None

    def is_live(self, frame_id: str) -> bool:
        """Whether it is made of a frame in the step, and not read from a cache."""
        return self.frame_ids is None or frame_id in self.frame_ids


def on_grid(key: str, stride: int, usual: int) -> str:
    """Name an artifact on a grid of `stride`; `usual` is that of the student's logits."""
    return f"{key}@{stride}" if stride != usual and row_of(key).has_stride else key


def how_to_have(key: str) -> str:
    """Tell what makes something that a term reads and a stream does not hold, as "fpn/logits"."""
    if key in TARGETS:
        return f"take a source whose frames have {key}, or give the term a teacher"
    return how_to_cache(*reversed(key.split("/", 1)))


def how_to_cache(artifact: str, teacher: str) -> str:
    """Tell what makes an artifact that is not cached."""
    if artifact_of(artifact).made_by == "autoencoder":
        return f"give the run file a section [adapt.{teacher}] and run `stillroom cache adapt`"
    return f"add {artifact!r} to cache.artifacts and run `stillroom cache extend`"


def row_of(read: str) -> Artifact:
    """Find the row of the artifact that is read, as of "fpn/features/stage4@16"."""
    _, _, artifact = read.partition("@")[0].partition("/")
    return artifact_of(artifact)


def grid_of(read: str, usual: int) -> tuple[str, int]:
    """Return the artifact's key and the stride of the grid that it is wanted on."""
    key, _, stride = read.partition("@")
    return key, int(stride) if stride else usual


def held_or_stand_in(read: str, held: Container[str]) -> str:
    """Return what is read of a cache that holds these keys: a stand-in of what it lacks, if any."""
    key, _, _ = read.partition("@")
    teacher, _, artifact = key.partition("/")
    stand_in = f"{teacher}/{STAND_INS.get(artifact, '')}"
    return stand_in if key not in held and stand_in.partition("@")[0] in held else read
