"""What the sections of all sources have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillroom.stages.settings import KindSettings

if TYPE_CHECKING:
    from pathlib import Path


class SourceSettings(KindSettings):
    """Where a source's frames lie, and what decides them."""

    def folders(self) -> tuple[Path, ...]:
        """Return the folders, or files, that the frames lie in; none where they are drawn."""
        return ()

    def stated(self) -> dict[str, Any]:
        """Return the part of the identity that the section alone decides, with `classes`."""
        return {"kind": self.kind, "classes": None}
