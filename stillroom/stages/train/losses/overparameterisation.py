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
from stillroom.stages.train.losses.cross_entropy import LabelTerm, WeightedClasses
from stillroom.stages.train.losses.pixelwise_kl import pixelwise_kl
from stillroom.storage_specs.artifacts import FEATURES, LOGITS
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
        learns: from labels by `cross_entropy`, or from the teacher's logits by `pixelwise_kl`
    """

    name: Literal["overparameterisation"]
    layers: tuple[str, ...] = Field(default=("stage2", "stage3", "stage4", "stage5"), min_length=1)
    adaptor: Adaptor | None = None
    aggregator: Aggregator | None = None
    cells: tuple[Cell, ...] = ()
    channels: PositiveInt = 64
    learns: Literal["labels", "logits"] = "labels"

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
    def _logits_have_no_labels(self) -> OverparameterisationTerm:
        if self.learns == "logits" and (self.threshold or self.class_weights):
            raise ValueError("threshold and class_weights are of labels, and it learns from logits")
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
        return frozenset({self.key(LOGITS)}) if self.learns == "logits" else super().reads(labelled)

    def state(self, sizes: Sizes) -> TermState:
        channels, strides = self._of_layers(sizes.student), self._of_layers(sizes.strides)
        module = AuxiliaryModule(self.plan, channels, strides, self.channels, sizes.classes)
        return AuxiliaryState(module, self.weights(sizes))

    def value(self, given: TermInput) -> Tensor:
        features = {layer: given.output.features[layer] for layer in self.layers}
        logits = given.kept(AuxiliaryState).module(features)
        if self.learns == "logits":
            return pixelwise_kl(logits, given.artifact(LOGITS), mask=given.mask)
        return self.of_logits(given, logits)

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
