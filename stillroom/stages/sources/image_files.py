"""Read image files by Pillow.

Pillow refuses a truncated file where OpenCV fills the rest with grey, so a damaged frame becomes
a bad row and not a wrong one. A message names the file without its folder: it is kept in the
manifest, whose bytes must not depend on where the data lie.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stillroom.stages.sources.read_faults import read_fault
from stillroom.storage_specs.errors import FrameError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.sources.encoded_file import EncodedFile

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

LOSSY = ("JPEG", "JPEG2000", "MPO", "AVIF")
SUBFILE, NO_PAGE = 254, 0b101  # TIFF's NewSubfileType: a smaller version, a mask of another page
SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def read_image(file: EncodedFile) -> NDArray[np.uint8]:
    """Read an image file as RGB, turned upright.

    Greyscale is repeated over the channels; palettes are looked up; 16-bit values keep their high
    byte; alpha is dropped (the colours are taken as stored, as most readers do); the EXIF
    orientation is applied; of several pages the first is read.

    Returns:
        uint8 (H, W, 3), C-contiguous.

    Raises:
        FrameError: the file is missing, empty, truncated, damaged or not an image.
        SourceUnavailable: it cannot be read now.
    """
    image = decode_image(file).image
    if image.mode in SIXTEEN_BIT:
        grey = _high_byte(file, np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise FrameError(
            f"{file.name}: floating-point pixels have no agreed range; save it as 8 or 16 bit"
        )
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.array(image, dtype=np.uint8)


@dataclass(frozen=True)
class Decoded:
    """An image, and how its file holds the pixels.

    Attributes:
        stored: Pillow's name for what is in the file, such as "RGB;16B"; "" where it tells none
        lossy: whether a pixel may differ from what was saved
        highest: of a PGM that has another one than its type: its values were stretched
        pages: how many the file holds, of which this is the first; 1 where they were not counted
    """

    image: Image.Image
    stored: str
    lossy: bool
    highest: int | None
    pages: int = 1


def decode_image(file: EncodedFile, *, count_pages: bool = False) -> Decoded:
    """Open, decode completely, and turn upright.

    Raises:
        FrameError: the file is missing, empty, truncated, damaged or not an image.
        SourceUnavailable: it cannot be read now.
    """
    try:
        data = file.read_bytes()
    except OSError as fault:
        raise read_fault(file, fault) from fault
    if not data:
        raise FrameError(f"{file.name}: the file is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data)) as opened:
            given = opened.tile[0].args if opened.tile else ()
            arguments = given if isinstance(given, tuple) else (given,)
            codec = opened.tile[0].codec_name if opened.tile else ""
            opened.load()
            return Decoded(
                ImageOps.exif_transpose(opened),
                stored=str(arguments[0]) if arguments else "",
                lossy=opened.format in LOSSY or (opened.format == "WEBP" and b"VP8L" not in data),
                highest=arguments[1] if codec in ("ppm", "ppm_plain") else None,
                pages=_pages(opened) if count_pages else 1,
            )
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise FrameError(
            f"{file.name}: not an image in a known format ({len(data)} bytes)"
        ) from None
    except Exception as fault:  # a damaged file makes Pillow's decoders raise nearly anything
        reason = re.sub(r" at 0x[0-9a-fA-F]+", "", str(fault)) or type(fault).__name__
        raise FrameError(f"{file.name}: cannot be decoded: {reason}") from fault


def _pages(opened: Image.Image) -> int:
    """Count the pages of the first one's size; it is no longer the current one then."""
    size, pages = opened.size, 1
    for page in range(1, getattr(opened, "n_frames", 1)):
        opened.seek(page)
        subfile = getattr(opened, "tag_v2", {}).get(SUBFILE, 0)
        pages += opened.size == size and not subfile & NO_PAGE
    return pages


def _high_byte(file: EncodedFile, values: NDArray[Any]) -> NDArray[np.uint8]:
    """Keep the high byte of 16-bit grey values, as Pillow itself does for 16-bit colour."""
    if values.dtype.itemsize > 2 and values.size and (values.min() < 0 or values.max() > 65535):
        raise FrameError(f"{file.name}: pixel values {values.min()}..{values.max()} exceed 16 bits")
    return (values.astype(np.uint32) >> 8).astype(np.uint8)
