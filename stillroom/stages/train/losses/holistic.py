"""Holistic distillation: a critic tells the student's maps from the teacher's, the student learns.

A conditional Wasserstein GAN with gradient penalty. Here are its three formulas, as functions of a
critic; `stages/models/critic.py` has the network, `stages/train/terms/holistic.py` trains it.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import nn

from stillroom.stages.across_ranks import ALL, average_gradients, summed
from stillroom.stages.device_values import Late
from stillroom.stages.models.critic import NARROWEST, Critic, Design
from stillroom.stages.train.loss_parts.downsample import downsample_by_means
from stillroom.stages.train.loss_parts.known_depth import is_known
from stillroom.stages.train.loss_parts.masks import masked_mean, matched
from stillroom.stages.train.terms.term import NotNegative, Positive, Term, TermState
from stillroom.storage_specs.artifacts import DEPTH, LOGITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from stillroom.stages.across_ranks import Rows
    from stillroom.stages.train.terms.term import Sizes, TermInput

    Score = Callable[[Tensor, Tensor, Tensor], Tensor]

PENALTY = 10.0


@dataclass(frozen=True)
class Maps:
    """Two logit maps of the same frames, and the frames on their grid; nothing where masked.

    Attributes:
        student, teacher: (B, C, h, w) logits, or depth of one channel
        images: (B, 3, h, w) RGB, 0..255
        mask: (B, 1, h, w) bool, True where a position shows the frame
    """

    student: Tensor
    teacher: Tensor
    images: Tensor
    mask: Tensor

    @property
    def shown(self) -> Tensor:
        """(B,) bool: whether any position of the frame counts."""
        return self.mask.flatten(1).any(1)

    def detached(self) -> Maps:
        """Return the same, with no way back to the student."""
        return replace(self, student=self.student.detach())


def maps_of(
    student: Tensor, teacher: Tensor, images: Tensor, stride: int, mask: Tensor | None = None
) -> Maps:
    """Make the critic's input: in float32, on the logits' grid, 0 at masked positions.

    Args:
        student, teacher: (B, C, h, w) logits
        images: (B, 3, H, W) RGB, averaged to the grid
        stride: of the logits, in pixels
        mask: (B, 1, h, w) bool

    Raises:
        ArtifactError: where the shapes of student and teacher differ
    """
    student, teacher = matched(student, teacher, mask)
    if mask is None:
        mask = torch.ones_like(student[:, :1], dtype=torch.bool)
    return Maps(student, teacher, downsample_by_means(images, stride).masked_fill(~mask, 0), mask)


def holistic(score: Score, maps: Maps) -> Tensor:
    """Return the student's loss: the critic's score of its maps, with the sign turned.

    loss = - mean_b D(student_b | image_b)

    Y. Liu, "Efficient Fully Convolutional Networks for Dense Prediction Tasks", PhD thesis,
    Adelaide 2021, the student's part of eq. 3.3 and 3.4, there with weight 0.1; Liu et al.,
    "Structured Knowledge Distillation for Dense Prediction", TPAMI 2020, arXiv:1903.04197. What
    differs: docs/losses/holistic.md.

    Args:
        score: D, from logits, images and mask to (B,)

    Returns:
        () mean over the frames in which a position counts; of any sign: its slope is what
        matters
    """
    return -masked_mean(score(maps.student, maps.images, maps.mask), maps.shown)


def critic_loss(score: Score, maps: Maps, alpha: Tensor, *, penalty: float = PENALTY) -> Tensor:
    """Return the critic's loss: the student scored above the teacher, and steep slopes.

    loss = mean_b [ D(student_b | image_b) - D(teacher_b | image_b) + penalty * GP_b ]

    The thesis as in `holistic`, eq. 3.3.

    Args:
        score: D, from logits, images and mask to (B,)
        alpha: (B,) uniform in 0..1, for `gradient_penalty`

    Returns:
        () mean over the frames in which a position counts
    """
    maps = maps.detached()

    def of_logits(logits: Tensor) -> Tensor:
        return score(logits, maps.images, maps.mask)

    steep = gradient_penalty(of_logits, maps.teacher, maps.student, alpha)
    difference = of_logits(maps.student) - of_logits(maps.teacher)
    return masked_mean(difference + penalty * steep, maps.shown)


def gradient_penalty(
    score: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, alpha: Tensor
) -> Tensor:
    """Return how far the critic's slope is from 1 at a point between a real map and a fake one.

    GP_b = (|grad_x D(x_b)|_2 - 1)^2  at  x_b = alpha_b * real_b + (1 - alpha_b) * fake_b

    Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017, eq. 3, with weight 10;
    arXiv:1704.00028.

    Args:
        score: D, from maps to (B,); each score must depend on its own map alone
        real, fake: (B, C, h, w) without gradient; alpha: (B,), one number a map

    Returns:
        (B,), differentiable in the critic's weights; the norm is over the whole map of logits:
        the image is the condition, the same on both sides, and D need not be flat in it
    """
    share = alpha.to(real.dtype)[:, None, None, None]
    between = (share * real + (1 - share) * fake).detach().requires_grad_()
    (slope,) = torch.autograd.grad(score(between).sum(), between, create_graph=True)
    steepness: Tensor = torch.linalg.vector_norm(slope.flatten(1), dim=1)
    return (steepness - 1).square()


BETAS = (0.9, 0.99)


class HolisticTerm(Term):
    """`holistic`: a critic scores whole maps, and the student learns to please it.

    Attributes:
        weight: to be given, since no default fits: the authors' 0.1 soon drowns cross entropy on
            maps of many positions; begin with 0.001, and see docs/losses/holistic.md
        on: the maps that are compared: "logits", or "depth" in metres, which counts where the
            teacher gives one
        design: of the critic: "paper" sees logits and image, "released" is the authors' code:
            logits alone, spectrally normalised
        width: channels of the critic's first convolution
        critic_lr: learning rate of the critic's own Adam (betas 0.9 and 0.99), the same at every
            step
        penalty: weight of the gradient penalty in the critic's loss
    """

    name: Literal["holistic"]
    weight: Positive
    on: Literal["logits", "depth"] = "logits"
    design: Design = "paper"
    width: int = Field(default=64, ge=NARROWEST)
    critic_lr: Positive = 4e-4
    penalty: NotNegative = PENALTY

    @property
    def grid(self) -> str:
        return self.on

    def reads(self, labelled: bool) -> frozenset[str]:
        return frozenset({self.key(self.on)})

    def whole_logits(self) -> bool:
        return self.on == LOGITS

    def whole_frames(self) -> bool:
        return True  # the critic would take the edges of what is pasted for the teacher's

    def state(self, sizes: Sizes) -> TermState:
        channels = sizes.channels(self, self.grid)
        critic = Critic(channels, design=self.design, width=self.width)
        return CriticState(critic, self.critic_lr, self.penalty)

    def value(self, given: TermInput) -> Tensor:
        critic, images = given.kept(CriticState), given.batch.images
        teacher, mask = given.artifact(self.on), given.mask
        if self.on == DEPTH:
            mask = is_known(teacher, mask)
        maps = maps_of(given.features, teacher, images, given.stride, mask)
        value: Tensor = critic(maps, given.batch.rows)
        return value


class CriticState(TermState):
    """A critic and what trains it: one step of its own Adam after each step of the student.

    It learns from the very maps on which the student was judged: those of all streams together,
    the student's as they were before its step. Those of all ranks: each has the same critic.
    """

    def __init__(self, critic: Critic, lr: float, penalty: float = PENALTY) -> None:
        super().__init__()
        self.critic = critic
        self.penalty = penalty
        self._optimiser = torch.optim.Adam(critic.parameters(), lr, BETAS)
        self._waiting: list[tuple[Maps, Rows]] = []
        self._shown: list[Late] = []  # how many frames of each have anything in them

    def trained(self) -> list[nn.Parameter]:
        """Return nothing for the student's optimiser: the two want opposite things."""
        return []

    def forward(self, maps: Maps, rows: Rows = ALL) -> Tensor:
        """Return the student's loss; in training keep the maps for the critic's step."""
        with torch.autocast(maps.student.device.type, enabled=False):
            if self.training:
                kept = maps.detached()
                self._waiting.append((kept, rows))
                self._shown.append(Late(summed(maps.shown.sum())))
                for logits in (kept.teacher, kept.student):
                    self.critic.observe(logits, kept.images, kept.mask)
            with _unchanged(self.critic):
                return holistic(self.critic, maps)

    def after_step(self) -> None:
        """Train the critic on what was scored since its last step."""
        waiting, shown = self._waiting, self._shown
        self.forget()
        if not any(bool(one.tensor()) for one in shown):
            return
        maps = Maps(
            torch.cat([one.student for one, _ in waiting]),
            torch.cat([one.teacher for one, _ in waiting]),
            torch.cat([one.images for one, _ in waiting]),
            torch.cat([one.mask for one, _ in waiting]),
        )
        with torch.autocast(maps.student.device.type, enabled=False):
            # On the CPU, whose generator the loop sets, wherever the critic is.
            alpha = torch.cat([rows.rand((len(one.mask),)) for one, rows in waiting])
            alpha = alpha.to(maps.student.device, non_blocking=True)
            loss = critic_loss(self.critic, maps, alpha, penalty=self.penalty)
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            average_gradients(self.critic.parameters())
            self._optimiser.step()
            self._optimiser.zero_grad(set_to_none=True)

    def forget(self) -> None:
        self._waiting, self._shown = [], []

    def get_extra_state(self) -> dict[str, Any]:
        """Return the optimiser's state, in plain types."""
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
