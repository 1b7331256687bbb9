"""Weights from local files, read without unpickling code, and fitted to a network by name."""

from __future__ import annotations

import logging
import pickle
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.errors import WeightsError
from stillroom.storage_specs.fingerprint import sha256_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    State = dict[str, Tensor]

LOG = logging.getLogger(__name__)
WRAPPERS = ("state_dict", "model", "model_state_dict")  # a checkpoint keeps its tensors below one
SHOWN = 4  # tensors named in a message before "and N more"
COUNTER = "num_batches_tracked"  # of batch normalisation: some exports drop it, nothing needs it
RENAMINGS = (  # (prefix off, prefix on): from a file's names to an encoder's
    ("", ""),
    ("", "model."),  # timm's names, which stand one level down in SMP's "tu-" encoders
    ("encoder.", ""),  # a whole SMP network
)


@dataclass(frozen=True)
class EncoderFit:
    """How many tensors of a file an encoder loaded, and which ones it has no place for."""

    loaded: int
    unused: tuple[str, ...]


def load_state(path: Path) -> State:
    """Read the tensors of a .safetensors file, or of a torch checkpoint without unpickling code.

    A checkpoint that keeps them below "state_dict" or "model" is unwrapped, and a "module." that a
    data-parallel wrapper put before every name is taken off.

    Raises:
        WeightsError: missing, truncated, not a weights file, or a pickle that would run code.
    """
    if not path.is_file():
        raise WeightsError(f"weights {path}: no such file")
    found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = _tensors(found, path)
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def weights_sha256(path: Path | None) -> str | None:
    """Return the sha256 of a weights file; None where there are no weights.

    Raises:
        WeightsError: no such file, or it cannot be read.
    """
    if path is None:
        return None
    try:
        return sha256_file(path)
    except OSError as error:
        raise WeightsError(f"weights {path}: cannot be read ({error.strerror})") from error


def load_weights(
    module: nn.Module,
    path: Path,
    *,
    classifier: tuple[str, int] | None = None,
    skip: tuple[str, ...] = (),
) -> None:
    """Load a file into a module by name, nothing missing and nothing left over.

    Args:
        classifier: the tensor whose rows are the classes, and how many classes there must be
        skip: beginnings of the names of tensors that are passed over

    Raises:
        WeightsError: the weights are unreadable, not finite, or belong to another network.
    """
    state = {name: x for name, x in load_state(path).items() if not name.startswith(skip)}
    demand_finite(state, path)
    if classifier is not None:
        check_classes(state, *classifier, path)
    fit_state(module, state, path)


def fit_state(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load every tensor of `state` into `module`, by name, nothing missing and nothing left over.

    Raises:
        WeightsError: some tensors are missing, unexpected or of another shape; all are counted and
            the first few named.
    """
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in state and not name.endswith(COUNTER)]
    unexpected = [name for name in state if name not in wanted]
    shapes = _other_shapes(wanted, state)
    if missing or unexpected or shapes:
        raise WeightsError(
            f"weights {path} do not fit {type(module).__name__} ({len(wanted)} tensors wanted, "
            f"{len(state)} in the file)\n"
            + _listing({"missing": missing, "unexpected": unexpected, "differently shaped": shapes})
            + "  give the architecture, encoder, options and number of classes that the file was "
            "trained with, or the file that belongs to them"
        )
    # Not module.load_state_dict: networks override it to rename or drop what was compared above.
    _copy(wanted, state)


def demand_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights with a NaN or an infinity in them.

    Raises:
        WeightsError: some tensors hold such values; all are counted and the first few named.
    """
    import torch

    spoilt = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if spoilt:
        raise WeightsError(
            f"weights {path}: {len(spoilt)} of {len(state)} tensors hold values that are not "
            f"finite: {_few(spoilt)}; copy the file again, or take an earlier checkpoint"
        )


def fit_encoder(encoder: nn.Module, state: Mapping[str, Tensor], path: Path) -> EncoderFit:
    """Load pretrained weights into an encoder, by name; the file may hold more than the encoder.

    A classifier's file ends in layers that an encoder lacks, and a shallow encoder lacks the deeper
    blocks as well: such tensors are left over, and reported.

    Raises:
        WeightsError: nothing in the file fits, or some of the encoder's tensors are not in it.
    """
    wanted = encoder.state_dict()
    renamed = max(
        (_rename(state, *renaming) for renaming in RENAMINGS),
        key=lambda names: sum(name in wanted for name in names.values()),
    )  # {name in the file: name in the encoder}
    inner = {new: state[old] for old, new in renamed.items()}
    missing = [name for name in wanted if name not in inner and not name.endswith(COUNTER)]
    shapes = _other_shapes(wanted, inner)
    loaded = sum(name in inner for name in wanted) - len(shapes)
    if missing or shapes:
        raise WeightsError(
            f"encoder weights {path}: {loaded} of the encoder's {len(wanted)} tensors fit\n"
            + _listing({"missing": missing, "differently shaped": shapes})
            + "  give the file of this very encoder, or leave `encoder_weights` out to start at "
            "random"
        )
    _copy(wanted, inner)
    unused = tuple(name for name in state if renamed.get(name) not in wanted)
    LOG.info(
        "encoder weights %s: %d tensors loaded, %d of the file unused", path, loaded, len(unused)
    )
    return EncoderFit(loaded, unused)


def check_classes(state: Mapping[str, Tensor], layer: str, classes: int, path: Path) -> None:
    """Compare the rows of the classifier's weight in a file with the number of classes wanted.

    Raises:
        WeightsError: they differ. (A missing layer is left for `fit_state` to report.)
    """
    found = state.get(layer)
    if found is not None and found.shape[0] != classes:
        raise WeightsError(
            f"weights {path} are for {found.shape[0]} classes, but {classes} are configured; "
            "give `classes` as the file was trained with, or another file"
        )


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"weights {path}: truncated, or not a safetensors file ({error}); copy it again"
        ) from error


def _read_torch(path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            # torch warns of any file that it did not write; what matters is whether it refuses it.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise WeightsError(
            f"weights {path}: refused, for it holds more than tensors, and unpickling that can run "
            f"code ({reason}); save a plain state_dict, or convert it to safetensors"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise WeightsError(
            f"weights {path}: truncated, or not a torch checkpoint ({reason}); copy it again"
        ) from error


def _tensors(found: Any, path: Path) -> State:
    """Unwrap the flat dict of tensors in what a file held."""
    import torch

    for wrapper in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not found:
        raise WeightsError(f"weights {path}: expected named tensors, found {type(found).__name__}")
    strange = [str(name) for name, value in found.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise WeightsError(
            f"weights {path}: expected tensors only, but {_few(strange)} are not; "
            "save the network's state_dict alone"
        )
    return {str(name): value for name, value in found.items()}


def _other_shapes(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{name} (wanted {tuple(tensor.shape)}, file {tuple(state[name].shape)})"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]


def _rename(state: Mapping[str, Tensor], off: str, on: str) -> dict[str, str]:
    return {name: on + name.removeprefix(off) for name in state if name.startswith(off)}


def _copy(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Write into the network's own tensors, which `state_dict` returns detached but shared."""
    for name, tensor in wanted.items():
        if name in state:
            tensor.copy_(state[name])


def _listing(faults: Mapping[str, list[str]]) -> str:
    return "".join(
        f"  {len(names)} {what}: {_few(names)}\n" for what, names in faults.items() if names
    )


def _few(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
