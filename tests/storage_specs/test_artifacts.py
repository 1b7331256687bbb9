from __future__ import annotations

import pytest

from stillroom.storage_specs.artifacts import ARTIFACTS, artifact_of
from stillroom.storage_specs.codecs.plain import Raw
from stillroom.storage_specs.codecs.quantised import Byte
from stillroom.storage_specs.codecs.table import CODECS
from stillroom.storage_specs.errors import ArtifactError, ConfigError
from stillroom.storage_specs.layout import ArraySpec


def test_every_artifact_is_filed_under_its_own_name_and_stored_by_known_codecs() -> None:
    for name, artifact in ARTIFACTS.items():
        assert artifact.name == name
        assert set(artifact.codecs) <= set(CODECS)


def test_a_layer_belongs_to_features() -> None:
    assert artifact_of("features/encoder.2") is ARTIFACTS["features"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("logit", "did you mean 'logits'"),
        ("zzz", "known: frames, labels, logits"),
        ("logits/last", "no layers"),
        ("features/../../etc", "letters, digits"),
        ("features/", "letters, digits"),
        ("", "unknown artifact"),
    ],
)
def test_a_wrong_name_is_refused_with_what_is_right(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        artifact_of(name)


@pytest.mark.parametrize(
    ("artifact", "shape", "codec", "error", "says"),
    [
        ("features", (3, 4, 5), Byte(), ConfigError, "name a layer"),
        ("logits", (3, 4), Byte(), ArtifactError, r"\(channel, y, x\)"),
        ("logits", (3, 0, 5), Byte(), ArtifactError, "none empty"),
        ("frames", (8, 8, 4), Raw(), ArtifactError, "rgb = 3"),
        ("labels", (8, 8), Byte(), ConfigError, "known: raw"),
        ("logits", (3, 4, 5), Raw(), ConfigError, "known: kl, byte, half, exact"),
    ],
)
def test_an_array_that_its_artifact_cannot_have_is_refused(
    artifact: str, shape: tuple[int, ...], codec: object, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        ArraySpec(artifact, shape, codec)  # type: ignore[arg-type]
