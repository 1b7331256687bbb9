"""A teacher's logits brought to the run's classes: one channel to two, groups to their sums."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from stillroom.storage_specs.errors import ConfigError

# torch is imported by the functions below: planning a build must not wait for it.
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

Groups = tuple[tuple[int, ...], ...]
"""Channels of the teacher's logits for each class of the run."""

UNKNOWN = 10.0  # below the lowest logit: of a class that the teacher does not know


def groups_of(
    classes: Sequence[str] | int,
    mapping: Mapping[str, Sequence[str | int]],
    dropped: Sequence[str | int],
) -> Groups:
    """Return the teacher's channels of each class of the run, in the order of `mapping`.

    Args:
        classes: the teacher's, by name or their number
        mapping: a class of the run -> classes of the teacher, by name or number
        dropped: classes of the teacher that stand for none of the run's

    Raises:
        ConfigError: some names or numbers are none of the teacher's, or some of its classes are
            named twice or not at all.
    """
    names = list(classes) if not isinstance(classes, int) else list(map(str, range(classes)))

    def channel(one: str | int) -> int | None:
        if isinstance(one, int):
            return one if 0 <= one < len(names) else None
        return names.index(one) if one in names and not isinstance(classes, int) else None

    groups = {target: [channel(one) for one in of] for target, of in mapping.items()}
    beside = [channel(one) for one in dropped]
    given = [one for of in (*mapping.values(), dropped) for one in of]
    unknown = [repr(one) for one in given if channel(one) is None]
    counts = Counter(one for of in (*groups.values(), beside) for one in of if one is not None)
    twice = [names[one] for one, count in counts.items() if count > 1]
    left = [name for index, name in enumerate(names) if index not in counts]
    faults = {"no class of this teacher": unknown, "named twice": twice}
    found = [f"{', '.join(which)}: {what}" for what, which in faults.items() if which]
    if left:
        numbers = [names.index(name) for name in left]
        drop = [*dropped, *(numbers if isinstance(classes, int) else left)]
        found.append(
            f"{len(left)} of the teacher's classes in no class; where they stand for none: "
            f"mapping_drop = {json.dumps(drop, ensure_ascii=False)}"
        )
    if not any(counts[one] for of in groups.values() for one in of if one is not None):
        found.append("nothing is mapped")
    if found:
        known = "numbered from 0" if isinstance(classes, int) else ", ".join(names)
        raise ConfigError(
            f"mapping: {'; '.join(found)} (the teacher has {len(names)} classes"
            + (")" if left else f", {known})")  # those left over have named enough
        )
    return tuple(tuple(one for one in of if one is not None) for of in groups.values())


def in_order(
    mapping: Mapping[str, tuple[str | int, ...]], classes: Sequence[str], place: str
) -> dict[str, tuple[str | int, ...]]:
    """Return a mapping in the order of the run's classes.

    Raises:
        ConfigError: it leads to others, or says nothing of some.
    """
    others = [repr(name) for name in mapping if name not in classes]
    missing = [name for name in classes if name not in mapping]
    faults = [f"{', '.join(others)}: no class of this run"] if others else []
    if missing:
        faults.append(f"{', '.join(missing)}: not given; [] stands for a class that it lacks")
    if faults:
        raise ConfigError(f"{place}: {'; '.join(faults)} (the run has {', '.join(classes)})")
    return {name: mapping[name] for name in classes}


def group_logits(logits: Tensor, groups: Groups) -> Tensor:
    """Bring logits (B, C, h, w) to other classes: (B, len(groups), h, w) float32.

    y_k = log sum_c exp(x_c) over the channels c of class k, so that the softmax of y is the sum of
    x's probabilities, among those that are not dropped. A class without channels lies 10 below the
    lowest.
    """
    import torch

    logits = logits.float()
    made = [logits[:, list(of)].logsumexp(1) if of else None for of in groups]
    lowest = torch.stack([one for one in made if one is not None]).amin(0) - UNKNOWN
    return torch.stack([lowest if one is None else one for one in made], dim=1)


def in_run_classes(logits: Tensor, channels: int, groups: Groups | None, *, binary: bool) -> Tensor:
    """Bring a network's own logits (B, channels, h, w) to the run's classes.

    Args:
        channels: that it must have
        groups: of its classes; None where they are the run's
        binary: its one channel z is two classes, [0, z], of the probabilities 1 - sigmoid(z) and
            sigmoid(z)

    Raises:
        ConfigError: the network gives another shape.
    """
    import torch

    shape = tuple(logits.shape)
    if len(shape) != 4 or shape[1] != channels:
        wanted = "the one channel of `binary = true`" if binary else f"{channels} classes"
        raise ConfigError(
            f"the network gives logits of shape {shape}; expected (B, {channels}, h, w) for "
            f"{wanted}{binary_hint(shape[1] if len(shape) == 4 else 0, channels)}"
        )
    if binary:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    return logits if groups is None else group_logits(logits, groups)


def binary_hint(found: int, wanted: int) -> str:
    """Return what to add to a complaint about a number of channels: "" where they are not 1 and 2.

    Args:
        found: channels that a network has
        wanted: classes of its section
    """
    if (found, wanted) != (1, 2):
        return ""
    return "; a teacher's one channel z is taken as the two classes [0, z] with `binary = true`"
