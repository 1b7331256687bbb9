"""Terms between a layer of the student and a layer of the teacher."""

from __future__ import annotations

from stillroom.stages.train.terms.term import Term


class FeatureTerm(Term):
    """A loss between features, on the grid of the student's layer.

    The view brings the teacher's features to that grid (bilinear between cells' centres), so no
    loss resizes anything.

    layer: the student's; "penultimate", or "stage1" to "stage5" of an SMP encoder
    teacher_layer: the teacher's, as it is named in cache.artifacts after "features/"
    """

    layer: str = "penultimate"
    teacher_layer: str = "penultimate"

    @property
    def grid(self) -> str:
        """That of the student's layer."""
        return f"features/{self.layer}"

    @property
    def artifact(self) -> str:
        """The teacher's layer, as the cache names it."""
        return f"features/{self.teacher_layer}"

    def reads(self, labelled: bool) -> frozenset[str]:
        """The teacher's features, whatever the stream."""
        del labelled
        return frozenset({self.key(self.artifact)})
