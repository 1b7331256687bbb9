"""Lists of classes that a run file may call by one name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

CLASS_LISTS: dict[str, tuple[str, ...]] = {
    "camvid": (
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car",
        "pedestrian", "bicyclist",
    ),
    "cityscapes": (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
        "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
        "motorcycle", "bicycle",
    ),
}  # fmt: skip


def listed(classes: Any) -> Any:
    """Return the classes of a known list in place of its name; anything else as it is.

    Raises:
        ConfigError: there is no such list.
    """
    if not isinstance(classes, str):
        return classes
    if classes not in CLASS_LISTS:
        raise ConfigError(
            f"no class list {classes!r}; known: {', '.join(CLASS_LISTS)}; or give names, or their "
            "number"
        )
    return CLASS_LISTS[classes]


def numbered(classes: Any) -> Any:
    """Return "0" to "N-1" in place of a number N of classes; else as `listed`."""
    if isinstance(classes, int) and not isinstance(classes, bool):
        return tuple(map(str, range(classes)))
    return listed(classes)


def agree(one: Sequence[str], other: Sequence[str]) -> bool:
    """Tell whether two lists may be one: the same names, or as many, of which one has only numbers.

    A different order is another list.
    """
    numbers = numbered(len(one))
    return tuple(one) == tuple(other) or (
        len(one) == len(other) and numbers in (tuple(one), tuple(other))
    )
