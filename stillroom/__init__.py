"""Run teachers once, cache their outputs, train students from the cache.

What is public from Python is listed in `__all__`; the rest may change from version to version.
Nothing heavy is imported before a function is called: `open_cache` needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillroom.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from stillroom.stages.models.student import Student
    from stillroom.stages.train.frame_dataset import FrameDataset
    from stillroom.storage_specs.store import Cache

__all__ = ["__version__", "dataset", "load_student", "open_cache"]


def open_cache(path: str | Path) -> Cache:
    """Open a cache to read its arrays: `.sets()`, and `.artifact_set(source, teacher)`.

    Args:
        path: a folder, or "s3://bucket/prefix" or "gs://bucket/prefix"

    Raises:
        CacheIncomplete: there is none.
        CacheMismatch: it is no cache, or one of another format version.
        CacheCorrupt: its metadata cannot be read.
    """
    from stillroom.storage_specs.store import Cache

    return Cache.open(path)


def dataset(
    cache: Cache | str | Path,
    source: str,
    artifacts: Iterable[str] = (),
    *,
    labels: bool | None = None,
    view: Mapping[str, Any] | None = None,
    jitter: Mapping[str, Any] | None = None,
    stride: int | None = None,
    seed: int = 0,
) -> FrameDataset:
    """Return a source's frames with their targets and teachers' artifacts, as a torch `Dataset`.

    Args:
        cache: an open one, or its place
        source: its name in the cache
        artifacts: as "fpn/logits", or "fpn/features/penultimate"
        labels: whether items have the source's labels, depth and normals; None: if it has any
        view: the window that frame, label and artifacts follow together, as `train.view` of a run
            file: `crop` (height, width), `scale` (lowest, highest), `flip`; None: the whole canvas
            as it is cached
        jitter: of the image alone, as `train.jitter`: `brightness`, `contrast`, `saturation`
        stride: pixels of an item's image to one grid position of its artifacts; None: each
            teacher's own
        seed: with the epoch and the frame's id the origin of views and jitter

    Raises:
        ConfigError: the cache does not hold what is asked for, or a setting is not known; says what
            there is.
        CacheIncomplete: shards are missing.
    """
    from stillroom.pipeline.open_frames import open_frames
    from stillroom.storage_specs.store import Cache

    return open_frames(
        cache if isinstance(cache, Cache) else Cache.open(cache),
        source,
        artifacts,
        labelled=labels,
        view=view or {},
        jitter=jitter or {},
        stride=stride,
        seed=seed,
    )


def load_student(path: str | Path) -> Student:
    """Return a trained student in evaluation mode, on the CPU.

    It takes images (B, 3, H, W), RGB 0..255, of any size, and returns `logits`
    (B, C, ceil(H / stride), ceil(W / stride)) and `features`; all that its heads give, as "depth"
    (B, 1, h, w) in metres, is in `grids` by name.

    Args:
        path: a run folder, or a `last.pt`, `best.pt` or `model.safetensors` in one

    Raises:
        ConfigError: there is nothing of the kind.
        CacheIncomplete: the run has not finished.
        WeightsError: the checkpoint cannot be read.
    """
    from pathlib import Path

    from stillroom.pipeline.open_model import open_trained

    return open_trained(Path(path)).student.eval()
