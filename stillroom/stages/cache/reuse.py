"""Frames that an older cache holds are taken from there; the teacher runs on the others only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.artifacts import CONFIDENCE, PSEUDO_LABEL
from stillroom.storage_specs.errors import CacheMismatch
from stillroom.storage_specs.fingerprint import differences, identity_differences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillroom.stages.cache.producers import Producer
    from stillroom.stages.sources.canvas import CanvasFrame
    from stillroom.storage_specs.artifact_set import ArtifactSet

SOURCE = "source"  # the part of an identity in which more frames show


class Reuse:
    """What fills a set, of which an older set has some frames already.

    A frame is taken, as it is stored, where name and canvas pixels are those of the older one.

    Raises:
        CacheMismatch: the older set was made by something else, or stores it otherwise.
    """

    def __init__(self, produce: Producer, old: ArtifactSet, target: ArtifactSet) -> None:
        for part, compare in (("identity", identity_differences), ("arrays", differences)):
            found = compare(*(_comparable(one, part) for one in (old, target)))
            if found:
                raise CacheMismatch(
                    f"{old.place}: its {old.name!r} on {old.source!r} cannot be reused\n"
                    + "\n".join(f"  {one}" for one in found)
                    + "\n  leave cache.reuse out, or make the run agree with that cache"
                )
        self._produce = produce
        self._old = old
        old.watch()
        rows = old.rows().select(["frame_id", "index", "status", "crc32c"]).to_pylist()
        self._place = {
            row["frame_id"]: (row["index"], row["crc32c"]) for row in rows if row["status"] == "ok"
        }

    def __call__(self, frames: Sequence[CanvasFrame]) -> list[dict[str, Any]]:
        """The artifacts of each frame, in order; encoded ones where they come from the cache."""
        taken = [self._taken(frame) for frame in frames]
        missing = [frame for frame, found in zip(frames, taken, strict=True) if found is None]
        made = iter(self._produce(missing) if missing else ())
        return [next(made) if found is None else found for found in taken]

    def _taken(self, frame: CanvasFrame) -> dict[str, Any] | None:
        index, crc32c = self._place.get(frame.frame_id, (0, None))
        if crc32c is None or crc32c != frame.crc32c():
            return None
        arrays: dict[str, Any] = {name: self._old.encoded(name, index) for name in self._old.arrays}
        for name in {CONFIDENCE, PSEUDO_LABEL} & arrays.keys():
            # Its mean goes into the row, or its pixels are counted; encoded anew it is the same.
            arrays[name] = self._old.read(name, index)
        return arrays


def _comparable(of: ArtifactSet, part: str) -> dict[str, Any]:
    if part == "identity":
        return {name: value for name, value in of.identity.items() if name != SOURCE}
    return {
        name: {**spec.to_dict(), "attributes": {**spec.attributes, "classes": None}}
        for name, spec in of.arrays.items()
    }
