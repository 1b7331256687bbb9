"""What each codec makes of real teacher outputs: size, fidelity, speed.

    python benchmarks/bench_codecs.py --data ../shared/data --out codecs.md

Real logits and features of the CamVid teacher on CamVid test frames, and the optical flow of
OpenCV's DIS between frames of the CamVid val clip and of FlyingChairs' ground truth. Prints
Markdown tables; a minute on one core. Size is with side arrays; KL is that of
`stillroom.storage_specs.fidelity`; speeds are medians of one thread, in MB of float32 a second, and
only their ratios mean anything.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np

from stillroom.pipeline.run_file.loading import load_run
from stillroom.stages.models.build_teacher import build_teacher
from stillroom.storage_specs.codecs.table import codec_from_dict
from stillroom.storage_specs.compressors import compress, compressor_from_dict, decompress
from stillroom.storage_specs.fidelity import pixel_kl, spatial_kl

ZSTD1 = {"name": "zstd", "level": 1}
ZSTD3 = {"name": "zstd", "level": 3}
LZ4 = {"name": "blosc", "cname": "lz4"}
LZ4_BITS = {**LZ4, "shuffle": "bitshuffle"}
LZ4HC_BITS = {**LZ4_BITS, "cname": "lz4hc"}
ZSTD1_BITS = {"name": "blosc", "cname": "zstd", "clevel": 1, "shuffle": "bitshuffle"}
ZSTD3_BITS = {**ZSTD1_BITS, "clevel": 3}
ZSTD5_BITS = {**ZSTD1_BITS, "clevel": 5}
HALF_ZSTD3 = {"name": "blosc", "cname": "zstd", "clevel": 3, "shuffle": "shuffle"}

# (codec, compressor, what uses it)
LOGITS = [
    ("exact", {"name": "blosc", "cname": "zstd", "clevel": 1, "shuffle": "shuffle"}, "exact"),
    ("half", HALF_ZSTD3, ""),
    ("byte", ZSTD1, ""),
    ("byte", LZ4, ""),
    ("byte", ZSTD3_BITS, ""),
    ({"name": "byte", "predict": "median"}, ZSTD1, ""),
    ({"name": "kl", "budget": 5e-5, "predict": "above"}, LZ4_BITS, ""),
    ({"name": "kl", "budget": 5e-5, "predict": "above"}, LZ4HC_BITS, "fast"),
    ({"name": "kl", "budget": 5e-5, "predict": "median"}, LZ4HC_BITS, ""),
    ({"name": "kl", "budget": 5e-5, "predict": "median"}, ZSTD3_BITS, ""),
    ({"name": "kl", "budget": 2e-4, "predict": "above"}, LZ4HC_BITS, ""),
    ({"name": "kl", "budget": 2e-4, "predict": "median"}, ZSTD5_BITS, "compact"),
]
FEATURES = [
    ("exact", {"name": "blosc", "cname": "zstd", "clevel": 1, "shuffle": "shuffle"}, "exact"),
    ("half", HALF_ZSTD3, ""),
    ("byte", LZ4, "fast"),
    ("byte", ZSTD3, ""),
    ({"name": "byte", "predict": "median"}, ZSTD3, "compact"),
    ("fp8", LZ4, ""),
    ("fp8", ZSTD3, ""),
]
FLOW = [
    ("exact", {"name": "blosc", "cname": "zstd", "clevel": 1, "shuffle": "shuffle"}, "exact"),
    ("half", HALF_ZSTD3, ""),
    ("flow", ZSTD1_BITS, ""),
    ("flow", LZ4_BITS, ""),
    ({"name": "flow", "predict": "plane"}, LZ4_BITS, ""),
    ({"name": "flow", "predict": "plane"}, ZSTD1_BITS, "fast"),
    ({"name": "flow", "predict": "plane"}, ZSTD3_BITS, "compact"),
]


@dataclass(frozen=True)
class Row:
    """What one codec and compressor made of all frames: sums, means and medians."""

    ratio: float
    error: float
    rms: float
    pixel: float
    spatial: float
    encode: float
    decode: float


def measure(frames: list[np.ndarray], codec_of: object, compressor_of: dict) -> Row:
    """Encode, compress, decompress and decode each frame, timed; the second pass counts."""
    codec, compressor = codec_from_dict(codec_of), compressor_from_dict(compressor_of)
    size, encode, decode, errors, squares, pixel, spatial = 0, [], [], [], [], [], []
    for turn, x in enumerate([frames[0], *frames]):
        began = time.perf_counter()
        encoded = codec.encode(x)
        packed = compress(compressor, encoded.values)
        encode.append(x.nbytes / (time.perf_counter() - began))
        values, out = np.empty_like(encoded.values), np.empty(x.shape, np.float32)
        began = time.perf_counter()
        decompress(compressor, np.frombuffer(packed, np.uint8), values)
        kept = codec.decode(values, encoded.side, out)
        decode.append(x.nbytes / (time.perf_counter() - began))
        size += len(packed) + sum(side.nbytes for side in encoded.side.values())
        errors.append(float(np.abs(kept - x).max()))
        squares.append(float(np.square(kept - x).mean()))
        pixel.append(pixel_kl(x, kept))
        spatial.append(spatial_kl(x, kept))
        if turn == 0:  # a first call compiles and warms
            size, encode, decode, errors, squares, pixel, spatial = 0, [], [], [], [], [], []
    return Row(
        ratio=sum(x.nbytes for x in frames) / size,
        error=max(errors),
        rms=statistics.fmean(squares) ** 0.5,
        pixel=statistics.fmean(pixel),
        spatial=statistics.fmean(spatial),
        encode=statistics.median(encode) / 1e6,
        decode=statistics.median(decode) / 1e6,
    )


def table(title: str, frames: list[np.ndarray], choices: list, *, of_logits: bool) -> str:
    """One Markdown table."""
    shape = "x".join(map(str, frames[0].shape))
    lines = [
        f"\n**{title}**: {len(frames)} frames of {shape}, largest magnitude "
        f"{max(float(np.abs(x).max()) for x in frames):.1f}\n",
        "| codec | compressor | preset | x smaller | largest error | rms error |"
        + (" KL pixel | KL spatial |" if of_logits else "")
        + " encode MB/s | decode MB/s |",
        "|---" * (10 if of_logits else 8) + "|",
    ]
    for codec, compressor, preset in choices:
        row = measure(frames, codec, compressor)
        divergence = f" {row.pixel:.1e} | {row.spatial:.1e} |" if of_logits else ""
        lines.append(
            f"| {named(codec)} | {named(compressor)} | {preset} | {row.ratio:.2f} "
            f"| {row.error:.3g} | {row.rms:.2g} |{divergence} {row.encode:.0f} | {row.decode:.0f} |"
        )
    return "\n".join(lines)


def named(document: object) -> str:
    """A codec or compressor in a few words."""
    if isinstance(document, str):
        return document
    return " ".join(f"{value:g}" if isinstance(value, float) else str(value)
                    for key, value in document.items() if value != "blosc")  # fmt: skip


def teacher_outputs(data: Path, frames: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Logits and penultimate features of the CamVid teacher on evenly chosen test frames."""
    weights = data / "weights" / "camvid_fpn_lite0.safetensors"
    run = load_run(Path("examples/camvid.toml"), [f"teachers.fpn.weights={weights}"])
    teacher = build_teacher(run.teachers["fpn"].model_copy(update={"classes": 11}))
    paths = sorted((data / "camvid" / "test").iterdir())
    logits, features = [], []
    for path in paths[:: len(paths) // frames][:frames]:
        image = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
        output = teacher(image[None])
        logits.append(output["logits"][0].float().numpy())
        features.append(output["features/penultimate"][0].float().numpy())
    return logits, features


def dis_flow(data: Path, pairs: int) -> list[np.ndarray]:
    """Flow (2, H, W) in pixels between frames of the CamVid val clip, by OpenCV's DIS."""
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    paths = sorted((data / "camvid" / "val").iterdir())[: pairs + 1]
    grey = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths]
    return [
        np.ascontiguousarray(method.calc(a, b, None).transpose(2, 0, 1))
        for a, b in itertools.pairwise(grey)
    ]


def true_flow(data: Path) -> list[np.ndarray]:
    """Flow (2, H, W) in pixels of the FlyingChairs pairs."""
    flows = []
    for path in sorted((data / "flying_chairs").glob("*.flo")):
        content = path.read_bytes()
        width, height = np.frombuffer(content, np.int32, 2, 4)
        uv = np.frombuffer(content, np.float32, offset=12).reshape(height, width, 2)
        flows.append(np.ascontiguousarray(uv.transpose(2, 0, 1)))
    return flows


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logits, features = teacher_outputs(options.data, options.frames)
    tables = [
        table("Logits, CamVid teacher", logits, LOGITS, of_logits=True),
        table("Features, penultimate", features[::3], FEATURES, of_logits=False),
        table("Flow, DIS on CamVid", dis_flow(options.data, 16), FLOW, of_logits=False),
        table("Flow, FlyingChairs", true_flow(options.data), FLOW, of_logits=False),
    ]
    print("\n".join(tables))
    if options.out is not None:
        options.out.write_text("\n".join(tables) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
