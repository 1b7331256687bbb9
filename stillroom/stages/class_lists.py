"""Lists of classes that a run file may call by one name.

Those of public data sets are tables in `class_tables/`: a line a class, with the id that the data
set's label files have for it, its published colour (RGB in hex, or "-"), and its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ClassTable:
    """The classes of a data set in the order of their indices.

    Attributes:
        names: of the classes.
        ids: what label files hold for each.
        colours: RGB, 0..255; None where the data set publishes none.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    colours: tuple[Colour | None, ...]

    def without(self, name: str) -> ClassTable:
        """Return the table without one of its classes."""
        rows = zip(self.names, self.ids, self.colours, strict=True)
        names, ids, colours = zip(*(row for row in rows if row[0] != name), strict=True)
        return ClassTable(names, ids, colours)


def _read(path: Path) -> ClassTable:
    lines = path.read_text(encoding="utf8").splitlines()
    rows = [line.split(maxsplit=2) for line in lines if not line.startswith("#")]
    return ClassTable(
        names=tuple(name for _, _, name in rows),
        ids=tuple(int(number) for number, _, _ in rows),
        colours=tuple(_colour(digits) for _, digits, _ in rows),
    )


def _colour(digits: str) -> Colour | None:
    if digits == "-":
        return None
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue


CLASS_TABLES: dict[str, ClassTable] = {
    path.stem: _read(path) for path in sorted((Path(__file__).parent / "class_tables").glob("*"))
}
CLASS_TABLES["pascal_context"] = CLASS_TABLES["pascal_context_60"].without("background")

CLASS_LISTS: dict[str, tuple[str, ...]] = {
    "camvid": (
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car",
        "pedestrian", "bicyclist",
    ),
    "coco": CLASS_TABLES["coco_panoptic"].names[:80],  # its things, which have boxes
    **{name: table.names for name, table in CLASS_TABLES.items()},
}  # fmt: skip


def published_colours(classes: Sequence[str]) -> tuple[Colour | None, ...]:
    """Return the colours of a data set's classes, None for each where they are no data set's."""
    for table in CLASS_TABLES.values():
        if table.names == tuple(classes):
            return table.colours
    return (None,) * len(classes)


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
