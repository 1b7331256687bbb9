"""The term on whole triplets: what a ConvLSTM makes of both networks' frames."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, PositiveInt, field_validator

from stillroom.stages.train.losses.conv_lstm import ConvLstm
from stillroom.stages.train.losses.multi_frame import ENLARGE, PATCH, Embeddings, embedded
from stillroom.stages.train.reads import MOTION
from stillroom.stages.train.terms.features import FeatureTerm
from stillroom.stages.train.terms.term import Seen, Sizes, TermState
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

LOG = logging.getLogger(__name__)
LEAST_SPREAD = 0.1
PATIENCE = 50  # steps


class MultiFrameTerm(FeatureTerm):
    """`losses.multi_frame` over the triplets of the batch, in the order of time.

    patch: cells a side of a place; memory grows with the square of the number of places
    enlarge: weight of what holds the teacher's embedding away from 0
    hidden, kernel, clip: of the `ConvLstm`: channels of its embedding, side of its convolution, and
        the range that its weights are kept in
    """

    name: Literal["multi_frame"]
    weight: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    patch: PositiveInt = PATCH
    enlarge: float = Field(default=ENLARGE, ge=0, allow_inf_nan=False)
    hidden: PositiveInt = 4
    kernel: PositiveInt = 3
    clip: float = Field(default=0.1, gt=0, allow_inf_nan=False)

    @field_validator("kernel")
    @classmethod
    def _kernel_has_a_centre(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, for a centre, got {kernel}")
        return kernel

    def reads(self, labelled: bool) -> frozenset[str]:
        """Triplets, and the teacher's features of all their frames."""
        return super().reads(labelled) | {MOTION}

    def state(self, sizes: Sizes) -> TermState:
        """Make the network that embeds; channels need not agree, but both layers must be there."""
        sizes.channels(self, self.grid)
        sizes.teacher_channels(self, self.artifact)
        network = ConvLstm(hidden=self.hidden, kernel=self.kernel, clip=self.clip)
        return EmbeddingState(network, self.label)

    def value(self, seen: Seen) -> Tensor:
        """Compare what each triplet is embedded to."""
        if not isinstance(seen.state, EmbeddingState):
            raise TypeError(f"term {self.label} was given no network")
        frames = seen.neighbours.triplets.unbind(1)  # before, itself, after
        student, teacher, mask = seen.features, seen.artifact(self.artifact), seen.mask
        try:
            both = embedded(
                [student[one] for one in frames],
                [teacher[one] for one in frames],
                embed=seen.state.network,
                patch=self.patch,
                mask=[mask[one] for one in frames],
            )
        except ArtifactError as error:
            raise ArtifactError(
                f"term {self.label} on stream {seen.batch.stream}: {error}"
            ) from error
        seen.state.watch(both)
        return both.difference() + self.enlarge * both.smallness()


class EmbeddingState(TermState):
    """A ConvLSTM that trains beside the student, kept within its clip, and watched for collapse.

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
        self._until_look, self._warned = PATIENCE, False

    def watch(self, both: Embeddings) -> None:
        """Take in what became of one batch."""
        if self.training:
            self._spreads.append(both.spread())

    def watched(self) -> dict[str, Tensor]:
        """Return the embedding's spread, the mean over the streams' batches."""
        return {"spread": torch.stack(self._spreads).mean()} if self._spreads else {}

    @torch.no_grad()
    def after_step(self) -> None:
        """Clip the weights; warn, once, of an embedding that has long said next to nothing."""
        self.network.clip_weights()
        for spread in self.watched().values():
            self.narrow.copy_(torch.where(spread < LEAST_SPREAD, self.narrow + 1, 0))
        self._spreads = []
        self._until_look -= 1  # reading a number off a GPU waits for it: not at every step
        if self._until_look == 0:
            self._until_look = PATIENCE
            if not self._warned and int(self.narrow) >= PATIENCE:
                self._warn()

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
