"""FAKD: distillation of a student whose features are augmented without end, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from stillroom.stages.train.losses.log_matmul_exp import log_matmul_exp
from stillroom.stages.train.losses.masked_mean import masked_mean
from stillroom.stages.train.losses.matched import matched
from stillroom.storage_specs.artifacts import IGNORE
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

CovarianceOf = Literal["label", "target"]
VarianceOver = Literal["temperature", "temperature_squared"]


@dataclass(frozen=True, eq=False)
class Augmentation:
    """How a student's features are augmented: x -> N(x, strength * covariance of its class).

    weight: (C, A) the student's classifier; it gets a gradient
    variance: (C, A) diagonal covariance of the classifier's input, by class
    labels: (B, H, W) integer, the class of each pixel, 255 = none: its features stay as they are
    strength: lambda, 0 or more
    """

    weight: Tensor
    variance: Tensor
    labels: Tensor
    strength: float


def augmented_pixelwise(
    student: Tensor,
    teacher: Tensor,
    *,
    augmentation: Augmentation,
    temperature: float = 1.0,
    covariance_of: CovarianceOf = "label",
    mask: Tensor | None = None,
) -> Tensor:
    """Bound of the pixel-wise KL, averaged over all augmentations of the student's features.

    loss = T^2 * mean_i sum_c p_ic * (log p_ic + log sum_k exp((z_ik - z_ic) / T + h_ick))
    h_ick = strength / (2 T^2) * sum_a (w_ka - w_ca)^2 * variance_ya
    p = softmax over classes of teacher/T,  z = student,  y = label of pixel i

    student, teacher: (B, C, H, W) logits; the student's are its classifier's, at plain features
    augmentation: the classifier, the variances, the labels and the strength lambda
    temperature: T above 0
    covariance_of: whose covariance h takes. "label": of the pixel's own class y, what the paper's
        theorem assumes. "target": of c, as its eq. 8 is printed; labels are then not looked at
    mask: (B, 1, H, W) bool, True where a pixel counts
    returns: () mean over the counted pixels of the batch, in nats; `pixelwise_kl` at strength 0

    "label" sorts the pixels by class and makes one (C, C) matrix h a class that is there, so that
    memory is a few times B H W C, and the work B H W C^2 and C^2 A a class, all of it matrix
    products. "target" needs one (C, C) matrix in all.

    Yuan et al., "FAKD: Feature Augmented Knowledge Distillation for Semantic Segmentation", 2022,
    eq. 8; arXiv:2208.14143. After Wang et al., "Implicit Semantic Data Augmentation for Deep
    Networks", NeurIPS 2019. The authors' code was never released. The paper leaves the teacher's
    entropy out, a constant; with it the loss of a perfect student is 0 where there is no
    covariance. It knows no temperature here: T and T^2 are those of `pixelwise_kl`.
    """
    student, teacher, labels = _checked(student, teacher, augmentation, mask)
    _demand_temperature(temperature)
    classes = student.shape[1]
    with torch.autocast(student.device.type, enabled=False):
        log_p, log_q = (
            F.log_softmax(logits / temperature, dim=1).permute(0, 2, 3, 1).flatten(0, 2)
            for logits in (teacher, student)
        )  # (BHW, C)
        spread = augmentation.strength / (2 * temperature**2)
        if covariance_of == "target":
            excess = log_matmul_exp(log_q, spread * _between_own(augmentation, log_q.dtype))
            surprise = (log_p.exp() * (log_p - log_q + excess)).sum(dim=1)
        elif covariance_of == "label":
            parts = []
            order = labels.flatten().argsort(stable=True)
            for rows, one in _by_class(order, labels, classes):
                here, target = log_q[rows], log_p[rows]  # (n, C)
                apart = target - here
                if one < classes:  # no label, no augmentation
                    between = spread * _between(augmentation, one, here.dtype)
                    apart = apart + log_matmul_exp(here, between)
                parts.append((target.exp() * apart).sum(dim=1))
            surprise = torch.cat(parts)[order.argsort()]
        else:
            raise ConfigError(f"covariance_of must be 'label' or 'target', got {covariance_of!r}")
    return temperature**2 * masked_mean(surprise.view(labels.shape), mask)


def augmented_channelwise(
    student: Tensor,
    teacher: Tensor,
    *,
    augmentation: Augmentation,
    temperature: float = 4.0,
    variance_over: VarianceOver = "temperature",
    mask: Tensor | None = None,
) -> Tensor:
    """Bound of the channel-wise KL, averaged over all augmentations of the student's features.

    loss = T^2 / C * sum_c sum_i p_ci * (log p_ci + log sum_k exp((z_ck - z_ci) / T + v_ci + v_ck))
    v_ci = strength / (2 T) * sum_a w_ca^2 * variance_ya
    p = softmax over positions of teacher/T,  z = student,  y = label of pixel i

    student, teacher: (B, C, H, W) logits; the student's are its classifier's, at plain features
    augmentation: the classifier, the variances, the labels and the strength lambda
    temperature: T above 0
    variance_over: "temperature": v over 2 T, as printed. "temperature_squared": over 2 T^2, which
        is what follows for a Gaussian
    mask: (B, 1, H, W) bool, True where a position counts
    returns: () mean over the frames of which something counts, in nats

    v depends on the position's class alone, so that it is a table of C x C looked up: memory is a
    few times B C H W, and the work C^2 A beside that.

    Yuan et al., "FAKD: Feature Augmented Knowledge Distillation for Semantic Segmentation", 2022,
    eq. 7; arXiv:2208.14143. The authors' code was never released. The paper's eq. 4 to 7 print
    s_i - s_k where eq. 2 asks for s_k - s_i, and in eq. 7 sum k to C: positions are meant. The
    variance of a difference over T is one over T^2; eq. 6 prints it over T, and eq. 7 with it. The
    printed form is the default, for strengths are compared by it: it is the other one at strength
    T lambda, and still a bound where T is 1 or more. As printed, k = i counts with 2 v_ci, where
    the difference is 0 in truth: above the bound by little where positions are many. The paper
    leaves the teacher's entropy out, a constant; with it a perfect student's loss is 0 where there
    is no covariance.
    """
    student, teacher, labels = _checked(student, teacher, augmentation, mask)
    _demand_temperature(temperature)
    if variance_over not in ("temperature", "temperature_squared"):
        raise ConfigError(
            f"variance_over must be 'temperature' or 'temperature_squared', got {variance_over!r}"
        )
    power = 2 if variance_over == "temperature_squared" else 1
    weight, variance = _parameters(augmentation, student.dtype)
    with torch.autocast(student.device.type, enabled=False):
        table = augmentation.strength / (2 * temperature**power) * weight.square() @ variance.T
        v = F.pad(table, (0, 1))[:, labels].transpose(0, 1)  # (B, C, H, W)
        left_out = torch.zeros_like(labels, dtype=torch.bool) if mask is None else ~mask.squeeze(1)
        left_out = left_out[:, None]  # (B, 1, H, W)
        lowest = torch.finfo(student.dtype).min  # not -inf: nothing may count in a whole frame
        log_p, log_q = (
            (logits / temperature).masked_fill(left_out, lowest).flatten(2).log_softmax(dim=2)
            for logits in (teacher, student)
        )  # (B, C, HW)
        v = v.flatten(2)
        excess = (log_q + v).logsumexp(dim=2, keepdim=True) + v
        surprise = log_p.exp() * (log_p - log_q + excess)
        frames = surprise.masked_fill(left_out.flatten(2), 0).sum(dim=2).mean(dim=1)  # (B,)
    return temperature**2 * masked_mean(frames, ~left_out.flatten(1).all(dim=1))


def _checked(
    student: Tensor, teacher: Tensor, augmentation: Augmentation, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Student and teacher as `matched` has them; labels with C for none, int64."""
    student, teacher = matched(student, teacher, mask)
    batch, classes, height, width = student.shape
    weight, variance, labels = augmentation.weight, augmentation.variance, augmentation.labels
    if weight.ndim != 2 or weight.shape[0] != classes or weight.shape != variance.shape:
        raise ArtifactError(
            f"classifier and variances must both be ({classes}, A) for logits of {classes} "
            f"classes, got {tuple(weight.shape)} and {tuple(variance.shape)}"
        )
    if labels.shape != (batch, height, width):
        raise ArtifactError(
            f"labels are {tuple(labels.shape)} for logits {tuple(student.shape)}; they must be "
            f"{(batch, height, width)}"
        )
    if not 0 <= augmentation.strength < float("inf"):
        raise ConfigError(f"strength must be 0 or more, got {augmentation.strength}")
    labels = labels.long()
    if mask is not None:
        labels = labels.masked_fill(~mask.squeeze(1), IGNORE)
    if bool(((labels != IGNORE) & ((labels < 0) | (labels >= classes))).any()):
        raise ArtifactError(
            f"labels must be 0..{classes - 1} or {IGNORE} for a student of {classes} "
            f"classes, got {int(labels.min())}..{int(labels.max())}"
        )
    return student, teacher, labels.masked_fill(labels == IGNORE, classes)


def _demand_temperature(temperature: float) -> None:
    if temperature <= 0:
        raise ConfigError(f"temperature must be above 0, got {temperature}")


def _parameters(augmentation: Augmentation, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return augmentation.weight.to(dtype), augmentation.variance.detach().to(dtype)


def _by_class(order: Tensor, labels: Tensor, classes: int) -> Iterator[tuple[Tensor, int]]:
    """Pixels of each class that is there, and the class; C: those without one."""
    counts = labels.flatten().bincount(minlength=classes + 1).tolist()
    for one, rows in enumerate(torch.split(order, counts)):
        if len(rows):
            yield rows, one


def _between(augmentation: Augmentation, one: int, dtype: torch.dtype) -> Tensor:
    """(C, C): sum_a (w_ka - w_ca)^2 variance_ya, at [c, k], for y = one."""
    weight, variance = _parameters(augmentation, dtype)
    weight = weight - weight.mean(dim=0)  # differences stay, what is squared gets smaller
    products = (weight * variance[one]) @ weight.T
    own = products.diagonal()
    return own[:, None] + own[None, :] - 2 * products


def _between_own(augmentation: Augmentation, dtype: torch.dtype) -> Tensor:
    """(C, C): sum_a (w_ka - w_ca)^2 variance_ca, at [c, k]."""
    weight, variance = _parameters(augmentation, dtype)
    weight = weight - weight.mean(dim=0)
    squares = variance @ weight.square().T  # [c, k]: sum_a variance_ca w_ka^2
    products = (weight * variance) @ weight.T  # [c, k]: sum_a variance_ca w_ca w_ka
    return squares.diagonal()[:, None] + squares - 2 * products
