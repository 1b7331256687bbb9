from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stillroom.stages.models.weights import (
    check_classes,
    demand_finite,
    fit_encoder,
    fit_state,
    load_state,
    weights_sha256,
)
from stillroom.storage_specs.errors import WeightsError


def network(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 5, 1))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_saved_weights_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(1)
    trained, fresh = network(), network()
    path = tmp_path / f"w{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(trained.state_dict(), path)
    fit_state(fresh, load_state(path), path)
    assert same(trained, fresh)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_checkpoint_is_unwrapped_and_data_parallel_prefix_taken_off(
    tmp_path: Path, wrapper: str
) -> None:
    trained = network()
    inner = {f"module.{name}": tensor for name, tensor in trained.state_dict().items()}
    torch.save({"epoch": 3, wrapper: inner}, tmp_path / "w.pth")
    assert set(load_state(tmp_path / "w.pth")) == set(trained.state_dict())


def test_half_precision_file_fills_a_float32_network(tmp_path: Path) -> None:
    trained, fresh = network().half(), network()
    fit_state(fresh, trained.state_dict(), tmp_path / "w")
    assert fresh[0].weight.dtype == torch.float32
    assert torch.equal(fresh[0].weight, trained[0].weight.float())


def test_batch_counters_may_be_missing_from_a_file() -> None:
    state = network().state_dict()
    del state["1.num_batches_tracked"]
    fresh = network()
    fit_state(fresh, state, Path("w"))
    assert torch.equal(fresh[0].weight, state["0.weight"])


def test_misfit_lists_missing_unexpected_and_shapes_with_counts_and_leaves_the_network() -> None:
    target = network()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    state = network(width=6).state_dict()
    del state["2.bias"], state["0.bias"]
    state |= {f"extra{i}": torch.zeros(1) for i in range(7)}
    with pytest.raises(WeightsError) as caught:
        fit_state(target, state, Path("some.pth"))
    message = str(caught.value)
    assert "2 missing: 0.bias, 2.bias" in message
    assert "7 unexpected: extra0, extra1, extra2, extra3 and 3 more" in message
    assert "6 differently shaped: 0.weight (wanted (4, 3, 3, 3), file (6, 3, 3, 3))" in message
    assert "some.pth" in message
    assert "number of classes" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


class Malice:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.victim,)


@pytest.mark.parametrize("plain_pickle", [True, False])
def test_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path, plain_pickle: bool) -> None:
    path, victim = tmp_path / "evil.pth", tmp_path / "victim"
    content = {"state_dict": {"a": torch.zeros(1)}, "hook": Malice(victim)}
    if plain_pickle:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=r"evil\.pth: refused.*safetensors"):
        load_state(path)
    assert not victim.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.999])
def test_truncated_file_is_named(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network().state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep) if keep >= 1 else int(len(whole) * keep)])
    with pytest.raises(WeightsError, match=rf"w{suffix}: (truncated|refused)"):
        load_state(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        load_state(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match=r"none\.pth"):
        weights_sha256(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "found list"),
        ({}, "found dict"),
        ({"a": torch.zeros(1), "lr": 0.1}, "lr are not"),
    ],
)
def test_file_of_something_else_than_named_tensors_is_refused(
    tmp_path: Path, content: object, reason: str
) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=reason):
        load_state(tmp_path / "w.pth")


def test_hash_is_of_the_bytes_and_none_without_a_file(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"abc")
    assert weights_sha256(tmp_path / "w") == hashlib.sha256(b"abc").hexdigest()
    assert weights_sha256(None) is None


def test_other_number_of_classes_is_said_in_those_words() -> None:
    state = network().state_dict()
    check_classes(state, "2.weight", 5, Path("w"))
    check_classes(state, "not there", 7, Path("w"))
    with pytest.raises(WeightsError, match="for 5 classes, but 7 are configured"):
        check_classes(state, "2.weight", 7, Path("w"))


@pytest.mark.parametrize(
    ("off", "on"), [("", ""), ("model.", ""), ("", "encoder.")], ids=["own", "timm", "whole"]
)
def test_encoder_takes_its_tensors_by_name_and_reports_the_rest(off: str, on: str) -> None:
    trained = nn.ModuleDict({"model": network()})
    fresh = nn.ModuleDict({"model": network()})
    state = {on + name.removeprefix(off): tensor for name, tensor in trained.state_dict().items()}
    state["classifier.weight"] = torch.zeros(10, 5)
    fit = fit_encoder(fresh, state, Path("w"))
    assert fit.unused == ("classifier.weight",)
    assert fit.loaded == len(trained.state_dict())
    assert same(trained, fresh)


def test_encoder_refuses_a_file_that_lacks_some_or_all_of_its_tensors() -> None:
    state = network().state_dict()
    with pytest.raises(WeightsError, match=r"0 of the encoder's 9 tensors fit"):
        fit_encoder(network(), {"a": torch.zeros(1)}, Path("w"))
    with pytest.raises(WeightsError, match=r"2 of the encoder's 9 tensors fit"):
        fit_encoder(network(), network(width=6).state_dict(), Path("w"))
    del state["0.weight"]
    with pytest.raises(WeightsError, match=r"1 missing: 0\.weight"):
        fit_encoder(network(), state, Path("w"))


def test_tensors_that_are_not_finite_are_counted_and_named() -> None:
    state = {"a": torch.zeros(2), "n": torch.tensor(3), "b": torch.tensor([1.0, torch.nan])}
    with pytest.raises(WeightsError, match=r"w\.pth: 1 of 3 tensors hold .* not finite: b; copy"):
        demand_finite(state, Path("w.pth"))
    demand_finite({"a": state["a"], "n": state["n"]}, Path("w.pth"))
