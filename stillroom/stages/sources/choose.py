"""Which of the frames that were found a source has: those of a list, or some that a seed draws."""

from __future__ import annotations

from collections import defaultdict
from hashlib import sha256
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from stillroom.stages.sources.names import Names
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from stillroom.stages.sources.listing import Listing
    from stillroom.stages.sources.source_settings import FileSettings

SHOWN = 3  # entries of a list that a message shows


def choose(listing: Listing, config: FileSettings) -> Listing:
    """Return the frames that a section asks for, in the order of the listing.

    Raises:
        ConfigError: the list is missing, empty or names what is not there, or fewer frames, or
            clips, were found than are to be drawn.
    """
    if config.list is not None:
        listing = of_list(listing, config.list)
    if config.draws():
        names = Names(listing.ids) if listing.clips is None else listing.clips.names
        drawn = _drawn(names, config, "frames" if listing.clips is None else "whole clips")
        chosen = drawn if listing.clips is None else np.isin(listing.clips.clip, drawn).nonzero()[0]
        listing = listing.take(pa.array(chosen))
    return listing


def of_list(listing: Listing, path: Path) -> Listing:
    """Return the frames that a text file names; of clips, also those whose clip it names.

    Raises:
        ConfigError: it is missing, empty, or names what is not there.
    """
    named, lost = _Named(listing), []
    chosen: set[int] = set()
    for line in read_list(path):
        found = named.by_line(line)
        chosen.update(found)
        if not found:
            lost.append(line)
    if lost:
        more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
        raise ConfigError(
            f"list {path}: {len(lost)} of {len(lost) + len(chosen)} entries name no frame here: "
            f"{', '.join(map(repr, lost[:SHOWN]))}{more}; frames are called like "
            f"{listing.ids[0].as_py()!r}, their files like "
            f"{listing.images.called(0, listing.ids[0].as_py())[0]}"
        )
    return listing.take(pa.array(sorted(chosen), pa.int64()))


def read_list(path: Path) -> tuple[str, ...]:
    """Return the lines of a text file that are not empty.

    Raises:
        ConfigError: it cannot be read, or there is none.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as fault:
        reason = getattr(fault, "strerror", None) or "it is no UTF-8 text"
        raise ConfigError(
            f"list {path} cannot be read: {reason}; give a text file with a frame a line, by a "
            "path from the folder that you call from"
        ) from fault
    if entries := tuple(line.strip() for line in lines if line.strip()):
        return entries
    raise ConfigError(f"list {path} is empty; write a frame a line, by its name or its path")


class _Named:
    """The frames of a listing by what a list may call them."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._clips: dict[str, int] = {}
        if listing.clips is not None:
            self._clips = {name: index for index, name in enumerate(listing.clips.names)}
        self._by_last: dict[str, list[int]] = defaultdict(list)
        for index, frame_id in enumerate(Names(listing.ids)):
            for last in {form.rpartition("/")[2] for form in self._forms(index, frame_id)}:
                self._by_last[last].append(index)

    def _forms(self, index: int, frame_id: str) -> Iterator[str]:
        """Yield the id, and what else a frame may be called."""
        yield frame_id
        yield from self._listing.images.called(index, frame_id)

    def by_line(self, line: str) -> Sequence[int]:
        """Return the frames of a line: a name, or a name and its label's in further columns.

        Raises:
            ConfigError: several frames are called so, or its label is not the one named.
        """
        for columns in ([line], line.split("\t"), line.split(), line.split(",")):
            if found := self._by_name(columns[0].strip()):
                if self._listing.labels is not None:
                    self._check_labels(line, found, columns[1:])
                return found
        return ()

    def _by_name(self, name: str) -> Sequence[int]:
        if name in self._clips and self._listing.clips is not None:
            return np.flatnonzero(self._listing.clips.clip == self._clips[name]).tolist()
        name = name.removeprefix("./")
        end = "/" + name.lstrip("/")
        ids = self._listing.ids
        found = [
            index
            for index in self._by_last.get(name.rpartition("/")[2], ())
            if any(("/" + form).endswith(end) for form in self._forms(index, ids[index].as_py()))
        ]
        exact = [index for index in found if ids[index].as_py() == name]
        if len(found) > 1 and not exact:
            both = " and ".join(repr(ids[index].as_py()) for index in found[:2])
            raise ConfigError(f"list: {name!r} may be {both}; write more of its path")
        return exact or found

    def _check_labels(self, line: str, found: Sequence[int], others: Iterable[str]) -> None:
        last = self._listing.ids[found[0]].as_py().rpartition("/")[2]
        for other in others:
            if not PurePath(other.strip()).name.startswith(last):
                raise ConfigError(
                    f"list: {line!r} has a second column that is no label of frame {last!r}: a "
                    "source pairs frames with labels by their names; keep the first column"
                )


def _drawn(names: Sequence[str], config: FileSettings, what: str) -> NDArray[np.int64]:
    """Return the indices of the names that are drawn, ascending.

    Args:
        what: they name, for messages
    """
    left = len(names) - config.skip
    if left < (config.take or 1):
        asked = f"skip = {config.skip}" + (f", take = {config.take}" if config.take else "")
        raise ConfigError(
            f"{asked}: {what} are drawn, and there are {len(names)} of them; ask for fewer"
        )

    def place(index: int) -> bytes:
        return sha256(f"{config.seed}\n{names[index]}".encode()).digest()

    order = np.array(sorted(range(len(names)), key=place), np.int64)[config.skip :]
    drawn: NDArray[np.int64] = np.sort(order[: config.take])
    return drawn
