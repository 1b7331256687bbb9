"""Tensors of local files, read without unpickling code, and which of them a network's are.

A file is read as one flat table: what lies in a dict or a list gets its key in front, as in
"state_dict.module.conv.weight". A network's tensors all stand at one such place, whatever wrapped
it: a checkpoint's own key, DistributedDataParallel ("module."), torch.compile ("_orig_mod."), a
Lightning module ("model.", "net."), an average of weights.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillroom.stages.models.safetensors_file import unpack
from stillroom.storage_specs.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    State = dict[str, Tensor]

SHOWN = 4  # tensors named in a message before "and N more"
COUNTER = "num_batches_tracked"  # of batch normalisation: some exports drop it, nothing needs it
DEEPEST = 16  # a pickle may hold itself
TOP = "."  # what a place is called that has no name: the file itself
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
REFUSED = re.compile(r"(?:GLOBAL|class|function|type) ([\w.]+)")  # in torch's reason


@dataclass(frozen=True)
class Chosen:
    """The tensors of a file that are a network's.

    Attributes:
        place: where they stand in the file; "" where nothing is in front of their names
        state: by the network's names
        unused: names in the file of the others
    """

    place: str
    state: State
    unused: tuple[str, ...]


def read_tensors(path: Path) -> State:
    """Read the tensors of a .safetensors file, or of a torch checkpoint without unpickling code.

    Raises:
        WeightsError: missing, a folder, truncated, not a weights file, without tensors, or a pickle
            that would run code.
    """
    if path.is_dir():
        raise WeightsError(folder_named(path))
    if not path.is_file():
        raise WeightsError(f"weights {path}: no such file")
    if path.suffix == ".json":
        raise WeightsError(
            f"weights {path}: an index of several files, expected the tensors; load them with the "
            "library that wrote them and save one file, or use a teacher of kind 'hf'"
        )
    found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state: State = {}
    for name, tensor in _flat(found, ""):
        if name in state:
            raise WeightsError(f"weights {path}: two tensors are called {name}; save it again")
        state[name] = tensor
    if not state:
        raise WeightsError(
            f"weights {path}: expected named tensors, found {type(found).__name__} without any; "
            "save the network's state_dict"
        )
    return state


def choose(
    found: Mapping[str, Tensor], wanted: Collection[str], path: Path, key: str | None = None
) -> Chosen:
    """Find the place in a file where a network's tensors stand.

    Args:
        found: all tensors of the file
        wanted: names in the network's state_dict
        key: the place, or what it begins with; None where the file has one network of this kind

    Returns:
        the place that has every tensor; where none has, that with most

    Raises:
        WeightsError: several places have every tensor, with other values, or `key` has none.
    """
    needed = {name for name in wanted if not name.endswith(COUNTER)}
    counts: Counter[str] = Counter()
    for name in found:
        parts = name.split(".")
        counts.update(
            ".".join(parts[:i]) for i in range(len(parts)) if ".".join(parts[i:]) in needed
        )
    whole = [place for place, count in counts.items() if count == len(needed)]
    within = counts
    if key is not None:
        within = Counter({p: n for p, n in counts.items() if _is_below(p, key)})
        if not within:
            raise WeightsError(
                f"weights {path}: weights_key = {key!r} holds no tensor of this network; "
                + (_listing(whole) if whole else f"the file has {few(_tops(found))}")
            )
    fitting = [place for place in within if place in whole]
    if len(fitting) > 1 and not _are_equal(found, needed, fitting):
        raise WeightsError(
            f"weights {path}: this network's tensors are in it {len(fitting)} times, with other "
            "values (raw and averaged ones, perhaps); state which in `weights_key`; "
            + _listing(fitting)
        )
    place = max(within, key=lambda each: (within[each], -len(each)), default="")
    if key is None and place in whole:
        _refuse_rivals(found, needed, place, counts, path)
    apart = tuple(_front(other) for other in whole if other != place)
    front = _front(place)
    state = {
        name.removeprefix(front): tensor
        for name, tensor in found.items()
        if name.startswith(front)
        and not any(name.startswith(other) for other in apart if len(other) > len(front))
    }
    unused = tuple(name for name in found if name.removeprefix(front) not in state)
    return Chosen(place, state, unused)


def folder_named(path: Path) -> str:
    """Return what to say where a folder was named as the file."""
    return (
        f"weights {path}: this is a folder; name the file in it, such as "
        f"{path / 'model.safetensors'}"
    )


def few(names: Iterable[str]) -> str:
    """Name the first few, and count the others."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _front(place: str) -> str:
    return f"{place}." if place else ""


def _is_below(place: str, key: str) -> bool:
    return place == key.removesuffix(".") or place.startswith(f"{key.removesuffix('.')}.")


def _listing(places: Iterable[str]) -> str:
    return "choose one of\n" + "\n".join(f'  weights_key = "{each or TOP}"' for each in places)


def _refuse_rivals(
    found: Mapping[str, Tensor],
    needed: Collection[str],
    place: str,
    counts: Mapping[str, int],
    path: Path,
) -> None:
    """Refuse a file that has much of the network a second time: averages of parameters alone."""
    own = {_front(place) + name for name in needed}
    for rival, count in counts.items():
        if rival == place or 2 * count < len(needed):
            continue
        names = {_front(rival) + name for name in needed}
        second = [name for name in names - own if name in found]
        if 2 * len(second) >= len(needed) and not _are_equal(
            found, [name.removeprefix(_front(rival)) for name in second], [place, rival]
        ):
            raise WeightsError(
                f"weights {path}: this network's tensors are in it at {place or TOP}, and "
                f"{len(second)} of {len(needed)} with other values at {rival or TOP} (averages of "
                f'the parameters alone, perhaps); set weights_key = "{place or TOP}" to take the '
                "first, or save the others with the buffers that they lack"
            )


def _tops(found: Mapping[str, Tensor]) -> list[str]:
    return list(dict.fromkeys(name.partition(".")[0] for name in found))


def _are_equal(found: Mapping[str, Tensor], names: Iterable[str], places: list[str]) -> bool:
    """Whether several places hold the same tensors: a module that two others refer to."""
    first, *others = map(_front, places)

    def equal(one: Tensor, two: Tensor) -> bool:
        return one.dtype == two.dtype and one.shape == two.shape and bool((one == two).all())

    return all(
        equal(found[first + name], found[other + name]) for other in others for name in names
    )


def _flat(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Go through the tensors in dicts and lists; anything else in them is passed over."""
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple) and depth < DEEPEST:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in items:
            yield from _flat(each, f"{name}.{key}" if name else str(key), depth + 1)


def _read_safetensors(path: Path) -> Any:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"weights {path}: cannot be read ({error.strerror})") from error
    return unpack(content, f"weights {path}")


def _read_torch(path: Path) -> Any:
    import torch

    try:
        with (
            warnings.catch_warnings(),
            # The arguments of a training script: a bag of values that runs nothing.
            torch.serialization.safe_globals([argparse.Namespace]),
        ):
            # torch warns of any file that it did not write; what matters is whether it refuses it.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            warnings.filterwarnings("ignore", message=".*looks like a TorchScript archive")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"weights {path}: refused, for it holds {_refused(error)} beside tensors, and "
            "unpickling that can run code; where the network can be built, save its state_dict() "
            "alone, or as safetensors"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError) as error:
        reason = COLOURS.sub("", str(error)).strip().partition("\n")[0][:200]
        if "TorchScript" in reason:
            raise WeightsError(
                f"weights {path}: a TorchScript archive, expected tensors; name it as the `path` "
                "of a teacher of kind 'export', or save the state_dict() of its network"
            ) from error
        raise WeightsError(
            f"weights {path}: truncated, or not a torch checkpoint ({reason}); copy it again"
        ) from error


def _refused(error: pickle.UnpicklingError) -> str:
    """Name what torch would not unpickle, without its advice to do so nevertheless."""
    message = COLOURS.sub("", str(error))
    _, _, reason = message.rpartition("WeightsUnpickler error: ")
    named = REFUSED.search(reason)
    if named is not None:
        return named[1]
    return f"something else ({reason.strip().partition('. ')[0].splitlines()[0][:120]})"
