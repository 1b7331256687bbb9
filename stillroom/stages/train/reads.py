"""Names of what a step reads: artifact keys, and the grid that a view brings them to.

"fpn/logits" is on the grid of the student's logits; "fpn/features/stage4@16" is on a grid of 16
pixels to a cell. Label maps are at the image's own pixels, whatever the grid.
"""

from __future__ import annotations

from stillroom.storage_specs.artifacts import LABELS, artifact_of

CODE = "code/"
MOTION = "motion"  # what a stream of clips has beside them: triplets, and the flow between frames
BESIDE = frozenset({LABELS, MOTION})


def on_grid(key: str, stride: int, usual: int) -> str:
    """Name an artifact on a grid of `stride`; `usual` is that of the student's logits."""
    _, _, artifact = key.partition("/")
    if stride == usual or not artifact_of(artifact).has_stride:
        return key
    return f"{key}@{stride}"


def how_to_cache(artifact: str, teacher: str) -> str:
    """Tell what makes an artifact that is not cached."""
    if artifact.startswith(CODE):
        return f"give the run file a section [adapt.{teacher}] and run `stillroom cache adapt`"
    return f"add {artifact!r} to cache.artifacts and run `stillroom cache extend`"


def grid_of(read: str, usual: int) -> tuple[str, int]:
    """Return the artifact's key and the stride of the grid that it is wanted on."""
    key, _, stride = read.partition("@")
    return key, int(stride) if stride else usual
