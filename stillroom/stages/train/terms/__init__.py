"""Every term by its name in a run file: a loss with its weight, and what it reads and keeps."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stillroom.stages.train.terms.adaptation import AdaptationTerm, AffinityTerm
from stillroom.stages.train.terms.augmented import AugmentedChannelwiseTerm, AugmentedPixelwiseTerm
from stillroom.stages.train.terms.correlation import DistTerm
from stillroom.stages.train.terms.cross_entropy import AuxiliaryCrossEntropyTerm, CrossEntropyTerm
from stillroom.stages.train.terms.cross_image import CrossImageMemoryTerm, CrossImagePixelTerm
from stillroom.stages.train.terms.holistic import HolisticTerm
from stillroom.stages.train.terms.logits import (
    ConsistencyL2Term,
    PixelwiseKLTerm,
    ProbabilityL2Term,
)
from stillroom.stages.train.terms.maps import (
    AttentionTransferTerm,
    ChannelwiseKLTerm,
    FitnetTerm,
    IfvdTerm,
    LocalAffinityTerm,
    PairwiseAffinityTerm,
)
from stillroom.stages.train.terms.masked_generative import MaskedGenerativeTerm
from stillroom.stages.train.terms.multi_frame import MultiFrameTerm
from stillroom.stages.train.terms.pairwise_frame import PairwiseFrameTerm
from stillroom.stages.train.terms.temporal import TemporalTerm

TermConfig = Annotated[
    AdaptationTerm
    | AffinityTerm
    | AttentionTransferTerm
    | AugmentedChannelwiseTerm
    | AugmentedPixelwiseTerm
    | AuxiliaryCrossEntropyTerm
    | ChannelwiseKLTerm
    | ConsistencyL2Term
    | CrossEntropyTerm
    | CrossImageMemoryTerm
    | CrossImagePixelTerm
    | DistTerm
    | FitnetTerm
    | HolisticTerm
    | IfvdTerm
    | LocalAffinityTerm
    | MaskedGenerativeTerm
    | MultiFrameTerm
    | PairwiseAffinityTerm
    | PairwiseFrameTerm
    | PixelwiseKLTerm
    | ProbabilityL2Term
    | TemporalTerm,
    Field(discriminator="name"),
]

__all__ = ["TermConfig"]
