"""The term of holistic distillation: a critic that trains beside the student, against it."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field

from stillroom.stages.models.critic import NARROWEST, Critic, Design
from stillroom.stages.train.losses.holistic import PENALTY, Maps, critic_loss, holistic, maps_of
from stillroom.stages.train.terms.term import Seen, Sizes, Term, TermState
from stillroom.storage_specs.artifacts import LOGITS
from stillroom.storage_specs.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

BETAS = (0.9, 0.99)


class HolisticTerm(Term):
    """`losses.holistic`: a critic scores whole maps, and the student learns to please it.

    weight: to be given, since no default fits: the authors' 0.1 soon drowns cross entropy on maps
        of many cells; begin with 0.001, and see docs/losses/holistic.md
    design: of the critic: "paper" sees logits and image, "released" is the authors' code: logits
        alone, spectrally normalised
    width: channels of the critic's first convolution
    critic_lr: learning rate of the critic's own Adam (betas 0.9 and 0.99), the same at every step
    penalty: weight of the gradient penalty in the critic's loss
    """

    name: Literal["holistic"]
    weight: float = Field(gt=0, allow_inf_nan=False)
    design: Design = "paper"
    width: int = Field(default=64, ge=NARROWEST)
    critic_lr: float = Field(default=4e-4, gt=0, allow_inf_nan=False)
    penalty: float = Field(default=PENALTY, ge=0, allow_inf_nan=False)

    def reads(self, labelled: bool) -> frozenset[str]:
        """The teacher's logits, whatever the stream."""
        del labelled
        return frozenset({self.key(LOGITS)})

    def whole_logits(self) -> bool:
        """The critic sees them as they are."""
        return True

    def state(self, sizes: Sizes) -> TermState:
        """Make the critic and its optimiser."""
        critic = Critic(sizes.classes, design=self.design, width=self.width)
        return CriticState(critic, self.critic_lr, self.penalty)

    def value(self, seen: Seen) -> Tensor:
        """Score the student's maps, with the sign turned."""
        if not isinstance(seen.state, CriticState):
            raise TypeError(f"term {self.label} was given no critic")
        teacher, images = seen.artifact(LOGITS), seen.batch.images
        try:
            maps = maps_of(seen.output.logits, teacher, images, seen.stride, seen.mask)
            value: Tensor = seen.state(maps)
        except ArtifactError as error:
            raise ArtifactError(
                f"term {self.label} on stream {seen.batch.stream}: {error}"
            ) from error
        return value


class CriticState(TermState):
    """A critic and what trains it: one step of its own Adam after each step of the student.

    It learns from the very maps on which the student was judged: those of all streams together,
    the student's as they were before its step.
    """

    def __init__(self, critic: Critic, lr: float, penalty: float = PENALTY) -> None:
        super().__init__()
        self.critic = critic
        self.penalty = penalty
        self._optimiser = torch.optim.Adam(critic.parameters(), lr, BETAS)
        self._waiting: list[Maps] = []

    def trained(self) -> list[nn.Parameter]:
        """Nothing for the student's optimiser: the two want opposite things."""
        return []

    def forward(self, maps: Maps) -> Tensor:
        """The student's loss; in training the maps are kept for the critic's step."""
        with torch.autocast(maps.student.device.type, enabled=False):
            if self.training:
                kept = maps.detached()
                self._waiting.append(kept)
                for logits in (kept.teacher, kept.student):
                    self.critic.observe(logits, kept.images, kept.mask)
            with _unchanged(self.critic):
                return holistic(self.critic, maps)

    def after_step(self) -> None:
        """Train the critic on what was scored since its last step."""
        waiting, self._waiting = self._waiting, []
        if not any(bool(maps.shown.any()) for maps in waiting):
            return
        maps = Maps(
            torch.cat([one.student for one in waiting]),
            torch.cat([one.teacher for one in waiting]),
            torch.cat([one.images for one in waiting]),
            torch.cat([one.mask for one in waiting]),
        )
        with torch.autocast(maps.student.device.type, enabled=False):
            # On the CPU, whose generator the loop sets, wherever the critic is.
            alpha = torch.rand(len(maps.mask)).to(maps.student.device)
            loss = critic_loss(self.critic, maps, alpha, penalty=self.penalty)
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()
            self._optimiser.zero_grad(set_to_none=True)

    def get_extra_state(self) -> dict[str, Any]:
        """The optimiser's state, in plain types."""
        return copy.deepcopy(self._optimiser.state_dict())

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the optimiser's state."""
        self._optimiser.load_state_dict(copy.deepcopy(state))


@contextmanager
def _unchanged(critic: nn.Module) -> Iterator[None]:
    """No gradient for the critic from what the student pays for."""
    critic.requires_grad_(False)
    try:
        yield
    finally:
        critic.requires_grad_(True)
