"""Teachers whose outputs cannot be cached are refused before anything is."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from stillroom.cli import main
from stillroom.pipeline.build.run import build
from stillroom.pipeline.build.worker import ShardWorker
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.stages.cache.cache_shard import ShardWork
from stillroom.stages.cache.shard_threads import ShardThreads
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.store import Cache

NETWORKS = """
import torch
from tiny_networks import Tiny
from torch import nn


class Changed(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.net, self.change = Tiny(9, 0), change

    def forward(self, images):
        output = self.net(images)
        return {**output, "logits": self.change(output["logits"])}


def dropout_in_training_mode():
    net = Changed(nn.Dropout2d(0.5))
    return lambda images: net(images)


def functional_dropout():
    return Changed(lambda z: nn.functional.dropout(z, 0.5))


def dropout_in_later_rows():
    return Changed(lambda z: torch.cat([z[:1], nn.functional.dropout(z[1:], 0.5)]))


def dropout_of_bright_frames():
    net = Tiny(9, 0)

    def run(images):
        output = net(images)
        z = output["logits"]
        bright = images.mean((1, 2, 3), keepdim=True) > 0
        return {**output, "logits": torch.where(bright, nn.functional.dropout(z, 0.5), z)}

    return run


def counts_its_calls():
    calls = []

    def count(z):
        calls.append(1)
        return z + len(calls)

    return Changed(count)


def batch_norm_in_training_mode():
    net = Changed(nn.BatchNorm2d(9))
    return lambda images: net(images)


class DropPath(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.drop_prob = rate

    def forward(self, z):
        if not self.training:
            return z
        kept = 1 - self.drop_prob
        return z * z.new_empty(len(z), 1, 1, 1).bernoulli_(kept) / kept


def seldom_drops():
    net = Changed(DropPath(1e-9))  # in no look, in some frame of a large build
    return lambda images: net(images)


def evaluates():
    net = Changed(nn.Sequential(nn.BatchNorm2d(9), nn.Dropout(0.5), DropPath(0.5))).eval()
    net.change.append(nn.Dropout(0))  # in training mode, as what never drops may be
    return lambda images: net(images)


def dropout_beside_a_masked_class():
    def change(z):
        return torch.cat([nn.functional.dropout(z[:, 1:], 0.1), torch.full_like(z[:, :1], -1e9)], 1)

    return Changed(change)


def one_memory_for_all():
    net, kept = Changed(lambda z: z), {}

    def run(images):
        output = net(images)
        memory = kept.setdefault(images.shape, torch.empty_like(output["logits"]))
        return {**output, "logits": memory.copy_(output["logits"])}

    return run


def first_of_the_batch():
    return Changed(lambda z: z[:1].expand_as(z))


def place_in_the_batch():
    return Changed(lambda z: z + torch.arange(len(z)).view(-1, 1, 1, 1))


def nan_in_later_rows():
    return Changed(lambda z: torch.cat([z[:1], z[1:] * float("nan")]))


def nan_of_bright_frames():
    def spoil(z):
        return torch.where(z[:, :, :1, :1] > z[:, :, :1, :1].mean(), float("nan"), z)

    return Changed(spoil)


def nothing_finite():
    return Changed(lambda z: z * float("nan"))


def probabilities():
    return Changed(lambda z: z.softmax(1))


def log_probabilities():
    return Changed(lambda z: z.log_softmax(1))


def class_ids():
    return Changed(lambda z: (z * 10).long())


def sigmoid():
    return Changed(lambda z: (20 * z[:, :1]).sigmoid())


def one_channel():
    return Changed(lambda z: z[:, :1])


def honest():
    return Changed(lambda z: z)


def one_for_the_batch():
    return Changed(lambda z: z.mean(0, keepdim=True))


def one_at_a_time():
    net = Changed(lambda z: z)

    def run(images):
        assert len(images) == 1
        return net(images)

    return run
"""
TWO = ["teachers.tiny.binary=true", 'teachers.tiny.classes=["nothing", "thing"]']
GROUPS = "{sky=0,building=[1,2],road=3,pavement=4,tree=5,pole=[],sign=6,car=7,pedestrian=[]}"


@pytest.fixture
def networks(run_file: Path) -> Path:
    Path("odd_networks.py").write_text(NETWORKS)
    return run_file


def as_teacher(name: str) -> list[str]:
    return [f'teachers.tiny.target="odd_networks:{name}"']


def nothing_is_cached() -> bool:
    return not Path("street.cache").exists() or not Cache.open("street.cache").sets()


CALLS = r"its logits differ between two calls, by up to \d[\d.]* where values span \d[\d.]*;"
BATCH = r"its logits of a frame depend on the other frames of the batch, by up to \d"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dropout_in_training_mode", CALLS),
        ("functional_dropout", CALLS),
        ("dropout_in_later_rows", CALLS),
        ("dropout_of_bright_frames", CALLS),
        ("counts_its_calls", CALLS),
        ("dropout_beside_a_masked_class", CALLS),
        ("batch_norm_in_training_mode", BATCH),
        ("seldom_drops", "it computes with DropPath in training mode: put every module"),
        ("one_memory_for_all", "its logits of every call are in the same memory, where"),
        ("first_of_the_batch", BATCH),
        ("place_in_the_batch", BATCH),
        ("nan_in_later_rows", r"its logits of a frame depend on the other .* by up to inf"),
        ("one_for_the_batch", r"logits: 2 frames give a grid of shape \(1, 9, 8, 16\)"),
        ("one_at_a_time", r"fails on 2 drawn frames at the canvas' size \(AssertionError"),
        ("nothing_finite", "its logits of two drawn frames hold no finite value"),
        ("class_ids", "its logits are int64, so class ids"),
        (
            "probabilities",
            r"its logits are probabilities, as of a softmax over the classes \(values from 0.0",
        ),
    ],
)
def test_outputs_that_cannot_be_trusted_are_refused_before_a_build(
    networks: Path, name: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^teachers.tiny: {message}"):
        build(load_run(networks, as_teacher(name)))
    assert nothing_is_cached()


@pytest.mark.parametrize("option", [[], ["--dry-run"]])
def test_a_refusal_is_one_line_of_the_command(networks: Path, option: list[str]) -> None:
    arguments = ["cache", "build", str(networks), "--set", *as_teacher("functional_dropout")]
    result = CliRunner().invoke(main, [*arguments, *option])
    assert result.exit_code == 2
    assert "error: teachers.tiny: its logits differ" in result.output.replace("\n", " ")


def test_frames_are_looked_at_one_by_one_where_they_will_be_given_so(networks: Path) -> None:
    build(load_run(networks, [*as_teacher("one_at_a_time"), "cache.batch=1"]))
    assert Cache.open("street.cache").artifact_set("street", "tiny").committed() == {0, 1, 2}
    for name, message in (
        ("functional_dropout", CALLS),
        ("dropout_of_bright_frames", CALLS),  # the second alone
        ("one_memory_for_all", "its logits of every call are in the same memory"),
        # It depends on no other frame: there is none. But it is not what was trained.
        ("batch_norm_in_training_mode", "it computes with BatchNorm2d in training mode"),
    ):
        with pytest.raises(ConfigError, match=f"^teachers.tiny: {message}"):
            build(load_run(networks, [*as_teacher(name), "cache.batch=1", "cache.path=one.cache"]))


def test_what_drops_and_normalises_may_be_there_in_evaluation_mode(networks: Path) -> None:
    build(load_run(networks, as_teacher("evaluates")))
    assert Cache.open("street.cache").artifact_set("street", "tiny").committed() == {0, 1, 2}


def test_a_build_of_features_alone_does_not_ask_for_logits(networks: Path) -> None:
    few = 'cache.artifacts=["features/penultimate"]'
    build(load_run(networks, [*as_teacher("probabilities"), few]))
    made = Cache.open("street.cache").artifact_set("street", "tiny")
    assert (made.committed(), list(made.arrays)) == ({0, 1, 2}, ["features/penultimate"])


def test_probabilities_are_seen_behind_a_mapping_of_classes(networks: Path) -> None:
    mapped = ["teachers.tiny.classes=9", f"teachers.tiny.mapping={GROUPS}"]
    mapped.append("teachers.tiny.mapping_drop=8")
    with pytest.raises(ConfigError, match="its logits are probabilities"):
        build(load_run(networks, [*as_teacher("probabilities"), *mapped]))
    assert nothing_is_cached()
    build(load_run(networks, [*as_teacher("honest"), *mapped]))
    assert Cache.open("street.cache").artifact_set("street", "tiny").committed() == {0, 1, 2}


def test_log_probabilities_are_cached_with_a_warning(
    networks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    build(load_run(networks, as_teacher("log_probabilities")))
    assert "teachers.tiny: its logits are log-probabilities" in caplog.text
    logits = Cache.open("street.cache").artifact_set("street", "tiny").read("logits", 0)
    np.testing.assert_allclose(np.exp(logits).sum(0), 1, rtol=0.1)  # within the codec's error
    assert np.ptp(logits) > 0


def test_frames_that_are_not_finite_are_said_beforehand(
    networks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    limit = "cache.max_bad_fraction=1"
    build(load_run(networks, [*as_teacher("nan_of_bright_frames"), limit]))
    assert "teachers.tiny: its logits of 2 of two drawn frames hold " in caplog.text


def test_one_channel_is_refused_with_the_key_that_takes_it(networks: Path) -> None:
    with pytest.raises(ConfigError, match=r"^teachers.tiny: .*one channel.*`binary = true`"):
        build(load_run(networks, [*as_teacher("one_channel"), "teachers.tiny.classes=1"]))
    with pytest.raises(ConfigError, match=r"^teachers.tiny: .*`binary = true`"):
        build(load_run(networks, [*as_teacher("one_channel"), "teachers.tiny.classes=2"]))
    with pytest.raises(ConfigError, match="probabilities, as of sigmoids"):
        build(load_run(networks, [*as_teacher("sigmoid"), *TWO]))
    assert nothing_is_cached()


def test_one_channel_is_cached_as_two_classes_on_request(networks: Path) -> None:
    exact = 'cache.preset="exact"'
    build(load_run(networks, [*as_teacher("honest"), exact, "cache.path=nine.cache"]))
    build(load_run(networks, [*as_teacher("one_channel"), *TWO, exact]))
    z = Cache.open("nine.cache").artifact_set("street", "tiny").read("logits", 3)[0]
    made = Cache.open("street.cache").artifact_set("street", "tiny")
    np.testing.assert_allclose(made.read("logits", 3), [np.zeros_like(z), z], atol=1e-6)
    share = 1 / (1 + np.exp(-z.astype(np.float64)))
    np.testing.assert_allclose(made.read("confidence", 3), np.maximum(share, 1 - share), rtol=1e-5)
    assert set(np.unique(made.read("pseudo_label", 3))) <= {0, 1}


def test_workers_look_at_their_teachers_themselves(networks: Path) -> None:
    # "auto" may be a GPU of a worker: the process that plans the build does not call such a
    # function. A worker of Ray's is this object, which has no models of somebody else's.
    run = load_run(networks, [*as_teacher("functional_dropout"), "teachers.tiny.device=auto"])
    worker = ShardWorker(open_run(run), ShardThreads(1, 1))
    work = ShardWork("street", "tiny", 0, run.cache.artifacts)
    with pytest.raises(ConfigError, match=f"^teachers.tiny: {CALLS}"):
        worker.work(work)
    assert nothing_is_cached()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
def test_what_a_worker_sees_of_a_teacher_ends_a_build_on_ray(networks: Path) -> None:
    auto = [*as_teacher("functional_dropout"), "teachers.tiny.device=auto", "cache.frames=false"]
    with pytest.raises(ConfigError, match=f"^teachers.tiny: {CALLS}"):
        build(load_run(networks, auto), runner="ray")
    assert nothing_is_cached()
