"""What a teacher that runs in the step makes of a view, described as a set of a cache is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillroom.stages.models.makers import artifact_shapes
from stillroom.storage_specs.artifacts import artifact_of
from stillroom.storage_specs.fingerprint import fingerprint
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.presets import load_preset

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from stillroom.stages.models.teacher import Teacher


@dataclass(frozen=True)
class LiveSet:
    """Artifacts that a teacher makes of the student's own views, at every step anew.

    Attributes:
        name: the teacher's, with a suffix that no set of a cache has
        identity: all that they depend on beside the views
        arrays: of one view, as nothing is lost
    """

    name: str
    identity: Mapping[str, Any]
    arrays: Mapping[str, ArraySpec]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the identity."""
        return fingerprint(dict(self.identity))


def live_set(
    name: str,
    teacher: Teacher,
    artifacts: Iterable[str],
    size: tuple[int, int],
    threshold: float,
) -> LiveSet:
    """Describe what a teacher makes of views.

    Args:
        artifacts: those that are read
        size: (height, width) of a view
        threshold: of pseudo labels

    Raises:
        ConfigError: it gives nothing that one of them could be made from.
    """
    told = {k: v for k, v in teacher.identity().items() if k != "device"}
    identity: dict[str, Any] = {"teacher": told, "live": True}
    arrays, exact = {}, load_preset("exact")
    for artifact, (shape, stride) in artifact_shapes(teacher, artifacts, size, threshold).items():
        row = artifact_of(artifact)
        attributes: dict[str, Any] = {"stride": stride}
        if row.has_classes and teacher.classes is not None:
            attributes["classes"] = list(teacher.classes)
        if row.settings:
            identity[artifact] = {"threshold": threshold}
        codec = exact.storage(artifact).codec
        arrays[artifact] = ArraySpec(artifact, shape, codec, attributes=attributes)
    return LiveSet(f"{name}.live", identity, arrays)
