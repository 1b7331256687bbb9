"""The lossless codecs that Zarr applies to a chunk: named in JSON, undone here without Zarr.

A compressor is a small dict: {"name": "none"}, {"name": "zstd", "level": 1} or
{"name": "blosc", "cname": "lz4", "clevel": 5, "shuffle": "noshuffle"}.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numcodecs.blosc
import numcodecs.zstd
import numpy as np

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

BLOSC_NAMES = ("lz4", "lz4hc", "zstd")
SHUFFLES = ("noshuffle", "shuffle", "bitshuffle")
DEFAULTS: dict[str, dict[str, Any]] = {
    "none": {},
    "zstd": {"level": 1},
    "blosc": {"cname": "lz4", "clevel": 5, "shuffle": "noshuffle"},
}

# One chunk is one thread's work; Blosc's own pool would fight ours and does not survive a fork.
numcodecs.blosc.use_threads = False


def compressor_from_dict(document: Mapping[str, Any] | str) -> dict[str, Any]:
    """The compressor with every option filled in.

    Raises:
        ConfigError: an unknown name, option or value.
    """
    options = {"name": document} if isinstance(document, str) else dict(document)
    name = options.pop("name", None)
    if name not in DEFAULTS:
        raise ConfigError(f"unknown compressor {name!r}; known: {', '.join(DEFAULTS)}")
    unknown = sorted(set(options) - set(DEFAULTS[name]))
    if unknown:
        known = ", ".join(DEFAULTS[name]) or "none"
        raise ConfigError(f"compressor {name!r}: unknown option {unknown[0]!r}; known: {known}")
    full = {"name": name, **DEFAULTS[name], **options}
    _check("level", full.get("level", 1), range(-7, 23))
    _check("clevel", full.get("clevel", 5), range(10))
    _check("cname", full.get("cname", "lz4"), BLOSC_NAMES)
    _check("shuffle", full.get("shuffle", "noshuffle"), SHUFFLES)
    return full


def compress(compressor: Mapping[str, Any], values: NDArray[Any]) -> bytes:
    """The bytes of a chunk with these values, as Zarr's codec of that name makes them."""
    flat = np.ascontiguousarray(values).reshape(-1)
    if compressor["name"] == "none":
        return flat.tobytes()
    if compressor["name"] == "zstd":
        return bytes(numcodecs.zstd.compress(flat.view(np.uint8), compressor["level"]))
    shuffle = SHUFFLES.index(compressor["shuffle"])
    name = compressor["cname"].encode()
    return bytes(numcodecs.blosc.compress(flat, name, compressor["clevel"], shuffle))


def decompress(compressor: Mapping[str, Any], chunk: NDArray[np.uint8], out: NDArray[Any]) -> None:
    """Fill `out`, which is C-contiguous, from the compressed bytes of its chunk.

    Raises:
        ValueError: the bytes are not a chunk of this compressor and size.
    """
    # Zero-dimensional and typed arrays alike are plain bytes to a decompressor.
    target = out.reshape(-1).view(np.uint8)
    claimed = _claimed_bytes(compressor["name"], chunk)
    if claimed != target.size:
        raise ValueError(f"it holds {claimed} bytes, expected {target.size}")
    try:
        if compressor["name"] == "none":
            target[:] = chunk
        elif compressor["name"] == "zstd":
            numcodecs.zstd.decompress(chunk, target)
        else:
            numcodecs.blosc.decompress(chunk, target)
    except (RuntimeError, TypeError) as error:
        raise ValueError(str(error)) from error


def _claimed_bytes(name: str, chunk: NDArray[np.uint8]) -> int | None:
    """Return the unpacked size that a chunk states; None where it states none.

    Neither library minds one that fills only the beginning of what it is given.
    """
    head = chunk[:18].tobytes()
    if name == "none":
        return chunk.size
    if name == "blosc":
        return int.from_bytes(head[4:8], "little")
    if len(head) < 6:
        return None
    # RFC 8878, section 3.1.1.1: descriptor, window if there are several segments, dictionary, size
    single = head[4] >> 5 & 1
    start = 6 - single + (0, 1, 2, 4)[head[4] & 3]
    width = (single, 2, 4, 8)[head[4] >> 6]
    size = int.from_bytes(head[start : start + width], "little")
    return size + 256 * (width == 2) if width else None


def _check(option: str, value: Any, allowed: range | tuple[str, ...]) -> None:
    if isinstance(value, bool) or value not in allowed:
        known = (
            f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else ", ".join(allowed)
        )
        raise ConfigError(f"compressor option {option} = {value!r}; allowed: {known}")
