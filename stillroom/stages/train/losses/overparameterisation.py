"""Auxiliary overparameterisation: a wider network over the student's layers, for training alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt, model_validator

from stillroom.stages.models.auxiliary.cells import (
    Adaptor,
    Aggregator,
    Cell,
    basic_cells,
    module_stride,
    unknown_inputs,
)
from stillroom.stages.models.auxiliary.module import AuxiliaryModule
from stillroom.stages.models.task_heads import DEPTH_LOGITS, DepthHead
from stillroom.stages.train.losses.cross_entropy import LabelTerm, WeightedClasses
from stillroom.stages.train.losses.depth_bins import depth_bins
from stillroom.stages.train.losses.depth_regression import depth_regression
from stillroom.stages.train.losses.normals_cosine import normals_cosine
from stillroom.stages.train.losses.pixelwise_kl import pixelwise_kl
from stillroom.stages.upsample import upsample_logits
from stillroom.storage_specs.artifacts import DEPTH, FEATURES, LOGITS, NORMALS
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from stillroom.stages.train.terms.term import Sizes, TermInput, TermState


class OverparameterisationTerm(LabelTerm):
    """The loss of an auxiliary module that reads the student's layers and is never exported.

    Its gradient reaches the student's layers through adaptors and aggregators: h_l = h_(l-1) (.)
    A_l(O_l), with a classifier after the last. Y. Liu, "Efficient Fully Convolutional Networks for
    Dense Prediction Tasks", PhD thesis, Adelaide 2021, section 6.3, eq. 6.1 and 6.2, and Fig. 6.2.
    What differs: docs/losses/labels.md.

    Attributes:
        layers: of the student, in the order of the chain
        adaptor, aggregator: of the basic module, where there are no cells
        cells: another module than the basic one, cell by cell
        channels: of each layer as it is adapted
        learns: labels by `cross_entropy`; the teacher's logits by `pixelwise_kl`; depth by
            `depth_bins`, or by `depth_regression` where the student's head has no bins; normals by
            `normals_cosine`: both the frames' own, or the teacher's if one is named
    """

    name: Literal["overparameterisation"]
    layers: tuple[str, ...] = Field(default=("stage2", "stage3", "stage4", "stage5"), min_length=1)
    adaptor: Adaptor | None = None
    aggregator: Aggregator | None = None
    cells: tuple[Cell, ...] = ()
    channels: PositiveInt = 64
    learns: Literal["labels", "logits", "depth", "normals"] = "labels"

    @model_validator(mode="after")
    def _is_one_module(self) -> OverparameterisationTerm:
        if len(set(self.layers)) < len(self.layers):
            raise ValueError("layers: one is named twice")
        if not self.cells and len(self.layers) < 2:
            raise ValueError(
                "layers: the basic module joins 2 or more; for one layer there is "
                "auxiliary_cross_entropy"
            )
        if self.cells and (self.adaptor or self.aggregator):
            raise ValueError("adaptor and aggregator are of the basic module: cells name their own")
        if faults := unknown_inputs(self.layers, self.cells):
            raise ValueError("; ".join(faults))
        return self

    @model_validator(mode="after")
    def _others_have_no_labels(self) -> OverparameterisationTerm:
        if self.learns != "labels" and (self.threshold or self.class_weights):
            raise ValueError(
                f"threshold and class_weights are of labels, and it learns {self.learns}"
            )
        return self

    @property
    def plan(self) -> tuple[Cell, ...]:
        """The cells of the module: its own, or the basic one's."""
        adaptor, aggregator = self.adaptor or "conv1x1", self.aggregator or "concatenation"
        return self.cells or basic_cells(self.layers, adaptor, aggregator)

    @property
    def grid(self) -> str:
        return f"{FEATURES}/{self.layers[0]}"

    def stride(self, strides: Mapping[str, int], cached: Mapping[str, int]) -> int:
        return module_stride(self._of_layers(strides), self.plan)

    def reads(self, labelled: bool) -> frozenset[str]:
        if self.learns == "labels":
            return super().reads(labelled)
        if self.learns == "logits" or self.teacher is not None:
            return frozenset({self.key(self.learns)})
        return frozenset({self.learns} if labelled else ())

    def state(self, sizes: Sizes) -> TermState:
        channels, strides = self._of_layers(sizes.student), self._of_layers(sizes.strides)
        outputs = self._outputs(sizes)
        module = AuxiliaryModule(self.plan, channels, strides, self.channels, outputs)
        return AuxiliaryState(module, self.weights(sizes))

    def value(self, given: TermInput) -> Tensor:
        features = {layer: given.output.features[layer] for layer in self.layers}
        logits = given.kept(AuxiliaryState).module(features)
        if self.learns == "logits":
            return pixelwise_kl(logits, given.artifact(LOGITS), mask=given.mask)
        if self.learns == "labels":
            return self.of_logits(given, logits)
        return self._of_target(given, logits)

    def _of_target(self, given: TermInput, grid: Tensor) -> Tensor:
        """Compare what the student's own head makes of the module's grid: depth, or normals."""
        head = given.student.heads[self.learns]
        found = head.outputs(grid)
        mask = None
        if self.teacher is None:
            known = given.target(self.learns)
            size = (known.shape[2], known.shape[3])
            found = {k: upsample_logits(one, given.stride, size) for k, one in found.items()}
        else:
            known, mask = given.artifact(self.learns), given.mask
        if self.learns == NORMALS:
            return normals_cosine(found[NORMALS], known, mask=mask)
        if isinstance(head, DepthHead) and head.bins:
            bins, centres = found[DEPTH_LOGITS], head.log_centres()
            return depth_bins(bins, known, log_centres=centres, mask=mask)
        return depth_regression(found[DEPTH], known, mask=mask)

    def _outputs(self, sizes: Sizes) -> int:
        """Return the channels of the module's own head: those of the student's."""
        given = {"labels": LOGITS, DEPTH: DEPTH_LOGITS}.get(self.learns, self.learns)
        given = given if given in sizes.student else self.learns
        if given not in sizes.student:
            raise ConfigError(
                f"term {self.label}: it learns {self.learns}, and the student has no head of it: "
                f"it gives {', '.join(sizes.student)}"
            )
        return sizes.student[given]

    def _of_layers(self, known: Mapping[str, int]) -> dict[str, int]:
        missing = [layer for layer in self.layers if f"{FEATURES}/{layer}" not in known]
        if missing:
            raise ConfigError(
                f"term {self.label}: layers names {', '.join(missing)}, and this student has "
                f"{', '.join(known)}"
            )
        return {layer: known[f"{FEATURES}/{layer}"] for layer in self.layers}


class AuxiliaryState(WeightedClasses):
    """The module beside the student."""

    def __init__(self, module: AuxiliaryModule, class_weights: Tensor | None = None) -> None:
        super().__init__(class_weights)
        self.module = module
