"""Terms between two maps: a layer of student and teacher, or their logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt, model_validator

from stillroom.stages.train.losses import (
    attention_transfer,
    channelwise_kl,
    fitnet,
    ifvd,
    local_affinity,
    pairwise_affinity,
)
from stillroom.stages.train.losses.channelwise_kl import Variant
from stillroom.stages.train.losses.pairwise_affinity import AffinityGraph
from stillroom.stages.train.losses.projector import Projector
from stillroom.stages.train.terms.features import FeatureTerm
from stillroom.stages.train.terms.term import Seen, Sizes, TermState
from stillroom.storage_specs.artifacts import LABELS, LOGITS
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


class MapTerm(FeatureTerm):
    """A loss between two maps, on labelled streams and others.

    on: "features" compares a layer of each; "logits" the logits, and then no layer is named
    """

    on: Literal["features", "logits"] = "features"

    @model_validator(mode="after")
    def _logits_are_no_layer(self) -> MapTerm:
        named = sorted({"layer", "teacher_layer"} & self.model_fields_set)
        if self.on == "logits" and named:
            raise ValueError(
                f"{' and '.join(named)} would not be looked at: the term compares logits; leave "
                'them out, or set on = "features"'
            )
        return self

    @property
    def grid(self) -> str:
        """That of the student's layer, or of its logits."""
        return LOGITS if self.on == "logits" else super().grid

    @property
    def artifact(self) -> str:
        """The teacher's map, as the cache names it."""
        return LOGITS if self.on == "logits" else super().artifact

    def whole_logits(self) -> bool:
        """No such loss is content with a softmax: it compares channels or vectors of logits."""
        return self.on == "logits"

    def value(self, seen: Seen) -> Tensor:
        """Compare on the grid of the student's map."""
        teacher = seen.artifact(self.artifact)
        try:
            return self.compare(seen, teacher)
        except ArtifactError as error:
            raise ArtifactError(
                f"term {self.label} on stream {seen.batch.stream}: {error}"
            ) from error

    def compare(self, seen: Seen, teacher: Tensor) -> Tensor:
        """Return the loss between `seen.features`, (B, A, h, w), and teacher, (B, A', h, w)."""
        raise NotImplementedError


class ProjectedTerm(MapTerm):
    """A loss between maps of as many channels, to which a `Projector` brings the student's.

    always_project: a projector even where the channel counts agree, as FitNets has it
    """

    always_project: bool = False

    def bias(self) -> bool:
        """Whether the projector has one."""
        return True

    def state(self, sizes: Sizes) -> TermState | None:
        """Make the projector, if there is to be one."""
        student = sizes.channels(self, self.grid)
        teacher = sizes.teacher_channels(self, self.artifact)
        if student == teacher and not self.always_project:
            return None
        return Projection(Projector(student, teacher, bias=self.bias()))

    def projected(self, seen: Seen) -> Tensor:
        """(B, A', h, w): the student's map in as many channels as the teacher's."""
        projected: Tensor = seen.features if seen.state is None else seen.state(seen.features)
        return projected


class Projection(TermState):
    """A projector that trains beside the student and stays behind when it is exported."""

    def __init__(self, projector: Projector) -> None:
        super().__init__()
        self.projector = projector

    def forward(self, student: Tensor) -> Tensor:
        """(B, A, h, w) -> (B, A', h, w)."""
        projected: Tensor = self.projector(student)
        return projected


class ChannelwiseKLTerm(ProjectedTerm):
    """`losses.channelwise_kl`, there with weight 3 on logits and 50 on features.

    temperature: 4 unless given; `l2_unnormalised` has none
    variant: what is compared of each channel
    """

    name: Literal["channelwise_kl"]
    on: Literal["features", "logits"] = "logits"
    temperature: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    variant: Variant = "kl"

    @model_validator(mode="after")
    def _temperature_is_looked_at(self) -> ChannelwiseKLTerm:
        if self.variant == "l2_unnormalised" and "temperature" in self.model_fields_set:
            raise ValueError("variant l2_unnormalised has no temperature: leave it out")
        return self

    def bias(self) -> bool:
        """A constant added to a channel would change nothing, where channels are normalised."""
        return self.variant in ("l2_unnormalised", "pixel_kl")

    def compare(self, seen: Seen, teacher: Tensor) -> Tensor:
        """Compare where in the frame each channel is active."""
        return channelwise_kl(
            self.projected(seen),
            teacher,
            temperature=self.temperature,
            variant=self.variant,
            mask=seen.mask,
        )


class FitnetTerm(ProjectedTerm):
    """`losses.fitnet`: the student's features are to be the teacher's."""

    name: Literal["fitnet"]

    def compare(self, seen: Seen, teacher: Tensor) -> Tensor:
        """Compare value by value."""
        return fitnet(self.projected(seen), teacher, mask=seen.mask)


class AttentionTransferTerm(MapTerm):
    """`losses.attention_transfer`.

    power: of activations, before they are summed over channels
    """

    name: Literal["attention_transfer"]
    power: float = Field(default=2.0, ge=1, allow_inf_nan=False)

    def compare(self, seen: Seen, teacher: Tensor) -> Tensor:
        """Compare where in the frame activations are large."""
        return attention_transfer(seen.features, teacher, power=self.power, mask=seen.mask)


class LocalAffinityTerm(MapTerm):
    """`losses.local_affinity`."""

    name: Literal["local_affinity"]

    def compare(self, seen: Seen, teacher: Tensor) -> Tensor:
        """Compare how alike each cell is to its neighbours."""
        return local_affinity(seen.features, teacher, mask=seen.mask)


class PairwiseAffinityTerm(MapTerm):
    """`losses.pairwise_affinity`, there with weight 10.

    patch: cells a side of a node; several make several graphs, whose mean is taken
    reach: of how many nodes around each is compared with; left out: with all; several as of patch
    pool: "average" or "max" of a patch
    """

    name: Literal["pairwise_affinity"]
    patch: PositiveInt | tuple[PositiveInt, ...] = 2
    reach: PositiveInt | tuple[PositiveInt, ...] | None = None
    pool: Literal["average", "max"] = "average"

    @model_validator(mode="after")
    def _graphs_are_told(self) -> PairwiseAffinityTerm:
        lengths = [len(each) for each in (self.patch, self.reach) if isinstance(each, tuple)]
        if 0 in lengths:
            raise ValueError("patch and reach are a number each, or lists of one and more")
        if len(set(lengths)) > 1:
            raise ValueError(
                "patch and reach make a graph from each pair of their entries: expected lists of "
                f"one length, got {lengths[0]} and {lengths[1]}"
            )
        return self

    @property
    def graphs(self) -> tuple[AffinityGraph, ...]:
        """A number goes with every entry of the other's list."""
        several = [each for each in (self.patch, self.reach) if isinstance(each, tuple)]
        count = len(several[0]) if several else 1
        patches = self.patch if isinstance(self.patch, tuple) else (self.patch,) * count
        reaches = self.reach if isinstance(self.reach, tuple) else (self.reach,) * count
        pairs = zip(patches, reaches, strict=True)
        return tuple(AffinityGraph(patch, reach, self.pool) for patch, reach in pairs)

    def compare(self, seen: Seen, teacher: Tensor) -> Tensor:
        """Compare how alike the frame's places are to each other."""
        return pairwise_affinity(seen.features, teacher, graphs=self.graphs, mask=seen.mask)


class IfvdTerm(MapTerm):
    """`losses.ifvd`, by labels; on unlabelled streams by the teacher's pseudo labels.

    pseudo_labels: false leaves unlabelled streams out, and reads no pseudo labels
    """

    name: Literal["ifvd"]
    pseudo_labels: bool = True

    def reads(self, labelled: bool) -> frozenset[str]:
        """The teacher's map, and what tells the classes."""
        if labelled:
            return super().reads(labelled) | {LABELS}
        if not self.pseudo_labels:
            return frozenset()
        return super().reads(labelled) | {self.key("pseudo_label")}

    def compare(self, seen: Seen, teacher: Tensor) -> Tensor:
        """Compare how far each cell is from the centre of its class."""
        classes = seen.output.logits.shape[1]
        return ifvd(seen.features, teacher, seen.label_cells(), classes=classes, mask=seen.mask)
