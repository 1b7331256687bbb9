"""Count what was predicted for what, and turn the counts into segmentation scores.

The scores are those of Long et al., "Fully Convolutional Networks for Semantic Segmentation",
CVPR 2015, sec. 5, over all pixels of all frames together, not frame by frame. With n_ij pixels of
class i predicted as class j and t_i = sum_j n_ij:

    pixel accuracy = sum_i n_ii / sum_i t_i
    mean accuracy  = mean_i n_ii / t_i
    IoU of class i = n_ii / (t_i + sum_j n_ji - n_ii),    mIoU = mean_i IoU_i

A class is *absent* where it has no pixel in the labels (t_i = 0), even if the model predicts it
somewhere. An absent class has no IoU and no accuracy; it is left out of both means, and named.
Its false positives still cost: they are misses of the classes they fell on. (Some tools give such a
class an IoU of 0 as soon as one pixel is predicted; on a set with every class the two agree.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """Segmentation scores in 0..1; one entry a class, in the order of `classes`.

    Attributes:
        classes: names.
        miou: mean IoU of the classes that are neither absent nor ignored.
        mean_accuracy: mean accuracy (recall) of the same classes.
        pixel_accuracy: share of the counted pixels that are right.
        iou: IoU by class, None where the class is absent.
        accuracy: share of a class's pixels that are right, None where the class is absent.
        pixels: labelled pixels by class.
        ignored: names of classes that no mean includes; their pixels count as others do.
    """

    classes: tuple[str, ...]
    miou: float
    mean_accuracy: float
    pixel_accuracy: float
    iou: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]
    pixels: tuple[int, ...]
    ignored: tuple[str, ...] = ()

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the classes without a labelled pixel, which no mean includes."""
        return tuple(
            name for name, count in zip(self.classes, self.pixels, strict=True) if not count
        )

    def to_dict(self) -> dict[str, Any]:
        """The scores as plain JSON values."""
        columns = zip(self.classes, self.iou, self.accuracy, self.pixels, strict=True)
        return {
            "miou": self.miou,
            "mean_accuracy": self.mean_accuracy,
            "pixel_accuracy": self.pixel_accuracy,
            "absent": list(self.absent),
            "ignored": list(self.ignored),
            "classes": [
                {"name": name, "iou": iou, "accuracy": accuracy, "pixels": pixels}
                for name, iou, accuracy, pixels in columns
            ],
        }


class ConfusionMatrix:
    """How many pixels of each class were predicted as each class.

    Attributes:
        counts: int64 (C, C); row = label, column = prediction.
    """

    def __init__(self, num_classes: int) -> None:
        if not 1 <= num_classes <= IGNORE:
            raise ConfigError(
                f"a label map of uint8 holds 1 to {IGNORE} classes beside {IGNORE} = ignore, "
                f"got {num_classes}"
            )
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def update(self, prediction: NDArray[np.generic], label: NDArray[np.generic]) -> None:
        """Add the pixels of one or more frames; pixels labelled 255 do not count.

        Args:
            prediction: integers 0..C-1 of any shape; anything goes where the label is 255.
            label: integers 0..C-1 or 255, of the same shape.

        Raises:
            ArtifactError: the shapes differ, a dtype is no integer, or a value is out of range;
                nothing is counted then.
        """
        if prediction.shape != label.shape:
            raise ArtifactError(
                f"prediction {prediction.shape} and label {label.shape} differ in shape"
            )
        for name, array in (("prediction", prediction), ("label", label)):
            if array.dtype.kind not in "ui":
                raise ArtifactError(f"{name}: expected class indices, got {array.dtype}")
        counted = label != IGNORE
        size = len(self.counts)
        truth = _in_range("label", label[counted], size)
        guess = _in_range("prediction", prediction[counted], size)
        added = np.bincount(truth * size + guess, minlength=size * size)
        self.counts += added.reshape(size, size)

    def scores(self, classes: Sequence[str] | None = None, ignored: Sequence[str] = ()) -> Scores:
        """The scores of all pixels so far.

        Args:
            classes: names; "0", "1", ... if left out.
            ignored: names among them that the means leave out.

        Raises:
            ConfigError: there are not as many names as classes, or no class is left for a mean.
            ArtifactError: no pixel has been counted, so that no score exists.
        """
        size = len(self.counts)
        names = tuple(map(str, range(size))) if classes is None else tuple(classes)
        if len(names) != size:
            raise ConfigError(f"{len(names)} class names for {size} classes")
        labelled, right = self.counts.sum(1), self.counts.diagonal()  # (C,)
        if not labelled.any():
            raise ArtifactError(f"nothing to score: every pixel is labelled {IGNORE} (ignore)")
        present = labelled > 0
        meant = present & ~np.isin(names, ignored)
        if not meant.any():
            raise ConfigError(
                f"every class that the labels show is ignored: {', '.join(ignored)}; a mean needs "
                "one that is not"
            )
        union = labelled + self.counts.sum(0) - right
        # Absent classes have a zero below the line here and there, and are not looked at.
        iou = right / np.where(present, union, 1)
        accuracy = right / np.where(present, labelled, 1)
        return Scores(
            classes=names,
            miou=float(iou[meant].mean()),
            mean_accuracy=float(accuracy[meant].mean()),
            pixel_accuracy=float(right.sum() / labelled.sum()),
            iou=_none_where_absent(iou, present),
            accuracy=_none_where_absent(accuracy, present),
            pixels=tuple(labelled.tolist()),
            ignored=tuple(ignored),
        )


def _in_range(name: str, values: NDArray[np.generic], size: int) -> NDArray[np.int64]:
    # From int64 on, so that neither a sign nor a sum of uint8 wraps; uint64 beyond it turns < 0.
    indices = values.astype(np.int64)
    outside = (indices < 0) | (indices >= size)
    if outside.any():
        found = np.unique(indices[outside])
        shown = ", ".join(map(str, found[:5].tolist())) + (", ..." if len(found) > 5 else "")
        raise ArtifactError(
            f"{name}: expected 0..{size - 1}"
            + (f" or {IGNORE} (ignore)" if name == "label" else "")
            + f", got {shown} in {int(outside.sum())} pixels"
        )
    return indices


def _none_where_absent(
    values: NDArray[np.float64], present: NDArray[np.bool_]
) -> tuple[float | None, ...]:
    return tuple(
        float(value) if there else None for value, there in zip(values, present, strict=True)
    )
