from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stillroom.storage_specs.errors import CacheCorrupt
from stillroom.storage_specs.manifest import encode_part
from stillroom.storage_specs.shards import shard_writer
from stillroom.storage_specs.shards.shard_chunks import chunks_of
from stillroom.storage_specs.verify import verify_definition, verify_shard

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.storage_specs.shards.stored_array import StoredArray

OBJECTS = {
    "camvid/fpn/logits": "c.0.0.0.0",
    "camvid/fpn/logits_scale": "c.0.0",
    "camvid/fpn/logits_offset": "c.0.0",
    "camvid/fpn/features/penultimate": "c.0.0.0.0",
    "camvid/fpn/pseudo_label": "c.0.0.0",
    "camvid/fpn/confidence": "c.0.0.0",
}
INDEX = 4 * 16 + 4


def test_a_sound_cache_has_no_fault(full_set: Any) -> None:
    assert verify_definition(full_set.set) == []
    assert [verify_shard(full_set.set, shard) for shard in range(3)] == [[], [], []]


def test_what_is_not_committed_has_no_fault(empty_set: Any) -> None:
    assert verify_shard(empty_set.set, 0) == []


@pytest.mark.parametrize("array", OBJECTS)
def test_a_flipped_bit_anywhere_in_an_object_is_found_and_named(full_set: Any, array: str) -> None:
    path = Path(full_set.set.place) / array / OBJECTS[array]
    good = path.read_bytes()
    index = np.frombuffer(good[-INDEX:-4], "<u8").reshape(4, 2).astype(int)
    step = max(1, len(good) // 150)
    for place in [*range(0, len(good), step), len(good) - 1]:
        damaged = bytearray(good)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        faults = verify_shard(full_set.set, 0)
        assert {(fault.array, fault.shard) for fault in faults} == {(array, 0)}
        if place >= len(good) - INDEX:
            assert faults[0].kind == "index"
            continue
        (frame,) = [i for i, (at, length) in enumerate(index) if at <= place < at + length]
        assert [(fault.kind, fault.index) for fault in faults] == [("chunk", frame)]
        assert f"{array}, shard 0, frame {frame}: checksum" in str(faults[0])


def test_a_reader_meets_a_flipped_bit_as_an_error_that_names_it(full_set: Any) -> None:
    made = full_set.set
    for array, artifact in (
        ("camvid/fpn/logits", "logits"),
        ("camvid/fpn/logits_scale", "logits"),
        ("camvid/fpn/pseudo_label", "pseudo_label"),
    ):
        path = Path(made.place) / array / OBJECTS[array]
        good = path.read_bytes()
        path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
        fresh = pickle.loads(pickle.dumps(made))
        with pytest.raises(CacheCorrupt, match=rf"{array}: frame 0 .*stillroom cache verify"):
            fresh.read(artifact, 0)
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(CacheCorrupt, match=rf"{array}: shard 0 .* its index"):
            pickle.loads(pickle.dumps(made)).read(artifact, 0)
        path.write_bytes(good)
        assert fresh.read(artifact, 0) is not None  # mended, and the reader goes on


def test_a_lost_or_shortened_object_is_found(full_set: Any) -> None:
    path = Path(full_set.set.place) / "camvid/fpn/logits/c.0.0.0.0"
    good = path.read_bytes()
    for length in (0, 3, INDEX, len(good) - 1):
        path.write_bytes(good[:length])
        kinds = {fault.kind for fault in verify_shard(full_set.set, 0)}
        assert "size" in kinds
        with pytest.raises(CacheCorrupt, match="camvid/fpn/logits"):
            pickle.loads(pickle.dumps(full_set.set)).read("logits", 0)
    path.unlink()
    (fault,) = verify_shard(full_set.set, 0)
    assert (fault.kind, fault.array) == ("missing", "camvid/fpn/logits")
    with pytest.raises(CacheCorrupt, match="its object is missing"):
        pickle.loads(pickle.dumps(full_set.set)).read("logits", 0)


def test_another_shards_sound_object_in_its_place_is_found(full_set: Any) -> None:
    folder = Path(full_set.set.place) / "camvid/fpn/features/penultimate"
    (folder / "c.0.0.0.0").write_bytes((folder / "c.1.0.0.0").read_bytes())
    faults = verify_shard(full_set.set, 0)
    assert {fault.kind for fault in faults} <= {"checksum", "size"}
    assert faults


def test_another_shards_object_of_the_same_length_is_found(
    full_set: Any,
) -> None:
    folder = Path(full_set.set.place) / "camvid/fpn/confidence"
    swapped = (folder / "c.1.0.0").read_bytes()
    assert len(swapped) == len((folder / "c.0.0.0").read_bytes())
    (folder / "c.0.0.0").write_bytes(swapped)
    (fault,) = verify_shard(full_set.set, 0)
    assert (fault.kind, fault.index, fault.array) == ("checksum", None, "camvid/fpn/confidence")


@pytest.mark.parametrize(
    ("array", "value", "says"),
    [
        ("logits_scale", -1, "negative scale"),
        ("logits_offset", np.inf, "not finite"),
        ("features/penultimate", np.nan, "not finite"),
        ("pseudo_label", 7, "which is neither a class"),
    ],
)
def test_values_that_no_encoder_makes_are_found_in_a_sound_object(
    empty_set: Any, array: str, value: float, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = iter(range(4))

    def with_value(stored: StoredArray, values: NDArray[Any]) -> tuple[bytes, ...]:
        if stored.path == f"camvid/fpn/{array}" and next(frames) == 2:
            values = values.copy()
            values.flat[1] = value
        return chunks_of(stored, values)

    monkeypatch.setattr(shard_writer, "chunks_of", with_value)
    empty_set.filled_writer(0).commit()
    (fault,) = verify_shard(empty_set.set, 0)
    assert (fault.kind, fault.index, fault.array) == ("values", 2, f"camvid/fpn/{array}")
    assert says in fault.message


def test_rows_that_do_not_fit_their_objects_are_found(full_set: Any) -> None:
    part = full_set.set.part(0)
    rows = (part.rows[0], replace(part.rows[1], bytes=1), *part.rows[2:])
    path = Path(full_set.set.place) / "manifest/camvid/fpn/00000.parquet"
    path.write_bytes(encode_part(replace(part, rows=rows)))
    (fault,) = verify_shard(full_set.set, 0)
    assert (fault.kind, fault.index) == ("rows", 1)
    path.write_bytes(encode_part(replace(part, rows=rows[:3])))
    (fault,) = verify_shard(full_set.set, 0)
    assert fault.kind == "manifest"
    assert "3 rows, its shard has 4 frames" in fault.message
    path.write_bytes(encode_part(replace(part, objects={})))
    assert {fault.kind for fault in verify_shard(full_set.set, 0)} == {"manifest"}


def test_a_damaged_part_is_a_fault_of_the_manifest(full_set: Any) -> None:
    path = Path(full_set.set.place) / "manifest/camvid/fpn/00001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    (fault,) = verify_shard(full_set.set, 1)
    assert (fault.kind, fault.array) == ("manifest", "manifest/camvid/fpn/00001.parquet")


def test_a_discarded_shard_is_mended_by_building_it_again(full_set: Any) -> None:
    undisturbed = full_set.files()
    path = Path(full_set.set.place) / "camvid/fpn/logits/c.0.0.0.0"
    path.write_bytes(path.read_bytes()[::-1])
    assert verify_shard(full_set.set, 0)
    full_set.set.discard(0)
    full_set.commit(0)
    assert verify_shard(full_set.set, 0) == []
    assert full_set.files() == undisturbed


def test_changed_metadata_of_an_array_are_found(full_set: Any) -> None:
    path = Path(full_set.set.place) / "camvid/fpn/logits/zarr.json"
    good = json.loads(path.read_bytes())
    for change, says in (
        ({**good, "shape": [11, 3, 4, 6]}, "shape"),
        ({**good, "data_type": "int8"}, "data_type"),
        ({**good, "attributes": {}}, "attributes"),
        ([], "JSON"),
    ):
        path.write_text(json.dumps(change))
        (fault,) = verify_definition(full_set.set)
        assert (fault.kind, fault.array, fault.shard) == ("metadata", "camvid/fpn/logits", None)
        assert says in fault.message
    path.write_text("{")
    assert "JSON" in str(verify_definition(full_set.set)[0])
    path.unlink()
    assert "missing" in str(verify_definition(full_set.set)[0])


def test_any_flipped_bit_of_an_arrays_metadata_is_found(full_set: Any) -> None:
    path = Path(full_set.set.place) / "camvid/fpn/logits/zarr.json"
    good = path.read_bytes()
    for place in range(0, len(good), 5):
        path.write_bytes(good[:place] + bytes([good[place] ^ (1 << place % 7)]) + good[place + 1 :])
        assert {fault.array for fault in verify_definition(full_set.set)} == {"camvid/fpn/logits"}


def test_changed_or_lost_bare_groups_are_found(full_set: Any) -> None:
    for group in ("camvid", "camvid/fpn/features"):
        path = Path(full_set.set.place) / group / "zarr.json"
        good = path.read_bytes()
        for bad in (good.replace(b'"group"', b'"grouq"'), b"[]", None):
            path.unlink() if bad is None else path.write_bytes(bad)
            (fault,) = verify_definition(full_set.set)
            assert (fault.kind, fault.array) == ("metadata", group)
        path.write_bytes(good)


def test_a_part_that_cannot_be_read_is_a_fault_of_its_shard(full_set: Any) -> None:
    path = Path(full_set.set.place) / "manifest/camvid/fpn/00001.parquet"
    path.unlink()
    path.mkdir()
    (fault,) = verify_shard(full_set.set, 1)
    assert (fault.kind, fault.shard) == ("manifest", 1)
    assert full_set.set.committed() == {0, 2}
