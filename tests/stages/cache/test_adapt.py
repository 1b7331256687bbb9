"""Training an auto-encoder: what it sees, what it minimises, and what is measured of it."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from stillroom.stages.cache.adapt import (
    AdaptConfig,
    Measures,
    _groups,
    _loss,
    covariance_of,
    measure,
    train_autoencoder,
)
from stillroom.stages.cache.autoencoder_file import from_bytes, to_bytes, weights_sha256
from stillroom.stages.cache.covariance import Covariance
from stillroom.stages.cache.feature_frames import FeatureFrames
from stillroom.stages.models.autoencoder import AutoEncoder
from stillroom.storage_specs.codecs.table import codec_from_dict
from stillroom.storage_specs.errors import ConfigError, WeightsError
from stillroom.storage_specs.layout import ArraySpec
from stillroom.storage_specs.manifest import FrameRow
from stillroom.storage_specs.store import Cache

LAYER = "features/penultimate"


def silent(done, total):
    assert 0 < done <= total


def features_of(index, channels=6, size=(9, 14)):
    """Smooth maps of three hidden causes, so that there is something to compress."""
    rng = np.random.default_rng(index)
    causes = np.kron(rng.normal(size=(3, 3, 4)), np.ones((4, 4)))[:, : size[0], : size[1]]
    mixing = np.random.default_rng(99).normal(size=(channels, 3))
    smooth = np.einsum("ac,chw->ahw", mixing, causes)
    return (4 * smooth + np.arange(channels)[:, None, None]).astype(np.float32)


@pytest.fixture
def make_frames(tmp_path):
    def make(counts=(10, 6), bad=(), valid=(36, 56), features=features_of) -> FeatureFrames:
        cache, sets = Cache.create(tmp_path / "cache"), []
        for source, count in zip(("street", "more"), counts, strict=False):
            shape = features(0).shape
            spec = ArraySpec(LAYER, shape, codec_from_dict("exact"), attributes={"stride": 4})
            made = cache.define(source, "fpn", {"of": "test"}, count, 4, [spec])
            for shard in range(made.shards):
                writer = made.writer(shard)
                for index in made.shard_range(shard):
                    row = FrameRow(
                        index, f"{source}{index}", valid_height=valid[0], valid_width=valid[1]
                    )
                    if source == "street" and index in bad:
                        writer.bad(FrameRow(index, f"{source}{index}", "bad", "broken"))
                    else:
                        writer.put(row, {LAYER: features(index + 100 * (source == "more"))})
                writer.commit()
            sets.append(made)
        return FeatureFrames(sets, LAYER)

    return make


def settings(**changes):
    return AdaptConfig(**{"channels": 8, "batch": 4, "epochs": 6, **changes})


def test_frames_are_those_that_are_not_bad_of_all_sources_in_order(make_frames):
    frames = make_frames(bad={0, 7})
    assert len(frames) == 14
    expected = [index for index in range(10) if index not in (0, 7)] + [100 + i for i in range(6)]
    for place, index in enumerate(expected):
        np.testing.assert_array_equal(frames.read(place), features_of(index))
    assert frames.spread(100) == list(range(14))
    assert frames.spread(3) == [0, 6, 13]
    found = list(frames.batches([[3, 9], [0]]))
    assert [tuple(features.shape) for features, _ in found] == [(2, 6, 9, 14), (1, 6, 9, 14)]
    np.testing.assert_array_equal(found[0][0][1].numpy(), features_of(expected[9]))


def test_cells_of_padding_are_not_shown(make_frames):
    shown = make_frames(valid=(30, 41)).shown(0)  # stride 4: centres 2, 6, ... 30, 34
    assert shown.shape == (9, 14)
    assert shown[:7, :10].all()
    assert shown.sum() == 70


def test_what_cannot_be_read_is_an_error_and_not_a_wait(make_frames):
    frames = make_frames()
    frames.sets[0].discard(0)
    with pytest.raises(Exception, match="not in 'fpn'"):
        list(frames.batches([[9], [0]]))


@pytest.mark.parametrize("pieces", [1, 2, 7, 50])
def test_the_covariance_is_numpys_in_any_number_of_pieces(pieces):
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(50, 4)) @ rng.normal(size=(4, 4)) + 1e4).astype(np.float32)
    found = Covariance.empty(4)
    for piece in np.array_split(vectors, pieces):
        found = found.merge(Covariance.of(piece))
    wide = vectors.astype(np.float64)
    assert found.count == 50
    np.testing.assert_allclose(found.mean, wide.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.m2 / 50, np.cov(wide.T, bias=True), rtol=1e-8)
    assert found.variance == pytest.approx(wide.var(0).mean())


def test_nothing_has_no_covariance():
    none = Covariance.of(np.zeros((0, 3), np.float32))
    assert none.merge(none).count == 0
    assert (none.variance, none.left_by_pca(1)) == (0, 0)


@pytest.mark.parametrize("components", [0, 1, 2, 4])
def test_what_a_pca_leaves_is_what_a_projection_leaves(components):
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(60, 4)) * [5, 3, 1, 0.1]
    centred = vectors - vectors.mean(0)
    _, _, directions = np.linalg.svd(centred)
    kept = centred @ directions[:components].T @ directions[:components]
    expected = ((centred - kept) ** 2).sum() / (centred**2).sum()
    assert Covariance.of(vectors).left_by_pca(components) == pytest.approx(expected, abs=1e-12)


def test_the_loss_is_the_formula():
    torch.manual_seed(0)
    model = AutoEncoder(5, 4).double().eval()
    model.mean.fill_(0.5)
    model.scale.fill_(2.0)
    features = torch.randn(3, 5, 6, 10, dtype=torch.float64)
    shown = torch.rand(3, 1, 6, 10) < 0.7
    with torch.no_grad():
        code, back = model(features)
        error, cells, sparse = 0.0, 0, 0.0
        for b in range(3):
            for y, x in np.ndindex(6, 10):
                if shown[b, 0, y, x]:
                    cells += 1
                    for c in range(5):
                        error += ((features[b, c, y, x] - 0.5) / 2 - back[b, c, y, x]).item() ** 2
            sparse += code[b].abs().sum().item() / 3
        found = _loss(model, features, shown, 0.01)
    assert found.item() == pytest.approx(10 / 4 * error / cells + 0.01 * sparse, rel=1e-10)


def test_every_epoch_sees_every_frame_once_in_an_order_of_its_own():
    config = AdaptConfig(epochs=3, batch=4, seed=5)
    groups = list(_groups(10, config))
    assert [len(group) for group in groups] == [4, 3, 3] * 3
    epochs = [[*groups[place], *groups[place + 1], *groups[place + 2]] for place in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert groups == list(_groups(10, config))
    assert groups != list(_groups(10, AdaptConfig(epochs=3, batch=4, seed=6)))


def test_a_floor_of_steps_adds_whole_epochs_and_is_in_the_identity_where_it_is_set():
    config = AdaptConfig(epochs=2, batch=4, steps=7)
    assert len(list(_groups(10, config))) == 9  # three a epoch
    assert list(_groups(10, config)) == list(_groups(10, AdaptConfig(epochs=3, batch=4)))
    assert len(list(_groups(10, AdaptConfig(epochs=4, batch=4, steps=7)))) == 12
    assert "steps" not in AdaptConfig().identity()
    assert config.identity()["steps"] == 7
    with pytest.raises(ValidationError, match="greater than 0"):
        AdaptConfig(steps=0)


def test_training_may_be_as_long_as_it_takes_to_beat_a_pca():
    short, long = AdaptConfig(epochs=2, batch=4), AdaptConfig(epochs=2, batch=4, beat_pca=True)
    assert (short.lengths, long.lengths) == ((1,), (1, 2, 4, 8, 16))
    assert list(_groups(10, long, 4)) == list(_groups(10, AdaptConfig(epochs=8, batch=4)))
    assert "beat_pca" not in short.identity()
    assert long.identity()["beat_pca"] is True
    one, other = (Measures(1, lost, 0.2, 1, 8, 8) for lost in (0.2, 0.21))
    assert (one.beats_pca, other.beats_pca) == (True, False)


def test_training_brings_the_reconstruction_closer_and_repeats_to_the_last_bit(make_frames):
    frames = make_frames()
    statistics = covariance_of(frames, silent)
    steps = []
    short = train_autoencoder(frames, settings(epochs=1), statistics, silent)
    model = train_autoencoder(
        frames, settings(epochs=60), statistics, lambda *told: steps.append(told)
    )
    assert steps[0] == (1, 240)
    assert steps[-1] == (240, 240)
    before, after = (measure(each, frames, statistics, silent) for each in (short, model))
    assert after.relative_mse < 0.5 < before.relative_mse
    assert after.frames == 16
    torch.randn(3)
    again = train_autoencoder(frames, settings(epochs=1), statistics, silent)
    assert weights_sha256(again) == weights_sha256(short)
    other = train_autoencoder(frames, settings(epochs=1, seed=1), statistics, silent)
    assert weights_sha256(other) != weights_sha256(short)
    assert not model.training


def test_training_leaves_torchs_generator_as_it_was(make_frames):
    frames = make_frames()
    torch.manual_seed(8)
    expected = torch.randn(2)
    torch.manual_seed(8)
    train_autoencoder(frames, settings(epochs=1), covariance_of(frames, silent), silent)
    assert torch.randn(2).equal(expected)


def test_features_are_centred_by_channel_and_scaled_by_one_number(make_frames):
    frames = make_frames(valid=(30, 41))
    statistics = covariance_of(frames, silent)
    model = train_autoencoder(frames, settings(epochs=1), statistics, silent)
    vectors = np.concatenate([frames.read(i)[:, frames.shown(i)].T for i in range(16)])
    np.testing.assert_allclose(model.mean.numpy(), vectors.mean(0), rtol=1e-4)
    assert model.scale.item() == pytest.approx(np.sqrt(vectors.var(0).mean()), rel=1e-5)


def test_the_measures_are_those_of_loops_and_of_a_pca_of_equal_size(make_frames):
    frames = make_frames(valid=(30, 41))
    statistics = covariance_of(frames, silent)
    model = train_autoencoder(frames, settings(channels=100, strides=(2, 2, 1)), statistics, silent)
    found = measure(model, frames, statistics, silent)
    error, total, vectors = 0.0, 0.0, []
    for place in range(len(frames)):
        features, shown = frames.read(place), frames.shown(place)
        with torch.no_grad():
            back = model(torch.from_numpy(features)[None])[1][0].numpy()
        back = back * model.scale.item() + model.mean.numpy()[:, None, None]
        error += ((back - features)[:, shown].astype(np.float64) ** 2).sum()
        vectors.append(features[:, shown].T)
    centred = np.concatenate(vectors) - np.concatenate(vectors).mean(0)
    total = (centred.astype(np.float64) ** 2).sum()
    assert found.relative_mse == pytest.approx(error / total, rel=1e-3)
    # a code of 100 x 3 x 4 numbers is 10 of each of 9 x 14 cells: more than all 6 channels
    assert (found.pca_components, found.code_numbers, found.pca_numbers) == (6, 1200, 756)
    assert found.pca_relative_mse == pytest.approx(0, abs=1e-6)
    small = train_autoencoder(frames, settings(channels=8, epochs=1), statistics, silent)
    fewer = measure(small, frames, statistics, silent)  # 8 x 2 x 2 of 126 cells: less than one
    assert (fewer.pca_components, fewer.code_numbers, fewer.pca_numbers) == (1, 32, 126)
    _, values, _ = np.linalg.svd(centred, full_matrices=False)
    expected = 1 - values[0] ** 2 / (values**2).sum()
    assert fewer.pca_relative_mse == pytest.approx(expected, rel=1e-4)


def test_batch_normalisation_ends_with_statistics_of_the_final_weights(make_frames):
    frames = make_frames()
    statistics = covariance_of(frames, silent)
    model = train_autoencoder(frames, settings(epochs=3), statistics, silent)
    maps = []
    for place in range(16):
        given = model.standardised(torch.from_numpy(frames.read(place))[None])
        maps.append(model.encoder[0](model._padded(given)))
    maps = torch.cat(maps)
    norm = model.encoder[1]
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    assert norm.num_batches_tracked == 4


def test_constant_features_are_no_division_by_zero(make_frames):
    frames = make_frames(features=lambda index: np.full((6, 9, 14), 3.0, np.float32))
    statistics = covariance_of(frames, silent)
    model = train_autoencoder(frames, settings(epochs=1), statistics, silent)
    found = measure(model, frames, statistics, silent)
    assert (found.relative_mse, found.pca_relative_mse) == (0, 0)


def test_a_single_value_to_normalise_by_is_refused(make_frames):
    frames = make_frames(counts=(1,), features=lambda index: np.zeros((6, 4, 4), np.float32))
    with pytest.raises(ConfigError, match="has no variance to normalise by"):
        train_autoencoder(frames, settings(), covariance_of(frames, silent), silent)


def test_a_loss_that_is_not_finite_stops_naming_the_learning_rate(make_frames):
    frames = make_frames()
    with pytest.raises(ConfigError, match=r"features/penultimate diverged.*lower lr \(1e\+30\)"):
        train_autoencoder(frames, settings(lr=1e30), covariance_of(frames, silent), silent)


def test_a_file_gives_back_the_auto_encoder_and_what_is_said_of_it():
    config = settings()
    model = AutoEncoder(6, 8).eval()
    content = to_bytes(model, {"frames": 3})
    assert content == to_bytes(model, {"frames": 3})
    again, about = from_bytes(content, config, "a file")
    assert about == {"frames": 3}
    assert not again.training
    assert weights_sha256(again) == weights_sha256(model) != hashlib.sha256(content).hexdigest()
    assert weights_sha256(model) == weights_sha256(from_bytes(to_bytes(model, {}), config, "")[0])
    for name, value in model.state_dict().items():
        assert again.state_dict()[name].equal(value)


@pytest.mark.parametrize("content", [b"", b"\x05", b"no safetensors file at all"])
def test_a_file_that_is_none_is_refused_naming_it(content):
    with pytest.raises(WeightsError, match=r"there\.safetensors: not the auto-encoder of this"):
        from_bytes(content, settings(), "there.safetensors")


@pytest.mark.parametrize("changes", [{"channels": 4}, {"strides": (1, 2, 2)}])
def test_a_file_of_another_design_is_refused(changes):
    content = to_bytes(AutoEncoder(6, 8), {})
    with pytest.raises(WeightsError, match="or damaged"):
        from_bytes(content, settings(**changes), "there")
    truncated = to_bytes(AutoEncoder(6, 8), {})[:-10]
    with pytest.raises(WeightsError, match="or damaged"):
        from_bytes(truncated, settings(), "there")


def test_the_defaults_are_the_papers():
    config = AdaptConfig()
    assert (config.epochs, config.lr, config.weight_decay, config.sparsity) == (1, 0.1, 1e-4, 1e-7)
    assert config.strides == (2, 2, 2)
    assert (config.features, config.code) == (LAYER, "code/penultimate")
    assert AdaptConfig(layer="stage4", name="small").code == "code/small"
    assert AdaptConfig(name="small").identity() == AdaptConfig().identity()
