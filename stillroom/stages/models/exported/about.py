"""What an exported student says of itself, in the metadata of each format."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from stillroom.storage_specs.errors import WeightsError
from stillroom.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

FORMAT = "stillroom_export"  # the key that such a file is known by
VERSION = 1


@dataclass(frozen=True)
class About:
    """Metadata of an exported student.

    Attributes:
        classes: names of the labels 0..C-1
        colours: of each, RGB
        size: (height, width) of the frames that it takes
        canvas: (height, width) that they are fitted into
        student: its section in the run file, without files of weights
    """

    classes: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    size: tuple[int, int]
    canvas: tuple[int, int]
    student: dict[str, Any]

    def to_metadata(self) -> dict[str, str]:
        """Return each value as JSON text, and the versions."""
        document = {FORMAT: VERSION, **asdict(self)}
        texts = {name: json.dumps(value, sort_keys=True) for name, value in document.items()}
        return {**texts, "stillroom": __version__}

    @staticmethod
    def of(metadata: Mapping[str, str], path: Path) -> About:
        """Read it again.

        Raises:
            WeightsError: `stillroom export` of this version wrote no such metadata.
        """
        if metadata.get(FORMAT) != str(VERSION):
            found = f"version {metadata[FORMAT]}" if FORMAT in metadata else "none"
            raise WeightsError(
                f"{path}: expected the metadata of `stillroom export`, version {VERSION}, found "
                f"{found}; name a file that it wrote, or export the run again"
            )
        try:
            values = {name: json.loads(metadata[name]) for name in About.__annotations__}
            about = TypeAdapter(About).validate_python(values)
        except (ValueError, KeyError, ValidationError) as error:
            raise WeightsError(
                f"{path}: its metadata are damaged ({error!r:.200}); export the run again"
            ) from error
        return about


def is_export(metadata: Mapping[str, str]) -> bool:
    """Tell whether a file with these metadata is one of `stillroom export`, of any version."""
    return FORMAT in metadata


@dataclass(frozen=True)
class Exported:
    """An exported student, opened.

    Attributes:
        run: frames (B, H, W, 3) uint8 of `about.size` to "labels" and "logits", as
            `StudentProgram` does
    """

    about: About
    run: Callable[[Tensor], Mapping[str, Tensor]]
