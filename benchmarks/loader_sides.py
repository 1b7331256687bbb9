"""The loaders that bench_loader.py compares: each gives batches of the same crops."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from loader_data import CASES, SOURCE, TEACHER, Case
from PIL import Image
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BATCH = 8
STREAM, SEED = "stream", 0


@dataclass(frozen=True)
class Side:
    """A loader.

    Attributes:
        open: of a case, its folder: gives `batches(start, steps, workers, processes)`
        needs: the package that it takes
        write: makes a folder of that package's name in a case's folder
        is_ours: it reads the cache
        features: it reads features too
    """

    open: Callable[[str, Path], Callable[..., Iterator[Any]]]
    needs: str = "torch"
    write: Callable[[str, Path], None] | None = None
    is_ours: bool = False
    features: bool = False

    def fits(self, case: Case) -> bool:
        """Whether a case has what it reads."""
        return case.features is not None or not self.features

    def prepare(self, name: str, folder: Path) -> None:
        """Make what it reads of a case, once."""
        if self.write is not None and not (folder / self.needs).exists():
            self.write(name, folder)

    @property
    def is_there(self) -> bool:
        """Whether its package is installed."""
        return find_spec(self.needs) is not None


def view_of(case: Case, epoch: int, frame: int) -> Any:
    """The view that stillroom's loader draws for a frame."""
    from stillroom.stages.seeds import generator
    from stillroom.stages.view import sample_view

    rng = generator(SEED, STREAM, epoch, f"{frame:05d}", "view")
    return sample_view(_views(case), case.size, rng, case.size)


def _views(case: Case) -> Any:
    from stillroom.stages.view import ViewConfig

    return ViewConfig(crop=case.crop, scale=case.scale, flip=True)


# stillroom's own


def cached_dataset(name: str, folder: Path, reads: tuple[str, ...], *, lit: bool = False) -> Any:
    """Frames and labels from a cache, and the artifacts that are named; with jitter where lit."""
    from stillroom.stages.train.dataset import CacheDataset
    from stillroom.stages.train.photometric import PhotometricConfig
    from stillroom.storage_specs.store import Cache

    case = CASES[name]
    cache = Cache.open(folder / "cache")
    keys = {"logits": "logits"}
    if case.features:
        keys["features"] = f"features/layer@{case.features[1]}"
    return CacheDataset(
        STREAM,
        cache.artifact_set(SOURCE, "frames"),
        {TEACHER: cache.artifact_set(SOURCE, TEACHER)},
        needs=frozenset(f"{TEACHER}/{keys[read]}" for read in reads),
        view=_views(case),
        jitter=PhotometricConfig(brightness=0.3, contrast=0.3, saturation=0.3) if lit else None,
        out_stride=case.stride,
        seed=SEED,
    )


def open_cached(
    name: str, folder: Path, *, reads: tuple[str, ...], lit: bool = False
) -> Callable[..., Iterator[Any]]:
    """Batches of a dataset, from the loader."""
    from stillroom.stages.train.stream import Loader

    dataset = cached_dataset(name, folder, reads, lit=lit)

    def batches(start: int, steps: int, workers: int, processes: bool) -> Iterator[Any]:
        options = {"processes": True} if processes else {}
        loader = Loader(
            {STREAM: dataset},
            {STREAM: BATCH},
            seed=SEED,
            steps=start + steps,
            start_step=start,
            threads=workers,
            **options,
        )
        with loader:
            for (batch,) in loader:
                yield {
                    "images": batch.images,
                    "labels": batch.labels,
                    "mask": batch.mask,
                    **batch.artifacts,
                }

    return batches


# loaders of files, and of others' formats


class Crops(Dataset[Any]):
    """The same views of what a function loads, cut by PIL; logits by torch's grid_sample."""

    def __init__(self, case: Case, load: Callable[[int], Any], drawn: list[tuple[int, int]]):
        self.case = case
        self.load = load
        self.drawn = drawn

    def __len__(self) -> int:
        return len(self.drawn)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        epoch, frame = self.drawn[place]
        view = view_of(self.case, epoch, frame)
        image, label, logits = self.load(frame)
        pixels = _cut(image.convert("RGB"), view, Image.BILINEAR)
        found = {
            "images": torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float(),
            "labels": torch.from_numpy(np.array(_cut(label, view, Image.NEAREST))).long(),
        }
        if logits is not None:
            found["logits"] = _cut_logits(torch.from_numpy(logits), view, self.case)
        return found


def _cut(image: Any, view: Any, how: Any) -> Any:
    """The view, as far as the frame reaches, at the crop's size."""
    right, bottom = view.left + view.width, view.top + view.height
    box = max(0, view.left), max(0, view.top), min(image.width, right), min(image.height, bottom)
    cut = image.resize((view.out_width, view.out_height), how, box=box)
    return cut.transpose(Image.FLIP_LEFT_RIGHT) if view.flip else cut


def _cut_logits(logits: torch.Tensor, view: Any, case: Case) -> torch.Tensor:
    """The view of logits, at their own stride."""
    height, width = case.size
    side = -1 if view.flip else 1
    across = (2 * view.left + view.width) / width - 1
    down = (2 * view.top + view.height) / height - 1
    affine = torch.tensor([[side * view.width / width, 0, across], [0, view.height / height, down]])
    shape = (1, len(logits), view.out_height // case.stride, view.out_width // case.stride)
    grid = F.affine_grid(affine[None], list(shape), align_corners=False)
    return F.grid_sample(logits[None].float(), grid, padding_mode="border", align_corners=False)[0]


def open_crops(
    name: str, folder: Path, *, load: Callable[[str, Path], Callable[[int], Any]]
) -> Callable[..., Iterator[Any]]:
    """Crops of what `load` loads, through torch's DataLoader."""
    from stillroom.stages.train.order import draws

    case, loading = CASES[name], load(name, folder)

    def batches(start: int, steps: int, workers: int, processes: bool) -> Iterator[Any]:
        positions = range(start * BATCH, (start + steps) * BATCH)
        drawn = draws(case.count, SEED, STREAM, positions)
        crops, options = Crops(case, loading, drawn), {}
        if processes:
            options = {"num_workers": workers, "multiprocessing_context": "fork"}
        return iter(DataLoader(crops, BATCH, **options))

    return batches


def load_files(name: str, folder: Path, *, logits: bool) -> Callable[[int], Any]:
    """JPEG and PNG files, and logits as .npy in float16."""

    def load(frame: int) -> Any:
        files = folder / "files"
        image, label = (
            Image.open(files / f"{frame:05d}.jpg"),
            Image.open(files / f"{frame:05d}.png"),
        )
        return image, label, np.load(files / f"{frame:05d}.npy") if logits else None

    return load


def _rows(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    for frame in range(CASES[name].count):
        stem = folder / "files" / f"{frame:05d}"
        yield {
            "image": stem.with_suffix(".jpg").read_bytes(),
            "label": stem.with_suffix(".png").read_bytes(),
            "logits": np.load(stem.with_suffix(".npy")),
        }


def _opened(row: dict[str, Any], logits: bool) -> Any:
    image, label = (Image.open(io.BytesIO(row[key])) for key in ("image", "label"))
    return image, label, np.asarray(row["logits"]).copy() if logits else None


def write_litdata(name: str, folder: Path) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder / "litdata"), chunk_bytes="64MB")
    for frame, row in enumerate(_rows(name, folder)):
        writer[frame] = row
    writer.done()
    writer.merge()


def load_litdata(name: str, folder: Path, *, logits: bool) -> Callable[[int], Any]:
    from litdata import StreamingDataset

    dataset = StreamingDataset(str(folder / "litdata"))
    return lambda frame: _opened(dataset[frame], logits)


def _streaming() -> Any:
    from stillroom.stages.models.torchvision_import import import_torchvision

    import_torchvision()
    import streaming

    return streaming


def write_mosaic(name: str, folder: Path) -> None:
    case = CASES[name]
    shape = ",".join(map(str, (case.classes, *case.cells(case.stride))))
    columns = {"image": "bytes", "label": "bytes", "logits": f"ndarray:float16:{shape}"}
    with _streaming().MDSWriter(out=str(folder / "streaming"), columns=columns) as writer:
        for row in _rows(name, folder):
            writer.write(row)


def load_mosaic(name: str, folder: Path, *, logits: bool) -> Callable[[int], Any]:
    dataset = _streaming().LocalDataset(str(folder / "streaming"))
    return lambda frame: _opened(dataset[frame], logits)


def _crops(load: Any, logits: bool) -> Any:
    return partial(open_crops, load=partial(load, logits=logits))


SIDES: dict[str, Side] = {
    "JPEG + PNG": Side(_crops(load_files, False)),
    "JPEG + PNG + .npy logits": Side(_crops(load_files, True)),
    "frames + labels": Side(partial(open_cached, reads=()), is_ours=True),
    "frames + labels + logits": Side(partial(open_cached, reads=("logits",)), is_ours=True),
    "frames + labels + logits, jittered": Side(
        partial(open_cached, reads=("logits",), lit=True), is_ours=True
    ),
    "frames + labels + logits + features": Side(
        partial(open_cached, reads=("logits", "features")), is_ours=True, features=True
    ),
    "litdata": Side(_crops(load_litdata, False), "litdata", write_litdata),
    "litdata + logits": Side(_crops(load_litdata, True), "litdata", write_litdata),
    "mosaicml-streaming": Side(_crops(load_mosaic, False), "streaming", write_mosaic),
    "mosaicml-streaming + logits": Side(_crops(load_mosaic, True), "streaming", write_mosaic),
}
