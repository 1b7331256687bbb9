"""Multi-frame distillation: what a ConvLSTM makes of the self-similarities of successive frames."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import PositiveInt, field_validator

from stillroom.stages.moments import moments
from stillroom.stages.train.loss_parts.conv_lstm import ConvLstm
from stillroom.stages.train.loss_parts.masks import masked_mean, matched_grids
from stillroom.stages.train.loss_parts.patches import counted_patches, patch_sums
from stillroom.stages.train.loss_parts.unit_vectors import unit_vectors
from stillroom.stages.train.reads import TRIPLETS
from stillroom.stages.train.terms.feature_term import FeatureTerm
from stillroom.stages.train.terms.term import NotNegative, Positive, TermState
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from stillroom.stages.train.terms.term import Sizes, TermInput

PATCH = 16
ENLARGE = 0.1


@dataclass(frozen=True, eq=False)
class Embeddings:
    """What both networks' frames come to, as `embedded` makes it.

    Attributes:
        student, teacher: (B, D, N, N) for N places
        counted: (B, N, N) bool, True where both places count in every frame; None counts all
    """

    student: Tensor
    teacher: Tensor
    counted: Tensor | None

    def difference(self) -> Tensor:
        """() mean of (E_s - E_t)^2."""
        return masked_mean((self.student - self.teacher).square().mean(1), self.counted)

    def smallness(self) -> Tensor:
        """() mean of 1 - E_t, between 0 and 2: making it small enlarges the teacher's embedding."""
        return masked_mean(1 - self.teacher.mean(1), self.counted)

    @torch.no_grad()
    def spread(self) -> Tensor:
        """() the teacher's deviation over frames and pairs against its root mean square, 0 to 1.

        ratio = sqrt(mean_d var_d) / sqrt(mean_d E_d^2);  d: channels

        Near 0 the embedding has collapsed: it hardly depends on what is embedded, whatever its
        size, and student and teacher agree on nothing. An embedding of zeros has 0.
        """
        each = self.teacher.movedim(1, 0).flatten(1)  # (D, B N N)
        found = moments(each, None if self.counted is None else self.counted.flatten())
        size, spread = found.square.sqrt(), found.variance.mean().sqrt()
        return torch.where(size > 0, spread / size.clamp(min=torch.finfo(size.dtype).tiny), 0)


def multi_frame(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    embed: Callable[[Sequence[Tensor]], Tensor],
    patch: int = PATCH,
    enlarge: float = ENLARGE,
    mask: Sequence[Tensor] | None = None,
) -> Tensor:
    """Compare the embeddings of a sequence of self-similarity maps.

    loss = mean (E_s - E_t)^2 + enlarge * mean (1 - E_t)
    E = embed(A_1, ..., A_T),  A_ij = f_i . f_j / (|f_i| |f_j|),  f_i: features summed over place i

    Memory: about 18 T B D N^2 numbers with a `ConvLstm`, beside the maps

    Liu et al., "Efficient Semantic Video Segmentation with Per-frame Inference", ECCV 2020, section
    3.2; arXiv:2002.11433; Y. Liu, "Efficient Fully Convolutional Networks for Dense Prediction
    Tasks", PhD thesis, Adelaide 2021, section 5.3.2, there with weight 0.1. What differs:
    docs/losses/temporal.md.

    Args:
        student: T maps (B, C, H, W) of features, in the order of time
        teacher: T maps (B, C', H, W), likewise; C' may be another number
        embed: from T maps (B, 1, N, N) to E (B, D, N, N), the same function for both networks: a
            `ConvLstm`, whose parameters are trained with the student
        patch: positions a side of a place, 1 or more; N = ceil(H / patch) ceil(W / patch), 2 or
            more
        enlarge: weight of the second part, which holds the embedding away from its collapse to 0,
            where the first part would be satisfied with nothing; 0 leaves it out
        mask: T masks (B, 1, H, W) bool, True where a position counts; a place counts where one of
            its positions does, and a pair of places where both do in every frame

    Returns:
        () mean over counted pairs and channels of E; the first part between 0 and 4, 0 where
        the self-similarities agree
    """
    if not enlarge >= 0:
        raise ConfigError(f"enlarge must be a weight of 0 or more, got {enlarge}")
    both = embedded(student, teacher, embed=embed, patch=patch, mask=mask)
    return both.difference() + enlarge * both.smallness() if enlarge else both.difference()


def embedded(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    embed: Callable[[Sequence[Tensor]], Tensor],
    patch: int = PATCH,
    mask: Sequence[Tensor] | None = None,
) -> Embeddings:
    """Embed both networks' frames; arguments as `multi_frame`.

    Raises:
        ArtifactError: where there are not as many maps of each, shapes differ, or there are fewer
            than 2 frames or places
    """
    masks: Sequence[Tensor | None] = [None] * len(student) if mask is None else mask
    if not len(student) == len(teacher) == len(masks) or len(student) < 2:
        raise ArtifactError(
            "a sequence has 2 or more frames, as many of the student as of the teacher and as "
            f"masks; got {len(student)}, {len(teacher)} and {len(masks)}"
        )
    if patch < 1:
        raise ConfigError(f"patch must be 1 or more cells a side, got {patch}")
    maps = [
        matched_grids(one, other, shown)
        for one, other, shown in zip(student, teacher, masks, strict=True)
    ]
    with torch.autocast(student[0].device.type, enabled=False):
        of_student = embed([self_similarity(one, patch) for one, _ in maps])
        of_teacher = embed([self_similarity(other, patch) for _, other in maps])
        return Embeddings(of_student, of_teacher, _counted_pairs(masks, patch))


def self_similarity(features: Tensor, patch: int) -> Tensor:
    """Cosines between all places of a frame.

    Args:
        features: (B, C, H, W), 0 where a position does not count

    Returns:
        (B, 1, N, N); 0 in the rows and columns of a place that is 0 throughout
    """
    places = unit_vectors(patch_sums(features, patch)).flatten(2)  # (B, C, N)
    if places.shape[2] < 2:
        raise ArtifactError(
            f"a map of {tuple(features.shape)} is one place of {patch} x {patch} cells, and alike "
            "to itself whatever it shows; take a smaller patch or larger crops"
        )
    return (places.transpose(1, 2) @ places)[:, None]


def _counted_pairs(masks: Sequence[Tensor | None], patch: int) -> Tensor | None:
    """(B, N, N) bool: the pairs of places that count in every frame."""
    counted = [counted_patches(each, patch).flatten(1) for each in masks if each is not None]
    if not counted:
        return None
    always = reduce(torch.logical_and, counted)  # (B, N)
    return always[:, :, None] & always[:, None, :]


LOG = logging.getLogger(__name__)
LEAST_SPREAD = 0.1
PATIENCE = 50  # steps


class MultiFrameTerm(FeatureTerm):
    """`multi_frame` over the triplets of the batch, in the order of time.

    Attributes:
        weight: to be given: with the papers' 0.1 it hardly pulls, and which does depends on patch,
            clip and features; `train --check` shows its gradient beside the others'
        patch: positions a side of a place; memory grows with the square of the number of places
        enlarge: weight of what holds the teacher's embedding away from 0
        hidden, kernel, clip: of the `ConvLstm`: channels of its embedding, side of its convolution,
            and the range that its weights are kept in
    """

    name: Literal["multi_frame"]
    weight: Positive
    patch: PositiveInt = PATCH
    enlarge: NotNegative = ENLARGE
    hidden: PositiveInt = 4
    kernel: PositiveInt = 3
    clip: Positive = 0.1

    @field_validator("kernel")
    @classmethod
    def _kernel_has_a_centre(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, for a centre, got {kernel}")
        return kernel

    def reads(self, labelled: bool) -> frozenset[str]:
        return super().reads(labelled) | {TRIPLETS}

    def state(self, sizes: Sizes) -> TermState:
        """Make the network that embeds; channels need not agree, but both layers must be there."""
        sizes.channels(self, self.grid)
        sizes.teacher_channels(self, self.artifact)
        network = ConvLstm(hidden=self.hidden, kernel=self.kernel, clip=self.clip)
        return EmbeddingState(network, self.label)

    def value(self, given: TermInput) -> Tensor:
        frames = given.triplets.frames.unbind(1)  # before, itself, after
        student, teacher, mask = given.features, self.target(given), given.mask
        state = given.kept(EmbeddingState)
        both = embedded(
            [student[one] for one in frames],
            [teacher[one] for one in frames],
            embed=state.network,
            patch=self.patch,
            mask=[mask[one] for one in frames],
        )
        state.watch(both)
        return both.difference() + self.enlarge * both.smallness()


class EmbeddingState(TermState):
    """A ConvLSTM that trains beside the student, kept within its clip, and watched for collapse.

    Attributes:
        term: its label, for the warning
        narrow: () int64: steps in a row, up to now, with a spread below `LEAST_SPREAD`
    """

    narrow: Tensor

    def __init__(self, network: ConvLstm, term: str) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("narrow", torch.zeros((), dtype=torch.int64))
        self._term = term
        self._spreads: list[Tensor] = []  # of the batches since the last step
        self._until_check, self._warned = PATIENCE, False

    def watch(self, both: Embeddings) -> None:
        """Take in what became of one batch."""
        if self.training:
            self._spreads.append(both.spread())

    def watched(self) -> dict[str, Tensor]:
        """Return the embedding's spread, the mean over the streams' batches."""
        return {"spread": torch.stack(self._spreads).mean()} if self._spreads else {}

    @torch.no_grad()
    def after_step(self) -> None:
        """Clip the weights; warn, once, of an embedding that has long been collapsed."""
        self.network.clip_weights()
        for spread in self.watched().values():
            self.narrow.copy_(torch.where(spread < LEAST_SPREAD, self.narrow + 1, 0))
        self.forget()
        self._until_check -= 1  # reading a number off a GPU waits for it: not at every step
        if self._until_check == 0:
            self._until_check = PATIENCE
            if not self._warned and int(self.narrow) >= PATIENCE:
                self._warn()

    def forget(self) -> None:
        self._spreads = []

    def _warn(self) -> None:
        self._warned = True
        LOG.warning(
            "term %s: its embedding has collapsed: for %d steps its spread has been below %s, so "
            "that it hardly depends on the frames and the student learns next to nothing from it; "
            "raise the term's `enlarge` if `spread` falls with the embedding, or lower its `clip`",
            self._term,
            int(self.narrow),
            LEAST_SPREAD,
        )
