"""A spelling for paths that are no printable UTF-8, so that their files can be frames with an id.

Every byte that is not part of printable text becomes one of the 256 Braille patterns, U+2800 and
the byte, which has no digit that a clip could take for its time; and the file's name gets a dot in
front. Files that begin with a dot are never listed, so that no other file is spelled like that,
and the bytes can be had back.
"""

from __future__ import annotations

import unicodedata

from stillroom.storage_specs.errors import FrameError

FIRST = 0x2800
"""Of the Braille patterns."""
BYTES = 256
BREAKING = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Categories of characters that break a line or a terminal; spaces of any width do not."""


def spelled(path: str) -> str:
    """Return the path as it is if it is text, else its spelling.

    Args:
        path: below the source's folder, with "/" between parts and surrogates for stray bytes
    """
    if path.isascii() and path.isprintable():
        return path
    if all(unicodedata.category(letter) not in BREAKING for letter in path):
        return path
    folder, slash, name = path.rpartition("/")
    return "".join(map(_spelled_letter, f"{folder}{slash}.{name}"))


def unspelled(frame_id: str) -> bytes | None:
    """Return the bytes that an id spells; None where it is a name like any other."""
    folder, slash, name = frame_id.rpartition("/")
    if not name.startswith("."):
        return None
    return b"".join(map(_letter_bytes, f"{folder}{slash}{name[1:]}"))


def refuse_spelled(frame_id: str) -> None:
    """Refuse a frame whose file's path is no text (FrameError)."""
    found = unspelled(frame_id)
    if found is not None:
        raise FrameError(f"its file's path, {found!r}, is not printable UTF-8; rename the file")


def _spelled_letter(letter: str) -> str:
    if unicodedata.category(letter) not in BREAKING and not _is_spelling(letter):
        return letter
    return "".join(chr(FIRST + byte) for byte in letter.encode("utf8", "surrogateescape"))


def _letter_bytes(letter: str) -> bytes:
    return bytes([ord(letter) - FIRST]) if _is_spelling(letter) else letter.encode()


def _is_spelling(letter: str) -> bool:
    return FIRST <= ord(letter) < FIRST + BYTES
