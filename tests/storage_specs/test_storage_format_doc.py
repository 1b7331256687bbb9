"""docs/storage_format.md says what the code does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stillroom.storage_specs.artifacts import ARTIFACTS
from stillroom.storage_specs.codecs.fp8 import FP8
from stillroom.storage_specs.codecs.kl import KL
from stillroom.storage_specs.codecs.log import Log
from stillroom.storage_specs.codecs.quantised import Byte, Flow
from stillroom.storage_specs.codecs.table import CODECS, codec_from_dict
from stillroom.storage_specs.compressors import BLOSC_NAMES, DEFAULTS, SHUFFLES
from stillroom.storage_specs.files.durable_files import STAGING
from stillroom.storage_specs.layout import FORMAT_VERSION, KEY, NAME, RESERVED, ArraySpec
from stillroom.storage_specs.manifest import OPEN_SEAL, PAIR_SCHEMA, SCHEMA, SEAL, FrameRow
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from stillroom.storage_specs.codecs.codec import Example

REPOSITORY = Path(__file__).resolve().parent.parent.parent
TEXT = (REPOSITORY / "docs" / "storage_format.md").read_text(encoding="utf8")


def table(heading: str) -> list[list[str]]:
    """Cells of the table whose first column has this heading, without its two head lines."""
    lines = TEXT[TEXT.index(f"| {heading} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def test_the_page_is_of_the_format_version() -> None:
    assert TEXT.startswith(f"# Storage format, version {FORMAT_VERSION}\n")
    assert f"| `format_version` | 1 or {FORMAT_VERSION}:" in TEXT


def test_the_table_of_artifacts_is_the_codes() -> None:
    rows = {row[0].removesuffix("/<layer>"): row for row in table("artifact")}
    assert set(rows) == set(ARTIFACTS)
    for name, artifact in ARTIFACTS.items():
        _, axes, dtype, codecs, geometry, fill = rows[name]
        assert tuple(re.findall(r"[a-z]+", axes)) == artifact.axes
        assert (dtype, geometry, fill) == (
            artifact.dtype,
            artifact.geometry,
            str(artifact.fill_value),
        )
        assert tuple(codecs.split(", ")) == artifact.codecs
        assert artifact.layered == (f"{name}/<layer>" in TEXT)


def test_the_table_of_codecs_is_the_codes() -> None:
    stored = {
        "uint8": "|u1", "int16": "<i2", "uint16": "<u2", "float16": "<f2", "float32": "<f4",
    }  # fmt: skip
    rows = table("codec")
    assert {row[0]: stored[row[1]] for row in rows} == {
        name: codec_from_dict(name).stored for name in CODECS
    }
    known = "|".join({each.name for codec in CODECS.values() for each in fields(codec)})
    for name, _, options, *_ in rows:
        known = [field.name for field in fields(CODECS[name])]
        assert [word for word in re.findall(r"\w+", options) if word in known] == known


def test_the_table_of_columns_is_the_manifests() -> None:
    of_frames, of_pairs = (
        [(row[0], *row[1].split(", ")) for row in table(header)]
        for header in ("column", "column of pairs")
    )
    assert [row[0] for row in of_frames] == SCHEMA.names
    assert [row[0] for row in of_frames + of_pairs] == PAIR_SCHEMA.names
    for name, dtype, *nullable in of_frames + of_pairs:
        assert str(PAIR_SCHEMA.field(name).type) == {"float64": "double"}.get(dtype, dtype)
        assert PAIR_SCHEMA.field(name).nullable == (nullable == ["may be null"])


@pytest.mark.parametrize(
    "fact",
    [
        *(NAME.pattern, STAGING, KEY, SEAL.decode(), OPEN_SEAL.decode()),
        *(*RESERVED, *BLOSC_NAMES, *SHUFFLES, *DEFAULTS),
    ],
)
def test_a_fact_of_the_code_stands_in_the_page(fact: str) -> None:
    assert fact in TEXT


@pytest.mark.parametrize(
    ("name", "artifact"),
    [("frames", "labels")]
    + [("fpn", a) for a in ("logits", "features/penultimate", "confidence", "flow")],
)
def test_the_reader_of_the_page_reads_what_we_read(name: str, artifact: str) -> None:
    check_reader(REPOSITORY / "tests" / "data" / "cache_v1.zarr", name, artifact)


@pytest.mark.parametrize(
    ("artifact", "predict"),
    [(a, "median") for a in ("logits", "features/a", "features/b", "flow", "depth")]
    + [("logits", "above")],
)
def test_the_reader_of_the_page_undoes_every_prediction_and_scale(
    tmp_path: Path, artifact: str, predict: str
) -> None:
    rng = np.random.default_rng(0)
    specs = {
        "logits": ArraySpec("logits", (5, 6, 7), KL(predict=predict)),
        "features/a": ArraySpec("features/a", (3, 6, 7), Byte(predict="median")),
        "features/b": ArraySpec("features/b", (3, 6, 7), FP8()),
        "flow": ArraySpec("flow", (2, 6, 7), Flow(predict="plane")),
        "depth": ArraySpec("depth", (6, 7), Log(low=0.5)),
    }
    cache = Cache.create(tmp_path / "new.cache")
    target = cache.define("garden", "fpn", {}, 3, 2, list(specs.values()))
    for shard in range(target.shards):
        writer = target.writer(shard)
        for index in target.shard_range(shard):
            arrays = {
                name: rng.normal(0, 9, spec.shape).astype(np.float32)
                for name, spec in specs.items()
            }
            arrays["depth"] = np.where(arrays["depth"] > 0.5, arrays["depth"], 0)
            writer.put(FrameRow(index, f"garden/{index:06d}"), arrays)
        writer.commit()
    check_reader(cache.path, "fpn", artifact)


EVERY_CODEC = [
    pytest.param(name, example, id=f"{name}-{number}")
    for name, codec in CODECS.items()
    for number, example in enumerate(codec.examples)
]


@pytest.mark.parametrize(("codec", "example"), EVERY_CODEC)
def test_the_reader_of_the_page_reads_every_codec(
    codec: str, example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = next(name for name, artifact in ARTIFACTS.items() if codec in artifact.codecs)
    artifact = f"{kind}/a" if ARTIFACTS[kind].layered else kind
    sizes = {"y": 6, "x": 7, "rgb": 3, "uv": 2, "xyz": 3, "channel": max(3, example.channels)}
    shape = tuple(sizes[axis] for axis in ARTIFACTS[kind].axes)
    spec = ArraySpec(artifact, shape, CODECS[codec](**example.options))
    name = "frames" if ARTIFACTS[kind].made_by == "source" else "fpn"
    target = Cache.create(tmp_path / "c").define("garden", name, {}, 3, 2, [spec])
    rng = np.random.default_rng(0)
    for shard in range(target.shards):
        writer = target.writer(shard)
        for index in target.shard_range(shard):
            share = rng.uniform(0, 1, shape)
            values = share * example.high
            values += (1 - share) * example.low
            if example.zero:
                values = np.where(share < 0.3, 0, values)
            writer.put(FrameRow(index, f"{index}"), {artifact: values.astype(example.dtype)})
        writer.commit()
    found = run_reader(tmp_path / "c", "garden", name, artifact, monkeypatch)
    assert sorted(found) == [0, 1, 2]
    for index, x in found.items():
        expected = target.read(artifact, index)
        assert x.shape == expected.shape
        size = float(np.abs(expected.astype(np.float64)).max())
        assert np.allclose(x.astype(np.float64), expected, rtol=1e-5, atol=1e-6 * size)


@pytest.mark.parametrize(
    ("found", "change"),
    [
        ('"name": "byte"', '"name": "wavelet"'),
        ('"name": "byte"', '"name": "byte", "gamma": 2'),
        ('"name": "byte"', '"name": "byte", "predict": "plane"'),
        ('"format_version": 1', '"format_version": 3'),
    ],
)
def test_the_reader_of_the_page_raises_on_what_it_does_not_know(
    found: str, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ArraySpec("logits", (3, 6, 7), Byte())
    Cache.create(tmp_path / "c").define("garden", "fpn", {}, 3, 2, [spec])
    group = tmp_path / "c" / "garden" / "fpn" / "zarr.json"
    text = json.dumps(json.loads(group.read_text()))
    assert found in text
    group.write_text(text.replace(found, change))
    with pytest.raises(ValueError, match=r"unknown|format version"):
        run_reader(tmp_path / "c", "garden", "fpn", "logits", monkeypatch)


def run_reader(
    cache: Path, source: str, name: str, artifact: str, monkeypatch: pytest.MonkeyPatch
) -> dict[int, np.ndarray]:
    """What the page's code has of each frame when it prints it."""
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    found: dict[int, np.ndarray] = {}
    names: dict[str, Any] = {"print": lambda index, *_: found.update({index: names["x"]})}
    monkeypatch.setattr(sys, "argv", ["reader", str(cache), source, name, artifact])
    exec(code, names)
    return found


def check_reader(cache: Path, name: str, artifact: str) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code, str(cache), "garden", name, artifact],
        capture_output=True,
        text=True,
        check=True,
    )
    made = Cache.open(cache).artifact_set("garden", name)
    read = [(index, made.read(artifact, index)) for index in made.usable()]
    assert [line.split()[0] for line in done.stdout.splitlines()] == [str(i) for i, _ in read]
    for line, (index, x) in zip(done.stdout.splitlines(), read, strict=True):
        assert f"garden/{index:06d} {x.shape}" in line
        assert float(line.split()[-1]) == pytest.approx(
            float(x.mean(dtype=float)), rel=1e-5, abs=1e-5
        )
