"""Names of what a step reads: artifact keys, and the grid that a view brings them to.

"fpn/logits" is on the grid of the student's logits; "fpn/features/stage4@16" is on a grid of
stride 16. Label maps are at the image's own pixels, whatever the grid.
"""

from __future__ import annotations

from stillroom.storage_specs.artifacts import LABELS, Artifact, artifact_of

TRIPLETS = "triplets"  # what a stream of clips has beside its artifacts, with their flow
BESIDE = frozenset({LABELS, TRIPLETS})


def on_grid(key: str, stride: int, usual: int) -> str:
    """Name an artifact on a grid of `stride`; `usual` is that of the student's logits."""
    return f"{key}@{stride}" if stride != usual and row_of(key).has_stride else key


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
