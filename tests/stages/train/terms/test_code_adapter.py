"""The adapter of codes, against loops."""

from __future__ import annotations

import pytest
import torch

from stillroom.stages.train.terms.code_term import CodeAdapter
from stillroom.storage_specs.errors import ArtifactError


def test_the_adapter_is_a_convolution_a_normalisation_and_a_relu():
    adapter = CodeAdapter(3, 4).double()
    student = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    found = adapter(student).detach()
    weight = adapter.adapter["convolution"].weight.detach()
    padded = torch.nn.functional.pad(student, (1, 1, 1, 1))
    expected = torch.zeros(2, 4, 4, 5, dtype=torch.float64)
    for b in range(2):
        for c in range(4):
            for y in range(4):
                for x in range(5):
                    expected[b, c, y, x] = (weight[c] * padded[b, :, y : y + 3, x : x + 3]).sum()
    mean = expected.mean((0, 2, 3), keepdim=True)
    variance = expected.var((0, 2, 3), correction=0, keepdim=True)
    expected = ((expected - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
    torch.testing.assert_close(found, expected)
    assert [tuple(each.shape) for each in adapter.parameters()] == [(4, 3, 3, 3), (4,), (4,)]


def test_what_is_masked_out_reaches_neither_the_adapted_map_nor_the_gradient():
    torch.manual_seed(0)
    adapter = CodeAdapter(3, 4)
    student, mask = torch.randn(2, 3, 4, 5), torch.rand(2, 1, 4, 5) < 0.6
    expected = adapter(student, mask)
    spoilt = student.masked_fill(~mask, float("nan")).requires_grad_()
    found = adapter(spoilt, mask)
    assert found.equal(expected)
    found.square().sum().backward()
    assert spoilt.grad[(~mask).expand_as(student)].eq(0).all()
    assert spoilt.grad.isfinite().all()


def test_it_computes_in_float32():
    adapter, student = CodeAdapter(3, 4), torch.randn(2, 3, 4, 5)
    expected = adapter(student.bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert adapter(student.bfloat16()).equal(expected)


def test_one_cell_has_no_variance_and_is_refused_in_training_only():
    adapter = CodeAdapter(3, 4)
    with pytest.raises(ArtifactError, match="use a larger crop or batch"):
        adapter(torch.randn(1, 3, 1, 1))
    assert adapter.eval()(torch.randn(1, 3, 1, 1)).shape == (1, 4, 1, 1)


@pytest.mark.parametrize("shape", [(2, 5, 4, 4), (3, 4, 4)])
def test_another_map_than_was_announced_is_refused(shape):
    with pytest.raises(ArtifactError, match=r"takes a student map \(B, 3, H, W\), got"):
        CodeAdapter(3, 4)(torch.zeros(shape))
