"""Teachers of features alone: very small transformers with random weights, saved and loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from stillroom.stages.models.build_teacher import build_teacher
from stillroom.stages.models.resized_input import resize_frames
from stillroom.stages.models.teachers.families import TEACHERS, TeacherConfig
from stillroom.stages.models.token_grid import token_grid
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.storage_specs.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path

LAYER = "features/penultimate"
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}
VIT = {"image_size": 32, "patch_size": 8, **SMALL}
TEXT = {
    "vocab_size": 8,
    "max_position_embeddings": 4,
    "bos_token_id": 0,
    "eos_token_id": 1,
    **SMALL,
}
TINY = {"embed_dim": 16, "depth": 1, "num_heads": 2}
FRAMES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def transformers() -> Any:
    import_torchvision()
    return pytest.importorskip("transformers", reason="the extra [hf] is not installed")


@pytest.fixture(scope="module")
def timm() -> Any:
    import_torchvision()
    return pytest.importorskip("timm")


def settings_of(transformers: Any, kind: str) -> Any:
    made: dict[str, Any] = {
        "vit": lambda: transformers.ViTConfig(**VIT),
        "dinov2": lambda: transformers.Dinov2WithRegistersConfig(num_register_tokens=4, **VIT),
        "siglip": lambda: transformers.SiglipConfig(vision_config=VIT, text_config=TEXT),
        "sam": lambda: transformers.SamConfig(
            vision_config={**VIT, "output_channels": 8, "window_size": 2, "global_attn_indexes": []}
        ),
        "swin": lambda: transformers.SwinConfig(
            image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=2
        ),
        "bert": lambda: transformers.BertConfig(vocab_size=8, **SMALL),
    }
    return made[kind]()


def saved(transformers: Any, kind: str, folder: Path) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(settings_of(transformers, kind)).eval()
    model.save_pretrained(folder)
    return model


def teacher(canvas: tuple[int, int] | None = None, **keys: Any) -> Any:
    section = {"device": "cpu", **keys}
    return build_teacher(TypeAdapter(TeacherConfig).validate_python(section), canvas)


def hf(folder: Path, canvas: tuple[int, int] | None = None, **keys: Any) -> Any:
    return teacher(canvas, kind="hf", path=str(folder), task="features", **keys)


def seen(made: Any) -> torch.Tensor:
    """What the network gets of `FRAMES`."""
    images = torch.from_numpy(FRAMES).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in made._config.colours())
    return (images - mean) / std


@pytest.mark.parametrize(("kind", "before"), [("vit", 1), ("dinov2", 5), ("siglip", 0)])
def test_tokens_lie_where_their_patches_do(
    transformers: Any, tmp_path: Path, kind: str, before: int
) -> None:
    model = saved(transformers, kind, tmp_path)
    made = hf(tmp_path, (32, 32))
    found = made(FRAMES)
    assert set(found) == {LAYER}
    assert made.strides == {LAYER: 8}
    assert made.classes is None
    encoder = getattr(model, "vision_model", model)
    with torch.no_grad():
        tokens = encoder(pixel_values=seen(made)).last_hidden_state
    assert found[LAYER].shape == (2, 16, 4, 4)
    for row, column in ((0, 0), (0, 3), (2, 1), (3, 3)):
        expected = tokens[:, before + 4 * row + column]
        torch.testing.assert_close(found[LAYER][:, :, row, column], expected, rtol=1e-4, atol=1e-5)


def test_sams_encoder_gives_the_grid_of_its_neck(transformers: Any, tmp_path: Path) -> None:
    model = saved(transformers, "sam", tmp_path)
    made = hf(tmp_path, (32, 32))
    with torch.no_grad():
        expected = model.vision_encoder(pixel_values=seen(made)).last_hidden_state
    assert expected.shape == (2, 8, 4, 4)
    torch.testing.assert_close(made(FRAMES)[LAYER], expected, rtol=1e-4, atol=1e-5)


def test_a_size_of_its_own_is_brought_to_the_canvas(transformers: Any, tmp_path: Path) -> None:
    saved(transformers, "vit", tmp_path)
    canvas = (64, 64)
    with pytest.raises(ConfigError, match=r"made for 32x32: set `size = \[32, 32\]`"):
        hf(tmp_path, canvas)
    made = hf(tmp_path, canvas, size=[32, 32])
    assert made.strides == {LAYER: 16}
    frames = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    small = resize_frames(torch.from_numpy(frames).permute(0, 3, 1, 2), (32, 32), "bilinear")
    expected = hf(tmp_path, (32, 32))(small.to(torch.uint8).permute(0, 2, 3, 1).numpy())
    torch.testing.assert_close(made(frames)[LAYER], expected[LAYER], rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="sides that are multiples of 8"):
        hf(tmp_path, canvas, size=[36, 36])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("swin", r"gives 16 tokens, which do not fill a grid of 8x8 patches and 0 to 2 tokens"),
        ("bert", r"BertModel takes input_ids; take another model"),
    ],
)
def test_models_without_a_grid_of_features_are_refused(
    transformers: Any, tmp_path: Path, kind: str, message: str
) -> None:
    saved(transformers, kind, tmp_path)
    with pytest.raises(ConfigError, match=message):
        hf(tmp_path, (32, 32))


def test_files_without_a_pooler_are_whole_and_others_are_not(
    transformers: Any, tmp_path: Path
) -> None:
    saved(transformers, "vit", tmp_path)
    expected = hf(tmp_path, (32, 32))(FRAMES)[LAYER]
    file = tmp_path / "model.safetensors"
    state = {k: v for k, v in load_file(file).items() if not k.startswith("pooler.")}
    save_file(state, file, metadata={"format": "pt"})
    torch.testing.assert_close(hf(tmp_path, (32, 32))(FRAMES)[LAYER], expected)
    state.pop("layernorm.weight")
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"do not fill the network: 1 missing_keys"):
        hf(tmp_path, (32, 32))


def test_the_task_is_in_the_identity_where_it_is_not_the_usual_one(
    transformers: Any, tmp_path: Path
) -> None:
    saved(transformers, "vit", tmp_path)
    settings, _ = TEACHERS["hf"]
    plain = settings(kind="hf", path=str(tmp_path)).identity()
    other = settings(kind="hf", path=str(tmp_path), task="features").identity()
    assert other == {**plain, "task": "features"}


@pytest.mark.parametrize("before", [0, 1, 5])
def test_a_grid_is_cut_from_behind_the_other_tokens(before: int) -> None:
    tokens = torch.arange(before + 6.0)[None, :, None].expand(1, -1, 2)
    grid = token_grid("x", tokens, (2, 3), range(before, before + 1))
    assert grid[0, 1].tolist() == [[before + 3 * y + x for x in range(3)] for y in range(2)]
    with pytest.raises(ConfigError, match=rf"{before + 6} tokens, which do not fill a grid of 3x3"):
        token_grid("x", tokens, (3, 3), range(before, before + 1))


@pytest.mark.parametrize(
    ("name", "options", "stride"),
    [
        ("vit_tiny_patch16_224", {**TINY, "img_size": 32}, 16),
        ("vit_small_patch14_reg4_dinov2", {**TINY, "img_size": 32, "patch_size": 8}, 8),
        ("swin_tiny_patch4_window7_224", {"embed_dim": 8, "depths": [1, 1], "img_size": 32}, 8),
        ("mixer_s16_224", {"img_size": 32}, 16),
        ("convnext_atto", {"depths": [1] * 4, "dims": [4, 4, 8, 8]}, 32),
    ],
)
def test_timm_gives_the_features_that_it_pools(
    timm: Any, name: str, options: dict[str, Any], stride: int, tmp_path: Path
) -> None:
    if name.startswith("swin"):
        options = {**options, "num_heads": [1, 1], "window_size": 4}
    torch.manual_seed(1)
    network = timm.create_model(name, num_classes=5, **options).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    section = {"kind": "timm", "architecture": name, "options": options}
    made = teacher((32, 32), weights=tmp_path / "w.safetensors", **section)
    found = made(FRAMES)[LAYER]
    assert made.strides == {LAYER: stride}
    assert found.shape[2:] == (32 // stride, 32 // stride)
    with torch.no_grad():
        features = network.forward_intermediates(
            seen(made), indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )[-1]
    torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-5)


def test_timms_mean_and_deviation_are_compared(timm: Any, caplog: Any) -> None:
    section = {"kind": "timm", "architecture": "vit_tiny_patch16_224", "options": TINY}
    teacher(size=[224, 224], **section)
    said = [one.getMessage() for one in caplog.records if "mend" in one.getMessage()]
    assert [("mean" in one, "[127.5, 127.5, 127.5]" in one) for one in said] == [
        (True, True),
        (False, True),
    ]
    caplog.clear()
    teacher(size=[224, 224], mean=[127.5] * 3, std=[127.5] * 3, **section)
    assert not any("mend" in one.getMessage() for one in caplog.records)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"architecture": "vit_tiny_patch16_223"}, "did you mean vit_tiny_patch16_224"),
        ({"options": {"num_classes": 3}}, "not an option here; features alone are made"),
        ({"options": {"wings": 2}}, "cannot be built: .*wings"),
        ({"options": TINY}, r"made for 224x224: set `size = \[224, 224\]`"),
    ],
)
def test_what_timm_cannot_do_is_said(timm: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        teacher((32, 32), **{"kind": "timm", "architecture": "vit_tiny_patch16_224", **keys})
