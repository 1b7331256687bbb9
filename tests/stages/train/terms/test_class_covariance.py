"""Class statistics: the online update against the moments of everything at once."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from stillroom.stages.evaluate.moments import Moments
from stillroom.stages.train.terms.class_covariance import ClassCovariance
from stillroom.stages.train.terms.class_moments import read_class_moments
from stillroom.storage_specs.errors import ArtifactError, ConfigError

CLASSES, CHANNELS = 4, 3


def batch(rng, step):
    """Features that wander from step to step; class 3 is nowhere, class 2 comes late."""
    labels = rng.integers(0, 2 if step < 2 else 3, (2, 4, 5))
    labels[rng.random(labels.shape) < 0.25] = 255
    features = rng.normal(2.0 * step, 1 + step, (2, CHANNELS, 4, 5))
    return features + labels[:, None] % 7, labels


@pytest.fixture
def batches():
    rng = np.random.default_rng(6)
    return [batch(rng, step) for step in range(4)]


def updated(batches, covariance=None):
    covariance = covariance or ClassCovariance(CLASSES, CHANNELS)
    for features, labels in batches:
        covariance.update(torch.from_numpy(features), torch.from_numpy(labels))
    return covariance


def everything(batches):
    """Count, mean and variance of all vectors of each class, by loops."""
    held = {c: [] for c in range(CLASSES)}
    for features, labels in batches:
        for b, y, x in np.ndindex(*labels.shape):
            if labels[b, y, x] != 255:
                held[labels[b, y, x]].append(features[b, :, y, x])
    for c, vectors in held.items():
        mean = sum(vectors) / max(len(vectors), 1)
        squares = sum((vector - mean) ** 2 for vector in vectors)
        yield c, len(vectors), mean, squares / max(len(vectors), 1)


def test_step_by_step_it_has_the_moments_of_everything_seen(batches):
    for steps in range(1, 5):
        found = updated(batches[:steps])
        for c, count, mean, variance in everything(batches[:steps]):
            assert found.count[c].item() == count
            np.testing.assert_allclose(found.mean[c], mean, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(found.variance[c], variance, rtol=1e-12, atol=1e-12)
    assert found.count[3] == 0
    assert found.count[2] > 0


def test_the_update_is_the_one_that_is_printed(batches):
    """w = n_b / (n_b + N); Cov <- (1-w) Cov + w Var_b + w (1-w) (mu - mu_b)^2, class by class."""
    before, after = updated(batches[:1]), updated(batches[:2])
    one = updated(batches[1:2])
    for c in range(2):
        share = one.count[c] / (one.count[c] + before.count[c])
        expected = (
            (1 - share) * before.variance[c]
            + share * one.variance[c]
            + share * (1 - share) * (before.mean[c] - one.mean[c]) ** 2
        )
        torch.testing.assert_close(after.variance[c], expected, rtol=1e-12, atol=0)


def test_it_has_the_moments_that_cache_stats_would_find(batches):
    found = updated(batches)
    expected = Moments.empty(CLASSES, CHANNELS)
    for features, labels in batches:
        vectors = np.moveaxis(features, 1, -1).reshape(-1, CHANNELS)
        expected = expected.merge(Moments.of(vectors, labels.reshape(-1), CLASSES))
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_features_far_from_0_do_not_lose_their_variance(dtype):
    """A mean of 1,000 at a deviation of 1: squares less the square of the mean would be noise."""
    features = (1000 + torch.randn(4, 1, 50, 50)).to(dtype)
    found = ClassCovariance(1, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found.update(features, torch.zeros(4, 50, 50, dtype=torch.int64))
    expected = features.double().var(unbiased=False).item()
    assert found.variance.item() == pytest.approx(expected, rel=1e-4)


def test_what_has_no_label_may_hold_anything(batches):
    spoilt = [
        (np.where((labels == 255)[:, None], np.nan, features), labels)
        for features, labels in batches
    ]
    for one, other in zip(
        updated(batches).state_dict().values(), updated(spoilt).state_dict().values(), strict=True
    ):
        assert one.equal(other)


def test_a_batch_without_labels_changes_nothing(batches):
    found = updated(batches)
    before = {name: value.clone() for name, value in found.state_dict().items()}
    found.update(torch.randn(1, CHANNELS, 2, 2), torch.full((1, 2, 2), 255))
    for name, value in found.state_dict().items():
        assert value.equal(before[name])


def test_no_gradient_comes_from_the_statistics():
    features = torch.randn(1, CHANNELS, 4, 4, requires_grad=True)
    found = ClassCovariance(CLASSES, CHANNELS)
    found.update(features, torch.zeros(1, 4, 4, dtype=torch.int64))
    assert not found.variance.requires_grad
    assert found.trained() == []


def test_restored_statistics_go_on_as_if_nothing_had_happened(batches):
    whole = updated(batches)
    parts = ClassCovariance(CLASSES, CHANNELS)
    parts.load_state_dict(updated(batches[:2]).state_dict())
    updated(batches[2:], parts)
    for name, value in whole.state_dict().items():
        assert parts.state_dict()[name].equal(value), name


def test_features_on_another_grid_than_the_labels_are_refused():
    with pytest.raises(ArtifactError, match=r"features are \(1, 3, 4, 4\) and labels \(1, 2, 2\)"):
        ClassCovariance(CLASSES, CHANNELS).update(
            torch.zeros(1, CHANNELS, 4, 4), torch.zeros(1, 2, 2, dtype=torch.int64)
        )


# moments to begin with


@pytest.fixture
def write(tmp_path):
    """A file as `cache stats --features --out` writes it; returns it and the moments in it."""

    def make(suffix=".npz", sets=("camvid/fpn",), classes=CLASSES, channels=CHANNELS, **changes):
        rng = np.random.default_rng(1)
        arrays = {}
        for name in sets:
            arrays |= {
                f"{name}/count": np.float64(9),
                f"{name}/mean": rng.normal(size=channels),
                f"{name}/variance": rng.random(channels),
                f"{name}/class_count": rng.integers(5, 50, classes).astype(np.float64),
                f"{name}/class_mean": rng.normal(size=(classes, channels)),
                f"{name}/class_variance": rng.random((classes, channels)),
            }
        arrays |= {name.replace("_in_", "/"): value for name, value in changes.items()}
        path = tmp_path / f"stats{suffix}"
        if suffix == ".npz":
            np.savez(path, allow_pickle=False, about=np.array(json.dumps({})), **arrays)
        else:
            save_file({k: np.asarray(v) for k, v in arrays.items()}, path, {"about": "{}"})
        return path, arrays

    return make


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_it_may_begin_with_a_files_moments(write, batches, suffix):
    path, arrays = write(suffix, sets=("camvid/fpn", "coco/fpn"))
    found = ClassCovariance(CLASSES, CHANNELS, read_class_moments(path, "coco/fpn"))
    for name in ("count", "mean", "variance"):
        np.testing.assert_array_equal(getattr(found, name), arrays[f"coco/fpn/class_{name}"])
    held = Moments(
        arrays["coco/fpn/class_count"],
        arrays["coco/fpn/class_mean"],
        arrays["coco/fpn/class_variance"] * arrays["coco/fpn/class_count"][:, None],
    )
    features, labels = batches[0]
    vectors = np.moveaxis(features, 1, -1).reshape(-1, CHANNELS)
    expected = held.merge(Moments.of(vectors, labels.reshape(-1), CLASSES))
    updated(batches[:1], found)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-12)


def test_the_only_set_of_a_file_need_not_be_named(write):
    path, arrays = write()
    np.testing.assert_array_equal(read_class_moments(path).mean, arrays["camvid/fpn/class_mean"])


@pytest.mark.parametrize("wanted", [None, "voc/fpn"])
def test_a_set_that_is_not_told_or_not_there_is_refused_naming_those_there_are(write, wanted):
    path, _ = write(sets=("camvid/fpn", "coco/fpn"))
    with pytest.raises(ConfigError, match=r"of camvid/fpn, coco/fpn; name one of them by `start_s"):
        read_class_moments(path, wanted)


def test_other_classes_or_channels_are_refused(write):
    moments = read_class_moments(write()[0])
    for shape in ((5, CHANNELS), (CLASSES, 8)):
        with pytest.raises(ConfigError, match="4 classes and 3 channels; this student has"):
            ClassCovariance(*shape, moments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camvid/fpn/class_mean": np.zeros((2, 3))}, r"got \(4,\), \(2, 3\) and \(4, 3\)"),
        ({"camvid/fpn/class_count": np.full(4, np.nan)}, "moments must be finite"),
        ({"camvid/fpn/class_variance": np.full((4, 3), -1.0)}, "variances 0 or more"),
    ],
)
def test_moments_that_cannot_be_are_refused(write, changes, message):
    with pytest.raises(ConfigError, match=message):
        read_class_moments(write(**changes)[0])


@pytest.mark.parametrize("name", ["stats.npz", "stats.safetensors"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(ConfigError, match="class moments cannot be read"):
        read_class_moments(path)
    for content in (b"", b"neither of the two"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="class moments cannot be read"):
            read_class_moments(path)


def test_a_file_without_classes_is_refused(tmp_path):
    np.savez(tmp_path / "stats.npz", mean=np.zeros(3))
    with pytest.raises(ConfigError, match="holds class moments of nothing"):
        read_class_moments(tmp_path / "stats.npz")
