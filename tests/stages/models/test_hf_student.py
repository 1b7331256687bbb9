"""Students of transformers: their grids, what they begin with, copies that run themselves."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import TypeAdapter

from stillroom.stages.models.students.families import StudentConfig, build_student
from stillroom.storage_specs.errors import ConfigError, WeightsError
from tests.tiny_segformer import tiny_segformer

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.stages.models.student import Student

CLASSIFIER = "decode_head.classifier.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    tiny_segformer(5).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def build(folder: Path, num_classes: int = 5, **section: Any) -> Student:
    whole = {"kind": "hf", "path": folder, **section}
    parsed: StudentConfig = TypeAdapter(StudentConfig).validate_python(whole)
    torch.manual_seed(0)
    return build_student(parsed, num_classes)


def images(height: int = 60, width: int = 90) -> torch.Tensor:
    return 255 * torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_it_begins_with_the_folders_weights_and_gives_its_logits(folder: Path) -> None:
    import transformers

    student = build(folder).eval()
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    with torch.no_grad():
        output = student(images(64, 96))
        expected = model(pixel_values=student.normalise(images(64, 96))).logits
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-5)
    assert student.strides == {"logits": 4, "features/penultimate": 4}
    assert output.features["penultimate"].shape == (2, 12, 16, 24)
    assert student.classifier_weight.shape == (5, 12)
    with torch.no_grad():
        assert student(images()).logits.shape == (2, 5, 15, 23)  # padding is cut


def test_a_classifier_of_other_classes_begins_at_random_and_that_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, other = build(folder), build(folder, 3)
    mine, theirs = other.network.state_dict(), whole.network.state_dict()
    differing = {name for name in mine if mine[name].shape != theirs[name].shape}
    assert differing == {CLASSIFIER, CLASSIFIER.replace("weight", "bias")}
    assert all(torch.equal(mine[name], theirs[name]) for name in set(mine) - differing)
    assert "2 of" in caplog.text
    assert (
        f"begin at random, since the weights there have none of their sizes: {CLASSIFIER[:-6]}"
        in caplog.text
    )
    assert other(images()).logits.shape[1] == 3


def test_it_may_begin_at_random_with_a_changed_config(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (folder / "model.safetensors").unlink()
    student = build(folder, pretrained=False, options={"decoder_hidden_size": 20})
    assert student.channels["features/penultimate"] == 20
    with pytest.raises(WeightsError, match=r"student .*model: cannot be loaded"):
        build(folder)
    with pytest.raises(ConfigError, match="SegformerConfig has no field 'hidden'"):
        build(folder, pretrained=False, options={"hidden": 3})


def test_it_trains_and_a_copy_runs_its_own_weights(folder: Path) -> None:
    student = build(folder)
    twin = copy.deepcopy(student)
    student(images()).logits.square().mean().backward()
    assert all(each.grad is not None for each in student.parameters())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
        assert not student.eval()(images()).logits.any()
        assert twin.eval()(images()).logits.any()


def test_weights_of_a_trained_student_are_loaded(folder: Path, tmp_path: Path) -> None:
    other = build(folder, pretrained=False)
    torch.save(other.network.state_dict(), tmp_path / "trained.pth")
    again = build(folder, weights=tmp_path / "trained.pth")
    assert torch.equal(
        again.network.state_dict()[CLASSIFIER], other.network.state_dict()[CLASSIFIER]
    )
