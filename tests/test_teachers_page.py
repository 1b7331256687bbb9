"""docs/teachers.md: each of its sections builds a cache, with files made as it says."""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from tiny_segformer import tiny_segformer

from stillroom.cli import main
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import prepare_job
from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.smp_network import SmpDesign, build_smp
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.storage_specs.errors import WeightsError
from stillroom.storage_specs.store import Cache

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "teachers.md").read_text()
RUN, *_ = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
NETWORKS, *_ = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
HEADED = re.compile(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
SECTIONS = {
    heading: re.findall(r"```toml\n(.*?)```", body, re.DOTALL)
    for heading, body in HEADED.findall(TEXT)
}
WEIGHTS = "Which weights of a file"
TEACHER = re.compile(r"\[teachers\.heavy\]\n.*?\n(?=\n\[)", re.DOTALL)


def save_segformer(folder: Path) -> None:
    tiny_segformer(3).save_pretrained(folder)

    from transformers import SegformerImageProcessor

    SegformerImageProcessor(do_normalize=False).save_pretrained(folder)


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "town_nets.py").write_text(NETWORKS)
    save_segformer(tmp_path / "town_segformer")
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "town" / kind).mkdir(parents=True)
    for number in range(4):
        mask = np.kron(rng.integers(0, 3, (6, 10)), np.ones((16, 16))).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / "town" / "masks" / f"{number}.png")
        noise = rng.integers(0, 40, (96, 160, 3))
        image = (mask[..., None] * 80 + noise).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "town" / "images" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "town_nets", raising=False)
    return tmp_path


def written(section: str) -> Path:
    """The run of the page with this section in the place of its teacher."""
    changed, count = TEACHER.subn(section, RUN)
    assert count == 1
    path = Path("town.toml")
    path.write_text(changed)
    return path


def build(section: str, *changes: str) -> dict[str, tuple[tuple[int, ...], int]]:
    """Build a cache; the shape and stride of each array of the teacher."""
    path = written(section)
    sets = [part for one in ("teachers.heavy.device=cpu", *changes) for part in ("--set", one)]
    done = CliRunner().invoke(main, ["cache", "build", str(path), *sets])
    assert done.exit_code == 0, done.output
    cached = Cache.open(load_run(path).cache.path).artifact_set("town", "heavy")
    return {name: (spec.shape, spec.attributes["stride"]) for name, spec in cached.arrays.items()}


def export_as_the_page_does() -> None:
    _, code, *_ = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(code, {})


def save_onnx() -> None:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="the extra [onnx] is not installed")
    network = importlib.import_module("town_nets").network().eval()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.onnx.export(
            network, (torch.rand(1, 3, 96, 160),), Path("town.onnx"), input_names=["images"],
            dynamo=False,
        )  # fmt: skip


def save_raw_and_averaged() -> None:
    torch.manual_seed(0)
    network = build_smp(SmpDesign("DeepLabV3Plus", "mobilenet_v2", 3))
    raw = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    averaged = {
        name: (tensor * 0.5 if tensor.is_floating_point() else tensor)
        for name, tensor in raw.items()
    }
    torch.save({"model": raw, "model_ema": averaged, "epoch": 40}, "checkpoint_40.pth")


MADE_BEFORE = {
    WEIGHTS: save_raw_and_averaged,
    "Exported: torch.export and TorchScript": export_as_the_page_does,
    "ONNX": save_onnx,
}


def test_the_section_on_features_builds_a_cache_that_its_student_can_learn_from(
    town: Path,
) -> None:
    import_torchvision()
    import timm

    section, learns = SECTIONS["Features alone"]
    small = {"depth": 1, "embed_dim": 16, "num_heads": 2}
    network = timm.create_model("vit_small_patch14_dinov2", dynamic_img_size=True, **small)
    save_file(network.state_dict(), "dinov2_small.safetensors")
    options = ", ".join(f"{key} = {value}" for key, value in small.items())
    section = section.replace("= true }", f"= true, {options} }}")
    student = RUN[RUN.index("[student]") : RUN.index("[train]")]
    artifacts = 'cache.artifacts=["features/penultimate"]'
    assert build(section, artifacts) == {"features/penultimate": ((16, 24, 40), 4)}
    Path("town.toml").write_text(Path("town.toml").read_text().replace(student, learns + "\n"))
    job = prepare_job(load_run(Path("town.toml"), [artifacts, "teachers.heavy.device=cpu"]))
    assert list(job.student.heads) == ["features"]


@pytest.mark.parametrize(
    ("heading", "shape", "stride"),
    [
        ("BGR", (3, 24, 40), 4),
        ("A fixed-size ViT", (3, 8, 14), 12),
        ("One channel", (3, 24, 40), 4),
        ("Transformers", (3, 24, 40), 4),
        ("Exported: torch.export and TorchScript", (3, 24, 40), 4),
        ("ONNX", (3, 24, 40), 4),
        (WEIGHTS, (3, 24, 40), 4),
    ],
)
def test_a_section_of_the_page_builds_a_cache(
    heading: str, shape: tuple[int, ...], stride: int, town: Path
) -> None:
    MADE_BEFORE.get(heading, lambda: None)()
    (section,) = SECTIONS[heading]
    arrays = build(section.replace("resnet101", "mobilenet_v2"))  # in seconds
    assert arrays["logits"] == (shape, stride)
    assert arrays["confidence"] == (shape[1:], stride)
    assert arrays["pseudo_label"] == ((96, 160), 1)


def test_a_network_of_cityscapes_classes_teaches_camvid(town: Path) -> None:
    for kind, of in (("train", "images"), ("trainannot", "masks")):
        folder = town / "data" / "camvid" / kind
        folder.mkdir(parents=True)
        for file in (town / "town" / of).iterdir():
            (folder / f"0001TP_00{file.stem}.png").write_bytes(file.read_bytes())
    torch.save(
        build_smp(SmpDesign("DeepLabV3Plus", "mobilenet_v2", 19)).state_dict(), "cityscapes.pth"
    )
    (section,) = SECTIONS["Another class list"]
    cache = RUN[RUN.index("[cache]") : RUN.index("[student]")]
    Path("camvid.toml").write_text(section.replace("resnet101", "mobilenet_v2") + "\n" + cache)
    done = CliRunner().invoke(main, ["cache", "build", "camvid.toml"])
    assert done.exit_code == 0, done.output
    run = load_run(Path("camvid.toml"))
    logits = Cache.open(run.cache.path).artifact_set("camvid", "heavy").arrays["logits"]
    assert logits.shape == (11, 24, 40)
    assert logits.attributes["classes"] == list(run.classes_of("camvid") or ())


def test_a_student_learns_from_a_teacher_with_a_size_of_its_own(town: Path) -> None:
    (section,) = SECTIONS["A fixed-size ViT"]
    build(section)
    done = CliRunner().invoke(main, ["train", "town.toml"])
    assert done.exit_code == 0, done.output


def test_the_averaged_weights_of_the_page_are_those_that_are_taken(town: Path) -> None:
    save_raw_and_averaged()
    (section,) = SECTIONS[WEIGHTS]
    section = section.replace("resnet101", "mobilenet_v2")
    teacher = build_teacher(load_run(written(section)).teacher("heavy"))
    assert teacher.module is not None
    kept = torch.load("checkpoint_40.pth", weights_only=True)["model_ema"]
    assert all(torch.equal(each, kept[name]) for name, each in teacher.module.state_dict().items())
    with pytest.raises(WeightsError, match="model_ema"):
        build_teacher(
            load_run(written(section.replace('weights_key = "model_ema"', ""))).teacher("heavy")
        )


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_section_of_the_page_is_a_run(heading: str, town: Path) -> None:
    for section in (each for each in SECTIONS[heading] if "[teachers." in each):
        assert load_run(written(section)).teachers["heavy"]
