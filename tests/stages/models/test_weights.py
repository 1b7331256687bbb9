from __future__ import annotations

import argparse
import hashlib
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stillroom.stages.models.tensor_file import read_tensors
from stillroom.stages.models.weights import (
    check_classes,
    demand_finite,
    fit_encoder,
    fit_state,
    load_weights,
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
    fit_state(fresh, read_tensors(path), path)
    assert same(trained, fresh)


def put_below(place: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{place}.{name}" if place else name: tensor for name, tensor in state.items()}


PLACES = (
    "module",
    "_orig_mod",
    "_orig_mod.module",
    "module._orig_mod",
    "model",
    "net",
    "model.net.module",
)
WRAPPERS = (
    *("", "state_dict", "model", "net", "module", "ema", "teacher", "model_state"),
    "state_dict_ema",
)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("place", PLACES)
def test_network_is_found_below_whatever_wraps_it(tmp_path: Path, wrapper: str, place: str) -> None:
    trained, fresh = network(), network()
    state = put_below(place, trained.state_dict())
    optimiser = {"state": {0: {"exp_avg": torch.ones(4, 3, 3, 3)}}, "param_groups": [{"lr": 0.1}]}
    beside = {"epoch": 3, "optimizer": optimiser, "args": argparse.Namespace(lr=0.1)}
    torch.save(beside | {wrapper: state} if wrapper else beside | state, tmp_path / "w.pth")
    load_weights(fresh, tmp_path / "w.pth")
    assert same(trained, fresh)


def test_what_is_beside_the_network_is_unused_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained, fresh = network(), network()
    state = put_below("net", trained.state_dict()) | {"loss.weight": torch.ones(3)}
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    caplog.set_level("INFO")
    load_weights(fresh, tmp_path / "w.pth")
    assert same(trained, fresh)
    assert caplog.messages == [
        f"weights {tmp_path / 'w.pth'}: 9 tensors from state_dict.net; 1 others in the file unused:"
        " state_dict.loss.weight"
    ]


def test_average_of_weights_counts_beside_them(tmp_path: Path) -> None:
    trained, fresh = network(), network()
    average = torch.optim.swa_utils.AveragedModel(trained)
    torch.save(average.state_dict(), tmp_path / "w.pth")
    load_weights(fresh, tmp_path / "w.pth")
    assert same(trained, fresh)
    state = {**trained.state_dict(), "n_averaged": torch.tensor(3)}
    torch.save(state, tmp_path / "w.pth")
    load_weights(network(), tmp_path / "w.pth")


RAW_AND_AVERAGED = {
    "timm": ("state_dict", "state_dict_ema", ""),
    "torchvision": ("model", "model_ema", "module"),
    "mean teacher": ("student", "teacher", "_orig_mod.module"),
    "lightning": ("state_dict.model", "state_dict.ema_model", ""),
    "beside each other": ("", "ema", "module"),
}


@pytest.mark.parametrize("names", RAW_AND_AVERAGED.values(), ids=RAW_AND_AVERAGED)
def test_raw_and_averaged_weights_in_one_file_must_be_chosen_from(
    tmp_path: Path, names: tuple[str, str, str]
) -> None:
    raw, averaged, inner = names
    places = (raw, f"{averaged}.{inner}" if inner else averaged)
    trained = (network(), network())
    file = tmp_path / "w.pth"
    states = [put_below(p, x.state_dict()) for p, x in zip(places, trained, strict=True)]
    torch.save(states[0] | states[1], file)
    with pytest.raises(WeightsError) as caught:
        load_weights(network(), file)
    for place in places:
        assert f'weights_key = "{place or "."}"' in str(caught.value)
    for key, wanted in zip((raw or ".", averaged), trained, strict=True):
        fresh = network()
        load_weights(fresh, file, key=key)
        assert same(fresh, wanted)
    with pytest.raises(WeightsError, match=r"'model_emma' holds no tensor(.|\n)*choose one of"):
        load_weights(network(), file, key="model_emma")


def test_averages_of_parameters_alone_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    trained, averages = network(), dict(network().named_parameters())
    state = {"state_dict": trained.state_dict(), "ema": averages}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r'6 of 8 with other values at ema .*"state_dict"'):
        load_weights(network(), tmp_path / "w.pth")
    fresh = network()
    load_weights(fresh, tmp_path / "w.pth", key="state_dict")
    assert same(fresh, trained)
    with pytest.raises(WeightsError, match=r"2 missing: 1\.running_mean, 1\.running_var"):
        load_weights(network(), tmp_path / "w.pth", key="ema")


def test_network_that_holds_one_like_itself_is_one(tmp_path: Path) -> None:
    inner = nn.ModuleDict({"net": network()})
    trained = nn.ModuleDict({"net": network(), "head": inner})
    fresh = nn.ModuleDict({"net": network(), "head": nn.ModuleDict({"net": network()})})
    torch.save(put_below("module", trained.state_dict()), tmp_path / "w.pth")
    load_weights(fresh, tmp_path / "w.pth")
    assert same(fresh, trained)


def test_tensors_that_are_sparse_or_without_values_are_refused(tmp_path: Path) -> None:
    state = network().state_dict()
    for odd in (state["2.bias"].to_sparse(), state["2.bias"].to("meta")):
        torch.save({**state, "2.bias": odd}, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=r"2\.bias: sparse, or without values"):
            load_weights(network(), tmp_path / "w.pth")


def test_module_that_two_others_refer_to_is_one(tmp_path: Path) -> None:
    trained, fresh = network(), network()
    state = trained.state_dict()
    torch.save(put_below("model", state) | put_below("loss.model", state), tmp_path / "w.pth")
    load_weights(fresh, tmp_path / "w.pth")
    assert same(fresh, trained)


def test_further_head_within_the_network_is_refused_unless_skipped(tmp_path: Path) -> None:
    state = {**network().state_dict(), "head2.weight": torch.zeros(7, 4, 1, 1)}
    torch.save(put_below("model", state), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"1 unexpected: head2\.weight"):
        load_weights(network(), tmp_path / "w.pth")
    load_weights(network(), tmp_path / "w.pth", skip=("head2.",))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("kind", ["int8", "complex", "quantised"])
def test_numbers_of_another_kind_are_refused(kind: str) -> None:
    state = dict(network().state_dict())
    state["0.weight"] = {
        "int8": lambda x: (x * 100).to(torch.int8),
        "complex": lambda x: x.to(torch.complex64),
        "quantised": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    }[kind](state["0.weight"])
    demand_finite(state, Path("w"))
    with pytest.raises(WeightsError, match=r"1 of another kind: 0\.weight .*float32, file"):
        fit_state(network(), state, Path("w"))


def test_counters_saved_as_floats_and_weights_of_eight_bits_are_taken(tmp_path: Path) -> None:
    trained = network()
    state = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in trained.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    fresh = network()
    load_weights(fresh, tmp_path / "w.safetensors")
    assert torch.allclose(fresh[0].weight, trained[0].weight, rtol=0.07, atol=1e-2)


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
        read_tensors(path)
    assert not victim.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.999])
def test_truncated_file_is_named(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network().state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep) if keep >= 1 else int(len(whole) * keep)])
    with pytest.raises(WeightsError, match=rf"w{suffix}: (truncated|refused)"):
        read_tensors(path)


class Whole(nn.Linear):
    """A network of somebody's module."""


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"state_dict": {}, "best": np.float64(0.5)}, r"numpy\S*\.scalar"),
        (Whole(2, 2), r"\S*test_weights\.Whole"),
        ({"args": argparse.Namespace(data=Path("data"))}, r"pathlib\S*Path"),
    ],
    ids=["numpy", "module", "path"],
)
def test_type_that_is_refused_is_named_without_advice_to_load_it(
    tmp_path: Path, content: object, kind: str
) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=f"it holds {kind} beside tensors") as caught:
        read_tensors(tmp_path / "w.pth")
    message = str(caught.value)
    assert "\x1b" not in message
    assert "weights_only" not in message
    assert "add_safe_globals" not in message


def test_folder_index_and_torchscript_are_told_apart(tmp_path: Path) -> None:
    for read in (read_tensors, weights_sha256):
        with pytest.raises(WeightsError, match=r"this is a folder; .*model\.safetensors"):
            read(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(WeightsError, match="an index of several files"):
        read_tensors(tmp_path / "model.safetensors.index.json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="a TorchScript archive"):
        read_tensors(tmp_path / "w.pt")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        read_tensors(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match=r"none\.pth"):
        weights_sha256(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "found list"),
        ({}, "found dict"),
        ({"epoch": 3, "name": "a"}, "found dict without any"),
        ({"a": {"b": torch.zeros(1)}, "a.b": torch.zeros(1)}, "two tensors are called a.b"),
    ],
)
def test_file_of_something_else_than_named_tensors_is_refused(
    tmp_path: Path, content: object, reason: str
) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=reason):
        read_tensors(tmp_path / "w.pth")


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


@pytest.mark.parametrize("inner", ["", "module.", "encoder."])
def test_encoder_of_raw_and_averaged_networks_must_be_chosen(inner: str) -> None:
    states = [network().state_dict() for _ in "qk"]
    found = {
        f"{top}.{inner}{name}": tensor
        for top, state in zip(("student", "teacher"), states, strict=True)
        for name, tensor in state.items()
    }
    with pytest.raises(WeightsError, match='weights_key = "teacher'):
        fit_encoder(network(), found, Path("w"))
    fresh = network()
    fit = fit_encoder(fresh, found, Path("w"), key="teacher")
    assert torch.equal(fresh[0].weight, states[1]["0.weight"])
    assert len(fit.unused) == fit.loaded == 9


def test_encoder_with_a_nan_is_refused() -> None:
    state = network().state_dict()
    state["0.weight"] = torch.full_like(state["0.weight"], torch.nan)
    with pytest.raises(WeightsError, match=r"not finite: 0\.weight"):
        fit_encoder(network(), state, Path("w"))


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
