"""What bench_loader.py reads: the same frames as files and as caches, in four sizes.

Frames and labels are CamVid's, enlarged to the case's size, with a camera's noise; logits follow
the labels, smooth as a teacher's; features are rectified and smooth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

SOURCE, TEACHER = "street", "teacher"
SHARD_FRAMES = 8


@dataclass(frozen=True)
class Case:
    """Frames of one size.

    Attributes:
        size, crop: (height, width) of a frame, of what a student sees of it
        classes, stride: of the logits
        features: channels and stride of a layer, if there is one
        count: frames
        scale: how much a view enlarges, at least and at most
    """

    size: tuple[int, int]
    crop: tuple[int, int]
    classes: int
    stride: int
    features: tuple[int, int] | None
    count: int
    scale: tuple[float, float] = (0.5, 2.0)

    def cells(self, stride: int) -> tuple[int, int]:
        """(height, width) of a grid of that stride."""
        return self.size[0] // stride, self.size[1] // stride


CASES = {
    "tiny": Case((64, 96), (32, 48), 4, 8, None, 64),
    "camvid": Case((360, 480), (256, 320), 11, 4, None, 32),
    "cityscapes": Case((1024, 2048), (512, 1024), 19, 8, (512, 16), 16),
    "ade20k": Case((512, 512), (512, 512), 150, 8, (512, 16), 24),
}


def prepare(root: Path, data: Path, name: str) -> None:
    """Make what is missing of a case: `root/name/files` and `root/name/cache`."""
    case, folder = CASES[name], root / name
    if not (folder / "cache").exists():
        (folder / "files").mkdir(parents=True, exist_ok=True)
        _make_cache(folder / "making", case, data, folder / "files")
        (folder / "making").rename(folder / "cache")


def _make_cache(path: Path, case: Case, data: Path, files: Path) -> None:
    from stillroom.storage_specs.manifest import FrameRow
    from stillroom.storage_specs.store import Cache

    cache = Cache.create(path)
    by_set = {"frames": _specs(case, ("frames", "labels")), TEACHER: _specs(case, _outputs(case))}
    sets = {
        name: cache.define(SOURCE, name, {"benchmark": "loader"}, case.count, SHARD_FRAMES, specs)
        for name, specs in by_set.items()
    }
    for shard in range(sets["frames"].shards):
        writers = {name: one.writer(shard) for name, one in sets.items()}
        for i in sets["frames"].shard_range(shard):
            arrays = _arrays(case, data, i)
            Image.fromarray(arrays["frames"]).save(files / f"{i:05d}.jpg", quality=90)
            Image.fromarray(arrays["labels"]).save(files / f"{i:05d}.png")
            np.save(files / f"{i:05d}.npy", arrays["logits"].astype(np.float16))
            row = FrameRow(i, f"{i:05d}", valid_height=case.size[0], valid_width=case.size[1])
            for name, writer in writers.items():
                writer.put(row, {spec.artifact: arrays[spec.artifact] for spec in by_set[name]})
        for writer in writers.values():
            writer.commit()


def _outputs(case: Case) -> tuple[str, ...]:
    return ("logits", "features/layer") if case.features else ("logits",)


def _specs(case: Case, artifacts: tuple[str, ...]) -> list[Any]:
    """How a cache of the usual preset keeps them."""
    from stillroom.storage_specs.layout import ArraySpec
    from stillroom.storage_specs.presets import load_preset
    from stillroom.storage_specs.shards.tiles import automatic_tile

    preset = load_preset("fast", None)
    shapes = {
        "frames": (*case.size, 3),
        "labels": case.size,
        "logits": (case.classes, *case.cells(case.stride)),
    }
    strides = {"logits": case.stride}
    if case.features:
        channels, strides["features/layer"] = case.features
        shapes["features/layer"] = (channels, *case.cells(case.features[1]))
    specs = []
    for artifact in artifacts:
        storage = preset.storage(artifact)
        attributes = {"stride": strides[artifact]} if artifact in strides else {}
        shape = shapes[artifact]
        spec = ArraySpec(artifact, shape, storage.codec, storage.compressor, attributes)
        if spec.codec.tileable:
            itemsize = np.dtype(spec.codec.stored).itemsize
            stored = spec.codec.stored_shape(spec.shape)
            spec = replace(spec, tile=automatic_tile(stored, spec.kind.axes, itemsize))
        specs.append(spec)
    return specs


def _arrays(case: Case, data: Path, index: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(index)
    photos = sorted((data / "camvid" / "train").iterdir())
    photo = photos[index % len(photos)]
    height, width = case.size
    image = cv2.imread(str(photo))[:, :, ::-1]
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    image = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
    label = cv2.imread(
        str(data / "camvid" / "trainannot" / f"{photo.stem}.png"), cv2.IMREAD_UNCHANGED
    )
    label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
    arrays = {"frames": image, "labels": label, "logits": _logits(case, label, rng)}
    if case.features:
        channels, stride = case.features
        arrays["features/layer"] = np.maximum(_smooth(channels, case.cells(stride), 2, rng), 0)
    return arrays


def _logits(case: Case, label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    half, cells = case.stride // 2, case.cells(case.stride)
    seen = label[half :: case.stride, half :: case.stride][: cells[0], : cells[1]]
    logits = 2 * _smooth(case.classes, cells, 8, rng) - 2
    for channel, values in enumerate(logits):
        values[seen == channel] += 9
        logits[channel] = cv2.GaussianBlur(values, (0, 0), 1.0)
    return (logits + rng.normal(0, 0.05, logits.shape)).astype(np.float32)


def _smooth(
    channels: int, cells: tuple[int, int], span: int, rng: np.random.Generator
) -> np.ndarray:
    """Noise that changes over `span` cells."""
    coarse = rng.normal(0, 1, (channels, cells[0] // span + 2, cells[1] // span + 2))
    size = (cells[1], cells[0])
    return np.stack([cv2.resize(one.astype(np.float32), size) for one in coarse])
