"""Caches that were damaged by hand or made to harm: refused in one message, nothing executed.

Whoever makes a cache can also make its checksums right: here they are.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillroom.pipeline.build.run import build
from stillroom.pipeline.cache_tools.info import describe_cache
from stillroom.pipeline.cache_tools.verify import verify_cache
from stillroom.pipeline.run_file.loading import load_run
from stillroom.storage_specs.codecs.plain import Raw
from stillroom.storage_specs.errors import CacheCorrupt, CacheMismatch, StillroomError
from stillroom.storage_specs.fingerprint import fingerprint
from stillroom.storage_specs.layout import KEY, ArraySpec, group_json
from stillroom.storage_specs.manifest import (
    OPEN_SEAL,
    SCHEMA,
    SEAL,
    decode_part,
    encode_part,
    entry_of,
)
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Callable

CACHE = Path("street.cache")
TINY = CACHE / "street/tiny"
PART = CACHE / "manifest/street/tiny/00002.parquet"
OBJECT = TINY / "logits/c.2.0.0.0"


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("built") / "street.cache"


@pytest.fixture(autouse=True)
def built(fault_run: Path, built_once: Path) -> None:
    if not built_once.exists():
        build(load_run(fault_run))
        CACHE.rename(built_once)
    shutil.copytree(built_once, CACHE)


def read_everything() -> None:
    """Every frame of every array, the way training reads them."""
    cache = Cache.open(CACHE)
    for pair in cache.sets():
        target = cache.artifact_set(*pair)
        for artifact in target.arrays:
            for index in range(target.count):
                target.read(artifact, index)


def faults() -> list[Any]:
    return verify_cache(CACHE).faults


def heal(run: Path, contents: Callable[[Path], dict[str, Any]], whole: dict[str, Any]) -> None:
    verify_cache(CACHE, repair=True)
    build(load_run(run))
    assert contents(CACHE) == whole
    assert faults() == []


def truncate(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


DAMAGE: dict[str, Callable[[], Any]] = {
    "an object deleted": OBJECT.unlink,
    "an object empty": lambda: truncate(OBJECT, 0),
    "an object cut in its index": lambda: truncate(OBJECT, OBJECT.stat().st_size - 5),
    "an object cut in a chunk": lambda: truncate(OBJECT, 40),
    "an object of another shard": lambda: shutil.copy(TINY / "logits/c.1.0.0.0", OBJECT),
    "an object of another array": lambda: shutil.copy(TINY / "confidence/c.2.0.0", OBJECT),
    "an object with a tail": lambda: OBJECT.write_bytes(OBJECT.read_bytes() + b"tail"),
    "a part empty": lambda: truncate(PART, 0),
    "a part of four bytes": lambda: truncate(PART, 4),
    "a part cut in half": lambda: truncate(PART, PART.stat().st_size // 2),
    "a part cut by a byte": lambda: truncate(PART, PART.stat().st_size - 1),
    "a part of another shard": lambda: shutil.copy(PART.with_name("00001.parquet"), PART),
    "a part of another set": lambda: shutil.copy(
        CACHE / "manifest/street/frames/00002.parquet", PART
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_by_hand_is_found_and_healed(
    fault_run: Path, contents: Callable[[Path], dict[str, Any]], what: str
) -> None:
    whole = contents(CACHE)
    DAMAGE[what]()
    with pytest.raises(StillroomError):
        read_everything() if what != "an object of another shard" else refuse(faults())
    assert {fault.shard for fault in faults()} == {2}
    heal(fault_run, contents, whole)


def refuse(found: list[Any]) -> None:
    """The reader of one frame checks its chunk alone; the whole object's sha256 is verify's."""
    if found:
        raise CacheCorrupt(str(found[0]))


def test_a_part_of_another_cache_is_as_good_as_none(
    fault_run: Path, contents: Callable[[Path], dict[str, Any]]
) -> None:
    whole = contents(CACHE)
    build(load_run(fault_run, ["cache.path=other.cache", "cache.threshold=0.5"]))
    shutil.copy(Path("other.cache") / PART.relative_to(CACHE), PART)
    with pytest.raises(CacheMismatch, match="belongs to street/tiny, shard 2"):
        read_everything()
    assert {fault.shard for fault in faults()} == {2}
    heal(fault_run, contents, whole)


@pytest.mark.parametrize("what", ["object", "part", "metadata", "pipe", "device"])
def test_a_link_or_a_pipe_in_the_place_of_a_file_is_refused(
    fault_run: Path, contents: Callable[[Path], dict[str, Any]], what: str
) -> None:
    whole = contents(CACHE)
    path = {"part": PART, "metadata": TINY / "zarr.json"}.get(what, OBJECT)
    outside = Path("outside")
    path.rename(outside)
    untouched = outside.read_bytes()
    if what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if what == "device" else outside.resolve())
    says = "no regular file" if what == "pipe" else "symbolic link, and a cache holds none"
    with pytest.raises(StillroomError, match=says):
        read_everything()
    assert faults()
    heal(fault_run, contents, whole)
    assert outside.read_bytes() == untouched
    assert not path.is_symlink()


@pytest.mark.parametrize("folder", ["street/tiny", "street/tiny/logits", "manifest/street/tiny"])
def test_a_folder_that_leads_outside_is_neither_read_nor_written(
    fault_run: Path, contents: Callable[[Path], dict[str, Any]], folder: str
) -> None:
    whole, outside = contents(CACHE), Path("outside")
    (CACHE / folder).rename(outside)
    (CACHE / folder).symlink_to(outside.resolve())
    victim = next(path for path in sorted(outside.rglob("*")) if path.suffix != ".json")
    victim.unlink() if victim.is_file() else shutil.rmtree(victim)
    before = sorted(outside.rglob("*"))
    for call in (read_everything, lambda: build(load_run(fault_run))):
        with pytest.raises(CacheCorrupt, match=f"{folder}: it is a symbolic link"):
            call()
    assert faults()
    assert sorted(outside.rglob("*")) == before
    heal(fault_run, contents, whole)
    assert sorted(outside.rglob("*")) == before


@pytest.mark.parametrize("folder", ["manifest", "manifest/.staging"])
def test_nothing_is_swept_or_written_behind_a_link(fault_run: Path, folder: str) -> None:
    outside = Path("outside")
    (CACHE / folder).rename(outside)
    (CACHE / folder).symlink_to(outside.resolve())
    precious = outside / "0123456789ab.1.00"
    precious.touch()
    os.utime(precious, (0, 0))
    before = sorted(outside.rglob("*"))
    with pytest.raises(StillroomError, match="symbolic link"):
        Cache.create(CACHE).define("other", "frames", {}, 1, 1, [frames()])
    assert sorted(outside.rglob("*")) == before


def frames() -> ArraySpec:
    return ArraySpec("frames", (2, 2, 3), Raw())


def test_the_way_to_a_cache_may_be_a_link(fault_run: Path) -> None:
    Path("linked.cache").symlink_to(CACHE)
    PART.unlink()
    assert build(load_run(fault_run, ["cache.path=linked.cache"])).shards == 1
    assert faults() == []


def test_a_group_that_is_there_already_and_leads_outside_is_not_built_into(fault_run: Path) -> None:
    shutil.rmtree(CACHE / "street")
    shutil.rmtree(CACHE / "manifest")
    Path("outside").mkdir()
    (CACHE / "street").symlink_to(Path("outside").resolve())
    with pytest.raises(CacheCorrupt, match="street: it is a symbolic link"):
        build(load_run(fault_run))
    assert list(Path("outside").iterdir()) == []


def sealed(content: bytes) -> bytes:
    """With a seal that holds, as anybody can make one."""
    place = content.rindex(SEAL) + len(SEAL)
    content = content[:place] + OPEN_SEAL + content[place + 8 :]
    seal = f"{google_crc32c.value(content):08x}".encode()
    return content[:place] + seal + content[place + 8 :]


def hostile_part(table: pa.Table, about: dict[str, Any] | str | None = None) -> bytes:
    """A part with these rows and this description; as the true one says where it is None."""
    true = pq.ParquetFile(PART).schema_arrow.metadata[KEY.encode()]
    if isinstance(about, dict):
        about = json.dumps({**json.loads(true), **about})
    sink, table = io.BytesIO(), table.replace_schema_metadata(None)
    with pq.ParquetWriter(sink, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({KEY: about or true.decode()})
    return sealed(sink.getvalue())


class Boom:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("executed", "w")


def rows(**columns: Any) -> pa.Table:
    table = pq.read_table(PART)
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, values)
    return table


def many_rows() -> pa.Table:
    count = 5_000_000
    columns = {
        field.name: pa.DictionaryArray.from_arrays(
            pa.array(np.zeros(count, np.int8)),
            pa.array([""] if pa.types.is_string(field.type) else [0], field.type),
        )
        for field in SCHEMA
    }
    return pa.table(columns)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "other columns": lambda: hostile_part(pa.table({"index": [4, 5]})),
    "other types": lambda: hostile_part(rows(index=pa.array(["4", "5"]))),
    "pickled objects": lambda: hostile_part(rows(reason=pa.array([pickle.dumps(Boom())] * 2))),
    "an extension type": lambda: hostile_part(
        rows(reason=pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}", "{}"])))
    ),
    "five million rows": lambda: hostile_part(many_rows()),
    "a description that is a list": lambda: hostile_part(rows(), '["part_crc32c": "00000000"]'),
    "a list with a seal": lambda: hostile_part(rows(), '[{"part_crc32c": "00000000"}]'),
    "a description nested deep": lambda: hostile_part(
        rows(), "[" * 100_000 + '{"part_crc32c": "00000000"}' + "]" * 100_000
    ),
    "a fingerprint that is a number": lambda: hostile_part(rows(), {"fingerprint": 7}),
    "a shard that is a word": lambda: hostile_part(rows(), {"shard": "../../up"}),
    "a source that leads up": lambda: hostile_part(rows(), {"source": "../../up"}),
    "objects that are a list": lambda: hostile_part(rows(), {"objects": ["x"]}),
    "an object that leads up": lambda: hostile_part(
        rows(), {"objects": {"../../etc/passwd": {"bytes": 1, "sha256": "0"}}}
    ),
    "an object of no size": lambda: hostile_part(
        rows(), {"objects": {"street/tiny/logits": {"bytes": "9", "sha256": "0"}}}
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_hostile_part_is_refused_and_counts_as_not_built(
    fault_run: Path, contents: Callable[[Path], dict[str, Any]], what: str
) -> None:
    whole = contents(CACHE)
    PART.write_bytes(HOSTILE[what]())
    with pytest.raises(StillroomError):
        read_everything()
    assert {fault.shard for fault in faults()} == {2}
    describe_cache(CACHE)
    assert 2 not in Cache.open(CACHE).artifact_set("street", "tiny").committed()
    heal(fault_run, contents, whole)
    assert not Path("executed").exists()


def forge(change: Callable[[dict[str, Any]], Any], path: Path = TINY / "zarr.json") -> None:
    """Change a set's group, and make its fingerprints right again."""
    about = json.loads(path.read_bytes())["attributes"][KEY]
    change(about)
    layout = about["layout"]
    about["fingerprint"] = fingerprint({"identity": about["identity"], "layout": layout})
    about["fingerprints"] = {
        name: fingerprint(
            {"identity": about["identity"], "layout": {**layout, "arrays": {name: of}}}
        )
        for name, of in layout["arrays"].items()
    }
    path.write_bytes(group_json(about))


LOGITS = "logits"
FORGED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "too many frames": lambda a: a["layout"].update(count=10**15),
    "too many frames a shard": lambda a: a["layout"].update(count=10**12, shard_frames=10**12),
    "half a frame": lambda a: a["layout"].update(count=11.5),
    "terabytes a frame": lambda a: a["layout"]["arrays"][LOGITS].update(shape=[9, 10**6, 10**6]),
    "a shape beyond 64 bits": lambda a: a["layout"]["arrays"][LOGITS].update(
        shape=[2**40, 2**40, 2**40]
    ),
    "a negative shape": lambda a: a["layout"]["arrays"][LOGITS].update(shape=[-1, 2, 2]),
    "an infinite shape": lambda a: a["layout"]["arrays"][LOGITS].update(shape=[1e999, 2, 2]),
    "an artifact that leads up": lambda a: a["layout"]["arrays"][LOGITS].update(
        artifact="features/../../../up"
    ),
    "an absolute artifact": lambda a: a["layout"]["arrays"][LOGITS].update(artifact="/etc/passwd"),
    "a source that leads up": lambda a: a.update(source="../up"),
    "a set that leads up": lambda a: a.update(set="../../up"),
    "an absolute set": lambda a: a.update(set="/tmp/up"),
    "an unknown codec": lambda a: a["layout"]["arrays"][LOGITS].update(codec={"name": "pickle"}),
    "a codec that is a list": lambda a: a["layout"]["arrays"][LOGITS].update(codec=[1]),
    "an unknown compressor": lambda a: a["layout"]["arrays"][LOGITS].update(
        compressor={"name": "os.system"}
    ),
    "attributes that are a list": lambda a: a["layout"]["arrays"][LOGITS].update(attributes=[1]),
    "an identity that is a list": lambda a: a.update(identity=[1, 2]),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_definition_is_refused(fault_run: Path, what: str) -> None:
    try:
        forge(FORGED[what])
    except StillroomError:  # no fingerprint can be made of it
        document = json.loads((TINY / "zarr.json").read_bytes())
        FORGED[what](document["attributes"][KEY])
        (TINY / "zarr.json").write_text(json.dumps(document))
    before = sorted(Path().rglob("*"))
    with pytest.raises(CacheCorrupt, match=r"street/tiny/zarr\.json is damaged"):
        read_everything()
    assert {(fault.source, fault.set_name) for fault in faults()} == {("street", "tiny")}
    with pytest.raises(CacheCorrupt):
        build(load_run(fault_run))
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("folder", ["", "street", "street/tiny", "street/tiny/logits"])
@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a":' * 200_000, b" " * 2**25])
def test_metadata_nested_deep_or_without_end_are_refused(folder: str, content: bytes) -> None:
    (CACHE / folder / "zarr.json").write_bytes(content)
    assert faults()
    if folder != "street/tiny/logits":  # which follow from the set, and are not needed to read it
        with pytest.raises(StillroomError, match=r"zarr\.json"):
            read_everything()


@pytest.mark.parametrize("name", ["..", "UP", "a b", "a\nb", "-rf", "frames", "manifest"])
def test_a_folder_that_no_set_can_have_is_no_set(name: str) -> None:
    (CACHE / "street" / name).mkdir(exist_ok=True)
    if name not in ("..", "frames"):
        shutil.copy(TINY / "zarr.json", CACHE / "street" / name)
    assert Cache.open(CACHE).sets() == [("street", "frames"), ("street", "tiny")]


def test_an_index_that_points_beyond_its_object_is_refused() -> None:
    part = decode_part(PART.read_bytes(), "part")
    for offset, length in ((2**63, 2**63), (0, 2**40), (2**64 - 2, 16)):
        content = OBJECT.read_bytes()[: -(16 * 2 + 4)]
        index = np.array([[offset, length], [0, 8]], "<u8").tobytes()
        content += index + google_crc32c.value(index).to_bytes(4, "little")
        OBJECT.write_bytes(content)
        objects = {**part.objects, "street/tiny/logits": entry_of(content)}
        PART.write_bytes(encode_part(replace(part, objects=objects)))
        with pytest.raises(CacheCorrupt, match="points beyond the object's end"):
            read_everything()
        assert {fault.shard for fault in faults()} == {2}


def test_the_command_line_refuses_in_one_message_within_a_small_memory(fault_run: Path) -> None:
    forge(lambda about: about["layout"].update(count=10**15))
    limited = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))\n"
        "from stillroom.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    for command, code in (("verify", 1), ("info", 2)):
        done = subprocess.run(
            [sys.executable, "-c", limited, "cache", command, str(CACHE)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert "at most 1,000,000" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (3, "install the stillroom that built it"),
        (0, "use the stillroom that built it"),
        (None, "install the stillroom"),
        ("1", "install the stillroom"),
        ([1], "install the stillroom"),
    ],
)
def test_another_format_version_is_refused_with_what_to_do(
    fault_run: Path, version: Any, says: str
) -> None:
    document = json.loads((CACHE / "zarr.json").read_bytes())
    document["attributes"][KEY].update(format_version=version, created_by="stillroom 9.0")
    (CACHE / "zarr.json").write_text(json.dumps(document))
    for call in (read_everything, lambda: build(load_run(fault_run))):
        with pytest.raises(CacheMismatch, match="this stillroom reads 1 to 2") as caught:
            call()
        assert says in str(caught.value)
        assert "stillroom 9.0" in str(caught.value)
        assert "another folder" in str(caught.value)
