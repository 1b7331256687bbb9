"""log_matmul_exp against logsumexp over pairs, also where one product would lose everything."""

from __future__ import annotations

import pytest
import torch

from stillroom.stages.train.loss_parts.log_matmul_exp import log_matmul_exp


def naive(left, right):
    return torch.logsumexp(left[:, None] + right[None], dim=2)


@pytest.mark.parametrize("spread", [1.0, 30.0, 150.0, 1000.0, 1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_logsumexp_over_pairs(spread, dtype):
    generator = torch.Generator().manual_seed(0)
    left = spread * torch.randn(50, 6, generator=generator, dtype=torch.float64)
    right = spread * torch.randn(7, 6, generator=generator, dtype=torch.float64)
    left, right = left.to(dtype), right.to(dtype)
    found = log_matmul_exp(left, right)
    assert found.dtype == dtype
    expected = naive(left.double(), right.double())
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("spread", [1.0, 150.0])
def test_its_gradient_is_that_of_the_value(spread):
    left = (spread * torch.randn(5, 4, dtype=torch.float64)).requires_grad_()
    right = (spread * torch.randn(3, 4, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(log_matmul_exp, (left, right))


def test_sides_that_pull_apart_by_hundreds_are_exact_in_float32():
    """The product alone would be 0 here, and its log -inf."""
    left = torch.tensor([[0.0, -300.0]], requires_grad=True)
    right = torch.tensor([[-300.0, 0.0], [0.0, 0.0]], requires_grad=True)
    found = log_matmul_exp(left, right)
    assert found.tolist() == [[pytest.approx(-300 + 0.6931472), 0.0]]
    found.sum().backward()
    torch.testing.assert_close(left.grad, torch.tensor([[1.5, 0.5]]))
    torch.testing.assert_close(right.grad, torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
