from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

from stillroom.stages.models.safetensors_file import pack, safetensors_sha256, unpack
from stillroom.stages.models.tensor_file import read_tensors
from stillroom.stages.models.weights import weights_sha256
from stillroom.storage_specs.errors import WeightsError
from stillroom.storage_specs.fingerprint import differences, sha256_file

if TYPE_CHECKING:
    from pathlib import Path

TENSORS = {
    "classifier.weight": torch.arange(12.0).reshape(3, 4),
    "bias": torch.tensor([1.5, -2.0, 0.25]),
    "bn.num_batches_tracked": torch.tensor(7),
    "half": torch.linspace(-1, 1, 5).half(),
    "empty": torch.zeros(0, 3),
}
ABOUT = {"stillroom": "1", **{f"key {i}": f"värde {i}" for i in range(20)}}


def test_equal_content_is_equal_bytes_whatever_the_order_it_was_given_in() -> None:
    content = pack(TENSORS, ABOUT)
    for seed in range(8):
        tensors, about = list(TENSORS.items()), list(ABOUT.items())
        random.Random(seed).shuffle(tensors)
        random.Random(seed).shuffle(about)
        assert pack(dict(tensors), dict(about)) == content
    assert pack({**TENSORS, "bias": TENSORS["bias"] + 1}, ABOUT) != content


def test_any_reader_opens_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pack(TENSORS, ABOUT))
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(TENSORS)
        assert ABOUT.items() <= file.metadata().items()
        for name, tensor in TENSORS.items():
            assert torch.equal(file.get_tensor(name), tensor)
            assert file.get_tensor(name).dtype == tensor.dtype
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_a_flipped_bit_is_refused_or_changes_nothing() -> None:
    """In each byte of the file; a flip in the checksum's own name leaves the content whole."""
    content = pack(TENSORS, ABOUT)
    flips = random.Random(1)
    refused = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << flips.randrange(8)
        try:
            found = unpack(bytes(damaged), "model")
        except WeightsError as error:
            assert str(error).startswith("model: ")  # noqa: PT017  (a flip may do no harm)
            refused += 1
            continue
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    assert refused > 0.9 * len(content)


def test_a_files_identity_is_what_it_holds_and_not_the_order_it_holds_it_in(
    tmp_path: Path,
) -> None:
    """safetensors writes metadata at random: two equal exports of a version before differ."""
    paths = [tmp_path / f"{i}.safetensors" for i in range(12)]
    for path in paths:
        path.write_bytes(save(TENSORS, ABOUT))
    assert len({sha256_file(path) for path in paths}) > 1
    assert len({safetensors_sha256(path) for path in paths}) == 1
    other = tmp_path / "other.safetensors"
    for tensors, about in (
        ({**TENSORS, "bias": TENSORS["bias"] + 1}, ABOUT),
        ({**TENSORS, "bias": TENSORS["bias"].double()}, ABOUT),
        ({**TENSORS, "bias": TENSORS["bias"][:, None]}, ABOUT),
        ({**TENSORS, "more": torch.ones(1)}, ABOUT),
        (TENSORS, {**ABOUT, "key 1": "?"}),
    ):
        save_file(tensors, other, about)
        assert safetensors_sha256(other) != safetensors_sha256(paths[0])


def test_a_cache_that_knows_the_sha256_of_the_bytes_still_agrees(tmp_path: Path) -> None:
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(TENSORS, path, ABOUT)
    save_file({**TENSORS, "bias": TENSORS["bias"] + 1}, other, ABOUT)
    before = {"teacher": {"weights_sha256": sha256_file(path)}}
    now = {"teacher": {"weights_sha256": weights_sha256(path)}}
    assert differences(before, now) == []
    assert differences(now, now) == []
    (found,) = differences(before, {"teacher": {"weights_sha256": weights_sha256(other)}})
    assert found.field == "teacher.weights_sha256"


def test_a_file_that_is_none_has_the_identity_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for content in (b"", b"short", b"\xff" * 8 + b"{}", (2).to_bytes(8, "little") + b"[]"):
        path.write_bytes(content)
        assert weights_sha256(path) == sha256_file(path)
        with pytest.raises(WeightsError, match="truncated, or not a safetensors file"):
            read_tensors(path)


def test_somebody_elses_sha256_is_not_taken_for_ours() -> None:
    content = save(TENSORS, {"sha256": "0" * 64})
    assert unpack(content, "theirs").keys() == TENSORS.keys()
