from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.storage_specs.errors import ArtifactError, CacheCorrupt
from stillroom.storage_specs.manifest import (
    OPEN_SEAL,
    PAIR_SCHEMA,
    SCHEMA,
    SEAL,
    FrameRow,
    PairRow,
    ShardPart,
    bad_rows,
    decode_part,
    encode_part,
    entry_of,
)

ROWS = (
    FrameRow(64, "clip/0064", "ok", "", 360, 480, 1234, 0xFFFFFFFF, 0.125, 0.5),
    FrameRow(65, "clip/0065", "bad", "image file is truncated"),
)
PART = ShardPart(
    "camvid", "fpn", 1, 64, 66, "ab" * 32, {"camvid/fpn/logits": entry_of(b"object")}, ROWS
)


def test_a_part_comes_back_as_it_was() -> None:
    assert decode_part(encode_part(PART), "00001.parquet") == PART


def test_a_part_of_pairs_has_their_partners() -> None:
    rows = (
        PairRow(64, "a/07", partner="a/09", offset=2, draw=0, partner_crc32c=7, clipped=3),
        PairRow(65, "a/09", "bad", "a/07: truncated", partner="a/07", offset=-2),
    )
    part = replace(PART, rows=rows)
    assert decode_part(encode_part(part), "00001.parquet") == part
    table = pq.read_table(pa.BufferReader(encode_part(part)))
    assert table.schema.names == PAIR_SCHEMA.names
    assert table["draw"].to_pylist() == [0, None]
    assert bad_rows(table) == [rows[1]]
    for mixed in ((rows[0], ROWS[1]), (ROWS[0], rows[1])):
        with pytest.raises(ArtifactError, match="do not mix"):
            encode_part(replace(PART, rows=mixed))


def test_the_same_part_is_the_same_bytes() -> None:
    assert encode_part(PART) == encode_part(replace(PART))


def test_any_parquet_reader_reads_the_rows() -> None:
    table = pq.read_table(pa.BufferReader(encode_part(PART)))
    assert table.schema.names == SCHEMA.names
    assert table["frame_id"].to_pylist() == ["clip/0064", "clip/0065"]
    assert table["crc32c"].to_pylist() == [0xFFFFFFFF, None]


def test_every_single_flipped_bit_is_found() -> None:
    content = bytearray(encode_part(PART))
    for place in range(len(content)):
        bit = 1 << (place % 8)
        content[place] ^= bit
        with pytest.raises(CacheCorrupt, match=r"00001\.parquet.*stillroom cache build"):
            decode_part(bytes(content), "00001.parquet")
        content[place] ^= bit


def test_a_part_cut_short_anywhere_is_found() -> None:
    content = encode_part(PART)
    for length in range(0, len(content), 7):
        with pytest.raises(CacheCorrupt):
            decode_part(content[:length], "00001.parquet")


def test_a_sealed_file_that_is_no_part_is_refused() -> None:
    content = b"hello " + SEAL + OPEN_SEAL
    sealed = content[:-8] + f"{google_crc32c.value(content):08x}".encode()
    with pytest.raises(CacheCorrupt, match="not a manifest part"):
        decode_part(sealed, "00001.parquet")


text = st.text(st.characters(exclude_categories=["Cs"])) | st.just((SEAL + OPEN_SEAL).decode())


@given(frame_id=text, reason=text)
def test_no_text_of_a_row_confuses_the_seal(frame_id: str, reason: str) -> None:
    part = replace(PART, rows=(FrameRow(64, frame_id, "bad", reason), ROWS[1]))
    assert decode_part(encode_part(part), "x") == part


def test_a_row_that_does_not_fit_the_columns_is_refused() -> None:
    for row in (replace(ROWS[0], crc32c=-1), replace(ROWS[0], frame_id="\ud800")):
        with pytest.raises(ArtifactError, match="manifest row cannot be written"):
            encode_part(replace(PART, rows=(row,)))


def test_a_part_is_read_without_a_thread() -> None:
    """Arrow's threads abort a process that ends while they start: `cache info` did so at times."""
    golden = Path(__file__).parent.parent / "data/cache_v1.zarr/manifest/garden/fpn/00000.parquet"
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from stillroom.storage_specs.manifest import decode_part\n"
        "before = os.listdir('/proc/self/task')\n"
        "decode_part(Path(sys.argv[1]).read_bytes(), 'part')\n"
        "print(os.listdir('/proc/self/task') == before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(golden)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n"
