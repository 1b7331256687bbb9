"""Ways to keep one array a frame and to read a random one back: ours, Zarr's, and other caches'.

A peer writes the same float32 arrays in its own usual way and opens what it wrote; bench_read.py
times the function that it opens. Every read gives an array that is the caller's own.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SOURCE, SET = "camvid", "fpn"
TCACHE_GROUP = 32  # values a scale, its default


@dataclass(frozen=True)
class Place:
    """Where one artifact's frames are kept for the benchmark.

    root: folder of the whole benchmark, with the caches byte, fast and exact
    folder: the peer's own, where it writes
    """

    root: Path
    folder: Path
    artifact: str

    @property
    def truth_path(self) -> Path:
        """The frames as the teacher gave them: (N, C, h, w) float32 .npy."""
        return self.root / f"{self.artifact.replace('/', '_')}.npy"

    @property
    def truth(self) -> np.ndarray:
        """The same, mapped into memory."""
        return np.load(self.truth_path, mmap_mode="r")

    @property
    def array_path(self) -> Path:
        """The artifact's Zarr array in the cache of uint8 steps."""
        return self.root / "byte.cache" / SOURCE / SET / self.artifact


@dataclass(frozen=True)
class Peer:
    """One way to read.

    yields: "stored" for the uint8 steps as they are kept, "decoded" for float32
    needs: the package that it takes
    write: fills the peer's folder; None where it reads what is there already
    on_disk: path of what it reads, from the place, for the bytes a frame
    """

    yields: str
    needs: str
    open: Callable[[Place], Callable[[int], Any]]
    write: Callable[[Place], None] | None = None
    on_disk: Callable[[Place], list[Path]] = lambda place: [place.folder]

    def installed(self) -> bool:
        """Whether its package can be found; importing it is left to the process that reads."""
        return importlib.util.find_spec(self.needs) is not None


def _cache_files(name: str) -> Callable[[Place], list[Path]]:
    def paths(place: Place) -> list[Path]:
        values = place.root / f"{name}.cache" / SOURCE / SET / place.artifact
        return [values, *values.parent.glob(f"{values.name}_*")]

    return paths


def _stillroom_set(place: Place, name: str) -> Any:
    from stillroom.storage_specs.store import Cache

    return Cache.open(place.root / f"{name}.cache").artifact_set(SOURCE, SET)


def open_stillroom(place: Place) -> Callable[[int], Any]:
    read = _stillroom_set(place, "byte").read
    return lambda i: read(place.artifact, i)


def open_stillroom_out(place: Place) -> Callable[[int], Any]:
    import threading

    made = _stillroom_set(place, "byte")
    buffers = threading.local()

    def read(i: int) -> Any:
        if not hasattr(buffers, "out"):
            buffers.out = np.empty(made.arrays[place.artifact].shape, np.float32)
        return made.read(place.artifact, i, out=buffers.out)

    return read


def open_stillroom_fast(place: Place) -> Callable[[int], Any]:
    read = _stillroom_set(place, "fast").read
    return lambda i: read(place.artifact, i)


def open_stillroom_fast_stored(place: Place) -> Callable[[int], Any]:
    made = _stillroom_set(place, "fast")
    return lambda i: made.encoded(place.artifact, i).values


def open_stillroom_exact(place: Place) -> Callable[[int], Any]:
    read = _stillroom_set(place, "exact").read
    return lambda i: read(place.artifact, i)


def open_stillroom_stored(place: Place) -> Callable[[int], Any]:
    made = _stillroom_set(place, "byte")
    if hasattr(made, "encoded"):
        return lambda i: made.encoded(place.artifact, i).values
    values, frames = made._readers[place.artifact][0], made.shard_frames  # before there was a name
    return lambda i: values.frame(*divmod(i, frames))


def _affine(place: Place, stored: Callable[[int], np.ndarray]) -> Callable[[int], np.ndarray]:
    """What a user of Zarr writes: two lines of NumPy, scale and offset held in memory."""
    import zarr

    scale, offset = (
        zarr.open_array(f"{place.array_path}_{side}", mode="r")[:][:, :, None, None]
        for side in ("scale", "offset")
    )

    def read(i: int) -> np.ndarray:
        decoded = np.multiply(stored(i), scale[i], dtype=np.float32)
        decoded += offset[i]
        return decoded

    return read


def open_zarr(place: Place) -> Callable[[int], Any]:
    import zarr

    array = zarr.open_array(place.array_path, mode="r")
    return lambda i: array[i]


def open_zarr_fast(place: Place) -> Callable[[int], Any]:
    """The stored numbers of preset "fast": of logits, differences that are not undone yet."""
    import zarr

    array = zarr.open_array(place.root / "fast.cache" / SOURCE / SET / place.artifact, mode="r")
    return lambda i: array[i]


def open_zarrs(place: Place) -> Callable[[int], Any]:
    import zarr
    import zarrs  # noqa: F401

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    return open_zarr(place)


def open_tensorstore(place: Place) -> Callable[[int], Any]:
    import tensorstore as ts

    kept = {"driver": "file", "path": str(place.array_path)}
    array = ts.open({"driver": "zarr3", "kvstore": kept}, read=True, open=True).result()
    return lambda i: array[i].read().result()


def _decoded(opened: Callable[[Place], Callable[[int], Any]]) -> Callable[[Place], Any]:
    return lambda place: _affine(place, opened(place))


def _one_file_each(place: Place, suffix: str) -> Iterator[tuple[Path, np.ndarray]]:
    for i, frame in enumerate(place.truth):
        yield place.folder / f"{i:05d}{suffix}", np.array(frame)


def _torch_writer(dtype: str) -> Callable[[Place], None]:
    def write(place: Place) -> None:
        import torch

        for path, frame in _one_file_each(place, ".pt"):
            torch.save(torch.from_numpy(frame).to(getattr(torch, dtype)), path)

    return write


def open_torch(place: Place) -> Callable[[int], Any]:
    import torch

    torch.set_num_threads(1)
    names = [str(path) for path in sorted(place.folder.glob("*.pt"))]
    return lambda i: torch.load(names[i], weights_only=True).float()


def write_npz(place: Place) -> None:
    for path, frame in _one_file_each(place, ".npz"):
        np.savez_compressed(path, x=frame)


def open_npz(place: Place) -> Callable[[int], Any]:
    names = [str(path) for path in sorted(place.folder.glob("*.npz"))]

    def read(i: int) -> np.ndarray:
        with np.load(names[i]) as file:
            return file["x"]

    return read


def write_litdata(place: Place) -> None:
    import torch
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(place.folder), chunk_bytes="64MB")
    for i, frame in enumerate(place.truth):
        writer[i] = torch.from_numpy(np.array(frame))
    writer.done()
    writer.merge()


def open_litdata(place: Place) -> Callable[[int], Any]:
    import torch
    from litdata import StreamingDataset

    torch.set_num_threads(1)
    dataset = StreamingDataset(str(place.folder))
    return lambda i: dataset[i]


def _mds() -> Any:
    from stillroom.stages.models.torchvision_import import import_torchvision

    import_torchvision()
    import streaming

    return streaming


def write_mds(place: Place) -> None:
    truth = place.truth
    shape = ",".join(map(str, truth.shape[1:]))
    columns = {"x": f"ndarray:float32:{shape}"}
    with _mds().MDSWriter(out=str(place.folder), columns=columns) as writer:
        for frame in truth:
            writer.write({"x": np.array(frame)})


def open_mds(place: Place) -> Callable[[int], Any]:
    dataset = _mds().LocalDataset(str(place.folder))
    return lambda i: dataset[i]["x"].copy()  # a read-only view of the bytes otherwise


def write_tcache(place: Place) -> None:
    import tensorcache
    import torch

    count, channels, height, width = place.truth.shape
    cells = -(-height * width // TCACHE_GROUP) * TCACHE_GROUP  # it cannot read a row of half groups
    # Its asymmetric mode, amo_bq=True, is off by up to 26 where a group does not span zero.
    with tensorcache.FeatureCacheWriter(place.folder / "x", count, channels, cells) as writer:
        for frame in place.truth:
            padded = np.zeros((channels, cells), np.float32)
            padded[:, : height * width] = frame.reshape(channels, -1)
            writer.append(torch.from_numpy(padded))


def open_tcache(place: Place) -> Callable[[int], Any]:
    import tensorcache
    import torch

    torch.set_num_threads(1)
    shape = place.truth.shape[1:]
    cells = shape[1] * shape[2]
    dataset = tensorcache.FeatureCacheDataset(place.folder / "x", auto_dequant_device="cpu")
    return lambda i: dataset[i][:, :cells].float().reshape(shape)


def write_raw_uint8(place: Place) -> None:
    import zarr

    np.save(place.folder / "x.npy", zarr.open_array(place.array_path, mode="r")[:])


def open_raw_uint8(place: Place) -> Callable[[int], Any]:
    raw = np.load(place.folder / "x.npy", mmap_mode="r")
    return lambda i: np.array(raw[i])


def open_raw_float32(place: Place) -> Callable[[int], Any]:
    raw = place.truth
    return lambda i: np.array(raw[i])


BYTE, FAST, EXACT = (_cache_files(name) for name in ("byte", "fast", "exact"))

PEERS: dict[str, Peer] = {
    "stillroom, stored": Peer("stored", "stillroom", open_stillroom_stored, on_disk=BYTE),
    "zarr[i], stored": Peer("stored", "zarr", open_zarr, on_disk=BYTE),
    "zarrs pipeline, stored": Peer("stored", "zarrs", open_zarrs, on_disk=BYTE),
    "tensorstore, stored": Peer("stored", "tensorstore", open_tensorstore, on_disk=BYTE),
    "memmap uint8 (limit)": Peer("stored", "numpy", open_raw_uint8, write_raw_uint8),
    "stillroom fast, stored": Peer("stored", "stillroom", open_stillroom_fast_stored, on_disk=FAST),
    "zarr[i] fast, stored": Peer("stored", "zarr", open_zarr_fast, on_disk=FAST),
    "stillroom": Peer("decoded", "stillroom", open_stillroom, on_disk=BYTE),
    "stillroom, out=": Peer("decoded", "stillroom", open_stillroom_out, on_disk=BYTE),
    "stillroom, preset fast": Peer("decoded", "stillroom", open_stillroom_fast, on_disk=FAST),
    "zarr[i] + affine": Peer("decoded", "zarr", _decoded(open_zarr), on_disk=BYTE),
    "zarrs pipeline + affine": Peer("decoded", "zarrs", _decoded(open_zarrs), on_disk=BYTE),
    "tensorstore + affine": Peer(
        "decoded", "tensorstore", _decoded(open_tensorstore), on_disk=BYTE
    ),
    "tcache int8": Peer("decoded", "tensorcache", open_tcache, write_tcache),
    "torch.save float16": Peer("decoded", "torch", open_torch, _torch_writer("float16")),
    "stillroom exact": Peer("decoded", "stillroom", open_stillroom_exact, on_disk=EXACT),
    "torch.save float32": Peer("decoded", "torch", open_torch, _torch_writer("float32")),
    "npz compressed": Peer("decoded", "numpy", open_npz, write_npz),
    "litdata float32": Peer("decoded", "litdata", open_litdata, write_litdata),
    "mosaicml-streaming float32": Peer("decoded", "streaming", open_mds, write_mds),
    "memmap float32 (limit)": Peer(
        "decoded", "numpy", open_raw_float32, on_disk=lambda place: [place.truth_path]
    ),
}


def bytes_on_disk(paths: list[Path]) -> int:
    """Bytes of all files under these paths, metadata left out."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file() and file.suffix != ".json")


def prepare(peer: Peer, place: Place) -> None:
    """Let a peer write, once; a folder that was left half way is written again."""
    import shutil

    done = place.folder / "done.json"
    if peer.write is None or done.exists():
        return
    shutil.rmtree(place.folder, ignore_errors=True)
    place.folder.mkdir(parents=True)
    peer.write(place)
    done.write_text(json.dumps({"frames": len(place.truth)}))
