"""Every loss by its name in a run file."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, TypeAlias

from pydantic import Field

from stillroom.stages.train.losses.adaptation import AdaptationTerm
from stillroom.stages.train.losses.affinity import AffinityTerm
from stillroom.stages.train.losses.attention_transfer import AttentionTransferTerm
from stillroom.stages.train.losses.augmented_channelwise import AugmentedChannelwiseTerm
from stillroom.stages.train.losses.augmented_pixelwise import AugmentedPixelwiseTerm
from stillroom.stages.train.losses.auxiliary_cross_entropy import AuxiliaryCrossEntropyTerm
from stillroom.stages.train.losses.channelwise_kl import ChannelwiseKLTerm
from stillroom.stages.train.losses.consistency_l2 import ConsistencyL2Term
from stillroom.stages.train.losses.cross_entropy import CrossEntropyTerm
from stillroom.stages.train.losses.cross_image_memory import CrossImageMemoryTerm
from stillroom.stages.train.losses.cross_image_pixel import CrossImagePixelTerm
from stillroom.stages.train.losses.depth_bins import DepthBinsTerm
from stillroom.stages.train.losses.depth_regression import DepthRegressionTerm
from stillroom.stages.train.losses.dist import DistTerm
from stillroom.stages.train.losses.feature_match import FeatureMatchTerm
from stillroom.stages.train.losses.fitnet import FitnetTerm
from stillroom.stages.train.losses.holistic import HolisticTerm
from stillroom.stages.train.losses.ifvd import IfvdTerm
from stillroom.stages.train.losses.local_affinity import LocalAffinityTerm
from stillroom.stages.train.losses.masked_generative import MaskedGenerativeTerm
from stillroom.stages.train.losses.multi_frame import MultiFrameTerm
from stillroom.stages.train.losses.network_slimming import NetworkSlimmingTerm
from stillroom.stages.train.losses.normals_cosine import NormalsCosineTerm
from stillroom.stages.train.losses.overparameterisation import OverparameterisationTerm
from stillroom.stages.train.losses.pairwise_affinity import PairwiseAffinityTerm
from stillroom.stages.train.losses.pairwise_frame import PairwiseFrameTerm
from stillroom.stages.train.losses.pixelwise_kl import PixelwiseKLTerm
from stillroom.stages.train.losses.probability_l2 import ProbabilityL2Term
from stillroom.stages.train.losses.temporal import TemporalTerm

if TYPE_CHECKING:
    from stillroom.stages.train.terms.term import Term

LOSSES: dict[str, type[Term]] = {
    "adaptation": AdaptationTerm,
    "affinity": AffinityTerm,
    "attention_transfer": AttentionTransferTerm,
    "augmented_channelwise": AugmentedChannelwiseTerm,
    "augmented_pixelwise": AugmentedPixelwiseTerm,
    "auxiliary_cross_entropy": AuxiliaryCrossEntropyTerm,
    "channelwise_kl": ChannelwiseKLTerm,
    "consistency_l2": ConsistencyL2Term,
    "cross_entropy": CrossEntropyTerm,
    "cross_image_memory": CrossImageMemoryTerm,
    "cross_image_pixel": CrossImagePixelTerm,
    "depth_bins": DepthBinsTerm,
    "depth_regression": DepthRegressionTerm,
    "dist": DistTerm,
    "feature_match": FeatureMatchTerm,
    "fitnet": FitnetTerm,
    "holistic": HolisticTerm,
    "ifvd": IfvdTerm,
    "local_affinity": LocalAffinityTerm,
    "masked_generative": MaskedGenerativeTerm,
    "multi_frame": MultiFrameTerm,
    "network_slimming": NetworkSlimmingTerm,
    "normals_cosine": NormalsCosineTerm,
    "overparameterisation": OverparameterisationTerm,
    "pairwise_affinity": PairwiseAffinityTerm,
    "pairwise_frame": PairwiseFrameTerm,
    "pixelwise_kl": PixelwiseKLTerm,
    "probability_l2": ProbabilityL2Term,
    "temporal": TemporalTerm,
}

# One entry of `terms` in a run file: the term that `name` names.
if TYPE_CHECKING:
    TermConfig: TypeAlias = Term
else:
    TermConfig = Annotated[reduce(or_, LOSSES.values()), Field(discriminator="name")]
