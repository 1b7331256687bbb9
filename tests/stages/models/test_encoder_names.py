"""An encoder's tensors by timm's names, as timm's own networks load them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stillroom.stages.models.encoder_names import from_timm, timm_state
from stillroom.stages.models.smp_network import SmpDesign, build_smp
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.stages.models.weights import fit_encoder


@pytest.mark.parametrize(
    ("name", "head"),
    [("tu-resnet18", "fc."), ("tu-convnext_atto", "head."), ("tu-mobilenetv3_small_050", "c")],
)
def test_timms_own_network_takes_them_and_computes_the_same(name: str, head: str) -> None:
    import_torchvision()
    import timm

    torch.manual_seed(0)
    encoder = build_smp(SmpDesign("FPN", name, 2)).get_submodule("encoder").eval()
    network = timm.create_model(name.removeprefix("tu-")).eval()
    fit = network.load_state_dict(timm_state(encoder, name), strict=False)
    assert not fit.unexpected_keys
    assert all(key.startswith(head) for key in fit.missing_keys)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = encoder(images)[-1]
        expected = network.forward_intermediates(images, indices=1, intermediates_only=True)[-1]
    torch.testing.assert_close(found, expected)
    other = build_smp(SmpDesign("FPN", name, 2)).get_submodule("encoder")
    fit_encoder(other, from_timm(network.state_dict(), other, name), Path("timm.safetensors"))
    for key, tensor in encoder.state_dict().items():
        assert other.state_dict()[key].equal(tensor), key


def test_an_encoder_that_is_none_of_timms_keeps_its_names() -> None:
    encoder = build_smp(SmpDesign("FPN", "mobilenet_v2", 2)).get_submodule("encoder")
    assert timm_state(encoder, "mobilenet_v2").keys() == encoder.state_dict().keys()
