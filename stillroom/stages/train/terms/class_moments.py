"""Class moments of features, as `stillroom cache stats --features` writes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import torch

from stillroom.stages.models.safetensors_file import pack, unpack
from stillroom.storage_specs.errors import ConfigError, WeightsError
from stillroom.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

PARTS = ("class_count", "class_mean", "class_variance")


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """count (C,) of positions, mean and variance (C, A), float64; origin: file and set."""

    count: Tensor
    mean: Tensor
    variance: Tensor
    origin: str


def read_class_moments(path: Path, wanted: str | None = None) -> ClassMoments:
    """Read one set of a file.

    Args:
        path: .npz or .safetensors
        wanted: the set, as "<source>/<teacher>"; needed where the file holds several

    Raises:
        ConfigError: where the file cannot be read, or does not hold that set, naming those it does
    """
    arrays = _arrays(path)
    ending = f"/{PARTS[1]}"
    sets = sorted(name.removesuffix(ending) for name in arrays if name.endswith(ending))
    if wanted is None and len(sets) == 1:
        wanted = sets[0]
    if wanted not in sets or any(f"{wanted}/{part}" not in arrays for part in PARTS):
        raise ConfigError(
            f"{path} holds class moments of {', '.join(sets) or 'nothing'}; name one of them by "
            f"`start_set`, got {wanted!r}. `stillroom cache stats --features LAYER --out FILE` "
            "writes such a file"
        )
    count, mean, variance = (np.asarray(arrays[f"{wanted}/{part}"], np.float64) for part in PARTS)
    if mean.ndim != 2 or variance.shape != mean.shape or count.shape != mean.shape[:1]:
        raise ConfigError(
            f"{path}, {wanted}: class_count, class_mean and class_variance must be (C,), (C, A) "
            f"and (C, A), got {count.shape}, {mean.shape} and {variance.shape}"
        )
    if not all(np.isfinite(part).all() for part in (count, mean, variance)) or variance.min() < 0:
        raise ConfigError(f"{path}, {wanted}: moments must be finite, and variances 0 or more")
    parts = [torch.from_numpy(part) for part in (count, mean, variance)]
    return ClassMoments(parts[0], parts[1], parts[2], f"{path}, {wanted}")


def pack_class_moments(arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> bytes:
    """Return a .safetensors file of moments; `about` is kept in its metadata as JSON."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return pack(tensors, {"about": json.dumps(about), "stillroom": __version__})


def _arrays(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix != ".npz":
            return unpack(path.read_bytes(), str(path))
        with np.load(path, allow_pickle=False) as found:
            return dict(found)
    except (OSError, ValueError, EOFError, KeyError, BadZipFile, WeightsError) as error:
        raise ConfigError(f"{path}: class moments cannot be read ({error})") from error
