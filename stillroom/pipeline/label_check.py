"""Look at the labels, after a build and before training: whether there is anything to learn."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from stillroom.storage_specs.artifacts import IGNORE, LABELS
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.store import Cache

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from stillroom.pipeline.build.plan import SetPlan
    from stillroom.pipeline.build.report import BuildReport
    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.train.dataset import CacheDataset
    from stillroom.stages.train.objective import Objective
    from stillroom.storage_specs.artifact_set import ArtifactSet

LOG = logging.getLogger(__name__)
MOST = 256  # frames, spread over a stream, in which a class is looked for
NAMED = 8  # classes in a message
DOUBT = "are the source's classes, mapping and `ignore` right?"
ALL = 0.9995  # of the pixels: 100.0 %
LIKELY = (
    f"by default `ignore` is [{IGNORE}], to which masks of 0 and {IGNORE} lose their object: those "
    f"take `ignore = []` and `mapping = {{ 0 = 0, {IGNORE} = 1 }}`"
)


def check_built_labels(run: RunConfig, report: BuildReport) -> None:
    """Say which classes no label of a source has, where a build did anything for that source.

    What the build has counted itself is not read again, and nothing is once all classes are seen.

    Raises:
        CacheCorrupt: a label that an earlier build made is damaged.
    """
    worked_on = {plan.source for plan in report.plans if plan.missing}
    for plan in report.plans:
        if plan.classes and plan.source in worked_on:
            frames = Cache.open(run.cache.path).artifact_set(plan.source, plan.set_name)
            pixels, usable = report.label_pixels[plan.source], frames.usable()
            seen = np.array([pixels[index] > 0 for index in range(len(plan.classes))])
            _look(frames, _not_counted(report, plan, usable), seen, most=len(usable))
            _tell(f"source {plan.source}", f"its {len(usable)}", seen, plan.classes, DOUBT)


def check_pseudo_labels(run: RunConfig, report: BuildReport) -> None:
    """Say where the threshold of pseudo labels has kept next to no pixel, or left out next to none.

    A threshold of 0 is to keep all.
    """
    stated = f"cache.threshold = {run.cache.threshold:g}"
    others = f"`stillroom cache stats {run.cache.path}` shows what others keep"
    for (source, teacher), share in report.pseudo_labelled().items():
        if share < 1 - ALL:
            problem = (
                f"it is next to never as sure as {stated}, and terms on its pseudo labels learn "
                "nothing; lower the threshold, or see whether its logits are too small (cosines, a "
                f"temperature); {others}"
            )
        elif share >= ALL and run.cache.threshold > 0:
            problem = (
                f"{stated} leaves next to none out; raise the threshold, or see whether its logits "
                f"are too large; {others}"
            )
        else:
            continue
        place = f"teacher {teacher}: {100 * share:.1f} % of {source}'s pixels have a pseudo label"
        LOG.warning("%s: %s", place, problem)


def _not_counted(
    report: BuildReport, plan: SetPlan, usable: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the frames, of those that are usable, whose labels an earlier build made."""
    counted = [work.shard for work in report.computed & set(plan.works())]
    return usable[~np.isin(usable // plan.shard_frames, counted)]


def check_labels(
    objective: Objective, streams: Mapping[str, CacheDataset], classes: Sequence[str]
) -> None:
    """Say which classes no label has; refuse a run that has nothing to learn from.

    Reads a frame or two where every class is common, at most `MOST` of a stream where one is
    absent, and all of it where no pixel has a label.

    Raises:
        ConfigError: every term reads labels alone, and no pixel has one, or there is one class.
    """
    reads = {
        name: objective.reads(dataset.labelled, clips=dataset.clips)
        for name, dataset in streams.items()
    }
    others = frozenset().union(*reads.values()) - {LABELS}
    labelled = [name for name in streams if LABELS in reads[name]]
    if len(classes) == 1 and labelled and not others:
        raise ConfigError(
            f"train.streams: {classes[0]!r} is the one class, which every pixel is of, and every "
            "term reads labels, so there is nothing to learn; name what it stands out from as a "
            f"class, too ({LIKELY})"
        )
    empty = [name for name in labelled if not _has_labels(name, streams[name], classes)]
    if empty and empty == labelled and not others:
        raise ConfigError(
            f"train.streams: no pixel of {', '.join(empty)} has a label and every term reads "
            "labels, so there is nothing to learn; look at the source's classes, mapping and "
            f"`ignore` ({LIKELY}) and build the cache again, or add a term with a teacher"
        )


def _has_labels(name: str, dataset: CacheDataset, classes: Sequence[str]) -> bool:
    """Whether a stream has a labelled pixel; say what it lacks."""
    seen, count = np.zeros(len(classes), bool), len(dataset.indices)
    read = _look(dataset.frames, dataset.indices, seen, MOST)
    frames = f"its {read}" if read == count else f"{read} of its {count}"
    _tell(f"stream {name}", frames, seen, classes, "labels alone do not teach that")
    return bool(seen.any())


def _look(
    frames: ArtifactSet, indices: NDArray[np.int64], seen: NDArray[np.bool_], most: int
) -> int:
    """Read labels until every class is seen, or some class and `most` frames.

    Args:
        seen: (classes,), is set to True where a pixel has the class

    Returns:
        how many frames were read
    """
    read = 0
    for index in _spread(indices):
        if seen.all() or (seen.any() and read >= most):
            break
        labels = frames.read(LABELS, int(index))
        seen |= np.bincount(labels.reshape(-1), minlength=IGNORE + 1)[: len(seen)] > 0
        read += 1
    return read


def _tell(
    place: str, frames: str, seen: NDArray[np.bool_], classes: Sequence[str], advice: str
) -> None:
    """Warn where a source or stream has no labelled pixel, or none of some classes."""
    if not seen.any():
        LOG.warning(
            "%s: no pixel of %s frames has a label; look at the classes, mapping, `ignore` and "
            "`unlisted` of the source (%s)",
            place,
            frames,
            LIKELY,
        )
    elif not seen.all():
        absent = [each for each, there in zip(classes, seen, strict=True) if not there]
        more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
        LOG.warning(
            "%s: no pixel of %s frames has the class%s %s; %s%s",
            place,
            frames,
            "es" if len(absent) > 1 else "",
            ", ".join(absent[:NAMED]) + more,
            advice,
            f" ({LIKELY})" if len(classes) == 2 else "",
        )


def _spread(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """The frames in an order whose first ones lie all over the stream."""
    steps = max(1, len(indices) // MOST)
    return np.concatenate([indices[start::steps] for start in range(steps)])
