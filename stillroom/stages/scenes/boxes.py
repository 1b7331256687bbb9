"""The boxes of the cars, people and signs that a frame shows, exactly: around their pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.scenes.classes import THINGS
from stillroom.stages.scenes.ray_casting import FIRST_PANEL, cast_rays

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.scenes.scene import Scene

FEWEST = 12  # pixels that a thing shows; fewer say nothing of what it is


def boxes_of(scene: Scene, time: int) -> NDArray[np.float32]:
    """Return the boxes of a frame, (n, 5): x0, y0, x1, y1 in pixels, and index in `THINGS`.

    A box is the smallest around what can be seen of a thing: what hides a part of it, and the edge
    of the frame, cut it. In order of the things' places in the scene.
    """
    hits = cast_rays(scene, time)
    parts: dict[tuple[int, float, float], list[int]] = {}
    for index in hits.panels:
        panel = scene.panels[index]
        if panel.label in THINGS:
            place = panel.thing or (panel.x, panel.z)
            parts.setdefault((THINGS.index(panel.label), *place), []).append(index)
    found = []
    for (label, *_), panels in parts.items():
        seen = np.isin(hits.surface, [FIRST_PANEL + index for index in panels])
        if seen.sum() >= FEWEST:
            rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            found.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1, label))
    return np.array(found, np.float32).reshape(-1, 5)
