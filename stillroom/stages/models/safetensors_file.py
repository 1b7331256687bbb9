"""Safetensors files: written in one order with a checksum, and known by what they hold.

The library orders the metadata of a file at random, and no reader looks whether the bytes of a
tensor are those that were written. Files that stillroom writes are equal where tensors and metadata
are, and carry a sha256 of both below "sha256" in their metadata. Any reader opens them.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.errors import WeightsError
from stillroom.storage_specs.fingerprint import Digest, canonical_json, sha256_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

METADATA = "__metadata__"
CHECKSUM = "sha256"
LENGTH = 8  # bytes, little endian, before the header


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a file of tensors and text: the same bytes for the same content, with a checksum."""
    from safetensors.torch import save

    # Cloned: safetensors refuses tensors that share memory.
    whole = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
    content: bytes = save(whole, None)
    header, start = _header(content)
    header[METADATA] = dict(metadata)
    header[METADATA][CHECKSUM] = _content_sha256(header, memoryview(content)[start:])
    text = canonical_json(header)
    text += b" " * (-len(text) % LENGTH)  # tensors begin at a multiple of 8
    return len(text).to_bytes(LENGTH, "little") + text + content[start:]


def unpack(content: bytes, where: str) -> dict[str, Tensor]:
    """Return the tensors of a file; its checksum, if it carries one, must be theirs.

    Args:
        where: the file, for messages

    Raises:
        WeightsError: truncated, damaged, or no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        header, start = _header(content)
        stated = header.get(METADATA, {}).get(CHECKSUM)
        # Others may keep a sha256 of something else under this name: ours comes with our version.
        if stated is not None and "stillroom" in header[METADATA]:
            found = _content_sha256(header, memoryview(content)[start:])
            if found != stated:
                raise WeightsError(
                    f"{where}: damaged: its tensors have the sha256 {found[:12]}..., and "
                    f"{stated[:12]}... were written; copy the file again, or export it again"
                )
        tensors: dict[str, Tensor] = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{where}: truncated, or not a safetensors file ({error}); copy it again"
        ) from error
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """Return the text beside a file's tensors.

    Raises:
        WeightsError: it cannot be read, or is no safetensors file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return dict(_header(view)[0].get(METADATA, {}))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError) as error:
        raise WeightsError(
            f"{path}: truncated, or not a safetensors file ({error}); copy it again"
        ) from error


def safetensors_sha256(path: Path) -> str:
    """Return the sha256 of a file's tensors and metadata, in whatever order they stand in it.

    Caches of earlier versions know the file by the sha256 of its bytes: the result agrees with
    that too. A file that is no safetensors file has only the latter.

    Raises:
        OSError: it cannot be read.
    """
    of_bytes = sha256_file(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            header, start = _header(view)
            with memoryview(view) as whole, whole[start:] as data:
                return Digest(_content_sha256(header, data), of_bytes)
    except (ValueError, KeyError, TypeError, AttributeError):
        return of_bytes  # loading it says what is wrong


def _header(content: Any) -> tuple[dict[str, Any], int]:
    """The header of a file, and where its tensors begin."""
    start = LENGTH + int.from_bytes(content[:LENGTH], "little")
    if start > len(content):
        raise ValueError(f"a header of {start - LENGTH} bytes in a file of {len(content)}")
    header = json.loads(bytes(content[LENGTH:start]))
    if not isinstance(header, dict):
        raise TypeError("its header is no table")
    return header, start


def _content_sha256(header: Mapping[str, Any], data: memoryview) -> str:
    """Hash metadata, the checksum left out, then name, type, shape and bytes of every tensor."""
    metadata = {k: v for k, v in header.get(METADATA, {}).items() if k != CHECKSUM}
    digest = hashlib.sha256(canonical_json(metadata))
    for name in sorted(header.keys() - {METADATA}):
        one = header[name]
        begin, end = one["data_offsets"]
        digest.update(canonical_json([name, one["dtype"], one["shape"], end - begin]))
        digest.update(data[begin:end])
    return digest.hexdigest()
