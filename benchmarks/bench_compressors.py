"""What a compressor costs a reader of uint8 features: bytes, and CPU time a frame, ours and Zarr's.

    python benchmarks/bench_read.py --peers stillroom && python benchmarks/bench_compressors.py

Reads what bench_read.py kept of the teacher. Rounds go round all compressors and readers; medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import zarr

from stillroom.storage_specs.codecs.table import codec_from_dict
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.manifest import FrameRow
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from stillroom.storage_specs.artifact_set import ArtifactSet

ARTIFACT = "features/penultimate"
COMPRESSORS = {
    "lz4, level 5 (preset fast)": {"name": "blosc", "cname": "lz4", "clevel": 5},
    "lz4, level 1": {"name": "blosc", "cname": "lz4", "clevel": 1},
    "lz4, bitshuffle": {"name": "blosc", "cname": "lz4", "shuffle": "bitshuffle"},
    "zstd, level -1": {"name": "zstd", "level": -1},
    "none": {"name": "none"},
}


def build(folder: Path, compressor: dict, truth: np.ndarray) -> ArtifactSet:
    """One shard of the frames."""
    spec = ArraySpec(ARTIFACT, truth.shape[1:], codec_from_dict("byte"), compressor)
    made = Cache.create(folder).define("camvid", "fpn", {}, len(truth), len(truth), [spec])
    writer = made.writer(0)
    for i, frame in enumerate(truth):
        writer.put(FrameRow(i, str(i)), {ARTIFACT: np.array(frame)})
    writer.commit()
    return made


def main() -> None:
    """Build, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/bench_read"))
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    truth = np.load(options.out / "features_penultimate.npy", mmap_mode="r")[:64]
    order = np.random.default_rng(0).integers(0, len(truth), 40).tolist()
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        readers, sizes = {}, {}
        for number, (name, compressor) in enumerate(COMPRESSORS.items()):
            made = build(Path(folder) / str(number), compressor, truth)
            array = zarr.open_array(Path(made.place) / "camvid" / "fpn" / ARTIFACT, mode="r")
            sizes[name] = made.sizes()[ARTIFACT] / len(truth)
            readers[name, "stored"] = lambda i, made=made: made.encoded(ARTIFACT, i).values
            readers[name, "decoded"] = lambda i, made=made: made.read(ARTIFACT, i)
            readers[name, "zarr"] = array.__getitem__
        times: dict[tuple[str, str], list[float]] = {key: [] for key in readers}
        for turn in range(-1, options.rounds):  # the first warms
            for key, read in readers.items():
                began = time.process_time()
                for i in order:
                    read(i)
                if turn >= 0:
                    times[key].append((time.process_time() - began) / len(order) * 1e6)
    print("| compressor | bytes/frame | stored, us | decoded, us | zarr[i], us | zarr / stored |")
    print("|---|---|---|---|---|---|")
    for name in COMPRESSORS:
        ours, decoded, theirs = (
            statistics.median(times[name, what]) for what in ("stored", "decoded", "zarr")
        )
        print(
            f"| {name} | {sizes[name]:,.0f} | {ours:.0f} | {decoded:.0f} | {theirs:.0f} | "
            f"{theirs / ours:.1f} |"
        )


if __name__ == "__main__":
    main()
