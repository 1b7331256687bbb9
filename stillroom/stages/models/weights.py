"""Weights from local files, fitted to a network by name."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.stages.models.class_mapping import binary_hint
from stillroom.stages.models.safetensors_file import safetensors_sha256
from stillroom.stages.models.tensor_file import (
    COUNTER,
    Chosen,
    choose,
    few,
    folder_named,
    read_tensors,
)
from stillroom.storage_specs.errors import WeightsError
from stillroom.storage_specs.fingerprint import sha256_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

LOG = logging.getLogger(__name__)
INNER = "model."  # timm's names stand one level down in SMP's "tu-" encoders
BESIDE = ("n_averaged",)  # what an average of weights counts beside them


@dataclass(frozen=True)
class EncoderFit:
    """How many tensors of a file an encoder loaded, and which ones it has no place for."""

    loaded: int
    unused: tuple[str, ...]


def weights_sha256(path: Path | None) -> str | None:
    """Return the sha256 of a weights file; None where there are no weights.

    Of a .safetensors file it is that of tensors and metadata, whatever their order in the file.

    Raises:
        WeightsError: no such file, or it cannot be read.
    """
    if path is None:
        return None
    if path.is_dir():
        raise WeightsError(folder_named(path))
    try:
        return (safetensors_sha256 if path.suffix == ".safetensors" else sha256_file)(path)
    except OSError as error:
        raise WeightsError(f"weights {path}: cannot be read ({error.strerror})") from error


def load_weights(
    module: nn.Module,
    path: Path,
    *,
    key: str | None = None,
    classifier: tuple[str, int] | None = None,
    skip: tuple[str, ...] = (),
) -> None:
    """Load a file into a module by name, nothing missing and nothing left over.

    What wraps the network in the file is taken off, see `choose`; what was taken is logged. Heads
    of further tasks are left to `load_heads`, where the module has none yet.

    Args:
        key: where in the file the network is; needed where it is there several times
        classifier: the tensor whose rows are the classes, and how many classes there must be
        skip: beginnings of the names of tensors that are passed over

    Raises:
        WeightsError: the weights are unreadable, not finite, or belong to another network; or the
            file has several such networks and `key` does not say which.
    """
    from stillroom.stages.models.headed_network import HEADS

    chosen = choose(read_tensors(path), module.state_dict(), path, key)
    passed = (*skip, *BESIDE, *([] if hasattr(module, HEADS) else [f"{HEADS}."]))
    state = {name: x for name, x in chosen.state.items() if not name.startswith(passed)}
    demand_finite(state, path)
    if classifier is not None:
        check_classes(state, *classifier, path)
    fit_state(module, state, path)
    skipped = [name for name in chosen.state if name not in state]
    _tell(path, "weights", len(state), chosen.place, [*skipped, *chosen.unused])


def load_heads(network: nn.Module, path: Path, key: str | None = None) -> None:
    """Load those heads of further tasks that a network and a file both have; others stay random.

    Raises:
        WeightsError: as `load_weights`.
    """
    from stillroom.stages.models.headed_network import HEADS

    wanted = {n: x for n, x in network.state_dict().items() if n.startswith(f"{HEADS}.")}
    chosen = choose(read_tensors(path), network.state_dict(), path, key)
    state = {name: chosen.state[name] for name in wanted if name in chosen.state}
    demand_finite(state, path)
    fit_state(network, {**network.state_dict(), **state}, path)


def fit_state(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load every tensor of `state` into `module`, by name, nothing missing and nothing left over.

    Raises:
        WeightsError: some tensors are missing, unexpected or of another shape; all are counted and
            the first few named.
    """
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in state and not name.endswith(COUNTER)]
    unexpected = [name for name in state if name not in wanted]
    faults = {"missing": missing, "unexpected": unexpected, **_misfits(wanted, state)}
    if any(faults.values()):
        raise WeightsError(
            f"weights {path} do not fit {type(module).__name__} ({len(wanted)} tensors wanted, "
            f"{len(state)} in the file)\n"
            + _listing(faults)
            + "  give the architecture, encoder, options and number of classes that the file was "
            "trained with, or the file that belongs to them"
        )
    # Not module.load_state_dict: networks override it to rename or drop what was compared above.
    _copy(wanted, state)


def demand_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights with a NaN or an infinity in them.

    Raises:
        WeightsError: some tensors hold such values, or are sparse or without any; all are counted
            and the first few named.
    """
    import torch

    odd = [n for n, value in state.items() if value.is_meta or value.layout != torch.strided]
    if odd:
        raise WeightsError(
            f"weights {path}: {few(odd)}: sparse, or without values; save plain dense tensors"
        )
    spoilt = [name for name, value in state.items() if not torch.isfinite(_wide(value)).all()]
    if spoilt:
        raise WeightsError(
            f"weights {path}: {len(spoilt)} of {len(state)} tensors hold values that are not "
            f"finite: {few(spoilt)}; copy the file again, or take an earlier checkpoint"
        )


def fit_encoder(
    encoder: nn.Module, found: Mapping[str, Tensor], path: Path, key: str | None = None
) -> EncoderFit:
    """Load pretrained weights into an encoder, by name; the file may hold more than the encoder.

    A classifier's file ends in layers that an encoder lacks, and a shallow encoder lacks the deeper
    blocks as well: such tensors are left over, and reported.

    Args:
        found: all tensors of the file
        key: where in the file the encoder is; needed where it is there several times

    Raises:
        WeightsError: nothing in the file fits, or some of the encoder's tensors are not in it; or
            it has several such encoders and `key` does not say which.
    """
    wanted = encoder.state_dict()
    chosen, front = _choose_encoder(found, wanted, path, key)
    inner = {front + name: tensor for name, tensor in chosen.state.items()}
    missing = [name for name in wanted if name not in inner and not name.endswith(COUNTER)]
    misfits = _misfits(wanted, inner)
    loaded = sum(name in inner for name in wanted) - sum(map(len, misfits.values()))
    faults = {"missing": missing, **misfits}
    if any(faults.values()):
        raise WeightsError(
            f"encoder weights {path}: {loaded} of the encoder's {len(wanted)} tensors fit\n"
            + _listing(faults)
            + "  give the file of this very encoder, or leave `encoder_weights` out to start at "
            "random"
        )
    taken = {name: inner[name] for name in wanted if name in inner}
    demand_finite(taken, path)
    _copy(wanted, taken)
    place = f"{chosen.place}." if chosen.place else ""
    used = {place + name.removeprefix(front) for name in taken}
    unused = tuple(name for name in found if name not in used)
    _tell(path, "encoder weights", loaded, chosen.place, unused)
    return EncoderFit(loaded, unused)


def _choose_encoder(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path, key: str | None
) -> tuple[Chosen, str]:
    """Find an encoder by its own names, or else by timm's; returns what is in front of the own."""
    tried = []
    for front in ("", INNER):
        names = {name.removeprefix(front) for name in wanted if name.startswith(front)}
        if names:
            chosen = choose(found, names, path, key)
            tried.append((sum(name in chosen.state for name in names), chosen, front))
    _, chosen, front = max(tried, key=lambda one: one[0])
    return chosen, front


def check_classes(state: Mapping[str, Tensor], layer: str, classes: int, path: Path) -> None:
    """Compare the rows of the classifier's weight in a file with the number of classes wanted.

    Raises:
        WeightsError: they differ. (A missing layer is left for `fit_state` to report.)
    """
    found = state.get(layer)
    if found is not None and found.shape[0] != classes:
        raise WeightsError(
            f"weights {path} are for {found.shape[0]} classes, but {classes} are configured; "
            "give `classes` as the file was trained with (a teacher also a `mapping`, where the "
            "run's are others), or another file" + binary_hint(found.shape[0], classes)
        )


def _tell(path: Path, what: str, loaded: int, place: str, unused: Sequence[str]) -> None:
    """Log what was taken of a file, for users to see."""
    where = f" from {place}" if place else ""
    rest = f"; {len(unused)} others in the file unused: {few(unused)}" if unused else ""
    LOG.info("%s %s: %d tensors%s%s", what, path, loaded, where, rest)


def _wide(value: Tensor) -> Tensor:
    """Bring kinds that torch computes little with, quantised ones and of eight bits, to float32."""
    if value.is_quantized:
        return value.dequantize()
    return value.float() if value.is_floating_point() and value.itemsize == 1 else value


def _misfits(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Name tensors that differ in shape, and those of numbers that the network's cannot hold."""
    found: dict[str, list[str]] = {"differently shaped": [], "of another kind": []}
    for name, tensor in wanted.items():
        value = state.get(name)
        if value is None:
            continue
        if value.shape != tensor.shape:
            shapes = f"(wanted {tuple(tensor.shape)}, file {tuple(value.shape)})"
            found["differently shaped"].append(f"{name} {shapes}")
        elif not _holds(tensor, value):
            found["of another kind"].append(f"{name} (wanted {tensor.dtype}, file {value.dtype})")
    return found


def _holds(target: Tensor, value: Tensor) -> bool:
    """Whether a tensor can hold the numbers of another: quantised weights need their scales."""
    if target.is_floating_point():
        return value.is_floating_point()
    return bool((value.to(target.dtype) == _wide(value)).all())


def _copy(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Write into the network's own tensors, which `state_dict` returns detached but shared."""
    for name, tensor in wanted.items():
        if name in state:
            tensor.copy_(state[name])


def _listing(faults: Mapping[str, list[str]]) -> str:
    return "".join(
        f"  {len(names)} {what}: {few(names)}\n" for what, names in faults.items() if names
    )
