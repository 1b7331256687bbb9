"""Pictures of the losses that train something beside the student, as far as some steps bring it.

The student stands still: what is seen is what the adapter, the convolutions or the critic can do.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from loss_maps import KEY, MIXED, STRIDE, Shown, Views, each_pixel, mixture, numbers
from map_page import Map, Picture, Scale, scale_of
from torch import Tensor, nn

from stillroom.stages.cache.adapt import AdaptConfig, covariance_of, train_autoencoder
from stillroom.stages.models.critic import Critic
from stillroom.stages.sources.camvid import CLASSES
from stillroom.stages.train.loss_parts.downsample import downsample_by_means
from stillroom.stages.train.loss_parts.unit_vectors import unit_vectors
from stillroom.stages.train.losses.adaptation import adaptation
from stillroom.stages.train.losses.affinity import _root, _rows_by_pairs, affinity
from stillroom.stages.train.losses.holistic import CriticState, Maps, maps_of
from stillroom.stages.train.losses.masked_generative import (
    MaskedGeneration,
    draw_keep,
    masked_generative,
)
from stillroom.stages.train.terms.code_term import CodeAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

RATIO = 0.75
GENERATION_STEPS, CRITIC_STEPS, ADAPTER_STEPS, CODE_EPOCHS = 40, 40, 300, 8


def trained(module: nn.Module, steps: int, loss: Callable[[], Tensor]) -> None:
    """Take steps of Adam on a module's parameters, from seed 0."""
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(module.parameters(), lr=2e-3)
    for _ in range(steps):
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()


def generated(pair: Views) -> tuple[Tensor, Tensor, NDArray[np.float64]]:
    """Which cells are left, what trained convolutions make of them, and the loss by cell."""
    torch.manual_seed(0)
    block = MaskedGeneration(pair.student.shape[1], pair.teacher.shape[1])
    everywhere = torch.ones_like(pair.student[:, :1], dtype=torch.bool)

    def loss() -> Tensor:
        aligned = block.align(pair.student, everywhere)
        keep = draw_keep(aligned, RATIO)
        return masked_generative(aligned, pair.teacher, generate=block.generate, keep=keep)

    trained(block, GENERATION_STEPS, loss)
    made = []

    def generate(seen: Tensor) -> Tensor:
        made.append(block.generate(seen))
        return made[-1]

    with torch.no_grad():
        aligned = block.align(pair.student, everywhere)
        keep = draw_keep(aligned, RATIO)
        value = each_pixel(masked_generative, aligned, pair.teacher, generate=generate, keep=keep)
    return keep, made[0], value


def draw_masked_generative(shown: Shown) -> Picture:
    pair = shown.pair
    keep, made, value = generated(pair)
    one = int(pair.teacher.var(dim=(0, 2, 3)).argmax())
    energy = numbers(pair.student.square().mean(dim=1).sqrt())
    energy[~keep[:, 0].numpy()] = np.nan
    maps = [numbers(of[:, one]) for of in (pair.teacher, made)]
    scale = scale_of([np.maximum(part, 0) for part in maps], f"channel {one} of 128")
    return Picture(
        title="masked_generative: the teacher's features, from a quarter of the student's cells",
        words=(
            "Grey cells are hidden, another three quarters at every step. Two 3x3 "
            "convolutions are to make the teacher's whole map of the rest; here after "
            f"{GENERATION_STEPS} steps on these two frames, the student as it was."
        ),
        columns=("the teacher", "what is left of the student", "generated", "where the loss is"),
        scales=(
            scale,
            scale_of([energy], "root mean square of the channels"),
            scale,
            scale_of([value], "mean over channels of (g - t)²"),
        ),
        rows=tuple(
            (
                Map(maps[0][n], pair.names[n]),
                Map(energy[n]),
                Map(maps[1][n]),
                Map(value[n], f"mean {value[n].mean():.2f}"),
            )
            for n in (0, 1)
        ),
    )


def draw_holistic(shown: Shown) -> Picture:
    pair, others = shown.pair, shown.others
    torch.manual_seed(0)
    state = CriticState(Critic(len(CLASSES)), lr=4e-4).train()
    for step in range(CRITIC_STEPS):
        start = 2 * step % len(others)
        state(_maps(others.part(slice(start, start + 2))))
        state.after_step()
    maps = _maps(pair)
    scores = []
    for logits in (maps.teacher, maps.student):
        leaf = logits.clone().requires_grad_()
        score = state.critic(leaf, maps.images, maps.mask)
        (slope,) = torch.autograd.grad(score.sum(), leaf)
        scores.append((score.tolist(), slope))
    pull = numbers(scores[1][1].square().sum(dim=1).sqrt())
    return Picture(
        title="holistic: what a critic looks at in a whole map",
        words=(
            f"{MIXED} Right: how steeply the critic's score of the student's map depends on "
            f"each cell's logits: where the student is told to change. After {CRITIC_STEPS} "
            "steps of the critic on eight other frames, two at a time."
        ),
        columns=("frame", "the teacher", "the student", "where the critic looks"),
        scales=(None, None, None, scale_of([pull], "slope of the score by the cell's logits")),
        rows=tuple(
            (
                shown.frame(n),
                Map(mixture(pair.teacher_logits)[n], f"score {scores[0][0][n]:,.0f}"),
                Map(mixture(pair.student_logits)[n], f"score {scores[1][0][n]:,.0f}"),
                Map(pull[n]),
            )
            for n in (0, 1)
        ),
        classes=KEY,
    )


def _maps(views: Views) -> Maps:
    images = torch.from_numpy(views.images).permute(0, 3, 1, 2).float()
    return maps_of(views.student_logits, views.teacher_logits, images, STRIDE)


class Held:
    """Features in memory, as `train_autoencoder` reads them from a cache."""

    def __init__(self, features: Tensor) -> None:
        self.features = features
        self.channels, self.height, self.width = features.shape[1:]

    def __len__(self) -> int:
        return len(self.features)

    def spread(self, most: int) -> list[int]:
        """The first frames, so many at most."""
        return list(range(min(most, len(self))))

    def batches(self, groups: Iterable[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Features of each group, all cells shown."""
        for group in groups:
            features = self.features[list(group)]
            yield features, torch.ones_like(features[:, :1], dtype=torch.bool)


@lru_cache(maxsize=1)
def codes(shown: Shown) -> tuple[Tensor, Tensor]:
    """Codes of the teacher's features of all ten frames; the student's features on their grid."""
    features = torch.cat([shown.pair.teacher, shown.others.teacher])
    held = Held(features)
    config = AdaptConfig(batch=4, epochs=CODE_EPOCHS)

    def silent(done: int, total: int) -> None:
        pass

    model = train_autoencoder(held, config, covariance_of(held, silent), silent)
    with torch.no_grad():
        code = model.encode(features)
    student = torch.cat([shown.pair.student, shown.others.student])
    return code, downsample_by_means(student, model.factor)


def adapted(shown: Shown, loss: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Codes of the two frames, and the student's features through an adapter trained by a loss."""
    code, student = codes(shown)
    torch.manual_seed(0)
    adapter = CodeAdapter(student.shape[1], code.shape[1])
    mask = torch.ones_like(code[:, :1], dtype=torch.bool)
    trained(adapter, ADAPTER_STEPS, lambda: loss(adapter(student, mask), code))
    with torch.no_grad():
        return code[:2], adapter.eval()(student[:2], mask[:2])


def draw_adaptation(shown: Shown) -> Picture:
    code, student = adapted(shown, adaptation)
    value = each_pixel(adaptation, student, code)
    one = int(unit_vectors(code).var(dim=(0, 2, 3)).argmax())
    maps = [numbers(unit_vectors(of)[:, one]) for of in (code, student)]
    scale = scale_of(maps, f"channel {one}; vectors of length 1")
    return Picture(
        title="adaptation: the code of the teacher's features, cell by cell",
        words=(
            "An auto-encoder's code: 128 channels on a grid eight times coarser, here after "
            "a short training on ten frames. Vectors are brought to length 1 before they are "
            f"compared. The student comes through its adapter, after {ADAPTER_STEPS} steps."
        ),
        columns=("frame", "the teacher's code", "the student, adapted", "where the loss is"),
        scales=(None, scale, scale, scale_of([value], "sum over channels of |s - t|")),
        rows=tuple(
            (
                shown.frame(n),
                Map(maps[0][n]),
                Map(maps[1][n]),
                Map(value[n], f"mean {value[n].mean():.2f}"),
            )
            for n in (0, 1)
        ),
    )


def draw_affinity(shown: Shown) -> Picture:
    code, student = adapted(shown, affinity)
    factor = shown.pair.grid[0] // code.shape[2]
    t, s = (unit_vectors(of).flatten(2) for of in (code, student))  # (B, C, N)
    shape = code.shape[2:]
    maps = []
    for of in (t, s):
        places = [row // factor * shape[1] + column // factor for row, column, _ in shown.marks]
        marked = torch.stack([of[n, :, place] for n, place in enumerate(places)])
        maps.append(numbers(torch.einsum("bc,bcn->bn", marked, of)).reshape(2, *shape))
    value = numbers(_root(_rows_by_pairs(s, t))).reshape(2, *shape) / t.shape[2]
    like = Scale(0, 1, "cosine to the marked cell")
    return Picture(
        title="affinity: how alike each two cells of the code are",
        words=(
            "Teacher and student: cosines of the marked cell to all others, one row of the "
            "affinity matrix. Right: the distance of every cell's whole row, which the loss "
            "adds up. Code and adapter as for adaptation; the adapter trained by this loss "
            f"for {ADAPTER_STEPS} steps."
        ),
        columns=("frame", "the teacher's code", "the student, adapted", "where the loss is"),
        scales=(None, like, like, scale_of([value], "distance of the cell's row")),
        rows=tuple(
            (
                shown.frame(n, marked=True),
                Map(maps[0][n]),
                Map(maps[1][n]),
                Map(value[n], f"sum {value[n].sum():.2f}"),
            )
            for n in (0, 1)
        ),
    )


PICTURES = {
    "masked_generative": draw_masked_generative,
    "holistic": draw_holistic,
    "adaptation": draw_adaptation,
    "affinity": draw_affinity,
}
