"""Terms between a layer of the student and the code of a layer of the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stillroom.stages.train.losses import LOSSES
from stillroom.stages.train.losses.adapter import Adapter
from stillroom.stages.train.losses.coarsen import coarsen
from stillroom.stages.train.reads import CODE
from stillroom.stages.train.terms.features import FeatureTerm
from stillroom.stages.train.terms.term import Seen, Sizes, TermState
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from stillroom.stages.models.student import Student


class CodeTerm(FeatureTerm):
    """A loss between the student's adapted features and the code that `cache adapt` made.

    Compared on the code's own grid where the student's is finer by a whole factor: its features
    are averaged over each of the code's cells, then adapted. Where the student's grid is the
    coarser one, or the factor is not whole, they are compared on the student's, and the view
    brings the code there. A cell counts where its centre shows the frame.

    teacher_layer: the code's, as it is named after "code/": the layer, or [adapt.<teacher>].name
    """

    @property
    def artifact(self) -> str:
        """The code, as the cache names it."""
        return f"{CODE}{self.teacher_layer}"

    def stride(self, strides: Mapping[str, int], cached: Mapping[str, int]) -> int:
        """The code's, or the student's: see above."""
        own = strides[self.grid]
        code = cached.get(self.key(self.artifact), own)
        return own if code % own else code

    def options(self) -> dict[str, Any]:
        """Return what the loss takes beside the two tensors and the mask."""
        return self.model_dump(exclude={"name", "weight", "teacher", "layer", "teacher_layer"})

    def state(self, sizes: Sizes) -> TermState:
        """Make the adapter, from the student's channels to the code's."""
        student = sizes.channels(self, self.grid)
        return CodeAdapter(student, sizes.teacher_channels(self, self.artifact))

    def value(self, seen: Seen) -> Tensor:
        """Adapt, and compare."""
        if seen.state is None:
            raise TypeError(f"term {self.label} was given no state")
        self._demand_a_cell(seen)
        factor = seen.stride // self._own_stride(seen.student)
        try:
            adapted = seen.state(coarsen(seen.features, factor), seen.mask)
            code = seen.artifact(self.artifact)
            return LOSSES[self.name](adapted, code, mask=seen.mask, **self.options())
        except ArtifactError as error:
            raise ArtifactError(
                f"term {self.label} on stream {seen.batch.stream}: {error}"
            ) from error

    def _demand_a_cell(self, seen: Seen) -> None:
        """Refuse a crop that is too small for the grid: every cell would be masked out."""
        height, width = seen.batch.images.shape[2:]
        if 2 * min(height, width) <= seen.stride:
            raise ConfigError(
                f"term {self.label} compares on cells of {seen.stride} pixels, and no centre of "
                f"one lies in a crop of {height} x {width}: use a larger train.view.crop, or a "
                f"code made with smaller strides in [adapt.{self.teacher}]"
            )

    def _own_stride(self, student: Student) -> int:
        return student.strides[self.grid]


class AdaptationTerm(CodeTerm):
    """`losses.adaptation`: the vectors of each cell, normalised; He et al., eq. 2.

    weight: 50, as the authors' beta
    p, q: norms of the difference, and to normalise by
    """

    name: Literal["adaptation"]
    weight: float = Field(default=50.0, gt=0, allow_inf_nan=False)
    p: float = Field(default=1.0, ge=1, allow_inf_nan=False)
    q: float = Field(default=2.0, ge=1, allow_inf_nan=False)


class AffinityTerm(CodeTerm):
    """`losses.affinity`: how alike each two cells are; He et al., eq. 3 and 4, weight 1."""

    name: Literal["affinity"]


class CodeAdapter(TermState):
    """`losses.adapter.Adapter`, trained beside the student."""

    def __init__(self, student_channels: int, code_channels: int) -> None:
        super().__init__()
        self.adapter = Adapter(student_channels, code_channels)

    def forward(self, student: Tensor, mask: Tensor) -> Tensor:
        """Adapt features (B, A, h, w) to the code's channels."""
        adapted: Tensor = self.adapter(student, mask)
        return adapted
