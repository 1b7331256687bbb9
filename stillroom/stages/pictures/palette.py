"""A colour for each class, label maps in colour, and the one colour scale of heat maps."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from stillroom.stages.class_lists import published_colours
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Colour = tuple[int, int, int]

BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
PADDING: Colour = (226, 229, 234)

# By the hues that readers know from CamVid and Cityscapes, apart enough to be told from each other.
STREET: dict[str, Colour] = {
    "sky": (116, 176, 224),
    "building": (142, 72, 62),
    "pole": (186, 186, 186),
    "road": (128, 64, 128),
    "pavement": (232, 140, 214),
    "tree": (86, 138, 40),
    "sign": (242, 208, 36),
    "fence": (36, 122, 118),
    "car": (28, 36, 160),
    "pedestrian": (224, 28, 52),
    "bicyclist": (255, 138, 20),
}
SAME_AS: dict[str, str] = {
    "sidewalk": "pavement",
    "vegetation": "tree",
    "trees": "tree",
    "traffic sign": "sign",
    "signsymbol": "sign",
    "person": "pedestrian",
    "cyclist": "bicyclist",
    "rider": "bicyclist",
    "bicycle": "bicyclist",
}


def palette(classes: Sequence[str]) -> NDArray[np.uint8]:
    """A colour for each class: its data set's, a street class's usual one, or a generated one.

    Depends on the names alone. No colour comes twice, and none is black or white, which mean
    "ignored" and "unlabelled". Generated colours are each as far as can be, in CIE L*a*b*, from
    those before and from these two.

    Returns:
        (C, 3) uint8, RGB.
    """
    if len(classes) > IGNORE:
        raise ConfigError(f"expected at most {IGNORE} classes, got {len(classes)}")
    return np.array(_palette(tuple(classes)), np.uint8).reshape(-1, 3)


@lru_cache(maxsize=8)
def _palette(classes: tuple[str, ...]) -> tuple[Colour, ...]:
    chosen: dict[int, Colour] = {}
    for index, (name, published) in enumerate(
        zip(classes, published_colours(classes), strict=True)
    ):
        key = name.strip().lower().replace("_", " ")
        colour = published or STREET.get(SAME_AS.get(key, key))
        if colour is not None and colour not in (BLACK, WHITE, *chosen.values()):
            chosen[index] = colour
    missing = [index for index in range(len(classes)) if index not in chosen]
    chosen.update(zip(missing, _far_from(list(chosen.values()), len(missing)), strict=True))
    return tuple(chosen[index] for index in range(len(classes)))


def _far_from(taken: list[Colour], count: int) -> list[Colour]:
    """Pick colours one by one, each the farthest from its nearest neighbour so far."""
    levels = np.arange(24, 256, 24, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    spread = lattice.max(1).astype(int) - lattice.min(1)
    lattice = lattice[spread >= 48]  # without greys, which read as missing
    places = _lab(lattice)
    nearest = np.full(len(lattice), np.inf)
    for colour in _lab(np.array([BLACK, WHITE, *taken], np.uint8)):
        nearest = np.minimum(nearest, np.linalg.norm(places - colour, axis=1))
    picked: list[Colour] = []
    for _ in range(count):
        best = int(nearest.argmax())
        red, green, blue = lattice[best].tolist()
        picked.append((red, green, blue))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[best], axis=1))
    return picked


@lru_cache(maxsize=1)
def heat() -> NDArray[np.uint8]:
    """Return the colours of 0..1 in 256 steps, (256, 3): dark is little, bright is much."""
    from matplotlib import colormaps

    table = colormaps["inferno"](np.arange(256))[:, :3]
    return np.asarray((table * 255).round(), np.uint8)


def _lab(colours: NDArray[np.uint8]) -> NDArray[Any]:
    """Return CIE L*a*b* (D65) of sRGB colours (N, 3)."""
    lab = cv2.cvtColor((colours / 255).astype(np.float32)[None], cv2.COLOR_RGB2LAB)
    return np.asarray(lab[0])


def colourise(
    label: NDArray[np.uint8], colours: NDArray[np.uint8], ignored: Colour = BLACK
) -> NDArray[np.uint8]:
    """Paint a label map.

    Args:
        label: (H, W) uint8, 0..C-1 or 255.
        colours: (C, 3) uint8; see `palette`.
        ignored: colour of 255.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ArtifactError: the map is not (H, W) uint8, or holds a class without a colour.
    """
    if label.ndim != 2 or label.dtype != np.uint8:
        raise ArtifactError(f"a label map is (H, W) uint8, got {tuple(label.shape)} {label.dtype}")
    outside = label[(label >= len(colours)) & (label != IGNORE)]
    if outside.size:
        raise ArtifactError(
            f"label: expected 0..{len(colours) - 1} or {IGNORE} (ignore), got {int(outside[0])}"
        )
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    table[IGNORE] = ignored
    return table[label]  # (H, W, 3)
