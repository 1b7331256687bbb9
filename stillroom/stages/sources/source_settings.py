"""What the sections of all sources have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from stillroom.stages.settings import KindSettings


class SourceSettings(KindSettings):
    """Where a source's frames lie, and what decides them."""

    def folders(self) -> tuple[Path, ...]:
        """Return the folders, or files, that the frames lie in; none where they are drawn."""
        return ()

    def further_targets(self) -> tuple[str, ...]:
        """Return the names of what labels the frames, beside classes; no file is opened."""
        return ()

    def box_classes(self) -> tuple[str, ...] | None:
        """Return the names of the classes of boxes; None where frames have none."""
        return None

    def most_boxes(self) -> int:
        """Return how many boxes a frame has room for; 0 where frames have none."""
        return 0

    def stated(self) -> dict[str, Any]:
        """Return the part of the identity that the section alone decides, with `classes`."""
        return {"kind": self.kind, "classes": None}


class FileSettings(SourceSettings):
    """Frames in files, all that are found or some of them.

    What `skip = N` leaves out is what `take = N` takes: two sources with one seed share no frame.

    Attributes:
        list: a text file with the name of a frame a line: its id, or its path or the end of that.
        skip: leaves out so many frames, drawn by `seed`; of clips, so many whole clips.
        take: keeps the next so many of those drawn; None keeps all that are left.
        seed: another seed, another draw; a frame's place in it depends on its id alone.
    """

    list: Path | None = None
    skip: int = Field(default=0, ge=0)
    take: int | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _check_draw(self) -> Self:
        if self.seed and not self.draws():
            raise ValueError("`seed` draws what `take` and `skip` count: give one of them")
        return self

    def draws(self) -> bool:
        """Tell whether some frames are drawn."""
        return bool(self.take or self.skip)

    def stated(self) -> dict[str, Any]:
        """Return kind and draw; what `list` names is in the listing."""
        drawn = {"skip": self.skip, "take": self.take, "seed": self.seed}
        return {**super().stated(), **({"drawn": drawn} if self.draws() else {})}
