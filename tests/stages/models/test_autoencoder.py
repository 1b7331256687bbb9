"""The auto-encoder: its layers one by one, and where its cells lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stillroom.stages.models.autoencoder import AutoEncoder
from stillroom.storage_specs.errors import ArtifactError


def an_autoencoder(features=5, channels=4, strides=(2, 2, 2)):
    torch.manual_seed(1)
    model = AutoEncoder(features, channels, strides).double().eval()
    model.mean.copy_(torch.arange(features))
    model.scale.fill_(3.0)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1)
            torch.nn.init.normal_(layer.weight, 1, 0.2)
            torch.nn.init.normal_(layer.bias, 0, 0.2)
    return model


def normalised(x, layer):
    mean, variance = layer.running_mean[:, None, None], layer.running_var[:, None, None]
    return (x - mean) / (variance + 1e-5).sqrt() * layer.weight[:, None, None] + layer.bias[
        :, None, None
    ]


def transposed(x, layer, stride):
    """Each input cell adds its kernel to the output around its place; padding 1 is cut off."""
    weight, bias = layer.weight.detach(), layer.bias
    side = weight.shape[2]
    batch, _, height, width = x.shape
    size = ((height - 1) * stride + side, (width - 1) * stride + side)
    found = torch.zeros(batch, weight.shape[1], *size, dtype=x.dtype)
    for b, y, u in np.ndindex(batch, height, width):
        patch = torch.einsum("c,cokl->okl", x[b, :, y, u], weight)
        found[b, :, y * stride : y * stride + side, u * stride : u * stride + side] += patch
    found = found[:, :, 1:-1, 1:-1]
    return found if bias is None else found + bias[:, None, None]


@pytest.mark.parametrize("strides", [(2, 2, 2), (2, 1, 2), (1, 1, 1)])
def test_it_is_its_layers(strides):
    model = an_autoencoder(strides=strides)
    features = 4 * torch.randn(2, 5, 7, 12, dtype=torch.float64)
    x = (features - torch.arange(5)[:, None, None]) / 3
    factor = model.factor
    height, width = -(-7 // factor) * factor, -(-12 // factor) * factor
    rows = torch.arange(height).clamp(max=6)
    columns = torch.arange(width).clamp(max=11)
    x = x[:, :, rows][:, :, :, columns]
    for place, stride in enumerate(strides):
        convolution, norm = model.encoder[3 * place], model.encoder[3 * place + 1]
        side = 4 if stride == 2 else 3
        assert tuple(convolution.weight.shape) == (4, 5 if place == 0 else 4, side, side)
        x = F.conv2d(x, convolution.weight, None, stride, padding=1)
        x = normalised(x, norm).clamp(min=0)
    with torch.no_grad():
        code, back = model(features)
        torch.testing.assert_close(code, x.detach())
        for place, stride in enumerate(strides[::-1]):
            x = transposed(x, model.decoder[3 * place], stride)
            if place < 2:
                x = normalised(x, model.decoder[3 * place + 1]).clamp(min=0)
        torch.testing.assert_close(back, x[:, :, :7, :12])
    assert len(model.decoder) == 7, "the last layer is bare: features may be of any sign"


@pytest.mark.parametrize(
    ("size", "code"),
    [
        ((45, 60), (6, 8)),
        ((48, 64), (6, 8)),
        ((1, 1), (1, 1)),
        ((9, 16), (2, 2)),
        ((8, 17), (1, 3)),
    ],
)
def test_uneven_grids_get_a_code_that_covers_them_and_come_back_in_their_size(size, code):
    model = an_autoencoder()
    features = torch.randn(2, 5, *size, dtype=torch.float64)
    with torch.no_grad():
        found, back = model(features)
        assert model.encode(features).equal(found)
    assert tuple(found.shape) == (2, 4, *code)
    assert back.shape == features.shape
    assert model.factor == 8
    assert (found >= 0).all()


def test_a_cell_of_the_code_lies_over_the_cells_it_is_made_of():
    """Convolutions that are means: the code of a ramp is the ramp at the cells' own centres."""
    model = AutoEncoder(1, 1).eval()
    for layer in model.encoder:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.constant_(layer.weight, 1 / 16)
    ramp = (torch.arange(64) + 0.5).expand(1, 1, 64, 64)
    code = model.encode(ramp)
    centres = (torch.arange(8) + 0.5) * 8
    inner = slice(2, 6)  # the zeros around the map tell at its edges
    assert torch.allclose(code[0, 0, 4, inner], centres[inner], atol=1e-3)
    assert torch.allclose(model.encode(ramp.mT)[0, 0, inner, 4], centres[inner], atol=1e-3)


def test_a_mirrored_map_has_the_mirrored_code_where_the_kernels_are_mirrored_too():
    model, mirrored = an_autoencoder(), an_autoencoder()
    for layer in mirrored.encoder:
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight.data = layer.weight.data.flip(3)
    features = torch.randn(1, 5, 16, 24, dtype=torch.float64)
    torch.testing.assert_close(mirrored.encode(features.flip(3)), model.encode(features).flip(3))


def test_features_of_other_channels_are_refused():
    with pytest.raises(ArtifactError, match=r"takes features \(B, 5, h, w\), got \(2, 4, 8, 8\)"):
        an_autoencoder()(torch.zeros(2, 4, 8, 8))
