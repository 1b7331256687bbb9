"""Read the ids of label files, however a program stored them.

A lossless optimiser may store grey values as a palette of greys, as one bit, or as three equal
channels. The ids are what the file shows in grey then. A palette with a colour in it, as of Pascal
VOC, names classes by its indices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.stages.sources.image_files import SIXTEEN_BIT, decode_image
from stillroom.storage_specs.errors import FrameError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from stillroom.stages.sources.encoded_file import EncodedFile
    from stillroom.stages.sources.image_files import Decoded


FAR_APART = 32  # grey values: two ids that no loss of a usual JPEG makes one another


def read_label(file: EncodedFile, apart: int = 1) -> NDArray[np.integer[Any]]:
    """Read a label map's raw ids.

    Grey values; of a palette its greys, or its indices where there is a colour in it; 0 and 255 of
    one bit; the value of three equal channels of 8 bits, where no alpha hides any and no lossy
    compression has touched them; whole floating-point numbers. A PGM's values are those in the
    file, whatever its highest.

    Args:
        apart: the least difference of two ids that mean different things; grey values that were
            compressed with loss are read where it is large

    Returns:
        unsigned or signed integers (H, W), of 8, 16 or 32 bits as in the file.

    Raises:
        FrameError: as for an image, or the file holds colours instead of ids.
        SourceUnavailable: it cannot be read now.
    """
    found = decode_image(file, count_pages=True)
    image = found.image
    if found.pages > 1:
        raise _no_ids(file, f"has {found.pages} pages")
    if image.mode == "1":
        return np.array(image, dtype=np.uint8) * np.uint8(255)
    if image.mode == "P":
        return _of_palette(file, image)
    if image.mode == "F":
        return _whole(file, np.asarray(image))
    if image.mode == "L" and found.lossy and apart < FAR_APART:
        raise _no_ids(file, "is compressed with loss, so that an id may have become another")
    if image.mode in ("L", *SIXTEEN_BIT):
        return _as_stored(np.array(image), found.highest)
    if image.mode in ("RGB", "RGBA", "LA"):
        return _of_channels(file, found)
    raise _no_ids(file, f"is {image.mode}")


def _of_palette(file: EncodedFile, image: Image.Image) -> NDArray[np.uint8]:
    """Take greys for ids, unless two used entries are of one grey: then the indices tell more."""
    indices: NDArray[np.uint8] = np.array(image)
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    if len(palette) == 0 or (palette != palette[:, :1]).any() or indices.max() >= len(palette):
        return indices
    greys: NDArray[np.uint8] = palette[:, 0]
    used = np.unique(indices)
    if len(np.unique(greys[used])) == len(used):
        return greys.take(indices)
    if "transparency" in image.info:
        raise _no_ids(file, "has a palette whose greys differ in transparency alone")
    return indices


def _of_channels(file: EncodedFile, found: Decoded) -> NDArray[np.uint8]:
    values = np.array(found.image)
    if found.image.mode[-1] == "A":
        if (values[..., -1] != 255).any():
            raise _no_ids(file, "has transparent pixels")
        values = values[..., :-1]
    if "16" in found.stored:
        raise _no_ids(file, "has channels of 16 bits, of which only the high byte is read")
    if found.lossy:
        raise _no_ids(file, "is compressed with loss")
    if (values != values[..., :1]).any():
        raise _no_ids(file, "is in colour")
    return np.ascontiguousarray(values[..., 0])


def _whole(file: EncodedFile, values: NDArray[np.float32]) -> NDArray[np.int32]:
    whole = np.isfinite(values) & (values == np.rint(values)) & (abs(values) < 1e6)
    if not whole.all():
        raise _no_ids(file, "holds floating-point numbers that are not whole")
    return values.astype(np.int32)


def _as_stored(values: NDArray[Any], highest: int | None) -> NDArray[Any]:
    """Undo that Pillow stretches the values of a PGM, so that its highest becomes the type's."""
    if highest is None:
        return values
    full = 255 if values.dtype.itemsize == 1 else 65535
    return np.rint(values * (highest / full)).astype(values.dtype)


def _no_ids(file: EncodedFile, why: str) -> FrameError:
    return FrameError(
        f"{file.name}: a label file holds one id a pixel (greyscale or palette), this one {why}; "
        "save the ids as an 8-bit greyscale PNG"
    )
