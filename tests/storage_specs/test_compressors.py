from __future__ import annotations

from typing import Any

import numcodecs.blosc
import numcodecs.zstd
import numpy as np
import pytest

from stillroom.storage_specs.compressors import decompress

SIZES = (1, 200, 255, 256, 257, 4096, 65_791, 65_792, 100_000, 1_000_000)


def packed(name: str, content: np.ndarray) -> np.ndarray:
    if name == "zstd":
        return np.frombuffer(numcodecs.zstd.compress(content, 1), np.uint8)
    if name == "blosc":
        return np.frombuffer(numcodecs.blosc.compress(content, b"lz4", 5, 0), np.uint8)
    return content


@pytest.mark.parametrize("compressor", [{"name": "none"}, {"name": "zstd"}, {"name": "blosc"}])
@pytest.mark.parametrize("size", SIZES)
def test_a_chunk_fills_its_array_or_is_refused(compressor: dict[str, Any], size: int) -> None:
    content = np.random.default_rng(size).integers(0, 3, size, np.uint8)
    chunk = packed(compressor["name"], content)
    out = np.empty(size, np.uint8)
    decompress(compressor, chunk, out)
    np.testing.assert_array_equal(out, content)
    for other in (size + 1, 2 * size, max(2, size - 1), size + 256):
        if other != size:
            with pytest.raises(ValueError, match=rf"holds {size} bytes, expected {other}"):
                decompress(compressor, chunk, np.empty(other, np.uint8))


@pytest.mark.parametrize("name", ["none", "zstd", "blosc"])
@pytest.mark.parametrize("length", range(6))
def test_a_chunk_that_is_too_short_to_say_anything_is_refused(name: str, length: int) -> None:
    with pytest.raises(ValueError, match="expected 100"):
        decompress({"name": name}, np.zeros(length, np.uint8), np.empty(100, np.uint8))
