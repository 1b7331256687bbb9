"""Parts of terms that a GPU computes in another way than a CPU, which need not be waited for."""

from __future__ import annotations

import pytest
import torch
from make_believe.record import RECORD

from stillroom.stages.device_values import Late, constants
from stillroom.stages.moments import moments
from stillroom.stages.train.loss_parts.augmentation import Augmentation
from stillroom.stages.train.loss_parts.log_matmul_exp import log_matmul_exp
from stillroom.stages.train.losses.augmented_pixelwise import augmented_pixelwise
from stillroom.stages.train.losses.cross_image_memory import cross_image_memory
from stillroom.stages.train.terms.class_queue import ClassQueue


def on(device: str, *tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.detach().to(device, non_blocking=True) for tensor in tensors]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_moments_of_no_and_of_some_columns() -> None:
    values = torch.randn(4, 9) + 3
    for counted in (torch.rand(9) < 0.5, torch.zeros(9, dtype=torch.bool)):
        found = moments(*on("cuda", values, counted))
        assert not RECORD.waits
        for one, other in zip(found, moments(values, counted), strict=True):
            torch.testing.assert_close(one.cpu(), other)
        RECORD.clear()


@pytest.mark.parametrize("classes", [3, 70])
def test_pixels_are_augmented_by_the_matrix_of_their_class(classes: int) -> None:
    """Some classes are not there, one fills several tiles; values and gradients are a CPU's."""
    labels = torch.randint(0, classes, (2, 16, 12)) // 2 * 2
    labels[0, :9], labels[1, 3] = 0, 255
    student, teacher = torch.randn(2, 2, classes, 16, 12)
    weight, variance = torch.randn(classes, 5), torch.rand(classes, 5)
    found = {}
    for device in ("cpu", "cuda"):
        z, t, w, v, y = on(device, student, teacher, weight, variance, labels)
        z.requires_grad_()
        w.requires_grad_()
        RECORD.clear()
        value = augmented_pixelwise(z, t, augmentation=Augmentation(w, v, y, 0.7))
        value.backward()
        assert not RECORD.waits
        found[device] = [one.detach().cpu() for one in (value, z.grad, w.grad)]
    for one, other in zip(found["cuda"], found["cpu"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_sums_that_float32_loses_are_kept() -> None:
    left = torch.tensor([[0.0, -300.0], [-1.0, -2.0]])
    right = torch.tensor([[-290.0, 0.0], [-3.0, -1.0]])
    expected = torch.logsumexp(left[:, None].double() + right[None].double(), dim=2)
    found = log_matmul_exp(*on("cuda", left, right))
    torch.testing.assert_close(found.cpu(), expected.float())


def test_a_memory_that_is_not_full_yet() -> None:
    """Places that nothing is in count for nothing."""
    vectors = torch.nn.functional.normalize(torch.randn(9, 4))
    of = torch.tensor([0, 2, 2, 0, 3, 2, 2, 2, 3])  # 3: none; one of class 2 finds no room
    student, teacher = torch.randn(2, 1, 4, 3, 5)
    values = {}
    for device in ("cpu", "cuda"):
        queue = ClassQueue(3, 4, 4)
        queue.to(device)
        RECORD.clear()
        queue.put(*on(device, vectors, of))
        memory, there = queue.drawn(12)
        s, t = on(device, student, teacher)
        values[device] = cross_image_memory(s, t, memory=memory, there=there)
        assert not RECORD.waits
        assert len(memory) == {"cpu": 6, "cuda": 12}[device]
        assert there.sum().item() == 6
    torch.testing.assert_close(values["cuda"].cpu(), values["cpu"])
    nothing = ClassQueue(3, 4, 4)
    nothing.to("cuda")
    memory, there = nothing.drawn(12)
    s, t = on("cuda", student, teacher)
    s.requires_grad_()
    value = cross_image_memory(s, t, memory=memory, there=there)
    value.backward()
    assert value.item() == 0
    assert s.grad.abs().max().item() == 0


def test_numbers_go_to_the_device_and_come_back_without_waiting() -> None:
    (like,) = on("cuda", torch.zeros(1))
    RECORD.clear()
    made = constants((0.5, 2), like)
    late = Late(made)
    assert not RECORD.waits
    assert not RECORD.late
    assert late.tensor().tolist() == [0.5, 2]
    assert list(RECORD.late.values()) == [1]
