from __future__ import annotations

import pytest

from stillroom.storage_specs.artifacts import ARTIFACTS
from stillroom.storage_specs.codecs.table import codec_from_dict
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.presets import PRESETS, load_preset


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_stores_every_artifact_and_no_other(name: str) -> None:
    preset = load_preset(name)
    assert set(preset.storages) == set(ARTIFACTS)
    assert preset.shard_frames == 64


def test_only_the_exact_preset_keeps_float32() -> None:
    assert {s.codec.name for s in load_preset("exact").storages.values()} == {"raw", "exact"}
    compact = load_preset("compact").storages
    assert {name for name, s in compact.items() if s.codec.name == "exact"} == {"boxes"}


def test_a_run_changes_one_thing_and_keeps_the_rest() -> None:
    usual = load_preset("fast")
    changed = load_preset("fast", {"logits": {"codec": "half"}}, shard_frames=32)
    assert changed.shard_frames == 32
    assert changed.storage("logits").codec.name == "half"
    assert changed.storage("logits").compressor == usual.storage("logits").compressor
    assert changed.storage("frames") == usual.storage("frames")
    assert load_preset("fast", {"logits": "half"}).storage("logits") == changed.storage("logits")


def test_a_layer_may_be_stored_in_its_own_way() -> None:
    preset = load_preset("fast", {"features/penultimate": {"compressor": "zstd"}})
    assert preset.storage("features/penultimate").compressor == {"name": "zstd", "level": 1}
    assert preset.storage("features/other").compressor["name"] == "blosc"


def test_what_a_preset_says_makes_an_array() -> None:
    for name in PRESETS:
        storage = load_preset(name).storage("logits")
        ArraySpec("logits", (3, 4, 5), storage.codec, storage.compressor)
        assert codec_from_dict(storage.to_dict()["codec"]) == storage.codec


@pytest.mark.parametrize(
    ("name", "overrides", "says"),
    [
        ("slow", {}, "unknown preset 'slow'; known: fast, compact, exact"),
        ("fast", {"logit": {"codec": "half"}}, "did you mean 'logits'"),
        ("fast", {"logits": {"kodec": "half"}}, "did you mean 'codec'"),
        ("fast", {"logits": {"codec": "raw"}}, "known: kl, byte, half, exact"),
        ("fast", {"logits": {"codec": "hafl"}}, "unknown codec 'hafl'"),
        ("fast", {"logits": {"compressor": "gzip"}}, "unknown compressor 'gzip'"),
        ("fast", {"logits": {"compressor": {"name": "zstd", "level": 40}}}, "allowed: -7 to 22"),
        ("fast", {"logits": {"compressor": {"name": "zstd", "clevel": 1}}}, "known: level"),
        ("fast", {"logits": {"compressor": {"name": "blosc", "cname": "zlib"}}}, "allowed: lz4"),
        ("fast", {"logits": 3}, "expected a codec and a compressor, got 3"),
        ("fast", {"shard_frames": 3}, "unknown artifact 'shard_frames'"),
    ],
)
def test_a_wrong_choice_is_refused(name: str, overrides: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_preset(name, overrides)


@pytest.mark.parametrize("count", [0, True, 4097])
def test_a_wrong_number_of_frames_in_a_shard_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"shard_frames = {count}; expected 1 to 4096"):
        load_preset("fast", shard_frames=count)
