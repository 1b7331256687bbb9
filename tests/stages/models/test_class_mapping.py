"""A teacher's classes brought to the run's: the sums of probabilities, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.class_mapping import UNKNOWN, group_logits
from stillroom.stages.models.teachers.families import TeacherConfig
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = ["road", "sidewalk", "rider", "bicycle", "sky"]
MAPPING = {"sky": "sky", "ground": ["road", "sidewalk"], "bicyclist": ["bicycle", "rider"]}


def config(**changes: Any) -> TeacherConfig:
    section = {
        "kind": "smp",
        "architecture": "FPN",
        "encoder": "resnet18",
        "device": "cpu",
        "options": {"decoder_pyramid_channels": 8, "decoder_segmentation_channels": 32},
        "classes": CLASSES,
        "mapping": MAPPING,
    }
    parsed: TeacherConfig = TypeAdapter(TeacherConfig).validate_python({**section, **changes})
    return parsed


def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)


def test_probabilities_of_a_group_are_added_up() -> None:
    logits = 5 * torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0))
    found = group_logits(logits, ((4,), (0, 5, 2), ()))
    x = logits.double().numpy()
    kept = np.exp(x[:, [4, 0, 5, 2]])
    share = kept / kept.sum(1, keepdims=True)  # channels 1 and 3 are dropped
    known = found[:, :2].double().softmax(1).numpy()
    np.testing.assert_allclose(known[:, 0], share[:, 0], rtol=1e-5)
    np.testing.assert_allclose(known[:, 1], share[:, 1:].sum(1), rtol=1e-5)
    np.testing.assert_allclose(found[:, 2], found[:, :2].amin(1) - UNKNOWN)


def test_teacher_gives_the_runs_classes_and_its_own_features() -> None:
    own = build_teacher(config(mapping=None))
    teacher = build_teacher(config())
    assert teacher.classes == ("sky", "ground", "bicyclist")
    assert teacher.num_classes == 3
    before, after = own(frames()), teacher(frames())
    expected = group_logits(before["logits"], ((4,), (0, 1), (3, 2)))
    torch.testing.assert_close(after["logits"], expected)
    assert torch.equal(after["features/penultimate"], before["features/penultimate"])
    assert teacher.own_logits(frames()).shape == (1, 3, 64, 96)


def test_identity_has_the_mapping_by_number_and_only_where_there_is_one() -> None:
    plain = config(mapping=None).identity()
    assert "mapping" not in plain
    assert "mapping_drop" not in plain
    found = config().identity()
    assert found == {**plain, "mapping": [[4], [0, 1], [3, 2]]}
    numbers = {"air": 4, "floor": [0, 1], "bike": [3, 2]}
    assert config(mapping=numbers).identity() == found
    dropped = config(mapping={**numbers, "bike": 3}, mapping_drop=["rider"]).identity()
    assert dropped == {**plain, "mapping": [[4], [0, 1], [3]]}


def test_known_list_of_classes_is_called_by_its_name() -> None:
    found = config(classes="cityscapes", mapping=None)
    assert found.num_classes() == 19
    assert found.class_names()[12] == "rider"
    with pytest.raises(
        ValidationError, match="no class list 'cityscape'; known: camvid, coco, ade20k, city"
    ):
        config(classes="cityscape", mapping=None)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"mapping": {**MAPPING, "ground": ["road"]}},
            r'1 of .* in no class; .*: mapping_drop = \["sidewalk"\] \(the teacher has 5 classes\)',
        ),
        ({"mapping": {**MAPPING, "sky": ["sky", "road"]}}, "road: named twice"),
        ({"mapping": {**MAPPING, "sky": ["sky", "sky"]}}, "sky: named twice"),
        ({"mapping_drop": ["sky"]}, "sky: named twice"),
        ({"mapping": {**MAPPING, "sky": "heaven"}}, "'heaven': no class of this teacher"),
        (
            {"mapping": {"all": [0, 2]}, "mapping_drop": [4], "classes": 6},
            r"3 of .*: mapping_drop = \[4, 1, 3, 5\] \(the teacher has 6 classes\)",
        ),
        ({"mapping": {**MAPPING, "sky": 5}}, "5: no class of this teacher"),
        ({"mapping": {**MAPPING, "sky": -1}}, "-1: no class of this teacher"),
        ({"mapping_drop": ["heaven"]}, "'heaven': no class of this teacher"),
        ({"mapping": {"sky": []}, "mapping_drop": CLASSES}, "nothing is mapped"),
        ({"mapping": {"sky": ["4", 0, 1, 2, 3]}, "classes": 5}, "'4': no class of this teacher"),
        ({"classes": None}, "give the teacher's own `classes`"),
        ({"mapping": None, "mapping_drop": ["sky"]}, "there is no `mapping`"),
    ],
)
def test_mapping_that_is_not_of_every_class_once_is_refused(
    changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        config(**changes)


def test_names_of_a_transformers_model_are_read_from_its_folder(tmp_path: Path) -> None:
    named = {str(number): name for number, name in enumerate(CLASSES)}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": named}))
    section = {"kind": "hf", "path": str(tmp_path), "mapping": MAPPING}
    parsed: TeacherConfig = TypeAdapter(TeacherConfig).validate_python(section)
    assert parsed.class_names() == tuple(CLASSES)
    assert parsed.groups() == ((4,), (0, 1), (3, 2))
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValidationError, match="give the teacher's own `classes`"):
        TypeAdapter(TeacherConfig).validate_python(section)


def test_network_of_more_classes_than_stated_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import torch\ndef network():\n    return lambda x: torch.zeros(len(x), 20, 8, 9)\n"
    (tmp_path / "twenty_outputs.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    groups = {"road": [0], "rest": list(range(1, 19))}
    section = {"kind": "python", "target": "twenty_outputs:network", "device": "cpu"}
    section |= {"classes": 19, "mapping": groups}
    parsed: TeacherConfig = TypeAdapter(TeacherConfig).validate_python(section)
    with pytest.raises(ConfigError, match=r"\(1, 20, 8, 9\); expected \(B, 19, h, w\)"):
        build_teacher(parsed)
