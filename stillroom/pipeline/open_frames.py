"""A source's cached frames, for training loops other than stillroom's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from stillroom.pipeline.run_file.faults import describe
from stillroom.stages.settings import Settings
from stillroom.stages.train.dataset import CacheDataset
from stillroom.stages.train.frame_dataset import FrameDataset
from stillroom.stages.train.photometric import PhotometricConfig
from stillroom.stages.train.reads import on_grid
from stillroom.stages.view import ViewConfig
from stillroom.storage_specs.artifacts import FRAMES, LABELS, TARGETS
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.layout import teacher_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from stillroom.storage_specs.artifact_set import ArtifactSet
    from stillroom.storage_specs.store import Cache

Section = TypeVar("Section", bound=Settings)


def open_frames(
    cache: Cache,
    source: str,
    artifacts: Iterable[str],
    *,
    labelled: bool | None,
    view: Mapping[str, Any],
    jitter: Mapping[str, Any],
    stride: int | None,
    seed: int,
) -> FrameDataset:
    """Open a source's frames; `stillroom.dataset` says what the arguments are."""
    if stride is not None and stride < 1:
        raise ConfigError(f"stride: expected 1 or more, got {stride}")
    frames = cache.artifact_set(source, FRAMES)
    keys = [artifacts] if isinstance(artifacts, str) else list(artifacts)
    held = _held(cache, source)
    unknown = [key for key in keys if key not in held]
    if unknown:
        raise ConfigError(
            f"{cache.path}: no artifact {', '.join(map(repr, unknown))} of the frames of "
            f"{source!r}; it holds {', '.join(held) or 'none'}"
        )
    targets = set() if labelled is False else frames.arrays.keys() & TARGETS
    names = {on_grid(key, stride or _stride_of(key, held[key]), 1): key for key in keys}
    samples = CacheDataset(
        source,
        frames,
        {held[key].name: held[key] for key in keys},
        needs=frozenset({*names, *targets}),
        view=_section(ViewConfig, "view", view),
        jitter=_section(PhotometricConfig, "jitter", jitter),
        labelled=LABELS in targets or (labelled is True and not targets),
        seed=seed,
    )
    return FrameDataset(samples, names)


def _held(cache: Cache, source: str) -> dict[str, ArtifactSet]:
    """The sets that hold each artifact of a source's frames, by "fpn/logits"; not of pairs."""
    names = [name for of, name in cache.sets() if of == source and name != FRAMES]
    return {
        f"{teacher_of(name)}/{artifact}": one
        for name in names
        for one in [cache.artifact_set(source, name)]
        for artifact, spec in one.arrays.items()
        if spec.kind.geometry != "vector"
    }


def _stride_of(key: str, one: ArtifactSet) -> int:
    return int(one.arrays[key.partition("/")[2]].attributes.get("stride", 1))


def _section(kind: type[Section], name: str, values: Mapping[str, Any]) -> Section:
    try:
        return kind(**values)
    except ValidationError as error:
        faults = "; ".join(describe(error, kind))
        raise ConfigError(f"{name}: {faults}") from error
