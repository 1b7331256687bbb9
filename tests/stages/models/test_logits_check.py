"""What a network may give in place of logits, and what is said of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn.functional import interpolate, one_hot

from stillroom.stages.models.logits_check import check_logits
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


def logits(classes: int = 19, scale: float = 3) -> Tensor:
    drawn = torch.randn(2, classes, 12, 16, generator=torch.Generator().manual_seed(classes))
    return scale * drawn


Z = logits()
P = Z.softmax(1)
HOT = one_hot(Z.argmax(1), 19).movedim(-1, 1)
PROBABILITIES = {
    "softmax": P,
    "softmax in bfloat16": logits(150).bfloat16().softmax(1),
    "softmax in float16": logits(150).half().softmax(1),
    "an even softmax": logits(scale=0.01).softmax(1),
    "bicubic upsampling": interpolate(P, scale_factor=4.0, mode="bicubic"),
    "argmax as one-hot": HOT.float(),
    "per cent": 100 * P,
    "bytes": 255 * P,
    "sigmoids of every class": Z.sigmoid(),
    "sigmoid of one channel": Z[:, :1].sigmoid(),
    "sigmoid that is never sure": (0.1 * Z[:, :1]).sigmoid(),
    "sigmoid where there is nothing": (Z[:, :1] - 20).sigmoid(),
    "softmax over rows": Z.softmax(2),
    "softmax over columns": Z.softmax(3),
    "softmax over positions": Z.flatten(2).softmax(2).view_as(Z),
    "a class left out": P[:, 1:],
}
LOGITS = {
    "logits": Z,
    "in half precision": Z.half(),
    "cosines": torch.nn.functional.normalize(Z, dim=1),
    "a hundredth": Z / 100,
    "of one channel": Z[:, :1],
    "of two classes of opposite sign": torch.cat([Z[:, :1], -Z[:, :1]], 1),
    "centred": Z - Z.mean(1, keepdim=True),
    "never negative": Z.relu(),
    "far from 0": 5 + 0.01 * Z,
    "log-sigmoids": torch.nn.functional.logsigmoid(Z),
}


@pytest.mark.parametrize("name", PROBABILITIES)
def test_probabilities_are_refused_with_what_was_measured(name: str) -> None:
    found = PROBABILITIES[name]
    with pytest.raises(ConfigError, match="its logits are probabilities") as caught:
        check_logits("teachers.heavy", found)
    assert str(caught.value).startswith("teachers.heavy: ")
    sums = found.float().sum(1)
    measured = (found.min(), found.max(), sums.min(), sums.max())
    for number in measured:
        assert f"{float(number):.4g}" in str(caught.value)


@pytest.mark.parametrize("name", LOGITS)
def test_logits_pass_without_a_word(name: str, caplog: pytest.LogCaptureFixture) -> None:
    check_logits("teachers.heavy", LOGITS[name])
    assert not caplog.records


@pytest.mark.parametrize("found", [0.5 + 0.01 * Z, (0.1 * Z).sigmoid()], ids=["logits", "sigmoids"])
def test_small_values_above_0_may_be_either_and_are_warned_of(
    found: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    check_logits("teachers.heavy", found)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"teachers.heavy: its logits lie between 0 and 1 (values from {found.min():.4g} to "
    )


@pytest.mark.parametrize(
    "found",
    [Z.log_softmax(1), logits(150).bfloat16().log_softmax(1), P.clamp(min=1e-4).log()],
    ids=["float32", "bfloat16", "clamped"],
)
def test_log_probabilities_are_warned_of(found: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    check_logits("teachers.heavy", found)
    assert [record.getMessage()[:50] for record in caplog.records] == [
        "teachers.heavy: its logits are log-probabilities ("
    ]


@pytest.mark.parametrize(
    ("found", "axes"),
    [
        (Z.log_softmax(2), "over height,"),
        (Z.log_softmax(3), "over width,"),
        (Z.flatten(2).log_softmax(2).view_as(Z), "over height and width,"),
    ],
    ids=["height", "width", "both"],
)
def test_log_probabilities_over_another_axis_are_refused(found: Tensor, axes: str) -> None:
    with pytest.raises(ConfigError, match=f"log-probabilities {axes}"):
        check_logits("teachers.heavy", found)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_numbers_that_are_no_floats_are_refused_by_their_type(dtype: torch.dtype) -> None:
    with pytest.raises(ConfigError, match=f"its logits are {str(dtype)[6:]}"):
        check_logits("teachers.heavy", HOT.to(dtype))


@pytest.mark.parametrize("found", [torch.zeros(2, 3, 4, 4), Z[:, :, :1, :1].mean(0).expand_as(Z)])
def test_logits_that_do_not_follow_the_frames_are_refused(found: Tensor) -> None:
    with pytest.raises(ConfigError, match="its logits are the same at every position"):
        check_logits("teachers.heavy", found)


def test_frames_that_are_not_finite_hide_nothing_of_the_others() -> None:
    with pytest.raises(ConfigError, match="its logits are probabilities"):
        check_logits("teachers.heavy", torch.cat([P[:1], P[1:] * torch.nan]))
    check_logits("teachers.heavy", Z * torch.nan)
