from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from stillroom.stages.models.flow.flow_model import FlowModel, build_flow_model
from stillroom.stages.models.flow.flow_network import FlowNetwork, Sides
from stillroom.stages.models.flow.flownet2.cascade import FlowNet2
from stillroom.stages.models.flow.flownet2.load import FlowNet2Config
from stillroom.storage_specs.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

TABLE = Path(__file__).with_name("flownet2_tensors.txt")


def table() -> dict[str, tuple[int, ...]]:
    """NVIDIA's tensors by name, from the table beside this file."""
    shapes = {}
    for line in TABLE.read_text().splitlines():
        if line and not line.startswith("#"):
            layer, weight, bias = line.split()
            shapes[f"{layer}.weight"] = tuple(map(int, weight.split("x")))
            if bias != "-":
                shapes[f"{layer}.bias"] = (int(bias),)
    return shapes


def light_state(scale: float = 0.02) -> dict[str, Tensor]:
    """Random numbers in all of NVIDIA's tensors, that share one storage: 40 MB on disk, not 650."""
    noise = torch.randn(10_000_000, generator=torch.Generator().manual_seed(3)) * scale
    state = {}
    for index, (name, shape) in enumerate(table().items()):
        size = int(np.prod(shape))
        start = index * 997
        state[name] = noise[start : start + size].view(shape)
    return state


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random numbers in NVIDIA's layout and in the format that torch wrote in 2017."""
    path = tmp_path_factory.mktemp("flownet2") / "FlowNet2_checkpoint.pth.tar"
    document = {"epoch": 0, "state_dict": light_state(), "best_EPE": 1.23}
    torch.save(document, path, _use_new_zipfile_serialization=False)
    return path


def test_names_shapes_and_count_are_those_of_the_checkpoint() -> None:
    with torch.device("meta"):
        network = FlowNet2()
    found = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert found == table()
    assert len(found) == 220
    assert not list(network.buffers())
    counts = {
        name: sum(parameter.numel() for parameter in part.parameters())
        for name, part in network.named_children()
    }
    assert counts == {
        "flownetc": 39_175_298,
        "flownets_1": 38_695_322,
        "flownets_2": 38_695_322,
        "flownets_d": 45_371_666,
        "flownetfusion": 581_226,
    }
    assert sum(counts.values()) == 162_518_834


def test_a_checkpoint_in_nvidias_layout_is_loaded_tensor_by_tensor(checkpoint: Path) -> None:
    model = build_flow_model(FlowNet2Config(weights=checkpoint, device="cpu"))
    assert model.module is not None
    written = light_state()
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, written[name]), name
    assert not model.module.training
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    frames = np.random.default_rng(0).integers(0, 256, (2, 1, 61, 93, 3), np.uint8)
    flow = model.flow(*frames)
    assert flow.shape == (1, 2, 61, 93)
    assert flow.dtype == torch.float32
    assert torch.isfinite(flow).all()


def spoil(fault: str, state: dict[str, Tensor]) -> None:
    if fault == "missing":
        del state["flownetfusion.inter_conv0.0.bias"]
    elif fault == "unexpected":
        state["flownetc.conv7.0.weight"] = torch.zeros(1)
    elif fault == "shaped":
        state["flownets_1.conv1.0.weight"] = torch.zeros(64, 6, 7, 7)
    elif fault == "nan":
        state["flownets_d.predict_flow2.bias"] = torch.tensor([0.0, torch.nan])
    elif fault == "c_alone":
        for name in list(state):
            if not name.startswith("flownetc."):
                del state[name]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", r"1 missing: flownetfusion\.inter_conv0\.0\.bias"),
        ("unexpected", r"1 unexpected: flownetc\.conv7\.0\.weight"),
        ("shaped", r"flownets_1\.conv1\.0\.weight \(wanted \(64, 12, 7, 7\), file \(64, 6, 7, 7\)"),
        ("nan", r"1 of 220 tensors .* not finite: flownets_d\.predict_flow2\.bias"),
        ("c_alone", r"220 tensors wanted, 48 in the file"),
    ],
)
def test_another_checkpoint_is_refused_by_the_names_of_its_tensors(
    tmp_path: Path, fault: str, message: str
) -> None:
    state = {name: torch.zeros(1).expand(shape) for name, shape in table().items()}  # tiny on disk
    spoil(fault, state)
    torch.save({"state_dict": state}, tmp_path / "w.pth.tar")
    with pytest.raises(WeightsError, match=message):
        build_flow_model(FlowNet2Config(weights=tmp_path / "w.pth.tar"))


@torch.inference_mode()
def test_reduced_precision_changes_little(flownet2: FlowNet2) -> None:
    first, second = torch.rand(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 255
    exact = flownet2(first, second)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = flownet2(first, second)
    assert reduced.dtype == torch.float32
    assert (reduced - exact).abs().mean() < 0.1 * exact.abs().mean()
    assert not torch.equal(reduced, exact)


@pytest.mark.parametrize("how", ["resize", "pad"])
@pytest.mark.parametrize("size", [(61, 93), (1, 1), (130, 65)])
@torch.inference_mode()
def test_frames_of_any_size_get_a_flow_of_that_size(
    flownet2: FlowNet2, how: str, size: tuple[int, int]
) -> None:
    sides = Sides(64, least=64, how="resize" if how == "resize" else "pad")
    model = FlowModel(
        FlowNet2Config(weights=Path("unread")),
        FlowNetwork(
            None,
            lambda a, b: sides.around(flownet2, *(x.permute(0, 3, 1, 2).float() for x in (a, b))),
        ),
        "cpu",
        {},
    )
    frames = np.random.default_rng(1).integers(0, 256, (2, 1, *size, 3), np.uint8)
    flow = model.flow(*frames)
    assert flow.shape == (1, 2, *size)
    assert torch.isfinite(flow).all()


@pytest.mark.slow
@torch.inference_mode()
def test_it_compiles_in_one_graph(flownet2: FlowNet2) -> None:
    first, second = torch.rand(2, 1, 3, 64, 64) * 255
    compiled = torch.compile(flownet2, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(first, second), flownet2(first, second), atol=1e-3, rtol=1e-3
    )
    torch.compiler.reset()


@pytest.mark.slow
@torch.inference_mode()
def test_it_is_exported_with_any_batch(flownet2: FlowNet2) -> None:
    batch = torch.export.Dim("batch")
    sample = torch.rand(2, 2, 3, 64, 64)  # two tensors: one given twice would be taken for one
    exported = torch.export.export(
        flownet2, tuple(sample), dynamic_shapes={"first": {0: batch}, "second": {0: batch}}
    )
    first, second = torch.rand(2, 3, 3, 64, 64) * 255
    torch.testing.assert_close(
        exported.module()(first, second), flownet2(first, second), atol=1e-3, rtol=1e-3
    )
