"""A teacher's classes brought to the run's: those of one class are added up as probabilities."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from stillroom.storage_specs.artifacts import LOGITS
from stillroom.storage_specs.errors import ConfigError

# torch is imported by the functions below: planning a build must not wait for it.
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from stillroom.stages.models.dense_network import ModelOutput, TeacherNetwork

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
    faults = {
        "no class of this teacher": unknown,
        "named twice": twice,
        "in no class; list them in `mapping_drop` if they stand for none": left,
    }
    found = [f"{', '.join(which)}: {what}" for what, which in faults.items() if which]
    if not any(counts[one] for of in groups.values() for one in of if one is not None):
        found.append("nothing is mapped")
    if found:
        raise ConfigError(
            f"mapping: {'; '.join(found)} (the teacher has {len(names)} classes, "
            + ("numbered from 0)" if isinstance(classes, int) else f"{', '.join(names)})")
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


def with_groups(network: TeacherNetwork, groups: Groups, classes: int) -> TeacherNetwork:
    """Return the network with logits of other classes; what else it gives is untouched.

    Args:
        classes: how many it tells apart; anything else that it gives is refused
    """
    own, forward = network.own_logits, network.forward

    def mapped(images: Tensor) -> ModelOutput:
        output = forward(images)
        if LOGITS not in output:
            raise ConfigError("mapping: this teacher gives no logits of classes; leave it out")
        shape = tuple(output[LOGITS].shape)
        if len(shape) != 4 or shape[1] != classes:
            raise ConfigError(
                f"the network gives logits of shape {shape}; expected (B, {classes}, h, w) for the "
                f"{classes} classes that `mapping` brings to the run's"
            )
        return {**output, LOGITS: group_logits(output[LOGITS], groups)}

    return replace(
        network,
        forward=mapped,
        own_logits=None if own is None else lambda images: group_logits(own(images), groups),
    )
