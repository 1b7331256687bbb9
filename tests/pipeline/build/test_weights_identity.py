"""A cache knows a teacher by what its weights file holds; one of before by the file's bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import train_run
from stillroom.stages.models import model_settings
from stillroom.storage_specs.errors import CacheMismatch
from stillroom.storage_specs.fingerprint import sha256_file
from stillroom.storage_specs.store import Cache

WEIGHTS = Path("teacher.safetensors")
TAUGHT = f'teachers.tiny.weights="{WEIGHTS}"'


def recorded() -> str:
    return (
        Cache.open("street.cache")
        .artifact_set("street", "tiny")
        .identity["teacher"]["weights_sha256"]
    )


@pytest.fixture
def of_before(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose cache was built when the file's bytes were hashed."""
    from tiny_networks import teacher

    save_file(teacher(seed=3).state_dict(), WEIGHTS, {f"{i}": "about" for i in range(9)})
    with monkeypatch.context() as before:
        before.setattr(model_settings, "weights_sha256", lambda path: path and sha256_file(path))
        build(load_run(run_file, [TAUGHT]))
    assert recorded() == sha256_file(WEIGHTS)
    return run_file


def test_a_cache_of_before_is_completed_reused_and_trained_from(of_before: Path) -> None:
    build(load_run(of_before, [TAUGHT]))
    target = Cache.open("street.cache").artifact_set("street", "tiny")
    target.discard(1)
    build(load_run(of_before, [TAUGHT]))
    assert target.committed() == set(range(target.shards))
    build(load_run(of_before, [TAUGHT, 'cache.path="b.cache"', 'cache.reuse="street.cache"']))
    train_run(load_run(of_before, [TAUGHT]))
    assert recorded() == sha256_file(WEIGHTS)


def test_the_same_tensors_in_another_order_are_the_same_teacher(run_file: Path) -> None:
    from tiny_networks import teacher

    about = {f"{i}": "about" for i in range(9)}
    save_file(teacher(seed=3).state_dict(), WEIGHTS, about)
    first = sha256_file(WEIGHTS)
    build(load_run(run_file, [TAUGHT]))
    for _ in range(20):
        save_file(load_file(WEIGHTS), WEIGHTS, about)
        if sha256_file(WEIGHTS) != first:
            break
    assert sha256_file(WEIGHTS) != first
    build(load_run(run_file, [TAUGHT]))
    save_file(teacher(seed=4).state_dict(), WEIGHTS, about)
    with pytest.raises(CacheMismatch, match=r"teacher\.weights_sha256"):
        build(load_run(run_file, [TAUGHT]))
