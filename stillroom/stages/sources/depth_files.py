"""Read depth maps: files of distances in some unit, with holes where a sensor saw nothing."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.stages.sources.image_files import SIXTEEN_BIT, decode_image
from stillroom.stages.sources.read_faults import read_fault
from stillroom.storage_specs.errors import FrameError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.sources.encoded_file import EncodedFile

DEPTH_SUFFIXES = frozenset({".npy", ".png", ".tif", ".tiff"})
SATURATED = 65535  # what 16 bits hold at most; sensors write it for "no reading"


@dataclass(frozen=True)
class DepthFiles:
    """How a source's depth maps are read.

    Attributes:
        unit: metres that a value of 1 stands for; None: a millimetre in files of integers, a metre
            in files of floating-point numbers.
        near, far: metres; readings outside are none.
    """

    unit: float | None
    near: float
    far: float

    def shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of an image's depth."""
        return size

    def stated(self) -> dict[str, Any]:
        """Return the same as JSON, for identities."""
        return {"unit": self.unit, "range_m": [self.near, self.far]}

    def read(self, file: EncodedFile, size: tuple[int, ...]) -> NDArray[np.float32]:
        """Read the depth (H, W) in metres of an image of this size; 0 where there is no reading.

        0 and NaN are no reading, and 65535 in files of 16 bits.

        Raises:
            FrameError: no depth map of that size: values are negative, infinite, or most of them
                outside near..far, as in another unit; the file is damaged, or a picture of depth.
            SourceUnavailable: it cannot be read now.
        """
        values = _array(file) if file.name.lower().endswith(".npy") else _pixels(file)
        if values.shape != size:
            raise FrameError(
                f"{file.name}: the depth map is {'x'.join(map(str, values.shape))}, its image "
                f"{size[0]}x{size[1]} (height x width)"
            )
        floating = values.dtype.kind == "f"
        unit = (1.0 if floating else 0.001) if self.unit is None else self.unit
        saturated = values.dtype.itemsize == 2 and not floating
        missing = np.isnan(values) if floating else saturated & (values == SATURATED)
        metres = np.where(missing, 0, values) * unit
        _refuse(file, np.isinf(metres), "infinite")
        _refuse(file, metres < 0, "negative")
        return self._in_range(file, metres, unit).astype(np.float32)

    def _in_range(
        self, file: EncodedFile, metres: NDArray[Any], unit: float
    ) -> NDArray[np.floating[Any]]:
        there = metres > 0
        kept = there & (metres >= self.near) & (metres <= self.far)
        if 2 * kept.sum() < there.sum():
            raise FrameError(
                f"{file.name}: {there.sum() - kept.sum()} of {there.sum()} readings lie outside "
                f"{self.near:g} to {self.far:g} m, in the middle {np.median(metres[there]):.3g} m; "
                f"is a value of 1 really {unit:g} m? Mend `unit`, or `near` and `far`"
            )
        return np.where(kept, metres, 0)


def _refuse(file: EncodedFile, wrong: NDArray[np.bool_], what: str) -> None:
    if wrong.any():
        raise FrameError(
            f"{file.name}: {int(wrong.sum())} of {wrong.size} depths are {what}; expected "
            "distances, and 0 or NaN where there is none"
        )


def _pixels(file: EncodedFile) -> NDArray[Any]:
    found = decode_image(file, count_pages=True)
    if found.pages > 1 or found.lossy or found.image.mode not in (*SIXTEEN_BIT, "F"):
        what = f"{found.pages} pages" if found.pages > 1 else found.image.mode
        raise FrameError(
            f"{file.name}: no depth map but {what}: a depth map is one channel of 16-bit or "
            "floating-point values, not a picture of them; save it as 16-bit PNG, TIFF or NPY"
        )
    return np.asarray(found.image)


def _array(file: EncodedFile) -> NDArray[Any]:
    try:
        data = file.read_bytes()
    except OSError as fault:
        raise read_fault(file, fault) from fault
    try:
        values: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    except MemoryError:
        raise
    except Exception as fault:  # a damaged header is taken for a ZIP file, or for broken Python
        raise FrameError(f"{file.name}: cannot be decoded: {fault}") from fault
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fui":
        raise FrameError(f"{file.name}: expected an array of numbers, (height, width)")
    return values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
