"""What a frame costs stage one after the teacher: CPU time of one thread, two revisions in turn.

    git worktree add ../before REVISION
    python benchmarks/bench_encode.py --before ../before

Logits by preset "fast" at three sizes: the codec alone ("encode"), and a whole shard of 64 frames
("store": encoded, four of them measured as well, compressed and written, all threads together).
Both revisions run in this process, one after the other, frame by frame. Prints a Markdown table in
ms a frame, of which only ratios mean anything. "same" says whether codecs and shards made the same
bytes. Logits are drawn: smooth, with the edges of regions.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np

if TYPE_CHECKING:
    from types import ModuleType

SHARD = 64
ROUNDS = 24
# classes, canvas and stride of the logits, as benchmarks of segmentation have them
SIZES = {
    "CamVid": (11, (360, 480), 4),
    "Cityscapes": (19, (1024, 2048), 8),
    "ADE20K": (150, (512, 512), 8),
}


@dataclass(frozen=True)
class Revision:
    """A checkout's modules by name, `kernels` among them, which codecs import when they run."""

    modules: dict[str, ModuleType]

    def use(self) -> None:
        """Make `import stillroom...` mean this checkout."""
        sys.modules.update(self.modules)

    def __getattr__(self, name: str) -> ModuleType:
        return self.modules[f"stillroom.storage_specs.{name}"]


def revision(folder: Path) -> Revision:
    """Import a checkout's modules beside those of another."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "stillroom"]:
        del sys.modules[name]
    sys.path.insert(0, str(folder.resolve()))
    for name in ("store", "presets", "codecs.kernels"):
        importlib.import_module(f"stillroom.storage_specs.{name}")
    with contextlib.suppress(ModuleNotFoundError):  # younger than some checkouts
        importlib.import_module("stillroom.storage_specs.codecs.kl_kernels")
    sys.path.pop(0)
    modules = {k: v for k, v in sys.modules.items() if k.partition(".")[0] == "stillroom"}
    found = Path(str(modules["stillroom"].__file__))
    if folder.resolve() not in found.resolve().parents:
        raise SystemExit(f"{folder} is no checkout of stillroom: its modules came from {found}")
    return Revision(modules)


def drawn_logits(number: int, classes: int, grid: tuple[int, int]) -> np.ndarray:
    """Logits with regions, soft edges and a little noise, (classes, *grid) float32."""
    rng = np.random.default_rng(number)
    height, width = grid
    few = rng.integers(0, classes, (height // 8 + 1, width // 8 + 1)).astype(np.uint8)
    regions = cv2.resize(few, (width, height), interpolation=cv2.INTER_NEAREST)
    made = np.empty((classes, height, width), np.float32)
    for c in range(classes):
        coarse = rng.normal(rng.normal(-2, 1), 2, few.shape).astype(np.float32)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        made[c] = cv2.GaussianBlur(smooth + 9 * (regions == c), (0, 0), 1.0)
    return made + rng.normal(0, 0.05, made.shape).astype(np.float32)


class Side:
    """One artifact of one revision."""

    def __init__(self, code: Revision, folder: Path, artifact: str, shape: tuple[int, ...]) -> None:
        code.use()
        storage = code.presets.load_preset("fast", {}).storage(artifact)
        spec = code.layout.ArraySpec(artifact, shape, storage.codec, storage.compressor, {})
        target = code.store.Cache.create(folder).define("s", "t", {}, SHARD, SHARD, [spec])
        self.code = code
        self.codec, self.row, self.artifact = storage.codec, code.manifest.FrameRow, artifact
        self.writer = target.writer(0)
        self.encode_ms: list[float] = []
        self.folder, self.store_ms = folder, 0.0

    def encode(self, array: np.ndarray) -> Any:
        """Encode one array, timed."""
        self.code.use()
        began = time.thread_time()
        encoded = self.codec.encode(array)
        self.encode_ms.append(1e3 * (time.thread_time() - began))
        return encoded

    def put(self, index: int, array: np.ndarray) -> None:
        """Put one frame into the shard, timed."""
        self.code.use()
        row = self.row(index, str(index), valid_height=1, valid_width=1)
        began = time.process_time()
        self.writer.put(row, {self.artifact: array})
        self.store_ms += 1e3 * (time.process_time() - began) / SHARD

    def commit(self) -> dict[str, bytes]:
        """Write the shard, timed: its objects."""
        self.code.use()
        began = time.process_time()
        self.writer.commit()
        self.store_ms += 1e3 * (time.process_time() - began) / SHARD
        kept = [path for path in self.folder.rglob("c.*") if path.is_file()]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in kept}


def same(one: Any, other: Any) -> bool:
    return np.array_equal(one.values, other.values) and all(
        np.array_equal(one.side[name], other.side[name]) for name in one.side
    )


def compared(sides: list[Side], arrays: list[np.ndarray]) -> bool:
    """Encode and store the same arrays on each side in turn; True if their bytes are the same."""
    for side in sides:
        side.encode(arrays[0])
        side.encode_ms.clear()
    equal = True
    for index in range(ROUNDS):
        array = arrays[index % len(arrays)]
        made = [side.encode(array) for side in sides]
        equal &= all(same(made[0], each) for each in made[1:])
    for index, side in itertools.product(range(SHARD), sides):
        side.put(index, arrays[index % len(arrays)])
    objects = [side.commit() for side in sides]
    return equal and all(objects[0] == each for each in objects[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, required=True, help="a checkout to compare with")
    before, after = parser.parse_args().before, Path(__file__).parent.parent
    codes = [revision(before), revision(after)]
    print("| logits of | shape | encode before | after | x | store before | after | x | same |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, (classes, canvas, stride) in SIZES.items():
        grid = (canvas[0] // stride, canvas[1] // stride)
        arrays = [drawn_logits(number, classes, grid) for number in range(4)]
        folder = Path(tempfile.mkdtemp())
        sides = [
            Side(code, folder / str(k), "logits", arrays[0].shape) for k, code in enumerate(codes)
        ]
        equal = compared(sides, arrays)
        shutil.rmtree(folder)
        row = [name, "x".join(map(str, arrays[0].shape))]
        encode = [statistics.median(side.encode_ms) for side in sides]
        for old, new in (encode, [side.store_ms for side in sides]):
            row += [f"{old:.1f}", f"{new:.1f}", f"{old / new:.1f}"]
        print("|", " | ".join([*row, "yes" if equal else "NO"]), "|", flush=True)


if __name__ == "__main__":
    main()
