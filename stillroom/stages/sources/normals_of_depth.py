"""Normals from depth and a camera: the plane that fits the surface around each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.stages.sources.depth_files import DepthFiles
    from stillroom.stages.sources.encoded_file import EncodedFile

    Doubles = NDArray[np.float64]

WINDOW = 15  # pixels, each way
LARGEST_RESIDUAL = 0.01  # of inverse depth, root mean square: beyond it there is an edge

FIT = {"window": WINDOW, "largest_residual": LARGEST_RESIDUAL}
"""What decides normals beside depth and camera, for identities."""


class Camera(NamedTuple):
    """A pinhole camera in pixels: focal lengths, and the column and row straight ahead."""

    fx: float
    fy: float
    cx: float
    cy: float


@dataclass(frozen=True)
class NormalsOfDepth:
    """Reads depth maps as normals.

    Attributes:
        depth: reads the files.
    """

    depth: DepthFiles
    camera: Camera

    def shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of an image's normals."""
        return (3, *size)

    def read(self, file: EncodedFile, size: tuple[int, ...]) -> NDArray[np.float32]:
        """Read the normals (3, H, W) of a depth map; raises what `DepthFiles.read` does."""
        return normals_of_depth(self.depth.read(file, size), self.camera)


def normals_of_depth(depth: NDArray[np.float32], camera: Camera) -> NDArray[np.float32]:
    """Fit a plane around each pixel, by least squares of inverse depth.

    A plane n . P = d is linear in the inverse of depth: with P = Z (x, y, 1),

        1 / Z = (n / d) . (x, y, 1),    x = (column - cx) / fx,  y = (row - cy) / fy

    so that the fit needs no more than sums over windows.

    Args:
        depth: (H, W) metres, 0 where there is none

    Returns:
        (3, H, W) float32 unit vectors, x right, y down, z forward, towards the camera; 0 where a
        pixel has no depth, less than half of its window has, or no plane fits: at edges
    """
    rows, columns = np.indices(depth.shape, dtype=np.float64)
    there = np.asarray(depth > 0, np.float64)
    inverse = np.divide(1, depth, where=depth > 0, out=np.zeros(depth.shape))
    across = np.asarray((columns - camera.cx) / camera.fx)
    down = np.asarray((rows - camera.cy) / camera.fy)
    grids = [across, down, inverse]
    count = _sums(there)
    # about the mean of the window, so that little is lost to rounding
    means = [_sums(grid * there) / np.maximum(count, 1) for grid in grids]

    def moment(one: int, other: int) -> Doubles:
        product = _sums(grids[one] * grids[other] * there)
        return np.asarray(product - count * means[one] * means[other])

    xx, xy, yy, xq, yq, qq = (
        moment(*pair) for pair in ((0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2))
    )
    mean_x, mean_y, mean_q = means
    area = xx * yy - xy * xy
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (xq * yy - yq * xy) / area, (yq * xx - xq * xy) / area
        plane = np.stack([a, b, mean_q - a * mean_x - b * mean_y])
        residual = np.sqrt(np.maximum(qq - a * xq - b * yq, 0) / count) / mean_q
        normals = -plane / np.sqrt((plane**2).sum(0))
        known = (there > 0) & (2 * count >= WINDOW**2) & (residual < LARGEST_RESIDUAL)
    return np.where(known & np.isfinite(normals).all(0), normals, 0).astype(np.float32)


def _sums(values: Doubles) -> Doubles:
    """Sum over the window around each pixel; nothing lies beyond the edges."""
    import cv2

    return np.asarray(
        cv2.boxFilter(
            values, cv2.CV_64F, (WINDOW, WINDOW), normalize=False, borderType=cv2.BORDER_CONSTANT
        )
    )
