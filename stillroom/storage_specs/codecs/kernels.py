"""Steps into values, prediction made and undone on the way, in one compiled pass over memory.

Imported only when a frame is encoded or decoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.storage_specs.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

INT32 = np.int32


@compiled
def affine(
    steps: NDArray[Any],
    scale: NDArray[np.float32],
    offset: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Values of equal steps: out = scale[channel] * steps + offset[channel].

    Not fused into one rounding: every reader of the format finds the same bits.

    Args:
        steps, out: (C, n)
        scale, offset: (C,)
    """
    for channel in range(steps.shape[0]):
        step, least = scale[channel], offset[channel]
        for i in range(steps.shape[1]):
            out[channel, i] = step * np.float32(steps[channel, i]) + least


@compiled
def _after_median(stored: int, west: int, north: int, north_west: int, mask: int) -> int:
    """One step, of its stored difference and its neighbours."""
    low, high = min(west, north), max(west, north)
    foretold = min(max(west + north - north_west, low), high)
    return (foretold + ((stored >> 1) ^ -(stored & 1))) & mask


@compiled
def undo_median(
    stored: NDArray[Any], table: NDArray[np.float32], mask: int, out: NDArray[np.float32]
) -> None:
    """Values of "median" predicted steps.

    Args:
        stored: (C, h, w) uint8 or uint16
        table: (C, k), the value of each step of each channel; a step beyond it reads the last
        mask: 2^8 - 1 or 2^16 - 1
        out: (C, h, w)
    """
    channels, height, width = stored.shape
    last = table.shape[1] - 1
    above = np.empty((4, max(width, 1)), np.int32)
    # A step waits for the one to its left; four channels at a time fill the wait. Past the last
    # channel the last one is done again, to the same result.
    for first in range(0, channels, 4):
        c0, c1 = first, min(first + 1, channels - 1)
        c2, c3 = min(first + 2, channels - 1), min(first + 3, channels - 1)
        above[:] = 0
        for y in range(height):
            w0, w1, w2, w3 = above[0, 0], above[1, 0], above[2, 0], above[3, 0]
            v0, v1, v2, v3 = w0, w1, w2, w3  # north-west
            for x in range(width):
                n0, n1, n2, n3 = above[0, x], above[1, x], above[2, x], above[3, x]
                w0 = _after_median(INT32(stored[c0, y, x]), w0, n0, v0, mask)
                w1 = _after_median(INT32(stored[c1, y, x]), w1, n1, v1, mask)
                w2 = _after_median(INT32(stored[c2, y, x]), w2, n2, v2, mask)
                w3 = _after_median(INT32(stored[c3, y, x]), w3, n3, v3, mask)
                out[c0, y, x] = table[c0, min(w0, last)]
                out[c1, y, x] = table[c1, min(w1, last)]
                out[c2, y, x] = table[c2, min(w2, last)]
                out[c3, y, x] = table[c3, min(w3, last)]
                v0, v1, v2, v3 = n0, n1, n2, n3
                above[0, x], above[1, x], above[2, x], above[3, x] = w0, w1, w2, w3


@compiled
def undo_above(
    stored: NDArray[np.uint16],
    top: NDArray[np.float32],
    step: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Values of "above" predicted steps: out = top[channel] - step[channel] * steps.

    A row waits for nothing within itself, so that this runs in vector instructions.

    Args:
        stored, out: (C, h, w)
        top, step: (C,)
    """
    channels, height, width = stored.shape
    steps = np.empty(width, np.uint16)
    for c in range(channels):
        highest, each = top[c], step[c]
        steps[:] = 0
        for y in range(height):
            for x in range(width):
                z = stored[c, y, x]
                steps[x] = np.uint16(steps[x] + np.uint16((z >> 1) ^ np.uint16(-(z & 1))))
            for x in range(width):
                out[c, y, x] = highest - each * np.float32(steps[x])


@compiled
def undo_plane(stored: NDArray[Any], scale: float, out: NDArray[np.float32]) -> None:
    """Values of "plane" predicted int16 steps.

    Args:
        stored: (C, h, w) uint16
        scale: value of one step
        out: (C, h, w)
    """
    channels, height, width = stored.shape
    above = np.empty(width, np.int32)
    for c in range(channels):
        above[:] = 0
        for y in range(height):
            # Along a row W + N - NW is N plus a running sum of differences.
            drift = INT32(0)
            for x in range(width):
                z = INT32(stored[c, y, x])
                drift = np.int32(np.int16(drift + ((z >> 1) ^ -(z & 1))))
                step = np.int32(np.int16(above[x] + drift))
                above[x] = step
                out[c, y, x] = step * np.float32(scale)


@compiled
def undo_rgb(stored: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Pixels of "above" predicted green, and red and blue less green.

    Args:
        stored, out: (h, w, 3); may be the same memory
    """
    height, width, _ = stored.shape
    row, one, half = np.zeros(3 * width, np.uint8), np.uint8(1), np.uint8(128)
    for y in range(height):
        differences, pixels = stored[y].reshape(3 * width), out[y].reshape(3 * width)
        for i in range(3 * width):
            z = differences[i]
            row[i] = np.uint8(row[i] + np.uint8((z >> one) ^ np.uint8(-(z & one))))
        for i in range(0, 3 * width, 3):
            green = row[i + 1]
            base = np.uint8(green - half)
            pixels[i] = np.uint8(row[i] + base)
            pixels[i + 1] = green
            pixels[i + 2] = np.uint8(row[i + 2] + base)


@compiled
def differences(steps: NDArray[Any], rule: int, bits: int, out: NDArray[Any]) -> None:
    """Steps as differences from what their neighbours foretell.

    Args:
        steps, out: (C, h, w) uint8 or uint16
        rule: of `prediction.Predictor`, by its place there
        bits: 8 or 16
    """
    channels, height, width = steps.shape
    half, mask = INT32(1 << (bits - 1)), INT32((1 << bits) - 1)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                north = INT32(steps[c, y - 1, x]) if y else INT32(0)
                west = INT32(steps[c, y, x - 1]) if x else north
                north_west = INT32(steps[c, y - 1, x - 1]) if x and y else north
                foretold = north
                if rule > 0:
                    foretold = west + north - north_west
                if rule == 1:
                    foretold = min(max(foretold, min(west, north)), max(west, north))
                d = ((INT32(steps[c, y, x]) - foretold + half) & mask) - half
                out[c, y, x] = ((d << 1) ^ (d >> 31)) & mask
