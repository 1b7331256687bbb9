"""What holds for teachers of every kind, tried on small SMP ones."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file

from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.smp_network import SmpDesign, build_smp
from stillroom.stages.models.teacher_settings import TeacherSettings
from stillroom.stages.models.teachers.families import TeacherConfig
from stillroom.stages.models.weights import weights_sha256
from stillroom.storage_specs.errors import ArtifactError, ConfigError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32}
NAMES = ("sky", "road", "car")


def config(**changes: Any) -> TeacherConfig:
    section = {
        "kind": "smp",
        "architecture": "FPN",
        "encoder": "mobilenet_v2",
        "classes": 3,
        "options": OPTIONS,
        "device": "cpu",
    }
    parsed: TeacherConfig = TypeAdapter(TeacherConfig).validate_python({**section, **changes})
    return parsed


def frames(height: int = 72, width: int = 100, count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    network = build_smp(SmpDesign("FPN", "mobilenet_v2", 3, OPTIONS))
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_frames_are_normalised_padded_with_zeros_and_the_padding_cut_off(weights: Path) -> None:
    mean, std = (127.0, 120.0, 110.0), (128.0, 60.0, 50.0)
    teacher = build_teacher(config(weights=weights, mean=mean, std=std))
    batch = frames()
    network = build_smp(SmpDesign("FPN", "mobilenet_v2", 3, OPTIONS)).eval()
    network.load_state_dict(load_file(weights))
    padded = np.zeros((2, 96, 128, 3), np.float32)
    padded[:, :72, :100] = (batch.astype(np.float32) - mean) / std
    with torch.no_grad():
        decoded = network.decoder(network.encoder(torch.from_numpy(padded).permute(0, 3, 1, 2)))
        logits = network.segmentation_head[0](decoded)
    output = teacher(batch)
    torch.testing.assert_close(output["logits"], logits[:, :, :18, :25], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        output["features/penultimate"], decoded[:, :, :18, :25], rtol=1e-4, atol=1e-4
    )


def test_grids_have_the_size_that_their_strides_say() -> None:
    teacher = build_teacher(config())
    output = teacher(frames(70, 101))
    assert teacher.strides["logits"] == 4
    assert teacher.strides["features/stage5"] == 32
    assert set(teacher.strides) == set(output)
    for name, grid in output.items():
        stride = teacher.strides[name]
        assert grid.shape[2:] == (-(-70 // stride), -(-101 // stride)), name
        assert grid.dtype == torch.float32
        assert grid.is_contiguous()


def test_a_frame_gets_the_same_whatever_stands_beside_it() -> None:
    teacher = build_teacher(config())
    batch = frames(count=3)
    torch.testing.assert_close(
        teacher(batch)["logits"][1:2], teacher(batch[1:2])["logits"], rtol=1e-4, atol=1e-4
    )


def test_tensors_and_arrays_are_taken_alike() -> None:
    teacher = build_teacher(config())
    expected = teacher(frames())["logits"]
    assert torch.equal(teacher(torch.from_numpy(frames()))["logits"], expected)
    locked = frames()
    locked.flags.writeable = False
    assert torch.equal(teacher(locked)["logits"], expected)


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((2, 64, 64, 3), np.float32),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((1, 3, 64, 64), np.uint8),
    ],
)
def test_frames_of_another_shape_or_dtype_are_refused(batch: np.ndarray) -> None:
    teacher = build_teacher(config())
    with pytest.raises(ArtifactError, match=r"expected uint8 \(B, H, W, 3\)"):
        teacher(batch)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_computes_lower_and_hands_out_float32(precision: str) -> None:
    exact = build_teacher(config())(frames())["logits"]
    lower = build_teacher(config(precision=precision))(frames())["logits"]
    assert lower.dtype == torch.float32
    assert not torch.equal(exact, lower)
    torch.testing.assert_close(exact, lower, rtol=0.2, atol=0.1 * float(exact.abs().max()))


def test_teachers_without_weights_are_the_same_network_every_time_and_leave_the_seed_alone() -> (
    None
):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = build_teacher(config())(frames())["logits"]
    assert torch.equal(torch.rand(4), expected)
    assert torch.equal(build_teacher(config())(frames())["logits"], first)


def test_description_is_the_identity_but_for_the_device(weights: Path) -> None:
    auto = config(weights=weights, device="auto", classes=NAMES)
    described, identity = auto.identity(), build_teacher(auto).identity()
    assert described.pop("device") == "auto"
    assert identity.pop("device") in {"cpu", "cuda"}
    assert described == identity
    assert identity["classes"] == list(NAMES)
    assert str(weights.parent) not in str(identity)


def test_identity_follows_the_bytes_of_the_weights_and_not_their_place(
    weights: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere.safetensors"
    copy.write_bytes(weights.read_bytes())
    assert config(weights=copy).identity() == config(weights=weights).identity()
    copy.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    assert config(weights=copy).identity() != config(weights=weights).identity()


def test_identity_knows_which_tensors_of_a_file_were_chosen(tmp_path: Path) -> None:
    torch.manual_seed(5)
    raw, averaged = (build_smp(SmpDesign("FPN", "mobilenet_v2", 3, OPTIONS)) for _ in range(2))
    file = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": raw.state_dict(), "state_dict_ema": averaged.state_dict()}, file)
    with pytest.raises(WeightsError, match='weights_key = "state_dict_ema"'):
        build_teacher(config(weights=file))
    outputs = {}
    for key, network in (("state_dict", raw), ("state_dict_ema", averaged)):
        save_file(network.state_dict(), tmp_path / "w.safetensors")
        outputs[key] = build_teacher(config(weights=file, weights_key=key))(frames())["logits"]
        alone = build_teacher(config(weights=tmp_path / "w.safetensors"))(frames())["logits"]
        assert torch.equal(outputs[key], alone)
    plain = config(weights=file).identity()
    # What was always read first: a cache of it was made without the key, and still opens.
    assert config(weights=file, weights_key="state_dict").identity() == plain
    chosen = config(weights=file, weights_key="state_dict_ema").identity()
    assert chosen == {**plain, "weights_key": "state_dict_ema"}


def test_smp_head_of_whole_images_in_a_file_is_passed_over(tmp_path: Path) -> None:
    import segmentation_models_pytorch as smp

    torch.manual_seed(5)
    network = smp.FPN("mobilenet_v2", encoder_weights=None, classes=3, **OPTIONS)
    torch.save(network.state_dict(), tmp_path / "plain.pth")
    head = {"classification_head.3.weight": torch.ones(4, 3)}
    torch.save({**network.state_dict(), **head}, tmp_path / "auxiliary.pth")
    first, second = (
        build_teacher(config(weights=tmp_path / name))(frames())["logits"]
        for name in ("plain.pth", "auxiliary.pth")
    )
    assert torch.equal(first, second)


def test_key_without_a_file_to_look_it_up_in_is_refused() -> None:
    with pytest.raises(ValidationError, match="no `weights` names the file"):
        config(weights_key="model_ema")


def test_identity_is_of_the_weights_that_were_loaded_and_hashed_once(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path | None] = []

    def counting(path: Path | None) -> str | None:
        hashed.append(path)
        return weights_sha256(path)

    monkeypatch.setattr("stillroom.stages.models.model_settings.weights_sha256", counting)
    teacher = build_teacher(config(weights=weights))
    expected = config(weights=weights).identity()
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    teacher.identity()["classes"] = "spoilt by its reader"
    assert teacher.identity() == expected
    assert hashed == [weights, weights]  # once by the teacher, once by its config
    assert config(weights=weights).identity() != expected


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "Unet", "options": {}},
        {"encoder": "resnet18"},
        {"classes": 4},
        {"mean": (1.0, 2.0, 3.0)},
        {"std": (1.0, 2.0, 3.0)},
        {"pad": 64},
        {"precision": "bfloat16"},
        {"options": {**OPTIONS, "encoder_depth": 4}},
    ],
)
def test_identity_follows_whatever_changes_the_output(change: dict[str, Any]) -> None:
    assert config(**change).identity() != config().identity()


def test_describing_a_teacher_imports_no_torch(weights: Path) -> None:
    code = (
        "import sys\n"
        "from pydantic import TypeAdapter\n"
        "from stillroom.stages.models.teachers.families import TeacherConfig\n"
        "section = dict(kind='smp', architecture='FPN', encoder='resnet18', classes=3,"
        f" weights={str(weights)!r})\n"
        "print(TypeAdapter(TeacherConfig).validate_python(section).identity()['kind'])\n"
        "print(sorted({'torch', 'timm', 'torchvision', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["smp", "[]"], done.stderr


def test_names_and_number_of_classes(weights: Path) -> None:
    named = build_teacher(config(weights=weights, classes=NAMES))
    assert (named.classes, named.num_classes) == (NAMES, 3)
    assert build_teacher(config(weights=weights)).classes is None
    with pytest.raises(ConfigError, match="`classes` is not given"):
        build_teacher(config(classes=None))


def test_weights_for_another_number_of_classes_are_refused_in_those_words(weights: Path) -> None:
    with pytest.raises(WeightsError, match="for 3 classes, but 7 are configured"):
        build_teacher(config(weights=weights, classes=7))


def test_weights_that_are_not_finite_are_refused(weights: Path) -> None:
    state = load_file(weights)
    state["segmentation_head.0.bias"][1] = torch.nan
    save_file(state, weights)
    with pytest.raises(WeightsError, match=r"not finite: segmentation_head\.0\.bias"):
        build_teacher(config(weights=weights))


def test_weights_of_another_network_are_refused(weights: Path) -> None:
    with pytest.raises(WeightsError, match="missing"):
        build_teacher(config(weights=weights, encoder="resnet18"))


def test_missing_weights_are_named_when_describing_and_when_building(tmp_path: Path) -> None:
    absent = config(weights=tmp_path / "absent.pth")
    for use in (TeacherSettings.identity, build_teacher):
        with pytest.raises(WeightsError, match=r"absent\.pth"):
            use(absent)


def test_pad_that_does_not_suit_the_network_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"pad=24, but this network needs .* multiples of 32"):
        build_teacher(config(pad=24))


def test_cuda_where_there_is_none_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device"):
        build_teacher(config(device="cuda"))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "tensorflow"},
        {"architecture": "UNet3D"},
        {"std": (1.0, 0.0, 1.0)},
        {"pad": 0},
        {"classes": ()},
        {"classes": 0},
        {"precision": "float8"},
        {"weigths": "w.pth"},
    ],
)
def test_faults_of_the_section_are_found_when_it_is_read(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**change)
