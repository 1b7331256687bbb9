"""What a source is: an ordered set of frames with stable names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Frame:
    """One image with its name and, where the source is labelled, what labels it.

    Attributes:
        frame_id: unique within its source, the same on every machine.
        image: uint8 (H, W, 3), RGB.
        label: uint8 (H, W) class indices, 255 = ignore; None in an unlabelled source. 255
            everywhere in a frame without a label, where a labelled source may hold such frames.
        label_fault: why the label cannot be used, where it should be there: it is then 255
            everywhere, and the image is as good as any. The same text on every machine.
        targets: what else the source labels its frames with, by name, float32, 0 where there is
            none, as everywhere in a frame without: "depth" (H, W) in metres along the optical axis,
            "normals" (3, H, W) unit vectors, x right, y down, z forward; "boxes" (N, 5) x0, y0, x1,
            y1 in pixels and class, -1 in rows beyond the last.
        faults: likewise of targets, by name.
    """

    frame_id: str
    image: NDArray[np.uint8]
    label: NDArray[np.uint8] | None = None
    label_fault: str = ""
    targets: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)


class Source(Protocol):
    """An ordered set of frames. Frames load by index, in any order, from any thread."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the label values 0..C-1; None in an unlabelled source."""

    @property
    def frame_ids(self) -> Sequence[str]:
        """The frames' names in order; they contain no absolute path."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Frame:
        """Read one frame.

        Raises:
            FrameError: the frame cannot be used; the message is the same on every machine.
            SourceUnavailable: it cannot be read now, and may be good.
        """

    def position(self, index: int) -> tuple[str | None, int | None]:
        """Return clip and time of a frame; (None, None) where it belongs to no clip."""

    def labelled(self, index: int) -> bool:
        """Tell whether the frame itself has a label, or another target; no file is opened."""

    def label_count(self) -> int:
        """Count the frames that should have one; no file is opened."""

    def identity(self) -> dict[str, Any]:
        """Return what decides the frames' content, as plain JSON values without absolute paths."""
